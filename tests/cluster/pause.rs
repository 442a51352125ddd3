//! A member that stands still and then goes on as if nothing had happened.

use std::{thread, time::Duration};

use super::{
    chaos::endpoints,
    ledger::COUNTERS,
    load::Load,
    watches::{Seen, collect_until},
};
use crate::support::{Client, Cluster, Random, Server, Watch};

const STOPPED: Duration = Duration::from_secs(10);
const WRITERS: usize = 3;
const READERS: usize = 4;

/// A stopped leader does not know that it was replaced; it must find out before it answers a read.
#[test]
fn a_stopped_leader_answers_no_stale_read() {
    let cluster = Cluster::of(3).start();
    stop_and_go(&cluster, &cluster.members[cluster.leader()]);
}

/// A stopped follower is behind when it goes on. With a short log it gets an image while clients
/// read and watch through it.
#[test]
fn a_stopped_follower_answers_no_stale_read() {
    let cluster = Cluster::of(3)
        .flag("--snapshot-count=50")
        .flag("--snapshot-catchup-entries=5")
        .start();
    let stopped = &cluster.members[cluster.follower()];
    stop_and_go(&cluster, stopped);
    assert!(
        stopped.log().find(0, "applied snapshot").is_some(),
        "{}",
        cluster.tails()
    );
}

/// Goal: nothing acknowledged is lost, the others go on meanwhile, no linearizable read through the
/// stopped member is stale, and a watch through it misses nothing. Method: readers with long
/// patience keep reads on the way through the member when it is stopped and when it goes on; each
/// knows what was acknowledged before it began.
fn stop_and_go(cluster: &Cluster, stopped: &Server) {
    let seed = Random::seed();
    eprintln!("FATED_SEED={seed}");
    let mut load = Load::start(&endpoints(cluster), WRITERS, seed);
    // Writers that meet the stopped member lose their time; these never do.
    let mut others = endpoints(cluster);
    others.retain(|endpoint| *endpoint != stopped.endpoint());
    load.write_through(&others, WRITERS, seed);
    let watching = stopped.client();
    let watch = watching.watch_prefix(COUNTERS, 1).unwrap();
    let patience = STOPPED + Duration::from_secs(10);
    for _ in 0..READERS {
        load.read_through(&stopped.endpoint(), patience);
    }
    thread::sleep(Duration::from_secs(1));
    stopped.pause();
    thread::sleep(STOPPED / 2);
    // These begin while it stands still and are answered when it goes on.
    for _ in 0..READERS {
        load.read_through(&stopped.endpoint(), patience);
    }
    let middle = load.ledger.acknowledged();
    thread::sleep(STOPPED / 2);
    let late = load.ledger.acknowledged();
    stopped.resume();
    assert!(
        late > middle + 20,
        "{middle}, then {late} writes:\n{}",
        cluster.tails()
    );
    thread::sleep(Duration::from_secs(2));
    load.finish().verify(cluster);
    compare_watches(cluster, watch, &watching);
}

/// The watch that went through the pause saw what an undisturbed one sees.
fn compare_watches(cluster: &Cluster, mut watch: Watch<'_>, client: &Client) {
    let end = client.put(format!("{COUNTERS}end"), "0").unwrap();
    let end = end.header.unwrap().revision;
    let mut seen: Vec<Seen> = Vec::new();
    collect_until(&mut watch, end, &mut seen);
    let other = cluster.members[cluster.leader()].client();
    let mut whole = Vec::new();
    collect_until(
        &mut other.watch_prefix(COUNTERS, 1).unwrap(),
        end,
        &mut whole,
    );
    assert_eq!(seen, whole);
}
