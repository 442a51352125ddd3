//! Who is refused, in which order, and who is not when there is much to do.

use super::*;
use crate::node::frontend::Room;

/// A call whose client demands a leader.
fn demand(world: &mut World, at: usize, request: Request) -> CallId {
    world.calls += 1;
    let call = CallId::new(world.calls);
    let credentials = Credentials {
        require_leader: true,
        ..Credentials::default()
    };
    let event = Event::Call {
        call,
        credentials,
        request,
    };
    world.schedule(at, 1, event);
    call
}

#[test]
fn a_missing_leader_is_told_before_a_fault_of_the_request() {
    let mut world = World::new(3, NodeConfig::default());
    let empty = || Box::new(Request::Range(rpc::RangeRequest::default()));
    let invalid = || Request::Invalid(ApiError::EmptyKey, empty());
    // Nobody has been elected at this moment.
    let demanded = demand(&mut world, 0, invalid());
    let asked = world.send(0, invalid());
    world.run_until("two answers", |world| world.replies.len() == 2);
    assert_eq!(
        world.replies.remove(&demanded),
        Some(Err(ApiError::NoLeader))
    );
    assert_eq!(world.replies.remove(&asked), Some(Err(ApiError::EmptyKey)));
    world.run_until("ready", World::all_ready);
    let demanded = demand(&mut world, 0, invalid());
    world.run_until("an answer", |world| world.replies.len() == 1);
    assert_eq!(
        world.replies.remove(&demanded),
        Some(Err(ApiError::EmptyKey))
    );
}

fn crowded(config: NodeConfig) -> World {
    let mut world = World::new(3, config);
    world.run_until("ready", World::all_ready);
    let grant = rpc::LeaseGrantRequest { ttl: 5, id: 9 };
    world.call(0, Request::LeaseGrant(grant)).expect("granted");
    world
}

#[test]
fn a_flood_is_refused_in_part_and_keeps_no_lease_from_being_renewed() {
    let room = Room {
        calls_max: 20,
        ..Room::default()
    };
    let mut world = crowded(NodeConfig {
        room,
        ..NodeConfig::default()
    });
    for at in 0..3 {
        let flood: Vec<CallId> = (0..100)
            .map(|number| world.send(at, Request::Put(put(&format!("f{number}"), "x"))))
            .collect();
        let keep = rpc::LeaseKeepAliveRequest { id: 9 };
        let renewal = world.send(at, Request::LeaseKeepAlive(keep));
        world.run_until("all answers", |world| {
            flood
                .iter()
                .chain([&renewal])
                .all(|call| world.replies.contains_key(call))
        });
        let refused = |call: &&CallId| world.replies[call] == Err(ApiError::TooManyRequests);
        let refusals = flood.iter().filter(refused).count();
        assert!((60..=80).contains(&refusals), "{refusals} of 100");
        assert!(
            world.replies[&renewal].is_ok(),
            "{:?}",
            world.replies[&renewal]
        );
        // Whoever was refused has left nothing behind.
        for (number, call) in flood.iter().enumerate() {
            let there = world.get(at, &format!("f{number}")).is_some();
            let put = world.replies[call].is_ok();
            assert!(there || !put, "an acknowledged put is gone");
        }
        let end = rpc::DeleteRangeRequest {
            key: "f".into(),
            range_end: "g".into(),
            ..Default::default()
        };
        world
            .call(at, Request::DeleteRange(end))
            .expect("room again");
    }
}

#[test]
fn proposals_are_bounded_by_their_bytes_too() {
    let room = Room {
        proposal_bytes_max: 3000,
        ..Room::default()
    };
    let mut world = crowded(NodeConfig {
        room,
        ..NodeConfig::default()
    });
    let value = "v".repeat(1000);
    let calls: Vec<CallId> = (0..10)
        .map(|number| world.send(1, Request::Put(put(&format!("k{number}"), &value))))
        .collect();
    world.run_until("all answers", |world| {
        calls.iter().all(|call| world.replies.contains_key(call))
    });
    let done = calls.iter().filter(|call| world.replies[call].is_ok());
    assert_eq!(done.count(), 3);
    world.put(1, "later", &value).expect("room again");
}

#[test]
fn a_large_range_is_read_in_parts_and_whole() {
    let range_part = crate::mvcc::Part {
        keys_max: 3,
        bytes_max: usize::MAX,
    };
    let config = NodeConfig {
        range_first: range_part,
        range_part,
        ..NodeConfig::default()
    };
    let mut world = World::new(1, config);
    world.run_until("ready", World::all_ready);
    for number in 0..40 {
        world
            .put(0, &format!("k{number:02}"), "x")
            .expect("written");
    }
    let range = |limit| {
        Request::Range(rpc::RangeRequest {
            key: "k".into(),
            range_end: "l".into(),
            limit,
            ..Default::default()
        })
    };
    let calls = [0, 10, 40].map(|limit| world.send(0, range(limit)));
    world.run_until("all answers", |world| {
        calls.iter().all(|call| world.replies.contains_key(call))
    });
    for (call, (keys, more)) in calls.iter().zip([(40, false), (10, true), (40, false)]) {
        let Ok(Response::Range(answer)) = world.replies[call].clone().map(Response::joined) else {
            panic!("{:?}", world.replies[call]);
        };
        assert_eq!(
            (answer.kvs.len(), answer.more, answer.count),
            (keys, more, 40)
        );
        assert!(answer.kvs.is_sorted_by(|one, two| one.key < two.key));
    }
}
