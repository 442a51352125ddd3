//! Every member is stopped in good order and started again, one after the other, under load.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    chaos::endpoints,
    ledger::{COUNTERS, WRITES},
    load::Load,
    reader::Reader,
    watches::{Seen, after, collect_until, take},
};
use crate::support::{Client, Cluster, Random};

const SOON: Duration = Duration::from_secs(10);
/// An election that nobody asked for waits this long, so one that was waited for shows.
const ELECTION: Duration = Duration::from_secs(10);
const ROUNDS: usize = 2;

/// Goal: a full rolling restart loses no acknowledged write and no event of a watch, delivers none
/// twice, and costs no election timeout: who leads hands over before it stops. Method: writers with
/// a ledger, watchers that go on at the next member after their last revision, and a reader that
/// knows how long it went without an answer. The election timeout is ten seconds.
#[test]
fn a_rolling_restart_loses_nothing_and_waits_for_no_election() {
    let seed = Random::seed();
    eprintln!("FATED_SEED={seed}");
    let mut cluster = Cluster::of(3)
        .flag("--election-timeout=10000")
        .flag("--heartbeat-interval=200")
        .start();
    let urls = endpoints(&cluster);
    let load = Load::start(&urls, 3, seed);
    let reader = Reader::start(urls.clone());
    let end = Arc::new(AtomicI64::new(i64::MAX));
    let watchers = [
        watch_on(&urls, 0, COUNTERS, &end),
        watch_on(&urls, 1, COUNTERS, &end),
    ];
    let mut handed_over = 0;
    for round in 0..ROUNDS {
        for place in 0..cluster.members.len() {
            // In one of the rounds each, the leader goes first and last.
            let place = match round {
                0 if place == 0 => cluster.leader(),
                _ => place,
            };
            handed_over += usize::from(cluster.leader() == place);
            let status = cluster.members[place].terminate(SOON);
            assert!(status.success(), "it ends in good order");
            cluster.members[place].start();
            // Members come and go so quickly that the load would hardly see it.
            let before = load.ledger.acknowledged();
            let begun = Instant::now();
            while load.ledger.acknowledged() < before + 20 {
                assert!(begun.elapsed() < SOON, "nothing is written any more");
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
    assert!(handed_over > 0, "no leader was restarted");
    let gap = reader.finish();
    let ledger = load.finish();
    ledger.verify(&cluster);
    let client = cluster.members[0].client();
    let last = client.put(format!("{COUNTERS}end"), "0").unwrap();
    let last = last.header.unwrap().revision;
    end.store(last, Ordering::Relaxed);
    let mut whole: Vec<Seen> = Vec::new();
    let mut watch = client.watch_prefix(COUNTERS, 1).unwrap();
    collect_until(&mut watch, last, &mut whole);
    assert!(whole.len() > 20, "only {} events", whole.len());
    for watcher in watchers {
        let (seen, moves) = watcher.join().expect("watching does not panic");
        assert!(moves > 0, "its member was never restarted");
        assert_eq!(seen, whole);
    }
    assert!(ledger.acknowledged() > 20, "hardly any load on {WRITES}");
    cluster.assert_same_hash();
    assert!(gap < ELECTION * 3 / 4, "no linearizable read for {gap:?}");
}

/// Watches until the event of revision `end`, at one member after the other; returns what it saw
/// and how often it had to move.
fn watch_on(
    urls: &[String],
    first: usize,
    prefix: &'static str,
    end: &Arc<AtomicI64>,
) -> JoinHandle<(Vec<Seen>, usize)> {
    let (urls, end) = (urls.to_vec(), Arc::clone(end));
    thread::spawn(move || {
        let (mut seen, mut moves) = (Vec::<Seen>::new(), 0);
        loop {
            let client = Client::new(&urls[(first + moves) % urls.len()]);
            let client = client.with_timeout(Duration::from_secs(2));
            if let Ok(mut watch) = client.watch_prefix(prefix, after(&seen)) {
                loop {
                    if seen
                        .last()
                        .is_some_and(|last| last.0 >= end.load(Ordering::Relaxed))
                    {
                        return (seen, moves);
                    }
                    match watch.next(Duration::from_millis(200)) {
                        None => {}
                        // The member stops, and says so.
                        Some(Ok(response)) if response.canceled => break,
                        Some(Ok(response)) => take(response, &mut seen),
                        Some(Err(_)) => break,
                    }
                }
            }
            moves += 1;
            thread::sleep(Duration::from_millis(20));
        }
    })
}
