//! Watches that outlive their member.

use std::{
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    chaos::endpoints,
    ledger::{COUNTERS, WRITES},
    load::Load,
};
use crate::support::{Cluster, Random, Watch};

const SOON: Duration = Duration::from_secs(10);
const KILLS: usize = 4;

/// One event: revision, key, value.
type Seen = (i64, Bytes, Bytes);

/// Goal: a watcher that goes on at another member after its last revision misses nothing and gets
/// nothing twice. Method: the member it watches is killed, and it resumes at the next one, under
/// load; in the end its events are compared with those of one undisturbed watch over the whole
/// history.
#[test]
fn a_watch_resumes_at_another_member() {
    let seed = Random::seed();
    eprintln!("FATED_SEED={seed}");
    let mut cluster = Cluster::of(3).start();
    let load = Load::start(&endpoints(&cluster), 3, seed);
    let mut seen: Vec<Seen> = Vec::new();
    for kill in 0..KILLS {
        let place = kill % cluster.members.len();
        let client = cluster.members[place].client();
        let next = seen.last().map_or(1, |last| last.0 + 1);
        let mut watch = client.watch_prefix(COUNTERS, next).unwrap();
        collect_for(&mut watch, Duration::from_secs(1), &mut seen);
        cluster.members[place].kill();
        drain(&mut watch, &mut seen);
        drop(watch);
        cluster.members[place].start();
        thread::sleep(Duration::from_millis(200));
    }
    load.finish().verify(&cluster);

    let client = cluster.members[KILLS % cluster.members.len()].client();
    let last = client
        .put(format!("{COUNTERS}last"), "0")
        .unwrap()
        .header
        .unwrap()
        .revision;
    let next = seen.last().map_or(1, |last| last.0 + 1);
    collect_until(
        &mut client.watch_prefix(COUNTERS, next).unwrap(),
        last,
        &mut seen,
    );
    assert!(
        seen.len() > 20,
        "only {} events, which shows little",
        seen.len()
    );
    for client in cluster.clients() {
        let mut whole = Vec::new();
        collect_until(
            &mut client.watch_prefix(COUNTERS, 1).unwrap(),
            last,
            &mut whole,
        );
        assert_eq!(seen, whole);
        // Each key here is written once, so the present keys are the whole history.
        let mut writes = Vec::new();
        let response = client.prefix(WRITES, true).unwrap();
        let mut expected: Vec<Seen> = response
            .kvs
            .into_iter()
            .map(|kv| (kv.mod_revision, kv.key, kv.value))
            .collect();
        expected.sort();
        let end = expected.last().expect("there were writes").0;
        collect_until(
            &mut client.watch_prefix(WRITES, 1).unwrap(),
            end,
            &mut writes,
        );
        assert_eq!(writes, expected);
    }
}

/// Takes what comes in `length`.
fn collect_for(watch: &mut Watch<'_>, length: Duration, seen: &mut Vec<Seen>) {
    let end = Instant::now() + length;
    while let Some(rest) = end.checked_duration_since(Instant::now()) {
        let Some(response) = watch.next(rest) else {
            return;
        };
        take(response.expect("the member lives"), seen);
    }
}

/// Takes what is still on its way from a member that died.
fn drain(watch: &mut Watch<'_>, seen: &mut Vec<Seen>) {
    while let Some(Ok(response)) = watch.next(SOON) {
        take(response, seen);
    }
}

/// Takes events up to a revision.
fn collect_until(watch: &mut Watch<'_>, last: i64, seen: &mut Vec<Seen>) {
    while seen.last().is_none_or(|event| event.0 < last) {
        let response = watch.next(SOON);
        let response = response.unwrap_or_else(|| panic!("{} events, then none", seen.len()));
        take(response.expect("the member lives"), seen);
    }
}

fn take(response: fated::pb::etcdserverpb::WatchResponse, seen: &mut Vec<Seen>) {
    assert!(!response.canceled, "{response:?}");
    let revision = response.header.expect("a header").revision;
    for event in response.events {
        let kv = event.kv.expect("an event has a key");
        assert!(kv.mod_revision <= revision, "an event of the future");
        seen.push((kv.mod_revision, kv.key, kv.value));
    }
}
