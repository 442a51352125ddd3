//! Rules of watching one by one, then all together under random driving against a naive store.

use std::time::Duration;

use super::model::{Log, kv};
use super::{History, Hub, Settings};
use crate::kernel::{ApiError, Credentials, Entropy, Instant, StreamId, StreamItem};
use crate::pb::etcdserverpb as rpc;
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use bytes::Bytes;

mod driven;
mod flow;

const A: StreamId = StreamId::new(1);
const B: StreamId = StreamId::new(2);

/// A hub over a naive store.
struct Bench {
    hub: Hub,
    log: Log,
    settings: Settings,
    entropy: Entropy,
    now: Instant,
    /// The last revision the hub was told of.
    told: i64,
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let log = Log::default();
        Self {
            hub: Hub::new(settings.clone(), &log),
            log,
            settings,
            entropy: Entropy::from_seed(1),
            now: Instant::ZERO,
            told: 1,
        }
    }

    fn open(&mut self, stream: StreamId) {
        let credentials = Credentials::default();
        self.hub
            .open(stream, &credentials, self.now, &mut self.entropy);
    }

    fn ask(&mut self, stream: StreamId, union: RequestUnion) {
        let request = rpc::WatchRequest {
            request_union: Some(union),
        };
        self.hub.request(stream, request, Ok(()), &self.log);
        self.hub.check();
    }

    fn create(&mut self, stream: StreamId, request: rpc::WatchCreateRequest) {
        self.ask(stream, RequestUnion::CreateRequest(request));
    }

    fn cancel(&mut self, stream: StreamId, watch_id: i64) {
        self.ask(
            stream,
            RequestUnion::CancelRequest(rpc::WatchCancelRequest { watch_id }),
        );
    }

    fn progress(&mut self, stream: StreamId) {
        self.ask(
            stream,
            RequestUnion::ProgressRequest(rpc::WatchProgressRequest {}),
        );
    }

    /// Writes and tells the hub.
    fn write(&mut self, puts: &[&str], deletes: &[&str]) {
        self.log.write(puts, deletes);
        self.tell();
    }

    fn tell(&mut self) {
        while self.told < self.log.revision() {
            self.told += 1;
            let events = self.log.events_at(self.told).to_vec();
            self.hub.on_revision(self.told, &events, &self.log).unwrap();
            self.hub.check();
        }
    }

    fn install(&mut self) {
        self.install_at(self.log.revision());
    }

    /// An image of this revision; the log may have moved on since.
    fn install_at(&mut self, revision: i64) {
        self.told = revision;
        self.hub.on_installed(revision, &self.log);
        self.hub.check();
    }

    fn compact(&mut self, revision: i64) {
        self.log.compacted = revision;
        self.hub.on_compacted(&self.log);
        self.hub.check();
    }

    fn slice(&mut self) -> bool {
        let more = self.hub.catch_up(&self.log).unwrap();
        self.hub.check();
        more
    }

    fn catch_up(&mut self) {
        while self.slice() {}
    }

    fn tick(&mut self) {
        self.now = self.hub.deadline().expect("streams are open");
        self.hub.on_deadline(self.now, &mut self.entropy);
        self.hub.check();
    }

    fn take(&mut self) -> Vec<rpc::WatchResponse> {
        let output = self.hub.take_output().into_iter();
        output
            .map(|(_, item)| match item.alone() {
                StreamItem::Watch { response, .. } => *response,
                StreamItem::Alike { .. } => unreachable!("it was made one of its own"),
                StreamItem::End(error) => panic!("the stream ended: {error}"),
            })
            .collect()
    }

    /// Keys and revisions of the events of the only response there is.
    fn take_events(&mut self) -> Vec<(String, i64)> {
        let responses = self.take();
        assert!(responses.len() <= 1, "one response");
        responses.iter().flat_map(told).collect()
    }
}

fn told(response: &rpc::WatchResponse) -> Vec<(String, i64)> {
    let events = response.events.iter().map(kv);
    events
        .map(|kv| (String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision))
        .collect()
}

fn on(key: &'static str, end: &'static str) -> rpc::WatchCreateRequest {
    rpc::WatchCreateRequest {
        key: Bytes::from(key),
        range_end: Bytes::from(end),
        ..Default::default()
    }
}

fn from(key: &'static str, end: &'static str, start_revision: i64) -> rpc::WatchCreateRequest {
    rpc::WatchCreateRequest {
        start_revision,
        ..on(key, end)
    }
}

fn pairs(expected: &[(&str, i64)]) -> Vec<(String, i64)> {
    expected
        .iter()
        .map(|(key, revision)| ((*key).to_owned(), *revision))
        .collect()
}

fn bench() -> Bench {
    let mut bench = Bench::new(Settings::default());
    bench.open(A);
    bench
}

/// Settings under which one response blocks a stream.
fn narrow() -> Settings {
    Settings {
        window_bytes: 1,
        ..Settings::default()
    }
}

#[test]
fn key_and_range_rules() {
    let mut bench = bench();
    for (key, end) in [("b", ""), ("b", "d"), ("b", "\0"), ("", ""), ("", "\0")] {
        bench.create(A, on(key, end));
    }
    assert_eq!(bench.take().len(), 5);
    let mut hit = |key: &str| -> Vec<i64> {
        bench.write(&[key], &[]);
        bench
            .take()
            .iter()
            .map(|response| response.watch_id)
            .collect()
    };
    assert_eq!(hit("a"), [4]);
    assert_eq!(hit("b"), [0, 1, 2, 4]);
    assert_eq!(hit("c"), [1, 2, 4]);
    assert_eq!(hit("d"), [2, 4]);
    assert_eq!(hit("\0"), [3, 4]);
}

#[test]
fn refusals_have_etcds_words() {
    let mut bench = bench();
    bench.create(
        A,
        rpc::WatchCreateRequest {
            watch_id: 7,
            ..on("a", "")
        },
    );
    bench.take();
    let duplicate = rpc::WatchCreateRequest {
        watch_id: 7,
        ..on("b", "")
    };
    let cases = [
        (
            from("a", "", -1),
            "etcdserver: mvcc: required revision has been compacted",
        ),
        (on("b", "a"), "mvcc: watcher range is empty"),
        (on("b", "b"), "mvcc: watcher range is empty"),
        (
            duplicate,
            "mvcc: duplicate watch ID provided on the WatchStream",
        ),
    ];
    for (request, reason) in cases {
        bench.create(A, request);
        let [response] = &bench.take()[..] else {
            panic!("one answer")
        };
        assert!(response.created && response.canceled);
        assert_eq!(
            (response.watch_id, &response.cancel_reason[..]),
            (-1, reason)
        );
        assert_eq!(response.compact_revision, 0);
    }
    assert_eq!(bench.hub.counters().watchers, 1);
}

#[test]
fn permission_refusals_name_the_grpc_code() {
    let mut bench = bench();
    let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    let cases = [
        (ApiError::PermissionDenied, denied),
        (ApiError::UserNotFound, denied),
        (
            ApiError::InvalidAuthToken,
            "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
        ),
        (
            ApiError::AuthOldRevision,
            "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old",
        ),
        (
            ApiError::UserEmpty,
            "rpc error: code = InvalidArgument desc = etcdserver: user name is empty",
        ),
    ];
    for (error, reason) in cases {
        let request = rpc::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(on("a", ""))),
        };
        bench.hub.request(A, request, Err(error), &bench.log);
        assert_eq!(bench.take()[0].cancel_reason, reason);
    }
}

#[test]
fn ids_are_given_from_zero_and_skip_those_in_use() {
    let mut bench = bench();
    bench.create(
        A,
        rpc::WatchCreateRequest {
            watch_id: 1,
            ..on("a", "")
        },
    );
    for _ in 0..3 {
        bench.create(A, on("a", ""));
    }
    bench.cancel(A, 0);
    bench.create(A, on("a", ""));
    let ids: Vec<_> = bench
        .take()
        .iter()
        .map(|one| (one.watch_id, one.canceled))
        .collect();
    let expected = [
        (1, false),
        (0, false),
        (2, false),
        (3, false),
        (0, true),
        (4, false),
    ];
    assert_eq!(ids, expected);
    bench.cancel(A, 99);
    bench.cancel(B, 1);
    assert!(
        bench.take().is_empty(),
        "unknown watches and streams are ignored"
    );
}

#[test]
fn headers_tell_the_right_revision() {
    let mut bench = bench();
    bench.write(&["a"], &[]);
    bench.write(&["a"], &[]);
    bench.create(A, on("a", ""));
    bench.create(A, from("a", "", 2));
    let revisions = |responses: Vec<rpc::WatchResponse>| -> Vec<i64> {
        responses
            .iter()
            .map(|one| one.header.unwrap().revision)
            .collect()
    };
    assert_eq!(revisions(bench.take()), [3, 3], "created: the store's");
    bench.catch_up();
    assert_eq!(
        revisions(bench.take()),
        [3],
        "replayed: the store's, not the event's"
    );
    bench.write(&["a"], &[]);
    assert_eq!(revisions(bench.take()), [4, 4], "fanned out: the event's");
    bench.write(&["z"], &[]);
    bench.progress(A);
    assert_eq!(revisions(bench.take()), [5], "progress: what was synced");
}

/// Goal: a create sees the store's revision even before the hub was told of it.
#[test]
fn a_hub_that_lags_withholds_what_was_before_the_create() {
    let mut bench = bench();
    bench.log.write(&["a"], &[]);
    bench.create(A, on("a", ""));
    assert_eq!(bench.take()[0].header.unwrap().revision, 2);
    bench.progress(A);
    assert!(
        bench.take().is_empty(),
        "the watch stands after what was fanned out"
    );
    bench.tell();
    assert!(bench.take().is_empty(), "revision 2 was before the create");
    bench.progress(A);
    assert_eq!(bench.take()[0].header.unwrap().revision, 2);
    bench.write(&["a"], &[]);
    assert_eq!(bench.take_events(), pairs(&[("a", 3)]));
}

#[test]
fn future_start_withholds_events_and_progress() {
    let mut bench = bench();
    bench.create(
        A,
        rpc::WatchCreateRequest {
            progress_notify: true,
            ..from("a", "", 4)
        },
    );
    bench.take();
    for _ in 0..2 {
        bench.write(&["a"], &[]);
        bench.progress(A);
        bench.tick();
        assert!(bench.take().is_empty());
    }
    bench.write(&["a"], &[]);
    assert_eq!(bench.take_events(), pairs(&[("a", 4)]));
    bench.progress(A);
    assert_eq!(bench.take().len(), 1);
}

#[test]
fn filters_drop_events_and_unknown_filters_are_ignored() {
    let mut bench = bench();
    for filters in [vec![0], vec![1], vec![0, 1], vec![77]] {
        bench.create(
            A,
            rpc::WatchCreateRequest {
                filters,
                ..on("a", "")
            },
        );
    }
    bench.take();
    let ids = |bench: &mut Bench| -> Vec<i64> {
        bench
            .take()
            .iter()
            .map(|response| response.watch_id)
            .collect()
    };
    bench.write(&["a"], &[]);
    assert_eq!(ids(&mut bench), [1, 3]);
    bench.write(&[], &["a"]);
    assert_eq!(ids(&mut bench), [0, 3]);
    for filters in [vec![0], vec![1], vec![0, 1]] {
        bench.create(
            A,
            rpc::WatchCreateRequest {
                filters,
                ..from("a", "", 1)
            },
        );
    }
    bench.take();
    bench.catch_up();
    assert_eq!(ids(&mut bench), [4, 5]);
    assert_eq!(bench.hub.counters().watchers_behind, 0);
}

#[test]
fn prev_kv_is_the_value_before_and_none_for_creates_and_compacted() {
    let mut bench = bench();
    bench.create(
        A,
        rpc::WatchCreateRequest {
            prev_kv: true,
            ..on("a", "")
        },
    );
    bench.take();
    let mut prev = |puts: &[&str], deletes: &[&str]| {
        bench.write(puts, deletes);
        let prev_kv = bench.take()[0].events[0].prev_kv.clone();
        prev_kv.map(|kv| kv.mod_revision)
    };
    assert_eq!(prev(&["a"], &[]), None);
    assert_eq!(prev(&["a"], &[]), Some(2));
    assert_eq!(prev(&[], &["a"]), Some(3));
    assert_eq!(prev(&["a"], &[]), None);
    assert_eq!(prev(&["a"], &[]), Some(5));
    bench.compact(6);
    bench.create(
        A,
        rpc::WatchCreateRequest {
            prev_kv: true,
            ..from("a", "", 6)
        },
    );
    bench.take();
    bench.catch_up();
    let [response] = &bench.take()[..] else {
        panic!("one response")
    };
    assert_eq!(response.events[0].prev_kv, None, "revision 5 is gone");
}

#[test]
fn compaction_ends_watches_that_lag_and_no_others() {
    let mut bench = bench();
    for _ in 0..4 {
        bench.write(&["a"], &[]);
    }
    bench.compact(4);
    for start in [3, 4, 0] {
        bench.create(A, from("a", "", start));
    }
    bench.catch_up();
    let responses = bench.take();
    assert!(
        responses[..3]
            .iter()
            .all(|one| one.created && !one.canceled),
        "created comes first"
    );
    let [ended, replayed] = &responses[3..] else {
        panic!("two more")
    };
    assert!(ended.canceled && ended.watch_id == 0 && ended.cancel_reason.is_empty());
    assert_eq!(ended.compact_revision, 4);
    // As in etcd, the id is taken until the client cancels it, and that is answered once.
    bench.cancel(A, 0);
    bench.cancel(A, 0);
    let [cancelled] = &bench.take()[..] else {
        panic!("one answer")
    };
    assert!(cancelled.canceled && cancelled.watch_id == 0 && cancelled.compact_revision == 0);
    assert_eq!(told(replayed), pairs(&[("a", 4), ("a", 5)]));
    bench.compact(5);
    bench.catch_up();
    assert!(bench.take().is_empty(), "what is synced needs no history");
    assert_eq!(bench.hub.counters().watchers, 2);
}

#[test]
fn manual_progress_waits_for_nobody() {
    let mut bench = bench();
    bench.progress(A);
    assert!(bench.take().is_empty(), "no watches, no answer");
    bench.write(&["a"], &[]);
    bench.create(A, on("a", ""));
    bench.create(A, from("a", "", 1));
    bench.take();
    bench.progress(A);
    assert!(
        bench.take().is_empty(),
        "one is behind, the request is dropped"
    );
    bench.catch_up();
    bench.take();
    bench.progress(A);
    let [answer] = &bench.take()[..] else {
        panic!("one answer")
    };
    assert_eq!((answer.watch_id, answer.header.unwrap().revision), (-1, 2));
}

#[test]
fn periodic_progress_passes_by_busy_watches_once() {
    let mut bench = bench();
    bench.create(
        A,
        rpc::WatchCreateRequest {
            progress_notify: true,
            ..on("a", "")
        },
    );
    bench.create(A, on("a", ""));
    bench.take();
    let interval = bench.settings.progress_interval;
    let first = bench.hub.deadline().expect("the stream ticks");
    assert!(first >= Instant::ZERO.after(interval));
    assert!(first < Instant::ZERO.after(interval + interval / 10));
    bench.tick();
    let [told] = &bench.take()[..] else {
        panic!("only the one that asked")
    };
    assert_eq!((told.watch_id, told.header.unwrap().revision), (0, 1));
    bench.write(&["a"], &[]);
    bench.take();
    bench.tick();
    assert!(bench.take().is_empty(), "it got an event");
    bench.tick();
    assert_eq!(bench.take().len(), 1);
}

#[test]
fn progress_interval_has_a_floor() {
    let mut bench = Bench::new(Settings {
        progress_interval: Duration::ZERO,
        ..Settings::default()
    });
    bench.open(A);
    assert!(bench.hub.deadline().unwrap() >= Instant::ZERO.after(Duration::from_millis(100)));
}
