//! Leases through the whole node: their time, their names, and what a leader says about them.

use super::*;

fn grant(id: i64, ttl: i64) -> Request {
    Request::LeaseGrant(rpc::LeaseGrantRequest { ttl, id })
}

fn keep_alive(id: i64) -> Request {
    Request::LeaseKeepAlive(rpc::LeaseKeepAliveRequest { id })
}

impl World {
    /// Grants a lease whose id the member chooses.
    fn grant_any(&mut self, at: usize) -> i64 {
        match self.call(at, grant(0, 600)) {
            Ok(Response::LeaseGrant(response)) => {
                assert_eq!(response.ttl, 600);
                response.id
            }
            other => panic!("a grant without an id answers {other:?}"),
        }
    }

    /// A new life of a member, whose wall clock was set back to a moment before.
    fn reboot_at(&mut self, at: usize, wall_nanos: u64) {
        self.kill(at);
        self.wall_behind.insert(at, self.now - wall_nanos);
        self.boot(at);
        self.run_until("ready", World::all_ready);
    }
}

#[test]
fn leases_end_on_time_and_survive_a_leader() {
    let mut world = World::new(3, NodeConfig::default());
    world.run_until("ready", World::all_ready);
    let grant = rpc::LeaseGrantRequest { ttl: 5, id: 9 };
    world.call(0, Request::LeaseGrant(grant)).expect("granted");
    let mut leased = put("leased", "x");
    leased.lease = 9;
    world.call(1, Request::Put(leased)).expect("written");
    for at in [0, 1, 2, 0, 1, 2] {
        world.run_for(1_500_000_000);
        match world.call(
            at,
            Request::LeaseKeepAlive(rpc::LeaseKeepAliveRequest { id: 9 }),
        ) {
            Ok(Response::LeaseKeepAlive(response)) => assert_eq!(response.ttl, 5),
            other => panic!("a keep-alive answers {other:?}"),
        }
    }
    let leader = world.leader().expect("a leader");
    world.kill(leader);
    let other = (leader + 1) % 3;
    assert_eq!(world.get(other, "leased"), Some("x".into()));
    world.run_for(10_000_000_000);
    assert_eq!(world.get(other, "leased"), None);
    match world.call(
        other,
        Request::LeaseKeepAlive(rpc::LeaseKeepAliveRequest { id: 9 }),
    ) {
        Ok(Response::LeaseKeepAlive(response)) => assert_eq!(response.ttl, 0),
        other => panic!("a keep-alive answers {other:?}"),
    }
}

/// Goal: a client that leaves the id open gets a lease, whatever the wall clock says. Method: many
/// grants in one moment, so that their ids stand side by side; then the clock is set back to it.
#[test]
fn a_grant_without_an_id_never_meets_a_living_lease() {
    let mut world = World::new(1, NodeConfig::default());
    world.run_until("ready", World::all_ready);
    let then = world.now;
    let calls: Vec<_> = (0..700).map(|_| world.send(0, grant(0, 600))).collect();
    let last = *calls.last().expect("some");
    world.run_until("answers", |world| world.replies.contains_key(&last));
    let mut ids = BTreeSet::new();
    for call in calls {
        match world.replies.remove(&call) {
            Some(Ok(Response::LeaseGrant(response))) => ids.insert(response.id),
            other => panic!("a grant without an id answers {other:?}"),
        };
    }
    assert_eq!(ids.len(), 700, "every lease has an id of its own");
    world.run_for(3_000_000_000);
    world.reboot_at(0, then);
    let before = world.now;
    for _ in 0..20 {
        assert!(ids.insert(world.grant_any(0)), "a living lease's id");
    }
    assert!(world.now - before < 1_000_000_000, "few ids were tried");
    // An id that the client chose itself is still refused.
    let first = *ids.first().expect("some");
    let refused = world.call(0, grant(first, 600));
    assert_eq!(refused, Err(ApiError::LeaseExist));
}

/// Goal: what a leader answers to a call that an earlier life forwarded answers no call of this
/// life. Method: the leader cannot confirm that it leads before the member is back and has
/// forwarded another call, so both answers find it.
#[test]
fn an_answer_to_an_earlier_life_answers_nobody() {
    let mut world = World::new(3, NodeConfig::default());
    world.run_until("ready", World::all_ready);
    world.call(0, grant(7, 600)).expect("granted");
    world.call(0, grant(9, 60)).expect("granted");
    let leader = world.leader().expect("a leader");
    let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
    world.cut_off.insert(other);
    let asked = world.now;
    world.send(follower, keep_alive(7));
    // The leader has it, and its question whether it still leads has not come to the member.
    world.run_until("the call is forwarded", |world| {
        world.now > asked + LINK_NANOS
    });
    world.kill(follower);
    world.boot(follower);
    let call = world.send(follower, keep_alive(9));
    world.run_until("an answer", |world| world.replies.contains_key(&call));
    match world.replies.remove(&call) {
        Some(Ok(Response::LeaseKeepAlive(response))) => {
            assert_eq!((response.id, response.ttl), (9, 60));
        }
        other => panic!("a keep-alive answers {other:?}"),
    }
}
