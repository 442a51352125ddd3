//! Changes of the member set on simulated time: who may change what, how a member joins, and how
//! one leaves.

use super::*;
use crate::membership::VotersLearners;

fn url(at: usize) -> String {
    format!("http://127.0.0.1:{at}")
}

fn add(at: usize, is_learner: bool) -> Request {
    Request::MemberAdd(rpc::MemberAddRequest {
        peer_ur_ls: vec![url(at)],
        is_learner,
    })
}

fn remove(id: MemberId) -> Request {
    Request::MemberRemove(rpc::MemberRemoveRequest { id: id.get() })
}

fn promote(id: MemberId) -> Request {
    Request::MemberPromote(rpc::MemberPromoteRequest { id: id.get() })
}

fn quick() -> NodeConfig {
    NodeConfig {
        health_interval: Duration::from_millis(100),
        ..NodeConfig::default()
    }
}

impl World {
    /// Adds a member and starts it with an empty disk.
    fn join(&mut self, via: usize, is_learner: bool) -> usize {
        let at = self.members.len();
        let added = match self.call(via, add(at, is_learner)) {
            Ok(Response::MemberAdd(added)) => added,
            other => panic!("{other:?}"),
        };
        let told = added.members.iter().map(|member| InitialMember {
            id: MemberId::new(member.id),
            name: member.name.clone(),
            peer_urls: member.peer_ur_ls.clone(),
        });
        let id = MemberId::new(added.member.expect("the new member").id);
        self.members.push(Member::new(id, Some(told.collect())));
        self.boot(at);
        at
    }

    /// Every running member must hold one configuration, in all three places.
    fn one_configuration(&self) -> VotersLearners {
        let nodes = self
            .members
            .iter()
            .filter_map(|member| member.node.as_ref());
        let mut all = nodes.map(|node| {
            let stored = node.machine().cluster().conf_state();
            let raft = crate::apply::cluster::from_raft(node.raft().conf_state());
            assert_eq!(stored, raft, "the stored members and raft's differ");
            stored
        });
        let first = all.next().expect("somebody runs");
        assert!(all.all(|other| other == first), "members differ");
        first
    }

    fn settle(&mut self) {
        self.run_until("all equal", |world| {
            let alive = world.members.iter().filter(|member| member.node.is_some());
            world.state_hashes().len() == 1 && alive.clone().all(|member| member.ready)
        });
    }
}

/// Goal: a cluster grows from one to three and back, without a restart, and a member that is back
/// from its disk is what it was.
#[test]
fn a_cluster_grows_and_shrinks() {
    let mut world = World::new(1, quick());
    world.run_until("ready", World::all_ready);
    world.put(0, "a", "1").expect("acknowledged");
    let second = world.join(0, false);
    world.settle();
    world.run_for(200_000_000);
    let learner = world.join(second, true);
    world.settle();
    let conf = world.one_configuration();
    assert_eq!(conf.voters.len(), 2);
    assert_eq!(conf.learners, BTreeSet::from([world.members[learner].id]));
    let refused = world.put(learner, "b", "2");
    assert_eq!(refused, Err(ApiError::NotSupportedForLearner));
    // The flag outlives a restart, everywhere it is kept.
    world.kill(learner);
    world.boot(learner);
    world.settle();
    assert_eq!(world.one_configuration(), conf);
    assert_eq!(
        world.put(learner, "b", "2"),
        Err(ApiError::NotSupportedForLearner)
    );
    // Asked of the member that does not lead, which has to ask the one that does.
    let follower = 1 - world.leader().expect("there is a leader");
    let id = world.members[learner].id;
    world.call(follower, promote(id)).expect("it has caught up");
    let again = world.call(follower, promote(id));
    assert_eq!(again, Err(ApiError::MemberNotLearner));
    world.settle();
    assert_eq!(world.one_configuration().voters.len(), 3);
    world.put(learner, "b", "2").expect("it votes now");
    world.run_for(200_000_000);
    let first = world.members[0].id;
    world.call(second, remove(first)).expect("two are left");
    world.run_until("the removed member stops", |world| {
        world.members[0].stopped == Some(Fault::Removed)
    });
    // Its disk knows that it is not wanted.
    world.boot(0);
    world.run_until("it stops again", |world| {
        world.members[0].stopped == Some(Fault::Removed)
    });
    world.settle();
    assert_eq!(world.one_configuration().voters.len(), 2);
    assert_eq!(world.get(second, "a"), Some("1".into()));
}

/// Goal: a learner that joined by itself becomes a voter without anybody's call, but not before it
/// holds what the cluster had committed. Method: the leader is cut off from it at first.
#[test]
fn a_member_that_joins_by_itself_votes_once_it_has_caught_up() {
    let config = NodeConfig {
        promote_itself: true,
        snapshot_count: 10,
        catchup_entries: 2,
        ..quick()
    };
    let mut world = World::new(3, config);
    world.run_until("ready", World::all_ready);
    world.run_for(300_000_000);
    let joined = world.members.len();
    world.cut_off.insert(joined);
    assert_eq!(world.join(0, true), joined);
    for round in 0..30 {
        world.put(0, "a", &round.to_string()).expect("acknowledged");
    }
    world.run_for(3_000_000_000);
    let id = world.members[joined].id;
    let learners = world.members[0].node.as_ref().map(|node| {
        let conf = node.machine().cluster().conf_state();
        conf.learners
    });
    assert_eq!(learners, Some(BTreeSet::from([id])), "it holds nothing yet");
    world.cut_off.clear();
    world.run_until("it votes", |world| {
        let nodes = world
            .members
            .iter()
            .filter_map(|member| member.node.as_ref());
        let mut confs = nodes.map(|node| node.raft().conf_state());
        confs.all(|conf| conf.voters.len() == 4 && conf.voters.contains(&id))
    });
    world.put(joined, "b", "1").expect("it serves");
    // It comes back as what it is, and asks for nothing.
    world.kill(joined);
    world.boot(joined);
    world.settle();
    assert_eq!(world.one_configuration().voters.len(), 4);
}

/// Goal: a member whose others are lost for ever goes on alone with all that reached its log, be it
/// acknowledged a moment ago or not known as committed, and is a cluster that can grow. Method: all
/// three die at one moment, so that no backend knows much, and one of them is forced, in turn the
/// leader and a follower.
#[test]
fn the_last_member_goes_on_alone() {
    for follows in [false, true] {
        let mut world = World::new(3, quick());
        world.run_until("ready", World::all_ready);
        let leader = world.leader().expect("there is a leader");
        let own = (leader + usize::from(follows)) % 3;
        for round in 0..20 {
            world
                .put(own, "a", &round.to_string())
                .expect("acknowledged");
        }
        (0..3).for_each(|at| world.kill(at));
        // Without the flag it waits for a quorum that never comes.
        world.boot(own);
        world.run_for(5_000_000_000);
        assert!(!world.members[own].ready);
        world.kill(own);
        world.config.force_new_cluster = true;
        world.boot(own);
        world.run_until("it serves", |world| world.members[own].ready);
        let id = world.members[own].id;
        assert_eq!(world.one_configuration().voters, BTreeSet::from([id]));
        assert_eq!(world.get(own, "a"), Some("19".into()));
        world.put(own, "b", "1").expect("it is alone");
        // The flag is gone at the next start; the power fails before anything else was stored.
        world.config.force_new_cluster = false;
        world.kill(own);
        world.boot(own);
        world.run_until("it serves", |world| world.members[own].ready);
        assert_eq!(world.get(own, "b"), Some("1".into()));
        let joined = world.join(own, false);
        world.settle();
        assert_eq!(world.get(joined, "a"), Some("19".into()));
        // The lost ones were not so lost: they are told.
        let other = (own + 1) % 3;
        world.boot(other);
        world.run_until("the lost member stops", |world| {
            world.members[other].stopped == Some(Fault::Removed)
        });
        assert_eq!(world.one_configuration().voters.len(), 2);
    }
}

/// Goal: who was removed, or has nothing yet, cannot go on alone, and is told why.
#[test]
fn a_removed_member_does_not_go_on_alone() {
    let mut world = World::new(3, quick());
    world.run_until("ready", World::all_ready);
    world.run_for(300_000_000);
    let id = world.members[2].id;
    world.call(0, remove(id)).expect("two are left");
    world.run_until("the removed member stops", |world| {
        world.members[2].stopped == Some(Fault::Removed)
    });
    world.config.force_new_cluster = true;
    world.boot(2);
    let Some(Fault::State(reason)) = &world.members[2].stopped else {
        panic!("it runs");
    };
    assert!(reason.contains("was removed from its cluster"), "{reason}");
}

/// Goal: of two members the leader may go, wherever it is when it does: the other one learns of it,
/// or could never lead alone. Method: the other one hears nothing of the commit, and the leader
/// restarts right behind it.
#[test]
fn the_second_last_member_passes_on_what_it_knows() {
    let mut world = World::new(2, quick());
    world.run_until("ready", World::all_ready);
    world.run_for(300_000_000);
    let leader = world.leader().expect("there is a leader");
    let (id, other) = (world.members[leader].id, 1 - leader);
    let call = world.send(leader, remove(id));
    world.run_until("the leader is out", |world| {
        let node = world.members[leader].node.as_ref().expect("it runs");
        node.machine().cluster().is_removed(id)
    });
    world.queue.retain(|_, (at, _, _)| *at != other);
    world.cut_off.insert(other);
    world.run_for(500_000_000);
    let node = world.members[other].node.as_ref().expect("it runs");
    assert!(!node.machine().cluster().is_removed(id), "it has not heard");
    assert!(!world.replies.contains_key(&call), "nobody else knows yet");
    world.kill(leader);
    world.cut_off.clear();
    world.boot(leader);
    world.run_until("the other leads", |world| world.leader() == Some(other));
    world.run_until("the removed member stops", |world| {
        world.members[leader].stopped == Some(Fault::Removed)
    });
    world.put(other, "a", "1").expect("it is alone now");
}

/// Goal: a member whose disk is lost is replaced. Method: it is removed while dead, and another
/// joins with an empty disk, while one of the two others restarts in between.
#[test]
fn a_lost_disk_is_replaced() {
    let config = NodeConfig {
        snapshot_count: 10,
        catchup_entries: 2,
        ..quick()
    };
    let mut world = World::new(3, config);
    world.run_until("ready", World::all_ready);
    world.run_for(200_000_000);
    world.kill(2);
    let lost = world.members[2].id;
    world.run_for(1_200_000_000);
    world
        .call(0, remove(lost))
        .expect("one that is down may go");
    for round in 0..30 {
        world.put(0, "a", &round.to_string()).expect("two of two");
    }
    let third = world.join(0, true);
    world.settle();
    world.kill(third);
    world.boot(third);
    let id = world.members[third].id;
    world.settle();
    world.call(1, promote(id)).expect("it has caught up");
    world.settle();
    let expected: BTreeSet<MemberId> = [0, 1, third].map(|at| world.members[at].id).into();
    assert_eq!(world.one_configuration().voters, expected);
    // The old disk comes back, of a time before the removal: it is told, and stops.
    let terms = |world: &World| {
        world.members[0]
            .node
            .as_ref()
            .map(|node| node.raft().term())
    };
    let before = terms(&world);
    world.boot(2);
    world.run_until("the zombie stops", |world| {
        world.members[2].stopped == Some(Fault::Removed)
    });
    assert_eq!(terms(&world), before, "it disturbed nobody");
    assert_eq!(world.get(third, "a"), Some("29".into()));
}

/// Goal: what is refused, is refused with etcd's error and leaves nothing behind.
#[test]
fn refusals_are_etcds() {
    let mut world = World::new(3, NodeConfig::default());
    world.run_until("ready", World::all_ready);
    let before = world.one_configuration();
    let bad = |urls: &[&str]| rpc::MemberAddRequest {
        peer_ur_ls: urls.iter().map(|url| (*url).to_owned()).collect(),
        is_learner: false,
    };
    for urls in [&[][..], &["nonsense"], &["http://h"], &["http://h:1/path"]] {
        let refused = world.call(0, Request::MemberAdd(bad(urls)));
        assert_eq!(refused, Err(ApiError::MemberBadUrls), "{urls:?}");
    }
    // Connected, but not for five seconds.
    assert_eq!(world.call(0, add(9, false)), Err(ApiError::Unhealthy));
    assert_eq!(world.call(0, add(9, true)), Err(ApiError::Unhealthy));
    let (own, other) = (world.members[0].id, world.members[1].id);
    assert_eq!(world.call(0, remove(own)), Err(ApiError::Unhealthy));
    assert_eq!(
        world.call(0, remove(MemberId::new(99))),
        Err(ApiError::MemberNotFound)
    );
    assert_eq!(
        world.call(0, promote(MemberId::new(99))),
        Err(ApiError::MemberNotFound)
    );
    assert_eq!(
        world.call(1, promote(other)),
        Err(ApiError::MemberNotLearner)
    );
    let update = |id: MemberId, at| {
        Request::MemberUpdate(rpc::MemberUpdateRequest {
            id: id.get(),
            peer_ur_ls: vec![url(at)],
        })
    };
    assert_eq!(world.call(0, update(own, 1)), Err(ApiError::PeerUrlExist));
    assert_eq!(
        world.call(0, update(MemberId::new(99), 7)),
        Err(ApiError::MemberNotFound)
    );
    world.run_for(6_000_000_000);
    assert_eq!(world.call(0, add(1, false)), Err(ApiError::PeerUrlExist));
    assert_eq!(world.one_configuration(), before);
    world.call(0, add(8, true)).expect("all are healthy now");
    assert_eq!(world.call(0, add(9, true)), Err(ApiError::TooManyLearners));
    // It never started, so it is not ready, and it is no voter whose absence counts.
    let learner = *world
        .one_configuration()
        .learners
        .first()
        .expect("one learner");
    assert_eq!(
        world.call(1, promote(learner)),
        Err(ApiError::LearnerNotReady)
    );
    world
        .call(2, remove(learner))
        .expect("a learner may always go");
    // Voters that never start leave room for no third one.
    world.call(0, add(8, false)).expect("three of four");
    world.call(0, add(9, false)).expect("three of five");
    let third = world.call(0, add(10, false));
    assert_eq!(third, Err(ApiError::MemberNotEnoughStarted));
}

/// Goal: changes that come at once happen one after the other. Method: three learners are added
/// through the leader in one step.
#[test]
fn changes_wait_for_each_other() {
    let config = NodeConfig {
        learners_max: 3,
        joint_changes: true,
        ..quick()
    };
    let mut world = World::new(3, config);
    world.run_until("ready", World::all_ready);
    world.run_for(500_000_000);
    let leader = world.leader().expect("there is a leader");
    let calls: Vec<_> = (3..6)
        .map(|at| world.send(leader, add(at, at < 5)))
        .collect();
    world.run_until("all answers", |world| {
        calls.iter().all(|call| world.replies.contains_key(call))
    });
    for call in &calls {
        assert!(matches!(world.replies[call], Ok(Response::MemberAdd(_))));
    }
    world.settle();
    world.run_until("the joint configuration is left", |world| {
        let nodes = world
            .members
            .iter()
            .filter_map(|member| member.node.as_ref());
        nodes
            .into_iter()
            .all(|node| !node.raft().conf_state().is_joint())
    });
    let conf = world.one_configuration();
    assert_eq!((conf.voters.len(), conf.learners.len()), (4, 2));
}
