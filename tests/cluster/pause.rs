//! A member that stands still and then goes on as if nothing had happened.

use std::{thread, time::Duration};

use super::{chaos::endpoints, load::Load};
use crate::support::{Cluster, Random};

const STOPPED: Duration = Duration::from_secs(10);
const WRITERS: usize = 4;
const READERS: usize = 4;

/// A stopped leader does not know that it was replaced; it must find out before it answers a read.
#[test]
fn a_stopped_leader_answers_no_stale_read() {
    stop_and_go(Cluster::leader);
}

/// A stopped follower is behind when it goes on.
#[test]
fn a_stopped_follower_answers_no_stale_read() {
    stop_and_go(Cluster::follower);
}

/// Goal: nothing acknowledged is lost, the others go on meanwhile, and no linearizable read through
/// the stopped member is stale. Method: readers with long patience keep reads on the way through
/// the member when it is stopped and when it goes on; each knows what was acknowledged before it
/// began.
fn stop_and_go(choose: fn(&Cluster) -> usize) {
    let seed = Random::seed();
    eprintln!("FATED_SEED={seed}");
    let cluster = Cluster::of(3).start();
    let mut load = Load::start(&endpoints(&cluster), WRITERS, seed);
    let stopped = &cluster.members[choose(&cluster)];
    for _ in 0..READERS {
        load.read_through(&stopped.endpoint(), STOPPED + Duration::from_secs(10));
    }
    thread::sleep(Duration::from_secs(1));
    stopped.pause();
    thread::sleep(STOPPED / 2);
    // These begin while it stands still and are answered when it goes on.
    for _ in 0..READERS {
        load.read_through(&stopped.endpoint(), STOPPED + Duration::from_secs(10));
    }
    let middle = load.ledger.acknowledged();
    thread::sleep(STOPPED / 2);
    let late = load.ledger.acknowledged();
    stopped.resume();
    assert!(
        late > middle + 3,
        "{middle}, then {late} writes:\n{}",
        cluster.tails()
    );
    thread::sleep(Duration::from_secs(2));
    load.finish().verify(&cluster);
}
