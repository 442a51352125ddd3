//! Leases in a cluster: renewed from anywhere, ended in time and never early.

use std::{
    thread,
    time::{Duration, Instant},
};

use fated::pb::etcdserverpb::PutRequest;

use crate::support::{Client, Cluster, wait_for};

/// How late the end of a lease may be seen, apart from what is promised: the entry has to be
/// replicated on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

/// Keep-alives through a follower keep a lease; without them it ends after its TTL or a bit later.
#[test]
fn a_follower_renews_leases() {
    let cluster = Cluster::of(3).start();
    let follower = cluster.members[cluster.follower()].client();
    let ttl = attach(&follower, 3, 77);
    let start = Instant::now();
    let mut sent = start;
    while start.elapsed() < 3 * ttl {
        sent = Instant::now();
        let answer = follower.keep_alive(77).unwrap();
        assert_eq!(answer.ttl, 3, "the lease ended although it was renewed");
        thread::sleep(Duration::from_millis(300));
    }
    let renewed = Instant::now();
    assert!(follower.get("leased").unwrap().is_some());
    let gone = await_end(&follower, 4 * ttl);
    assert!(
        gone - sent >= ttl,
        "ended {:?} after its last renewal",
        gone - sent
    );
    assert!(
        gone - renewed <= ttl + SLACK,
        "ended {:?} late",
        gone - renewed - ttl
    );
    let answer = follower.keep_alive(77).unwrap();
    assert_eq!(answer.ttl, 0, "an ended lease cannot be renewed");
}

/// A lease outlives the leader that watched its clock. The next leader gives it the time that was
/// left, and a bit more, but never less, and not its whole TTL again.
#[test]
fn a_lease_keeps_its_remaining_time_when_the_leader_dies() {
    let mut cluster = Cluster::of(3).start();
    let leader = cluster.leader();
    let survivor = cluster.members[cluster.follower()].client();
    let granting = Instant::now();
    let ttl = attach(&survivor, 16, 78);
    let granted = Instant::now();
    thread::sleep(Duration::from_secs(10));
    cluster.members[leader].kill();
    let left = wait_for(Duration::from_secs(15), || survivor.time_to_live(78).ok());
    let asked = granting.elapsed();
    let left = left.unwrap_or_else(|| panic!("no leader:\n{}", cluster.tails()));
    let left = Duration::from_secs(u64::try_from(left.ttl).expect("the lease lives"));
    // The server rounds down to whole seconds.
    assert!(
        left + Duration::from_secs(1) >= ttl.saturating_sub(asked),
        "{left:?} left after {asked:?} of {ttl:?}"
    );
    assert!(
        left <= Duration::from_secs(12),
        "{left:?} left after {asked:?} of {ttl:?}"
    );
    let gone = await_end(&survivor, 2 * ttl);
    assert!(
        gone - granted.max(granting) + (granted - granting) >= ttl,
        "the lease ended early"
    );
    // Two seconds for the last checkpoint, one election timeout of grace, the election itself.
    let bound = ttl + Duration::from_secs(2 + 1 + 3) + SLACK;
    assert!(
        gone - granted <= bound,
        "ended {:?} after its grant",
        gone - granted
    );
    cluster.members[leader].start();
    cluster.assert_same_hash();
}

/// Grants a lease and puts a key with it; returns its TTL.
fn attach(client: &Client, ttl: i64, id: i64) -> Duration {
    let granted = client.grant(ttl, id).unwrap();
    let request = PutRequest {
        key: "leased".into(),
        lease: id,
        ..Default::default()
    };
    client.put_request(request).unwrap();
    Duration::from_secs(u64::try_from(granted.ttl).expect("a TTL is positive"))
}

/// When the key of a lease was first seen to be gone.
fn await_end(client: &Client, limit: Duration) -> Instant {
    let gone = wait_for(limit, || match client.get("leased") {
        Ok(None) => Some(Instant::now()),
        Ok(Some(_)) | Err(_) => None,
    });
    gone.expect("the lease ends")
}
