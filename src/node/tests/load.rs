//! Who is refused, in which order, and who is not when there is much to do.

use super::*;

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
