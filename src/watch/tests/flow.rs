//! What flows when: fragments, credit, catch-up, images, and the bounds on all of them.

use std::collections::BTreeMap;

use super::*;
use crate::kernel::{DiskError, DiskErrorKind};
use crate::pb::mvccpb::KeyValue;
use crate::watch::Replay;

#[test]
fn large_responses_are_split_for_those_who_ask() {
    let mut bench = Bench::new(Settings {
        fragment_bytes: 120,
        ..Settings::default()
    });
    bench.open(A);
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for fragment in [true, false] {
        bench.create(
            A,
            rpc::WatchCreateRequest {
                fragment,
                ..on("", "\0")
            },
        );
    }
    bench.take();
    bench.write(&keys, &[]);
    bench.create(
        A,
        rpc::WatchCreateRequest {
            fragment: true,
            ..from("", "\0", 2)
        },
    );
    bench.catch_up();
    let responses = bench.take();
    for id in [0, 2] {
        let parts = responses
            .iter()
            .filter(|one| one.watch_id == id && !one.created);
        let flags: Vec<bool> = parts.clone().map(|part| part.fragment).collect();
        assert!(flags.len() > 2, "{flags:?}");
        assert!(flags[..flags.len() - 1].iter().all(|flag| *flag) && !flags[flags.len() - 1]);
        let all: Vec<_> = parts.flat_map(told).map(|(key, _)| key).collect();
        assert_eq!(all, keys);
    }
    let whole: Vec<_> = responses.iter().filter(|one| one.watch_id == 1).collect();
    assert!(whole.len() == 1 && whole[0].events.len() == 8 && !whole[0].fragment);
}

/// Goal: without credit nothing but the position is kept, and nothing is lost or told twice.
#[test]
fn a_blocked_stream_catches_up_when_credit_returns() {
    let mut bench = Bench::new(narrow());
    bench.open(A);
    bench.open(B);
    bench.create(A, on("a", ""));
    let taken = bench.hub.take_output();
    let [(_, StreamItem::Watch { bytes, .. })] = taken[..] else {
        panic!("created")
    };
    bench.create(B, on("a", ""));
    bench.hub.credit(B, u64::MAX);
    bench.take();
    for _ in 0..3 {
        bench.write(&["a"], &["b"]);
        assert_eq!(bench.take().len(), 1, "the other stream is not delayed");
        bench.hub.credit(B, u64::MAX);
    }
    bench.progress(A);
    assert_eq!(bench.hub.counters().watchers_behind, 1);
    assert!(!bench.slice(), "nothing can be done for a blocked stream");
    bench.hub.credit(A, bytes);
    bench.catch_up();
    assert_eq!(bench.take_events(), pairs(&[("a", 2), ("a", 3), ("a", 4)]));
    assert_eq!(bench.hub.counters().watchers_behind, 0);
}

#[test]
fn answers_wait_for_credit_and_only_the_newest_progress_does() {
    let mut bench = Bench::new(narrow());
    bench.open(A);
    bench.create(A, on("a", ""));
    bench.take();
    bench.progress(A);
    bench.write(&["b"], &[]);
    bench.progress(A);
    assert_eq!(bench.hub.counters().answers_waiting, 1);
    bench.create(A, on("c", ""));
    bench.write(&["c"], &[]);
    let mut seen = Vec::new();
    for _ in 0..4 {
        bench.hub.credit(A, u64::MAX);
        bench.catch_up();
        seen.extend(bench.take());
    }
    let [progress, created, event] = &seen[..] else {
        panic!("three: {seen:?}")
    };
    assert_eq!(
        (progress.watch_id, progress.header.unwrap().revision),
        (-1, 2)
    );
    assert!(created.created);
    assert_eq!(told(event), pairs(&[("c", 3)]));
}

#[test]
fn too_many_waiting_answers_end_the_stream() {
    let mut bench = Bench::new(Settings {
        control_max: 3,
        ..narrow()
    });
    bench.open(A);
    for _ in 0..4 {
        bench.create(A, on("a", ""));
    }
    bench.take();
    bench.create(A, on("a", ""));
    let output = bench.hub.take_output();
    assert_eq!(output, [(A, StreamItem::End(ApiError::TooManyRequests))]);
    assert_eq!(bench.hub.counters().streams, 0);
    bench.write(&["a"], &[]);
    assert!(bench.take().is_empty());
    assert_eq!(bench.hub.deadline(), None);
}

#[test]
fn too_many_key_bytes_are_refused() {
    let mut bench = Bench::new(Settings {
        key_bytes_max: 5,
        ..Settings::default()
    });
    bench.open(A);
    bench.create(A, on("abc", ""));
    bench.create(A, on("a", "cc"));
    bench.create(A, on("a", "c"));
    let created: Vec<bool> = bench.take().iter().map(|one| !one.canceled).collect();
    assert_eq!(created, [true, false, true]);
}

#[test]
fn an_installed_image_sends_watches_back_to_where_they_stood() {
    let mut bench = bench();
    bench.write(&["a"], &[]);
    bench.create(A, on("a", ""));
    bench.create(A, from("a", "", 5));
    bench.create(A, from("a", "", 9));
    bench.take();
    for _ in 0..4 {
        bench.log.write(&["a"], &[]);
    }
    bench.install();
    assert_eq!(bench.hub.counters().watchers_behind, 2);
    bench.progress(A);
    assert!(bench.take().is_empty());
    bench.catch_up();
    let responses = bench.take();
    assert_eq!(
        told(&responses[0]),
        pairs(&[("a", 3), ("a", 4), ("a", 5), ("a", 6)])
    );
    assert_eq!(told(&responses[1]), pairs(&[("a", 5), ("a", 6)]));
    assert_eq!(responses.len(), 2);
    // Had the gap been compacted, the watches end instead.
    bench.log.write(&["a"], &[]);
    bench.log.write(&["a"], &[]);
    bench.log.compacted = 8;
    bench.install();
    bench.catch_up();
    let ended: Vec<_> = bench
        .take()
        .iter()
        .map(|one| (one.watch_id, one.compact_revision))
        .collect();
    assert_eq!(ended, [(0, 8), (1, 8)]);
}

/// Entries that waited for the image are applied before the hub hears of the image.
#[test]
fn an_installed_image_may_be_older_than_the_store() {
    let mut bench = bench();
    bench.create(A, on("a", ""));
    bench.take();
    for _ in 0..5 {
        bench.log.write(&["a"], &[]);
    }
    bench.install_at(4);
    bench.tell();
    bench.catch_up();
    let responses = bench.take();
    let seen: Vec<_> = responses.iter().flat_map(told).collect();
    assert_eq!(
        seen,
        pairs(&[("a", 2), ("a", 3), ("a", 4), ("a", 5), ("a", 6)])
    );
}

#[test]
fn one_read_of_history_serves_many_and_batches_are_bounded() {
    let mut bench = Bench::new(Settings {
        catchup_revisions: 10,
        catchup_watches: 8,
        ..Settings::default()
    });
    bench.open(A);
    bench.open(B);
    for _ in 0..15 {
        bench.write(&["a"], &[]);
    }
    for _ in 0..4 {
        bench.create(A, from("a", "", 2));
        bench.create(B, from("a", "", 2));
    }
    bench.take();
    assert!(bench.slice());
    let counts: Vec<usize> = bench.take().iter().map(|one| one.events.len()).collect();
    assert_eq!(counts, [10; 8], "one slice serves all");
    assert!(!bench.slice());
    let counts: Vec<usize> = bench.take().iter().map(|one| one.events.len()).collect();
    assert_eq!(counts, [5; 8]);
}

/// Goal: a watch with a long way to go does not delay one that is nearly there.
#[test]
fn turns_pass_between_streams_and_between_watches() {
    let mut bench = Bench::new(Settings {
        catchup_revisions: 1,
        catchup_watches: 2,
        ..Settings::default()
    });
    bench.open(A);
    bench.open(B);
    for _ in 0..100 {
        bench.write(&["a"], &[]);
    }
    for _ in 0..5 {
        bench.create(A, from("a", "", 2));
    }
    bench.create(A, from("a", "", 101));
    bench.create(B, from("a", "", 101));
    bench.take();
    for _ in 0..20 {
        bench.slice();
    }
    let mut near = BTreeMap::new();
    for (stream, item) in bench.hub.take_output() {
        if let StreamItem::Watch { response, .. } = item.alone() {
            let revision = told(&response).last().map_or(0, |(_, revision)| *revision);
            near.insert((stream, response.watch_id), revision);
        }
    }
    assert_eq!((near[&(A, 5)], near[&(B, 0)]), (101, 101), "{near:?}");
    assert!(
        (0..5).all(|id| near[&(A, id)] > 2),
        "nobody starves: {near:?}"
    );
}

#[test]
fn a_slice_stops_after_its_budget_of_events() {
    let mut bench = Bench::new(Settings {
        catchup_events: 5,
        ..Settings::default()
    });
    bench.open(A);
    for _ in 0..4 {
        bench.write(&["a"], &[]);
    }
    for _ in 0..6 {
        bench.create(A, from("a", "", 2));
    }
    bench.take();
    assert!(bench.slice());
    assert_eq!(
        bench.take().len(),
        2,
        "four events, and four more reach the budget"
    );
    bench.catch_up();
    let ids: Vec<i64> = bench.take().iter().map(|one| one.watch_id).collect();
    assert_eq!(ids, [2, 3, 4, 5]);
}

#[test]
fn no_leader_ends_only_those_who_asked() {
    let mut bench = bench();
    let strict = Credentials {
        require_leader: true,
        ..Credentials::default()
    };
    bench.hub.open(B, &strict, bench.now, &mut bench.entropy);
    bench.create(B, on("a", ""));
    bench.take();
    bench.hub.no_leader();
    bench.hub.check();
    assert_eq!(
        bench.hub.take_output(),
        [(B, StreamItem::End(ApiError::NoLeader))]
    );
    bench.hub.cancel_all(ApiError::Stopped);
    bench.hub.check();
    assert_eq!(
        bench.hub.take_output(),
        [(A, StreamItem::End(ApiError::Stopped))]
    );
}

/// Goal: a client that opens many watches and reads nothing holds neither events nor others up.
#[test]
fn ten_thousand_watches_without_credit_hold_no_events() {
    let settings = Settings {
        window_bytes: 64 * 1024,
        ..Settings::default()
    };
    let window = settings.window_bytes;
    let mut bench = Bench::new(settings);
    bench.open(A);
    bench.open(B);
    for id in 0..10_000 {
        let start = if id % 2 == 0 { 0 } else { 1 };
        let request = rpc::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(from("a", "", start))),
        };
        bench.hub.request(A, request, Ok(()), &bench.log);
    }
    bench.create(B, on("a", ""));
    for _ in 0..20 {
        bench.write(&["a"], &["b"]);
        bench.catch_up();
        bench.tick();
    }
    let (mut bytes_out, mut others) = (0, 0);
    for (stream, item) in bench.hub.take_output() {
        let StreamItem::Watch { response, bytes } = item.alone() else {
            panic!("nothing ended")
        };
        if stream == A {
            bytes_out += bytes;
        } else {
            others += response.events.len();
        }
    }
    assert!(bytes_out < window + 1000, "{bytes_out} bytes on the way");
    assert_eq!(others, 20, "the other stream got everything at once");
    let counters = bench.hub.counters();
    assert_eq!(
        (counters.watchers, counters.watchers_behind),
        (10_001, 10_000)
    );
    assert!(counters.answers_waiting < 10_000);
    // With credit, every watch gets every event once.
    let mut events = 0;
    while bench.hub.counters().watchers_behind > 0 {
        bench.hub.credit(A, u64::MAX);
        bench.hub.catch_up(&bench.log).unwrap();
        events += bench
            .take()
            .iter()
            .map(|one| one.events.len())
            .sum::<usize>();
    }
    bench.hub.check();
    assert_eq!(events, 10_000 * 20);
}

/// Goal: a failing disk is told to the caller, from both readers of history.
#[test]
fn disk_errors_come_out() {
    struct Broken(Log);
    impl History for Broken {
        fn revision(&self) -> i64 {
            self.0.revision()
        }
        fn compact_revision(&self) -> i64 {
            0
        }
        fn at(&self, _: &[u8], _: i64) -> Result<Option<KeyValue>, DiskError> {
            Err(DiskError::new(DiskErrorKind::Io, "at"))
        }
        fn events(&self, _: i64, _: i64, _: usize, _: usize) -> Result<Replay, DiskError> {
            Err(DiskError::new(DiskErrorKind::Io, "events"))
        }
    }
    let mut bench = bench();
    bench.write(&["a"], &[]);
    bench.create(
        A,
        rpc::WatchCreateRequest {
            prev_kv: true,
            ..on("a", "")
        },
    );
    bench.create(A, from("a", "", 2));
    bench.log.write(&["a"], &[]);
    let store = Broken(bench.log.clone());
    let events = bench.log.events_at(3).to_vec();
    let detail = |result: Result<(), DiskError>| result.unwrap_err().detail;
    assert_eq!(detail(bench.hub.on_revision(3, &events, &store)), "at");
    assert_eq!(detail(bench.hub.catch_up(&store).map(|_| ())), "events");
}

/// Goal: however many clients read nothing, all of them together hold little; and one of them that
/// reads again gets everything.
#[test]
fn silent_streams_share_a_bound() {
    let settings = Settings {
        windows_bytes_max: 64 * 1024,
        window_bytes_min: 2048,
        ..Settings::default()
    };
    let bound = settings.windows_bytes_max + 100 * (settings.window_bytes_min + 1024);
    let mut bench = Bench::new(settings);
    for stream in 1..=100 {
        bench.open(StreamId::new(stream));
        bench.create(StreamId::new(stream), on("a", ""));
    }
    for _ in 0..50 {
        bench.write(&["a"], &[]);
    }
    let counters = bench.hub.counters();
    assert_eq!(counters.watchers_behind, 100, "each has had its share");
    assert!(counters.in_flight >= bench.settings.windows_bytes_max);
    assert!(counters.in_flight < bound, "{} bytes", counters.in_flight);
    let mine = |output: Vec<(StreamId, StreamItem)>| -> (usize, u64) {
        let mine = output.into_iter().filter(|(stream, _)| *stream == A);
        mine.fold((0, 0), |sum, (_, item)| match item.alone() {
            StreamItem::Watch { response, bytes } => (sum.0 + response.events.len(), sum.1 + bytes),
            StreamItem::Alike { .. } => unreachable!("it was made one of its own"),
            StreamItem::End(error) => panic!("{error:?}"),
        })
    };
    let (mut events, mut bytes) = mine(bench.hub.take_output());
    while bytes > 0 {
        bench.hub.credit(A, bytes);
        bench.catch_up();
        let (more, held) = mine(bench.hub.take_output());
        (events, bytes) = (events + more, held);
    }
    assert_eq!(events, 50);
    bench.hub.check();
    for stream in 1..=100 {
        bench.hub.close(StreamId::new(stream));
    }
    assert_eq!(bench.hub.counters().in_flight, 0);
}
