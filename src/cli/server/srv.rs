//! A new cluster whose members stand in DNS: SRV records of `_etcd-server-ssl._tcp` and
//! `_etcd-server._tcp` in a domain.
//!
//! Invariant: only answers to the question that was asked, from where it was asked, count; whatever
//! a server sends, the outcome is records or a reason.
//!
//! Nothing else runs in this process yet, so this may block.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    time::Duration,
};

use serde_json::json;
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, TYPE, rdata::RData};

use super::urls::Url;
use crate::{host::tokio::log::Log, kernel::Entropy};

const CALLER: &str = "server/srv.rs:0";
const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// As the system's own resolver: so long for an answer, and each server so often.
const PATIENCE: Duration = Duration::from_secs(5);
const ROUNDS: usize = 2;
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What is looked for, and by whom.
pub(super) struct Wanted<'a> {
    /// `--discovery-srv`.
    pub domain: &'a str,
    /// `--discovery-srv-name`.
    pub suffix: &'a str,
    /// `--discovery-srv-resolver`; empty means those of the system.
    pub resolver: &'a str,
    /// `--name`.
    pub name: &'a str,
    /// `--initial-advertise-peer-urls`.
    pub advertised: &'a [Url],
}

/// One server a service is found at.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    priority: u16,
    /// The heavier one first.
    lightness: u16,
    host: String,
    port: u16,
}

/// The members as `name=url,name=url`: this one under its name, the others under numbers.
pub(super) fn initial_cluster(wanted: &Wanted<'_>, log: &Log) -> Result<String, String> {
    let resolvers = resolvers(wanted.resolver)?;
    let mut members = Vec::new();
    let mut reasons = Vec::new();
    for (scheme, service) in [("https", "etcd-server-ssl"), ("http", "etcd-server")] {
        let service = match wanted.suffix {
            "" => service.to_owned(),
            suffix => format!("{service}-{suffix}"),
        };
        let found = members_of(wanted, scheme, &service, &resolvers);
        let error = found.as_ref().err().cloned();
        log.info(
            CALLER,
            &format!("get cluster for {service} SRV"),
            &[
                ("service-scheme", json!(scheme)),
                ("service-name", json!(service)),
                ("server-name", json!(wanted.name)),
                ("discovery-srv", json!(wanted.domain)),
                ("found-cluster", json!(found.as_deref().unwrap_or_default())),
                ("error", json!(error)),
            ],
        );
        members.extend(found.unwrap_or_default());
        reasons.extend(error);
    }
    if members.is_empty() {
        return Err(reasons.join("\n"));
    }
    if !members
        .iter()
        .any(|member| member.starts_with(&format!("{}=", wanted.name)))
    {
        return Err(format!(
            "cannot find local etcd member {:?} in SRV records",
            wanted.name
        ));
    }
    Ok(members.join(","))
}

fn members_of(
    wanted: &Wanted<'_>,
    scheme: &str,
    service: &str,
    resolvers: &[SocketAddr],
) -> Result<Vec<String>, String> {
    let failed = |reason: String| format!("error querying DNS SRV records for _{service} {reason}");
    let mut own = Vec::new();
    for url in wanted.advertised {
        for address in addresses(&url.address).map_err(failed)? {
            own.push((address, url));
        }
    }
    let question = format!("_{service}._tcp.{}", wanted.domain.trim_end_matches('.'));
    let mut members = Vec::new();
    let mut last = None;
    let mut number = 0;
    for place in lookup(&question, resolvers).map_err(failed)? {
        let at = format!("{}:{}", place.host, place.port);
        let found = match addresses(&at) {
            Ok(found) => found,
            Err(reason) => {
                last = Some(reason);
                continue;
            }
        };
        let this = own.iter().find(|(address, _)| found.contains(address));
        let name = match this {
            Some(_) => wanted.name.to_owned(),
            None => {
                number += 1;
                (number - 1).to_string()
            }
        };
        match this {
            Some((_, url)) if !url.to_string().starts_with(&format!("{scheme}:")) => {
                last = Some(format!(
                    "bootstrap at {scheme}://{at} from DNS for {service} has scheme mismatch with \
                     expected peer {url}"
                ));
            }
            Some(_) | None => members.push(format!("{name}={scheme}://{at}")),
        }
    }
    match (members.is_empty(), last) {
        (true, Some(reason)) => Err(failed(reason)),
        (true, None) => Err(failed("no such host".to_owned())),
        (false, _) => Ok(members),
    }
}

fn addresses(at: &str) -> Result<Vec<SocketAddr>, String> {
    let found = at
        .to_socket_addrs()
        .map_err(|error| format!("lookup {at}: {error}"))?;
    Ok(found.collect())
}

/// The servers to ask.
fn resolvers(given: &str) -> Result<Vec<SocketAddr>, String> {
    if !given.is_empty() {
        return addresses(given).map_err(|reason| format!("--discovery-srv-resolver: {reason}"));
    }
    // Without a file there is a server on this machine, says its manual.
    let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let found = named(&text);
    Ok(match found.is_empty() {
        true => vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT))],
        false => found,
    })
}

fn named(resolv_conf: &str) -> Vec<SocketAddr> {
    let servers = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    let addresses = servers.filter_map(|server| server.parse().ok());
    addresses
        .map(|address| SocketAddr::new(address, DNS_PORT))
        .collect()
}

fn lookup(question: &str, resolvers: &[SocketAddr]) -> Result<Vec<Place>, String> {
    let mut last = String::new();
    for _ in 0..ROUNDS {
        for resolver in resolvers {
            match ask(question, *resolver) {
                Ok(Some(mut places)) => {
                    places.sort();
                    return Ok(places);
                }
                Ok(None) => return Err(format!("lookup {question} on {resolver}: no such host")),
                Err(reason) => last = format!("lookup {question} on {resolver}: {reason}"),
            }
        }
    }
    Err(last)
}

/// Asks one server. Nothing means that the name does not exist.
fn ask(question: &str, resolver: SocketAddr) -> Result<Option<Vec<Place>>, String> {
    let id = u16::try_from(Entropy::from_seed(super::boot::seed()).next_u64() >> 48)
        .expect("sixteen bits");
    let bytes = encode(id, question)?;
    let text = |error: std::io::Error| error.to_string();
    let local = match resolver {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(local).map_err(text)?;
    socket.connect(resolver).map_err(text)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(text)?;
    socket.send(&bytes).map_err(text)?;
    let mut buffer = vec![0; ANSWER_BYTES_MAX];
    let length = socket.recv(&mut buffer).map_err(text)?;
    match decode(id, &buffer[..length])? {
        Answer::Places(places) => Ok(places),
        Answer::TooLong => match decode(id, &by_tcp(&bytes, resolver).map_err(text)?)? {
            Answer::Places(places) => Ok(places),
            Answer::TooLong => Err("the answer was cut off".to_owned()),
        },
    }
}

/// A long answer comes over TCP, behind its length.
fn by_tcp(question: &[u8], resolver: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&resolver, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let length = u16::try_from(question.len()).expect("a question is short");
    stream.write_all(&[&length.to_be_bytes(), question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn encode(id: u16, question: &str) -> Result<Vec<u8>, String> {
    let text = |error: simple_dns::SimpleDnsError| format!("{question}: {error}");
    let name = Name::new(question).map_err(text)?;
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let asked = Question::new(name, TYPE::SRV.into(), CLASS::IN.into(), false);
    packet.questions.push(asked);
    packet.build_bytes_vec().map_err(text)
}

enum Answer {
    /// Nothing, if the name does not exist.
    Places(Option<Vec<Place>>),
    TooLong,
}

fn decode(id: u16, bytes: &[u8]) -> Result<Answer, String> {
    let packet = Packet::parse(bytes).map_err(|error| format!("a damaged answer: {error}"))?;
    if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) {
        return Err("an answer to another question".to_owned());
    }
    if packet.has_flags(PacketFlag::TRUNCATION) {
        return Ok(Answer::TooLong);
    }
    match packet.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => return Ok(Answer::Places(None)),
        other => return Err(format!("the server answers {other:?}")),
    }
    let places = packet
        .answers
        .iter()
        .filter_map(|record| match &record.rdata {
            RData::SRV(srv) => Some(Place {
                priority: srv.priority,
                lightness: u16::MAX - srv.weight,
                // A record's name ends with a dot in Go, and a URL's does not.
                host: srv.target.to_string().trim_end_matches('.').to_owned(),
                port: srv.port,
            }),
            _ => None,
        });
    let places: Vec<Place> = places.collect();
    Ok(Answer::Places((!places.is_empty()).then_some(places)))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use simple_dns::{ResourceRecord, rdata::SRV};

    use super::*;
    use crate::{
        host::tokio::log::{LogFormat, LogOutput},
        kernel::effect::LogLevel,
    };

    type Records = Vec<(&'static str, u16)>;

    fn reply(bytes: &[u8], zone: &[(&str, Records)]) -> Vec<u8> {
        let question = Packet::parse(bytes).unwrap();
        let name = question.questions[0].qname.to_string();
        let mut answer = Packet::new_reply(question.id());
        answer.questions.extend(question.questions.clone());
        match zone.iter().find(|(known, _)| *known == name) {
            None => *answer.rcode_mut() = RCODE::NameError,
            Some((_, records)) => {
                for (target, port) in records {
                    let srv = SRV {
                        priority: 1,
                        weight: 1,
                        port: *port,
                        target: Name::new(target).unwrap(),
                    };
                    let owner = question.questions[0].qname.clone();
                    let record = ResourceRecord::new(owner, CLASS::IN, 60, RData::SRV(srv));
                    answer.answers.push(record);
                }
            }
        }
        answer.build_bytes_vec().unwrap()
    }

    /// A name server for as many questions as come.
    fn name_server(zone: Vec<(&'static str, Records)>) -> String {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap().to_string();
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                socket
                    .send_to(&reply(&buffer[..length], &zone), from)
                    .unwrap();
            }
        });
        address
    }

    fn found(resolver: &str, suffix: &str, advertised: &str) -> Result<String, String> {
        let log = Log::open(LogLevel::Error, LogFormat::Json, &[LogOutput::Stderr]).unwrap();
        let wanted = Wanted {
            domain: "example.com",
            suffix,
            resolver,
            name: "me",
            advertised: &[Url::parse(advertised).unwrap()],
        };
        initial_cluster(&wanted, &log)
    }

    #[test]
    fn members_are_found_by_their_records() {
        let records = vec![
            ("localhost", 1001),
            ("127.0.0.1", 1002),
            ("localhost", 1003),
        ];
        let resolver = name_server(vec![
            ("_etcd-server._tcp.example.com", records),
            ("_etcd-server-blue._tcp.example.com", vec![("localhost", 7)]),
            ("_etcd-server-ssl._tcp.example.com", vec![]),
        ]);
        assert_eq!(
            found(&resolver, "", "http://127.0.0.1:1002").unwrap(),
            "me=http://127.0.0.1:1002,0=http://localhost:1001,1=http://localhost:1003"
        );
        // This member is known by its address, whatever it calls itself.
        assert_eq!(
            found(&resolver, "blue", "http://127.0.0.1:7").unwrap(),
            "me=http://localhost:7"
        );
        assert_eq!(
            found(&resolver, "", "http://127.0.0.1:9").unwrap_err(),
            "cannot find local etcd member \"me\" in SRV records"
        );
        let mismatch = found(&resolver, "blue", "https://127.0.0.1:7").unwrap_err();
        assert!(
            mismatch.contains("has scheme mismatch with expected peer"),
            "{mismatch}"
        );
        let nothing = found(&resolver, "red", "http://127.0.0.1:7").unwrap_err();
        assert!(nothing.contains("error querying DNS SRV records for _etcd-server-red"));
        assert!(nothing.contains("error querying DNS SRV records for _etcd-server-ssl-red"));
    }

    #[test]
    fn answers_that_do_not_fit_are_refused() {
        let question = encode(7, "_etcd-server._tcp.example.com").unwrap();
        let zone = [("_etcd-server._tcp.example.com", vec![("a.example.com", 1)])];
        let good = reply(&question, &zone);
        assert!(matches!(decode(7, &good), Ok(Answer::Places(Some(places))) if places.len() == 1));
        assert!(decode(8, &good).is_err());
        assert!(decode(7, &question).is_err());
        for end in 0..good.len() {
            // Damage is a reason or fewer records, and never a panic.
            let _ = decode(7, &good[..end]);
        }
        for at in 0..good.len() {
            let mut harmed = good.clone();
            harmed[at] ^= 0xff;
            let _ = decode(7, &harmed);
        }
        assert!(encode(7, &"x".repeat(300)).is_err());
    }

    #[test]
    fn name_servers_are_read_from_the_systems_file() {
        let text =
            "# nameserver 9.9.9.9\nsearch x\nnameserver 10.0.0.1\nnameserver ::1\nnameserver";
        let servers: Vec<String> = named(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[::1]:53"]);
    }
}
