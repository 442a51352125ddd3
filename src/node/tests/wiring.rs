//! What the actors do together: a member alone, three that agree, images, watches, a clean stop.

use super::*;

#[test]
fn one_member_serves_and_comes_back() {
    let mut world = World::new(1, NodeConfig::default());
    world.run_until("ready", World::all_ready);
    assert!(world.put(0, "a", "1").is_ok());
    assert_eq!(world.get(0, "a"), Some("1".into()));
    for round in 0..20 {
        world
            .put(0, "a", &format!("{round}"))
            .expect("acknowledged");
        world.kill(0);
        world.boot(0);
        assert_eq!(
            world.get(0, "a"),
            Some(format!("{round}").into()),
            "lost round {round}"
        );
    }
}

#[test]
fn three_members_agree_and_survive_any_one() {
    let mut world = World::new(3, NodeConfig::default());
    world.run_until("ready", World::all_ready);
    for at in 0..3 {
        world
            .put(at, &format!("k{at}"), "v")
            .expect("any member takes writes");
    }
    for at in 0..3 {
        for key in 0..3 {
            assert_eq!(world.get(at, &format!("k{key}")), Some("v".into()));
        }
    }
    for round in 0..6 {
        let leader = world.leader().expect("there is a leader");
        world.kill(leader);
        let other = (leader + 1) % 3;
        // What was handed to the dead leader has an unknown outcome; what comes after it must work.
        let written = (0..2).any(|_| world.put(other, "round", &round.to_string()).is_ok());
        assert!(written, "two of three are enough");
        world.boot(leader);
        world.run_until("all equal", |world| {
            let hashes = world.state_hashes();
            hashes.len() == 1 && world.all_ready()
        });
        assert_eq!(world.get(leader, "round"), Some(round.to_string().into()));
    }
}

#[test]
fn a_member_behind_the_log_comes_back_by_an_image() {
    let config = NodeConfig {
        snapshot_count: 20,
        catchup_entries: 5,
        segment_bytes: 64 * 1024,
        ..NodeConfig::default()
    };
    let mut world = World::new(3, config);
    world.run_until("ready", World::all_ready);
    let lagging = (world.leader().expect("a leader") + 1) % 3;
    world.kill(lagging);
    let serving = (lagging + 1) % 3;
    for number in 0..300 {
        world
            .put(serving, &format!("key{}", number % 50), &number.to_string())
            .expect("written");
    }
    world.run_for(1_000_000_000);
    world.boot(lagging);
    world.run_until("caught up", |world| {
        world.state_hashes().len() == 1 && world.all_ready()
    });
    let first = world.members[lagging]
        .node
        .as_ref()
        .expect("runs")
        .raft()
        .first()
        .index
        .get();
    assert!(
        first > 200,
        "it came by an image, not by the log: first entry {first}"
    );
    assert_eq!(world.get(lagging, "key49"), Some("299".into()));
    world.kill(lagging);
    world.boot(lagging);
    assert_eq!(world.get(lagging, "key49"), Some("299".into()));
}

/// A live member accepts an image while it still has much to commit: the commit ends after the log
/// has begun anew behind the image, and must not take its mark back.
#[test]
fn an_image_reaches_a_member_with_a_commit_to_come() {
    let config = NodeConfig {
        snapshot_count: 20,
        catchup_entries: 5,
        ..NodeConfig::default()
    };
    let mut world = World::new(3, config.clone());
    world.run_until("ready", World::all_ready);
    let lagging = (world.leader().expect("a leader") + 1) % 3;
    world.kill(lagging);
    world.config.batch_interval = Duration::from_secs(20);
    world.boot(lagging);
    world.config.batch_interval = config.batch_interval;
    world.run_until("ready again", World::all_ready);
    let serving = (lagging + 1) % 3;
    let put = |world: &mut World, count: usize| {
        for number in 0..count {
            let written = world.put(serving, &format!("key{}", number % 50), "value");
            written.expect("written");
        }
    };
    put(&mut world, 60);
    world.cut_off.insert(lagging);
    put(&mut world, 200);
    world.run_for(500_000_000);
    world.cut_off.clear();
    world.run_until("caught up", |world| {
        world.state_hashes().len() == 1 && world.all_ready()
    });
    let node = world.members[lagging].node.as_ref().expect("it lives");
    let first = node.raft().first().index.get();
    assert!(first > 200, "it came by an image: first entry {first}");
}

#[test]
fn a_leader_that_is_cut_off_promises_nothing() {
    let mut world = World::new(3, NodeConfig::default());
    world.run_until("ready", World::all_ready);
    let old = world.leader().expect("a leader");
    world.cut_off.insert(old);
    let lost = world.send(old, Request::Put(put("a", "lost")));
    world.run_until("another leader", |world| {
        world.leader().is_some_and(|leader| leader != old)
    });
    let other = world.leader().expect("just seen");
    world.put(other, "a", "kept").expect("the majority goes on");
    world.run_until("an answer", |world| world.replies.contains_key(&lost));
    assert!(
        world.replies[&lost].is_err(),
        "nothing is acknowledged without a quorum"
    );
    world.cut_off.clear();
    world.run_until("all equal", |world| world.state_hashes().len() == 1);
    assert_eq!(world.get(old, "a"), Some("kept".into()));
}

#[test]
fn watches_see_every_revision_once() {
    let mut world = World::new(3, NodeConfig::default());
    world.run_until("ready", World::all_ready);
    let stream = StreamId::new(1);
    world.schedule(
        1,
        1,
        Event::StreamOpened {
            stream,
            credentials: Credentials::default(),
        },
    );
    let create = rpc::WatchCreateRequest {
        key: "k".into(),
        range_end: "l".into(),
        start_revision: 1,
        prev_kv: true,
        ..Default::default()
    };
    let request = rpc::WatchRequest {
        request_union: Some(rpc::watch_request::RequestUnion::CreateRequest(create)),
    };
    world.schedule(
        1,
        2,
        Event::StreamItem {
            stream,
            item: StreamRequest::Watch(request),
        },
    );
    for number in 0..30 {
        world
            .put(number % 3, &format!("k{}", number % 4), &number.to_string())
            .expect("written");
    }
    world.run_for(500_000_000);
    let revisions: Vec<i64> = world
        .streams
        .iter()
        .filter_map(|(_, item)| match item {
            StreamItem::Watch { response, .. } => Some(response.events.clone()),
            StreamItem::Alike { .. } | StreamItem::End(_) => None,
        })
        .flatten()
        .map(|event| event.kv.expect("events have keys").mod_revision)
        .collect();
    assert_eq!(revisions, (2..32).collect::<Vec<_>>());
}

#[test]
fn a_clean_stop_hands_leadership_over() {
    let mut world = World::new(3, NodeConfig::default());
    world.run_until("ready", World::all_ready);
    let leader = world.leader().expect("a leader");
    let before = world.now;
    world.schedule(leader, 1, Event::Signal(Signal::Terminate));
    world.run_until("stopped", |world| world.members[leader].stopped.is_some());
    assert_eq!(world.members[leader].stopped, Some(Fault::Stopped));
    world.run_until("a new leader", |world| world.leader().is_some());
    assert!(
        world.now - before < 1_000_000_000,
        "an election timeout was not needed"
    );
}

#[test]
fn a_member_that_differs_refuses_to_serve() {
    let mut world = World::new(3, NodeConfig::default());
    world.run_until("ready", World::all_ready);
    world.put(0, "a", "1").expect("written");
    world.run_for(1_000_000_000);
    let wrong = (world.leader().expect("a leader") + 1) % 3;
    world.kill(wrong);
    // Damage that no checksum of the disk notices: the store of another history.
    let image = world.members[wrong].disk.backend.image();
    let consistent = crate::backend::ReadSnapshot::consistent(&image).expect("memory");
    let batch = crate::kernel::WriteBatch {
        consistent,
        state_hash: 1,
        ..Default::default()
    };
    world.members[wrong]
        .disk
        .backend
        .commit(&batch)
        .expect("memory");
    world.boot(wrong);
    world
        .put((wrong + 1) % 3, "b", "2")
        .expect("the others go on");
    world.run_until("found out", |world| {
        world.members[wrong]
            .node
            .as_ref()
            .is_some_and(Node::is_corrupt)
    });
    let answer = world.put(wrong, "c", "3");
    assert_eq!(answer, Err(ApiError::Corrupt));
    assert!(world.put((wrong + 1) % 3, "c", "3").is_ok());
    let healthy = (0..3).filter(|at| *at != wrong);
    for at in healthy {
        assert!(!world.members[at].node.as_ref().expect("runs").is_corrupt());
    }
}

#[test]
fn tickets_name_their_owner() {
    let mut tickets = ticket::Tickets::new(Owner::Applier);
    assert_eq!(owner_of(tickets.issue()), Some(Owner::Applier));
    assert_eq!(owner_of(Ticket::new(7)), None);
}
