//! `--join`: a process without data makes itself a member of a running cluster. It asks members at
//! their client URLs who is there, has itself added as a learner, and takes the id it is given.
//!
//! Invariants: it never takes the seat of a member that has run; a seat that an earlier attempt was
//! given is taken again and not added twice.
//!
//! Nothing else runs in this process yet, so this may block.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use super::{join::Running, urls::Url};
use crate::{
    host::tokio::log::Log,
    kernel::{ApiError, ClusterId, Fault, MemberId},
    membership::Member,
    pb::etcdserverpb::{
        Member as Wire, MemberAddRequest, MemberListRequest, ResponseHeader,
        cluster_client::ClusterClient,
    },
};

const CALLER: &str = "server/joining.rs:0";
/// How long somebody may be looked for who answers at all: a cluster may be starting as well.
const PATIENCE: Duration = Duration::from_secs(30);
/// A member that does not answer the call is left for the next one after this.
const CALL_LIMIT: Duration = Duration::from_secs(8);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Pause between two rounds.
const PAUSE: Duration = Duration::from_millis(500);
/// How often the operator hears what is being waited for.
const REMIND: Duration = Duration::from_secs(10);

/// A place in the running cluster.
pub(super) struct Seat {
    /// The id this member was given.
    pub member: MemberId,
    /// The cluster and everybody in it.
    pub running: Running,
}

/// Who wants to join.
pub(super) struct Applicant<'a> {
    pub name: &'a str,
    /// Its peer URLs, in the form in which members store them.
    pub peer_urls: &'a [String],
}

/// What one question came to.
enum Outcome {
    Done(Seat),
    /// No repetition would help.
    Refused(String),
    /// The cluster cannot add a member now.
    Busy(String),
    /// Nobody answered.
    Silent(String),
}

/// Has this process added to the cluster behind `urls`.
pub(super) fn take_seat(urls: &[Url], applicant: &Applicant<'_>, log: &Log) -> Result<Seat, Fault> {
    aside(async {
        let mut hopes = Hopes::new(log);
        loop {
            for url in urls {
                match ask(url, applicant).await {
                    Outcome::Done(seat) => return Ok(seat),
                    Outcome::Refused(reason) => return Err(Fault::State(reason)),
                    Outcome::Busy(reason) => hopes.busy(&reason),
                    Outcome::Silent(reason) => hopes.silent(&format!("{url}: {reason}"))?,
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
}

/// The members of the cluster behind `urls`.
pub(super) fn look(urls: &[Url], log: &Log) -> Result<Running, Fault> {
    aside(async {
        let mut hopes = Hopes::new(log);
        loop {
            for url in urls {
                match list(url).await {
                    Ok((_, running)) => return Ok(running),
                    Err(reason) => hopes.silent(&format!("{url}: {reason}"))?,
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
}

/// Runs to the end on a thread with a runtime of its own, because the caller stands in one.
pub(super) fn aside<T: Send>(
    work: impl Future<Output = Result<T, Fault>> + Send,
) -> Result<T, Fault> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Fault::State(format!("cannot start a runtime: {error}")))?;
        runtime.block_on(work)
    };
    thread::scope(|scope| {
        let thread = scope.spawn(run);
        thread.join().expect("asking does not panic")
    })
}

/// What is waited for, and how long it is worth it.
struct Hopes<'a> {
    log: &'a Log,
    /// When a member answered last, be it with a refusal.
    heard: Instant,
    told: Option<(String, Instant)>,
}

impl<'a> Hopes<'a> {
    fn new(log: &'a Log) -> Self {
        Self {
            log,
            heard: Instant::now(),
            told: None,
        }
    }

    fn busy(&mut self, reason: &str) {
        self.heard = Instant::now();
        self.tell(reason);
    }

    fn silent(&mut self, reason: &str) -> Result<(), Fault> {
        if self.heard.elapsed() > PATIENCE {
            return Err(Fault::State(format!(
                "cannot join: no member answers at the URLs of --join ({reason}); start a member \
                 of the cluster, or give client URLs of members that run"
            )));
        }
        self.tell(reason);
        Ok(())
    }

    fn tell(&mut self, reason: &str) {
        let recent = |told: &(String, Instant)| told.0 == reason && told.1.elapsed() < REMIND;
        if !self.told.as_ref().is_some_and(recent) {
            let story = "waiting to be added to the cluster";
            self.log.warn(CALLER, story, &[("reason", json!(reason))]);
            self.told = Some((reason.to_owned(), Instant::now()));
        }
    }
}

async fn ask(url: &Url, applicant: &Applicant<'_>) -> Outcome {
    let (mut client, running) = match list(url).await {
        Ok(answer) => answer,
        Err(reason) => return Outcome::Silent(reason),
    };
    match find_seat(&running.members, applicant) {
        Err(reason) => return Outcome::Refused(reason),
        Ok(Some(member)) => return Outcome::Done(Seat { member, running }),
        Ok(None) => {}
    }
    let request = MemberAddRequest {
        peer_ur_ls: applicant.peer_urls.to_vec(),
        is_learner: true,
    };
    let added = match within(client.member_add(request)).await {
        Ok(added) => added,
        Err(status) => return refusal(&status),
    };
    match (added.member, running_of(added.header, added.members)) {
        (Some(member), Some(running)) => Outcome::Done(Seat {
            member: MemberId::new(member.id),
            running,
        }),
        (None, _) | (_, None) => Outcome::Busy("an answer without a member".to_owned()),
    }
}

async fn list(url: &Url) -> Result<(ClusterClient<Channel>, Running), String> {
    let endpoint = Endpoint::from_shared(url.to_string()).map_err(|error| error.to_string())?;
    let endpoint = endpoint.connect_timeout(CONNECT_LIMIT);
    let channel = endpoint.connect().await.map_err(|error| {
        // Its own text is only "transport error".
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        cause.unwrap_or_else(|| error.to_string())
    })?;
    let mut client = ClusterClient::new(channel);
    let request = MemberListRequest { linearizable: true };
    let list = within(client.member_list(request)).await;
    let list = list.map_err(|status| status.message().to_owned())?;
    match running_of(list.header, list.members) {
        Some(running) => Ok((client, running)),
        None => Err("it knows of no members".to_owned()),
    }
}

async fn within<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

fn running_of(header: Option<ResponseHeader>, members: Vec<Wire>) -> Option<Running> {
    let running = Running {
        cluster: ClusterId::new(header?.cluster_id),
        members: members.into_iter().map(Member::from_wire).collect(),
    };
    (!running.members.is_empty()).then_some(running)
}

/// The seat that an earlier attempt left, if there is one; or why this applicant cannot have any.
fn find_seat(members: &[Member], applicant: &Applicant<'_>) -> Result<Option<MemberId>, String> {
    let Applicant { name, peer_urls } = applicant;
    let named = |member: &&Member| member.name == *name;
    if let Some(other) = members.iter().find(named) {
        return Err(format!(
            "cannot join: member {:x} at {} has the name {name:?} already; give this one another \
             --name, or, if that member is gone for good, remove it first (etcdctl member remove \
             {:x})",
            other.id.get(),
            other.peer_urls.join(","),
            other.id.get()
        ));
    }
    let shares = |member: &&Member| member.peer_urls.iter().any(|url| peer_urls.contains(url));
    let Some(other) = members.iter().find(shares) else {
        return Ok(None);
    };
    if !other.started() && other.peer_urls == *peer_urls {
        return Ok(Some(other.id));
    }
    Err(format!(
        "cannot join: member {:x} ({:?}) has the peer URL {} already; give this one another \
         --initial-advertise-peer-urls, or, if that member is gone for good, remove it first \
         (etcdctl member remove {:x})",
        other.id.get(),
        other.name,
        other.peer_urls.join(","),
        other.id.get()
    ))
}

/// What a refused addition means for whoever waits.
fn refusal(status: &Status) -> Outcome {
    let reason = status.message().to_owned();
    match status.code() {
        Code::InvalidArgument => Outcome::Refused(format!(
            "cannot join: {reason}; correct --initial-advertise-peer-urls"
        )),
        Code::PermissionDenied | Code::Unauthenticated => Outcome::Refused(format!(
            "cannot join: {reason}; add the member with a client that may (etcdctl member add \
             --learner), and start this one with --initial-cluster-state=existing"
        )),
        Code::FailedPrecondition if reason.contains(&ApiError::TooManyLearners.to_string()) => {
            Outcome::Busy(format!(
                "{reason}: promote or remove one, or let the members run with a higher \
                 --max-learners"
            ))
        }
        // Unhealthy, without leader, or its outcome unknown: the list of members will tell.
        _ => Outcome::Busy(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str, urls: &[&str]) -> Member {
        Member {
            id: MemberId::new(id),
            name: name.to_owned(),
            peer_urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            ..Member::default()
        }
    }

    fn seat(members: &[Member], name: &str, url: &str) -> Result<Option<u64>, String> {
        let urls = [url.to_owned()];
        let applicant = Applicant {
            name,
            peer_urls: &urls,
        };
        find_seat(members, &applicant).map(|id| id.map(MemberId::get))
    }

    #[test]
    fn a_seat_is_free_left_over_or_taken() {
        let members = [
            member(1, "a", &["http://a:1", "http://a:2"]),
            member(2, "", &["http://b:1"]),
            member(3, "", &["http://c:1", "http://c:2"]),
        ];
        assert_eq!(seat(&members, "d", "http://d:1"), Ok(None));
        assert_eq!(seat(&members, "d", "http://b:1"), Ok(Some(2)));
        for (name, url, advice) in [
            ("a", "http://d:1", "another --name"),
            ("d", "http://a:2", "another --initial-advertise-peer-urls"),
            ("d", "http://c:1", "etcdctl member remove 3"),
        ] {
            let refused = seat(&members, name, url).unwrap_err();
            assert!(refused.contains(advice), "{refused}");
        }
    }

    #[test]
    fn refusals_say_what_to_do_or_are_waited_for() {
        let outcome = |code, text: &str| match refusal(&Status::new(code, text)) {
            Outcome::Refused(reason) => (true, reason),
            Outcome::Busy(reason) => (false, reason),
            Outcome::Done(_) | Outcome::Silent(_) => panic!("a refusal"),
        };
        let (ends, reason) = outcome(Code::InvalidArgument, "bad");
        assert!(ends && reason.contains("--initial-advertise-peer-urls"));
        assert!(outcome(Code::PermissionDenied, "no").0);
        let full = ApiError::TooManyLearners.to_string();
        let (ends, reason) = outcome(Code::FailedPrecondition, &full);
        assert!(!ends && reason.contains("--max-learners"), "{reason}");
        assert!(!outcome(Code::Unavailable, "etcdserver: unhealthy cluster").0);
        assert!(!outcome(Code::DeadlineExceeded, "no answer in time").0);
    }
}
