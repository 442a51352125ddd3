//! The places of etcd where its tests make it fail, found again in ours: around disk operations,
//! on the way of messages between members, and between two steps of the event loop.
//!
//! The core has no such places. What happens in it shows in its events and effects, and there the
//! terms act; so `panic` ends the process just before or just after the same thing is durable, sent
//! or applied. Only builds with the feature `failpoints` have this.
//!
//! Invariant: the endpoint runs on a thread of its own, so it answers while a place sleeps.

use std::{
    convert::Infallible,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use crate::{
    host::{
        failpoint::{NAMES, disable, enable, enable_all, hit, status},
        port::Host,
        tokio::lanes::{LaneSet, LaneWork},
    },
    kernel::{
        Bucket, DiskError, DiskErrorKind, DiskOp, DiskOutcome, Effect, Event, Instant, LinkOp,
        Request, StreamRequest, WallTime, WriteBatch,
    },
    node::wire::{self, LeaseQuestion, Voice},
    pb::etcdserverpb::{WatchRequest, watch_request::RequestUnion},
};

/// What a request may take, head and body.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);
/// As often as etcd looks after watchers that are behind.
const WATCHERS_INTERVAL: Duration = Duration::from_millis(100);

/// Sets what the environment asks for and opens the endpoint.
pub(super) fn start() -> Result<(), String> {
    if let Ok(text) = std::env::var("GOFAIL_FAILPOINTS") {
        enable_all(&text).map_err(|reason| format!("fail to parse failpoint: {reason}"))?;
    }
    let Ok(address) = std::env::var("GOFAIL_HTTP") else {
        return Ok(());
    };
    let listener = TcpListener::bind(&address)
        .map_err(|error| format!("cannot listen on GOFAIL_HTTP={address}: {error}"))?;
    let thread = thread::Builder::new().name("failpoints".to_owned());
    thread
        .spawn(move || serve(&listener))
        .map_err(|error| format!("cannot start the endpoint of failpoints: {error}"))?;
    Ok(())
}

fn serve(listener: &TcpListener) -> Infallible {
    loop {
        match listener.accept() {
            // A client that breaks off harms nobody.
            Ok((socket, _)) => drop(converse(socket)),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// One request, one answer, end.
fn converse(socket: TcpStream) -> std::io::Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut writer = socket.try_clone()?;
    let mut reader = BufReader::new(socket.take(REQUEST_BYTES_MAX));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = String::new();
    reader.take(length).read_to_string(&mut body)?;
    let (code, text) = answer(&method, &path, &body);
    let reason = match code {
        200 => "OK",
        204 => "No Content",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Bad Request",
    };
    let length = match code {
        204 => String::new(),
        _ => format!("Content-Length: {}\r\n", text.len()),
    };
    write!(
        writer,
        "HTTP/1.1 {code} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n{length}\
         Connection: close\r\n\r\n{text}"
    )?;
    writer.flush()
}

fn answer(method: &str, path: &str, body: &str) -> (u16, String) {
    let Some(name) = path.strip_prefix('/') else {
        return (400, "malformed request URI\n".to_owned());
    };
    match method {
        "PUT" => {
            let set = match name {
                "failpoints" => enable_all(body.trim()).is_ok(),
                name => enable(name, body.trim()).is_ok(),
            };
            match set {
                true => (204, String::new()),
                false => (400, format!("failed to set failpoint {name}\n")),
            }
        }
        "GET" if name.is_empty() => {
            let lines = NAMES.iter().map(|name| {
                let set = status(name).map(|(terms, _)| terms);
                format!("{name}={}\n", set.unwrap_or_default())
            });
            (200, lines.collect())
        }
        "GET" => {
            let counted = name.strip_suffix("/count");
            match (status(counted.unwrap_or(name)), counted) {
                (Ok((_, count)), Some(_)) => (200, count.to_string()),
                (Ok((terms, _)), None) => (200, format!("{terms}\n")),
                (Err(reason), _) => (404, format!("failed to GET: {reason}\n")),
            }
        }
        "DELETE" => match disable(name) {
            Ok(()) => (204, String::new()),
            Err(reason) => (400, format!("failed to delete failpoint {reason}\n")),
        },
        _ => (405, "Method not allowed\n".to_owned()),
    }
}

/// Lanes whose operations pass the places.
pub(super) fn lanes(set: LaneSet) -> LaneSet {
    let around = |inner| {
        let rewriting = false;
        Box::new(FailingLane { inner, rewriting }) as Box<dyn LaneWork>
    };
    LaneSet {
        wal: around(set.wal),
        keep: around(set.keep),
        backend: around(set.backend),
        snapshot: around(set.snapshot),
    }
}

struct FailingLane {
    inner: Box<dyn LaneWork>,
    /// Whether the first part of a rewriting is done: a place is passed once for each of them.
    rewriting: bool,
}

impl LaneWork for FailingLane {
    fn run(&mut self, op: DiskOp) -> Result<DiskOutcome, DiskError> {
        let (before, after) = places(&op);
        for name in before {
            hit(name);
        }
        let rewrites = matches!(op, DiskOp::Defragment { .. });
        if rewrites && !self.rewriting {
            hit("defragBeforeCopy");
            for name in ["defragOpenFileError", "defragdbFail"] {
                if let Some(story) = hit(name) {
                    return Err(DiskError::new(DiskErrorKind::Full, story));
                }
            }
        }
        let ends = rewrites || matches!(op, DiskOp::StageInstall { .. });
        let result = self.inner.run(op);
        if ends {
            self.rewriting = matches!(result, Ok(DiskOutcome::Rewriting));
        }
        let outcome = result?;
        for name in after {
            hit(name);
        }
        Ok(outcome)
    }
}

type Places = (Vec<&'static str>, Vec<&'static str>);

fn places(op: &DiskOp) -> Places {
    match op {
        DiskOp::WalWrite { .. } => (
            vec!["raftBeforeSave"],
            vec!["raftAfterSave", "raftBeforeAdvance"],
        ),
        DiskOp::WalRemove { .. } => (vec![], vec!["raftAfterWALRelease"]),
        DiskOp::Commit { batch } => around_commit(batch),
        DiskOp::StageSeal { .. } => (
            vec!["raftBeforeSaveSnap"],
            vec!["raftBeforeWALSaveSnaphot", "raftAfterSaveSnap"],
        ),
        DiskOp::StageInstall { .. } => (
            vec!["raftBeforeApplySnap", "applyBeforeOpenSnapshot"],
            vec!["applyAfterOpenSnapshot", "raftAfterApplySnap"],
        ),
        DiskOp::WalPrepare { .. }
        | DiskOp::SnapshotOpen { .. }
        | DiskOp::SnapshotRead { .. }
        | DiskOp::SnapshotClose { .. }
        | DiskOp::RemoveReplaced
        | DiskOp::Defragment { .. }
        | DiskOp::StageOpen { .. }
        | DiskOp::StageWrite { .. }
        | DiskOp::StageDrop { .. } => (vec![], vec![]),
    }
}

/// What a batch of the backend is about shows in its keys: the marks of a compaction, and revisions
/// that are removed.
fn around_commit(batch: &WriteBatch) -> Places {
    let mut before = vec![
        "beforeWritebackBuf",
        "afterWritebackBuf",
        "commitBeforePreCommitHook",
        "commitAfterPreCommitHook",
    ];
    let mut after = vec!["afterCommit", "beforeStartDBTxn", "afterStartDBTxn"];
    let marked = |key: &[u8]| batch.get(Bucket::Meta, key).is_some();
    if marked(b"scheduledCompactRev") {
        before.push("compactBeforeCommitScheduledCompact");
        after.push("compactAfterCommitScheduledCompact");
    }
    let revisions = batch.writes.get(&Bucket::Key);
    if revisions.is_some_and(|writes| writes.removals() > 0) {
        before.extend([
            "compactAfterAcquiredBatchTxLock",
            "compactBeforeCommitBatch",
        ]);
        after.push("compactAfterCommitBatch");
    }
    if marked(b"finishedCompactRev") {
        before.push("compactBeforeSetFinishedCompact");
        after.push("compactAfterSetFinishedCompact");
    }
    before.push("beforeCommit");
    (before, after)
}

/// A host whose events and effects pass the places.
pub(super) struct FailingHost<H> {
    inner: H,
    /// When watchers were looked after last.
    watchers_at: Instant,
    /// A change of the members is on its way to be applied.
    members_change: bool,
}

impl<H: Host> FailingHost<H> {
    /// Around a host.
    pub fn new(inner: H) -> Self {
        hit("beforePublishing");
        let watchers_at = inner.now();
        Self {
            inner,
            watchers_at,
            // The log may hold changes that are applied again.
            members_change: true,
        }
    }

    fn look_at(&mut self, event: &Event) {
        match event {
            Event::DiskDone { .. } => {
                hit("beforeApplyOneEntryNormal");
                if std::mem::take(&mut self.members_change) {
                    hit("beforeApplyOneConfChange");
                }
            }
            Event::Call { request, .. } => {
                if matches!(request, Request::LeaseTimeToLive(_)) {
                    hit("beforeLookupWhenLeaseTimeToLive");
                }
                if matches!(request, Request::RangeChunk(_)) {
                    hit("beforeRangeStreamChunk");
                }
                self.members_change |= matches!(
                    request,
                    Request::MemberAdd(_)
                        | Request::MemberRemove(_)
                        | Request::MemberUpdate(_)
                        | Request::MemberPromote(_)
                );
            }
            Event::Frame { bytes, .. } => {
                self.members_change |= wire::carries_conf_change(bytes);
                match wire::asks_about_lease(bytes) {
                    Some(LeaseQuestion::KeepAlive) => {
                        hit("beforeServeHTTPLeaseRenew");
                    }
                    Some(LeaseQuestion::TimeToLive) => {
                        hit("beforeLookupWhenForwardLeaseTimeToLive");
                    }
                    None => {}
                }
            }
            Event::StreamItem {
                item: StreamRequest::Watch(request),
                ..
            } if asks_for_progress(request) => {
                hit("beforeProgressIfSync");
            }
            Event::StreamItem { .. }
            | Event::Cancel { .. }
            | Event::StreamOpened { .. }
            | Event::StreamCredit { .. }
            | Event::StreamClosed { .. }
            | Event::LinkUp { .. }
            | Event::LinkDown { .. }
            | Event::Signal(_) => {}
        }
    }
}

impl<H: Host> Host for FailingHost<H> {
    fn now(&self) -> Instant {
        self.inner.now()
    }

    fn wall(&self) -> WallTime {
        self.inner.wall()
    }

    async fn wait(&mut self, until: Option<Instant>, events: &mut Vec<Event>) {
        let first = events.len();
        self.inner.wait(until, events).await;
        for event in &events[first..] {
            self.look_at(event);
        }
        if self.now().since(self.watchers_at) >= WATCHERS_INTERVAL {
            hit("beforeSyncWatchers");
            hit("beforeMoveVictims");
            self.watchers_at = self.now();
        }
    }

    fn execute(&mut self, effect: Effect) {
        match &effect {
            Effect::Link(LinkOp::Send { bytes, .. }) => match wire::voice(bytes) {
                Voice::Heartbeat => {
                    hit("raftBeforeLeaderSend");
                    if hit("raftDropHeartbeat").is_some() {
                        return;
                    }
                }
                Voice::Leader => {
                    hit("raftBeforeLeaderSend");
                }
                Voice::Follower => {
                    hit("raftBeforeFollowerSend");
                }
                Voice::Other => {}
            },
            Effect::Stream { .. } => {
                hit("beforeSendWatchResponse");
            }
            Effect::Disk { .. }
            | Effect::Link(LinkOp::Dial { .. } | LinkOp::Close { .. })
            | Effect::Reply { .. }
            | Effect::Log(_)
            | Effect::Ready
            | Effect::Halt(_) => {}
        }
        self.inner.execute(effect);
    }
}

fn asks_for_progress(request: &WatchRequest) -> bool {
    matches!(
        request.request_union,
        Some(RequestUnion::ProgressRequest(_))
    )
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        text
    }

    /// What etcd's own tests do: list, set, look, count, let be.
    #[test]
    fn the_endpoint_speaks_as_gofail_does() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || serve(&listener));
        let all = ask(address, "GET / HTTP/1.1\r\n\r\n");
        assert!(all.starts_with("HTTP/1.1 200 "));
        assert!(NAMES.iter().all(|name| all.contains(&format!("\n{name}="))));
        let put = |name: &str, terms: &str| {
            let length = terms.len();
            let request =
                format!("PUT /{name} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{terms}");
            ask(address, &request)
        };
        assert!(put("beforeMoveVictims", "1*return(\"x\")").starts_with("HTTP/1.1 204 "));
        assert!(put("noSuchPlace", "panic").starts_with("HTTP/1.1 400 "));
        assert!(put("beforeMoveVictims", "explode").starts_with("HTTP/1.1 400 "));
        assert_eq!(hit("beforeMoveVictims").as_deref(), Some("x"));
        assert_eq!(hit("beforeMoveVictims"), None);
        let set = ask(address, "GET /beforeMoveVictims HTTP/1.1\r\n\r\n");
        assert!(set.ends_with("\r\n\r\n1*return(\"x\")\n"), "{set}");
        let count = ask(address, "GET /beforeMoveVictims/count HTTP/1.1\r\n\r\n");
        assert!(count.ends_with("\r\n\r\n1"), "{count}");
        let delete = "DELETE /beforeMoveVictims HTTP/1.1\r\n\r\n";
        assert!(ask(address, delete).starts_with("HTTP/1.1 204 "));
        assert!(ask(address, delete).starts_with("HTTP/1.1 400 "));
        let gone = ask(address, "GET /beforeMoveVictims HTTP/1.1\r\n\r\n");
        assert!(gone.starts_with("HTTP/1.1 404 "));
        assert!(put("failpoints", "beforeMoveVictims=off;walAfterSync=1*off").contains(" 204 "));
        assert!(disable("beforeMoveVictims").is_ok() && disable("walAfterSync").is_ok());
        assert!(ask(address, "POST / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    }

    #[test]
    fn every_place_around_a_disk_operation_has_a_name() {
        let mut batch = WriteBatch::default();
        for mark in [&b"scheduledCompactRev"[..], b"finishedCompactRev"] {
            batch.put(Bucket::Meta, Bytes::from_static(mark), Bytes::new());
        }
        batch.delete(Bucket::Key, Bytes::from_static(b"r"));
        let (before, after) = around_commit(&batch);
        assert_eq!((before.len(), after.len()), (9, 6));
        assert!(before.iter().chain(&after).all(|name| NAMES.contains(name)));
        let plain = around_commit(&WriteBatch::default());
        assert_eq!((plain.0.len(), plain.1.len()), (5, 3));
        let id = crate::kernel::SnapshotId::new(1);
        let (before, after) = places(&DiskOp::StageInstall { id });
        assert!(before.iter().chain(&after).all(|name| NAMES.contains(name)));
    }
}
