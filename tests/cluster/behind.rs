//! A member that was away for longer than the log reaches back.

use std::{thread, time::Duration};

use bytes::Bytes;

use crate::support::{Client, Cluster, Random};

const SOON: Duration = Duration::from_secs(10);
/// Transfers of large values take their time in a debug build.
const TRANSFER: Duration = Duration::from_secs(60);

/// Goal: it comes back by snapshot, equal to the others, and watches through it miss nothing.
#[test]
fn a_member_left_behind_comes_back_by_snapshot() {
    let mut cluster = short_log();
    let away = cluster.follower();
    let clients = cluster.clients();
    let first = clients[away]
        .put("k/0", "before")
        .unwrap()
        .header
        .unwrap()
        .revision;
    cluster.members[away].kill();
    let writer = &clients[(away + 1) % 3];
    for number in 1..=300 {
        writer.put(format!("k/{number}"), "meanwhile").unwrap();
    }
    cluster.members[away].start();
    cluster.members[away].wait_log("applied snapshot", TRANSFER);
    cluster.assert_same_hash();

    // A watch from the past finds what the snapshot brought, and goes on with what comes.
    let client = cluster.members[away].client();
    let mut watch = client.watch_prefix("k/", first).unwrap();
    for number in 301..=320 {
        writer.put(format!("k/{number}"), "afterwards").unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 321 {
        let response = watch.next(SOON).unwrap_or_else(|| {
            panic!("only {} events:\n{}", seen.len(), cluster.tails());
        });
        let events = response.unwrap().events;
        seen.extend(events.into_iter().map(|event| event.kv.unwrap().key));
    }
    let expected: Vec<Bytes> = (0..=320)
        .map(|number| format!("k/{number}").into())
        .collect();
    assert_eq!(seen, expected);
}

/// Goal: a snapshot that was half received does no harm. Method: large values, and `kill -9` at
/// several moments of the transfer; in the end the member is equal to the others.
#[test]
fn a_member_killed_while_it_receives_a_snapshot_comes_back() {
    let seed = Random::seed();
    eprintln!("FATED_SEED={seed}");
    let mut random = Random::new(seed);
    let mut cluster = short_log();
    let away = cluster.follower();
    let clients = cluster.clients();
    cluster.members[away].kill();
    let writer = &clients[(away + 1) % 3];
    write_large(writer, &mut random);
    for delay in [0, 15, 40, 80, random.below(300)] {
        cluster.members[away].spawn();
        cluster.members[away].wait_log("receiving database snapshot", TRANSFER);
        thread::sleep(Duration::from_millis(delay));
        cluster.members[away].kill();
        // The log moves on, so that a snapshot is needed again even if this one was complete.
        for number in 0..ENTRIES {
            writer.put(format!("round/{delay}/{number}"), "x").unwrap();
        }
    }
    cluster.members[away].start();
    cluster.assert_same_hash();
    cluster.members[away].restart();
    cluster.assert_same_hash();
    let client = cluster.members[away].client();
    assert_eq!(client.prefix("large/", true).unwrap().count, LARGE_VALUES);
}

/// Goal: the sender may die too.
#[test]
fn a_leader_killed_while_it_sends_a_snapshot_is_replaced() {
    let seed = Random::seed();
    eprintln!("FATED_SEED={seed}");
    let mut random = Random::new(seed);
    let mut cluster = short_log();
    let (leader, away) = (cluster.leader(), cluster.follower());
    cluster.members[away].kill();
    write_large(&cluster.members[leader].client(), &mut random);
    cluster.members[away].spawn();
    cluster.members[away].wait_log("receiving database snapshot", TRANSFER);
    cluster.members[leader].kill();
    cluster.members[away].wait_ready();
    cluster.members[leader].start();
    cluster.assert_same_hash();
    let client = cluster.members[away].client();
    assert_eq!(client.prefix("large/", true).unwrap().count, LARGE_VALUES);
}

const LARGE_VALUES: i64 = 120;
/// Enough for the log to be cut.
const ENTRIES: usize = 130;

fn short_log() -> Cluster {
    Cluster::of(3)
        .flag("--snapshot-count=100")
        .flag("--snapshot-catchup-entries=10")
        .start()
}

/// 30 MiB in values that do not compress, and enough entries for the log to be cut.
fn write_large(client: &Client, random: &mut Random) {
    for number in 0..LARGE_VALUES {
        let value: Vec<u8> = (0..32 * 1024)
            .flat_map(|_| random.next().to_le_bytes())
            .collect();
        client.put(format!("large/{number:04}"), value).unwrap();
    }
    for number in 0..ENTRIES {
        client.put(format!("small/{number}"), "x").unwrap();
    }
}
