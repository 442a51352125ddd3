//! Watches that outlive their member.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    chaos::endpoints,
    ledger::{COUNTERS, WRITES},
    load::Load,
};
use crate::support::{Client, Cluster, Random, Watch, cluster::Builder};

const SOON: Duration = Duration::from_secs(10);
const KILLS: usize = 4;

/// One event: revision, key, value.
pub type Seen = (i64, Bytes, Bytes);

/// Goal: a watcher that goes on at another member after its last revision misses nothing and gets
/// nothing twice.
#[test]
fn a_watch_resumes_at_another_member() {
    resume(Cluster::of(3), 1);
}

/// The same at the member that was killed, which comes back by snapshot and is behind at first: the
/// revision it is asked to watch from is in its future.
#[test]
fn a_watch_resumes_at_a_member_that_is_behind() {
    let short = Cluster::of(3)
        .flag("--snapshot-count=20")
        .flag("--snapshot-catchup-entries=5");
    resume(short, 0);
}

/// Method: the member it watches is killed, and it resumes `step` members further, under load; in
/// the end its events are compared with those of undisturbed watches over the whole history.
fn resume(plan: Builder, step: usize) {
    let seed = Random::seed();
    eprintln!("FATED_SEED={seed}");
    let mut cluster = plan.start();
    let load = Load::start(&endpoints(&cluster), 3, seed);
    let mut seen: Vec<Seen> = Vec::new();
    let mut place = 0;
    for _ in 0..KILLS {
        {
            let client = cluster.members[place].client();
            let mut watch = client.watch_prefix(COUNTERS, after(&seen)).unwrap();
            collect_for(&mut watch, Duration::from_secs(1), &mut seen);
            cluster.members[place].kill();
            drain(&mut watch, &mut seen);
        }
        // The others go on meanwhile, and one of them tells more than the dead one knew.
        let other = cluster.members[(place + 1) % 3].client();
        let mut watch = other.watch_prefix(COUNTERS, after(&seen)).unwrap();
        collect_for(&mut watch, Duration::from_millis(800), &mut seen);
        drop(watch);
        cluster.members[place].start();
        place = (place + step) % cluster.members.len();
    }
    load.finish().verify(&cluster);
    let client = cluster.members[place].client();
    let end = client.put(format!("{COUNTERS}end"), "0").unwrap();
    let end = end.header.unwrap().revision;
    let mut watch = client.watch_prefix(COUNTERS, after(&seen)).unwrap();
    collect_until(&mut watch, end, &mut seen);
    assert!(
        seen.len() > 20,
        "only {} events, which shows little",
        seen.len()
    );
    for client in cluster.clients() {
        let mut whole = Vec::new();
        let mut watch = client.watch_prefix(COUNTERS, 1).unwrap();
        collect_until(&mut watch, end, &mut whole);
        assert_eq!(seen, whole);
        compare_with_keys(&client);
    }
}

/// Each of these keys is written once, so the present keys are the whole history.
fn compare_with_keys(client: &Client) {
    let kvs = client.prefix(WRITES, true).unwrap().kvs.into_iter();
    let mut expected: Vec<Seen> = kvs.map(|kv| (kv.mod_revision, kv.key, kv.value)).collect();
    expected.sort();
    let end = expected.last().expect("there were writes").0;
    let mut writes = Vec::new();
    let mut watch = client.watch_prefix(WRITES, 1).unwrap();
    collect_until(&mut watch, end, &mut writes);
    assert_eq!(writes, expected);
}

/// The revision after the last one seen.
pub fn after(seen: &[Seen]) -> i64 {
    seen.last().map_or(1, |last| last.0 + 1)
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
pub fn collect_until(watch: &mut Watch<'_>, last: i64, seen: &mut Vec<Seen>) {
    while seen.last().is_none_or(|event| event.0 < last) {
        let response = watch.next(SOON);
        let response = response.unwrap_or_else(|| panic!("{} events, then none", seen.len()));
        take(response.expect("the member lives"), seen);
    }
}

/// Takes the events of a response.
pub fn take(response: fated::pb::etcdserverpb::WatchResponse, seen: &mut Vec<Seen>) {
    assert!(!response.canceled, "{response:?}");
    let revision = response.header.expect("a header").revision;
    for event in response.events {
        let kv = event.kv.expect("an event has a key");
        assert!(kv.mod_revision <= revision, "an event of the future");
        seen.push((kv.mod_revision, kv.key, kv.value));
    }
}
