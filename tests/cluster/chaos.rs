//! Members die and come back, again and again, under load.

use std::{
    env, thread,
    time::{Duration, Instant},
};

use super::load::Load;
use crate::support::{Cluster, Random, Server};

const WRITERS: usize = 4;

/// Goal: what was acknowledged is there, whatever died meanwhile. Method: random members, leaders
/// and whole clusters are killed with `kill -9` and restarted under load; then the books are
/// compared.
#[test]
fn nothing_acknowledged_is_lost_when_members_are_killed() {
    let seed = Random::seed();
    eprintln!("FATED_SEED={seed}");
    let mut cluster = Cluster::of(3).flag("--snapshot-count=500").start();
    storm(&mut cluster, seed, seconds(20));
}

/// The same with a log that is compacted all the time, so that members come back by snapshot too.
#[test]
fn nothing_acknowledged_is_lost_when_the_log_is_short() {
    let seed = Random::seed();
    eprintln!("FATED_SEED={seed}");
    let mut cluster = Cluster::of(3)
        .flag("--snapshot-count=20")
        .flag("--snapshot-catchup-entries=5")
        .start();
    storm(&mut cluster, seed, seconds(15));
}

/// A member alone acknowledges only what is durable.
#[test]
fn a_member_alone_keeps_what_it_acknowledged() {
    let seed = Random::seed();
    eprintln!("FATED_SEED={seed}");
    let mut random = Random::new(seed);
    let mut cluster = Cluster::of(1).flag("--snapshot-count=100").start();
    let load = Load::start(&endpoints(&cluster), WRITERS, seed);
    let end = Instant::now() + seconds(6);
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(200 + random.below(800)));
        cluster.kill_all();
        cluster.start_all();
    }
    load.finish().verify(&cluster);
}

fn storm(cluster: &mut Cluster, seed: u64, length: Duration) {
    let mut random = Random::new(seed);
    let load = Load::start(&endpoints(cluster), WRITERS, seed);
    let end = Instant::now() + length;
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(300 + random.below(700)));
        let before = load.ledger.acknowledged();
        strike(cluster, &mut random);
        cluster.start_all();
        await_progress(cluster, &load, before);
    }
    cluster.kill_all();
    cluster.start_all();
    load.finish().verify(cluster);
}

/// Kills some members. What is down stays down for a while.
fn strike(cluster: &mut Cluster, random: &mut Random) {
    let count = cluster.members.len();
    match random.below(6) {
        0 => cluster.kill_all(),
        1 | 2 => {
            let leader = cluster.leader();
            cluster.members[leader].kill();
            thread::sleep(Duration::from_millis(random.below(2500)));
        }
        3 => {
            let first = random.index(count);
            cluster.members[first].kill();
            cluster.members[(first + 1) % count].kill();
            thread::sleep(Duration::from_millis(random.below(1000)));
        }
        _ => {
            cluster.members[random.index(count)].kill();
            thread::sleep(Duration::from_millis(random.below(1500)));
        }
    }
}

/// A cluster whose members are all up must go on. Members serve only after a leader was there, so
/// this is quick as a rule.
fn await_progress(cluster: &Cluster, load: &Load, before: usize) {
    let limit = Duration::from_secs(20);
    let moved = crate::support::wait_for(limit, || {
        (load.ledger.acknowledged() > before + 3).then_some(())
    });
    moved.unwrap_or_else(|| panic!("no write for {limit:?}:\n{}", cluster.tails()));
}

/// The length of a run, or the one `FATED_CHAOS_SECONDS` asks for.
pub fn seconds(usual: u64) -> Duration {
    let asked = env::var("FATED_CHAOS_SECONDS").ok();
    let asked = asked.map(|text| text.parse().expect("FATED_CHAOS_SECONDS is a number"));
    Duration::from_secs(asked.unwrap_or(usual))
}

/// The client URLs of all members.
pub fn endpoints(cluster: &Cluster) -> Vec<String> {
    cluster.members.iter().map(Server::endpoint).collect()
}
