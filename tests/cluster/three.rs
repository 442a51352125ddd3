//! Three members in peace.

use std::collections::BTreeSet;

use crate::support::Cluster;

/// A write through any member is seen at once by a linearizable read through any other.
#[test]
fn every_member_writes_and_reads() {
    let cluster = Cluster::of(3).start();
    let clients = cluster.clients();
    let mut last = 0;
    for round in 0..30_usize {
        let value = format!("value {round}");
        let put = clients[round % 3].put("key", value.clone()).unwrap();
        let revision = put.header.unwrap().revision;
        assert!(revision > last, "revision {revision} after {last}");
        last = revision;
        for (place, client) in clients.iter().enumerate() {
            let read = client.get("key").unwrap();
            assert_eq!(read.unwrap(), value, "round {round} through m{place}");
        }
    }
    cluster.assert_same_hash();
}

/// All members tell the same story about the cluster, and each the right one about itself.
#[test]
fn members_agree_about_the_cluster() {
    let cluster = Cluster::of(3).start();
    cluster.settle();
    let clients = cluster.clients();
    let mut own = BTreeSet::new();
    let mut stories = BTreeSet::new();
    for (member, client) in cluster.members.iter().zip(&clients) {
        let status = client.status().unwrap();
        let header = status.header.unwrap();
        own.insert(header.member_id);
        stories.insert((header.cluster_id, status.leader, status.raft_term));
        assert!(!status.is_learner && status.db_size > 0 && !status.version.is_empty());
        let list = client.members().unwrap();
        assert_eq!(list.members.len(), 3);
        let me = list
            .members
            .iter()
            .find(|one| one.id == header.member_id)
            .unwrap();
        assert_eq!(me.name, member.plan().name);
        assert_eq!(me.client_ur_ls, [member.endpoint()]);
        assert_eq!(
            me.peer_ur_ls,
            [format!("http://127.0.0.1:{}", member.plan().peer_port)]
        );
        let named: BTreeSet<&str> = list.members.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(named, BTreeSet::from(["m0", "m1", "m2"]));
    }
    assert_eq!(own.len(), 3, "each member has an id of its own");
    assert_eq!(stories.len(), 1, "{stories:?}");
    let leader = stories.first().unwrap().1;
    assert!(own.contains(&leader));
    assert_eq!(
        clients[cluster.leader()]
            .status()
            .unwrap()
            .header
            .unwrap()
            .member_id,
        leader
    );
}

/// Leadership moves where the leader is asked to move it, and only there.
#[test]
fn leadership_moves_on_request() {
    let cluster = Cluster::of(3).start();
    let clients = cluster.clients();
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let target = clients[follower]
        .status()
        .unwrap()
        .header
        .unwrap()
        .member_id;
    let refused = clients[follower].move_leader(target).unwrap_err();
    assert_eq!(refused.message(), "etcdserver: not leader");
    clients[leader].move_leader(target).unwrap();
    assert_eq!(cluster.leader(), follower);
    clients[leader].put("a", "b").unwrap();
    assert_eq!(clients[leader].get("a").unwrap().unwrap(), "b");
}
