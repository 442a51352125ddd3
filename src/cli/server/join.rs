//! What a process that has no data yet asks of those that run already: who the members are.
//!
//! A new member of a running cluster takes its id from the answer. A founder asks as well, since a
//! founder whose data is gone must not begin anew under its old id: it may have voted, and
//! acknowledged writes that only it and one other member hold.
//!
//! Nothing else runs in this process yet, so this may block.

use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use prost::Message;

use crate::{
    host::{
        tokio::socket::Address,
        wire::{GREETING_BYTES, Greeting, HEADER_BYTES, Header, Heard, Verdict},
    },
    kernel::{ClusterId, MemberId},
    membership::Member,
    pb::etcdserverpb::MemberListResponse,
};

/// What a running member says about its cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Running {
    pub cluster: ClusterId,
    pub members: Vec<Member>,
}

/// Asks everybody at once; the first good answer in the order of the URLs counts, and without one
/// every reason is told.
pub(super) fn ask(urls: &[String], patience: Duration) -> Result<Running, String> {
    let answers: Vec<Result<Running, String>> = thread::scope(|scope| {
        let asked = urls
            .iter()
            .map(|url| scope.spawn(|| inquire(url, patience)));
        let asked: Vec<_> = asked.collect();
        let answers = asked.into_iter().zip(urls);
        let answers = answers.map(|(thread, url)| {
            let answer = thread.join().expect("asking does not panic");
            answer.map_err(|reason| format!("{url}: {reason}"))
        });
        answers.collect()
    });
    let mut reasons = Vec::new();
    for answer in answers {
        match answer {
            Ok(running) => return Ok(running),
            Err(reason) => reasons.push(reason),
        }
    }
    Err(reasons.join("; "))
}

fn inquire(url: &str, patience: Duration) -> Result<Running, String> {
    let address = Address::of(url);
    let address = address.ok_or("only http://host:port and unix://path can be asked")?;
    let text = |error: std::io::Error| error.to_string();
    let address = match address {
        Address::Tcp(address) => address,
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).map_err(text)?;
            stream.set_read_timeout(Some(patience)).map_err(text)?;
            stream.set_write_timeout(Some(patience)).map_err(text)?;
            return converse(stream).map_err(text)?;
        }
    };
    let mut last = "the name has no address".to_owned();
    for socket in address.to_socket_addrs().map_err(text)? {
        match TcpStream::connect_timeout(&socket, patience) {
            Ok(stream) => {
                stream.set_read_timeout(Some(patience)).map_err(text)?;
                stream.set_write_timeout(Some(patience)).map_err(text)?;
                return converse(stream).map_err(text)?;
            }
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

fn converse<S: Read + Write>(mut stream: S) -> Result<Result<Running, String>, std::io::Error> {
    stream.write_all(&Greeting::INQUIRY.encode())?;
    let mut greeting = [0; GREETING_BYTES];
    stream.read_exact(&mut greeting)?;
    let answer = match Greeting::decode(&greeting) {
        Ok(Heard::Greeting(answer)) if answer.verdict == Verdict::Welcome => answer,
        Ok(Heard::Greeting(answer)) => return Ok(Err(answer.verdict.reason().to_owned())),
        Ok(Heard::OtherVersion) => return Ok(Err(Verdict::Version.reason().to_owned())),
        Err(reason) => return Ok(Err(reason)),
    };
    let mut head = [0; HEADER_BYTES];
    stream.read_exact(&mut head)?;
    let header = match Header::decode(&head) {
        Ok(header) => header,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut payload = Vec::new();
    stream
        .take(header.length() as u64)
        .read_to_end(&mut payload)?;
    Ok(header.check(&payload).and_then(|()| {
        let list = MemberListResponse::decode(payload.as_slice());
        let list = list.map_err(|error| error.to_string())?;
        let members: Vec<Member> = list.members.into_iter().map(Member::from_wire).collect();
        if members.is_empty() {
            return Err("the member itself has only begun to join".to_owned());
        }
        Ok(Running {
            cluster: answer.cluster,
            members,
        })
    }))
}

/// Whether a founder would come back under an id that the running cluster has used: then why not.
pub(super) fn used_before(running: &Running, cluster: ClusterId, own: MemberId) -> Option<String> {
    if running.cluster != cluster {
        return None;
    }
    let known = running.members.iter().find(|member| member.id == own);
    match known {
        // The founders know each other's names from the beginning; that one has been there shows in
        // what it published of itself.
        Some(member) if member.client_urls.is_empty() => None,
        Some(_) => Some(format!(
            "member {:x} has already been bootstrapped, and its data is not in this data \
             directory; restore the directory, or remove the member from the cluster and add a \
             new one with --initial-cluster-state=existing",
            own.get()
        )),
        None => Some(format!(
            "member {:x} was removed from the running cluster; add a new member and start it with \
             --initial-cluster-state=existing",
            own.get()
        )),
    }
}
