//! The member set changes while clients work.

use std::{fs, time::Duration};

use fated::pb::etcdserverpb::MemberListResponse;

use super::{load::Load, reader::Reader};
use crate::support::{Cluster, Random, wait_for};

/// Without an answer to a linearizable read for no longer than this: an election, on a machine that
/// runs many debug builds at once.
const GAP_MAX: Duration = Duration::from_secs(6);

/// Goal: a cluster grows from one member to three to five and shrinks to three again, and one
/// member is replaced after its disk was lost, while nothing acknowledged is lost and reads go on.
/// Method: a ledger of what writers were told, and a reader that measures how long it went without
/// an answer from any member.
#[test]
fn a_cluster_grows_shrinks_and_replaces_a_member_under_load() {
    let seed = Random::seed();
    eprintln!("FATED_SEED={seed}");
    let mut cluster = Cluster::of(1)
        .flag("--snapshot-count=300")
        .flag("--max-learners=2")
        .start();
    let first = cluster.members[0].endpoint();
    let mut load = Load::start(std::slice::from_ref(&first), 2, seed);
    let reader = Reader::start(vec![first]);

    cluster.grow(false);
    let learner = cluster.grow(true);
    cluster.promote(learner);
    assert_voters(&cluster, 3);
    load.write_through(&[cluster.members[2].endpoint()], 1, seed);
    reader.use_also(&cluster);

    let learners = [cluster.grow(true), cluster.grow(true)];
    for id in learners {
        cluster.promote(id);
    }
    assert_voters(&cluster, 5);
    reader.use_also(&cluster);

    // The leader and another one go, in the end not the member the writers use.
    let leaving = match cluster.leader() {
        0 | 2 => 1,
        leader => leader,
    };
    cluster.shrink(leaving);
    let last = cluster.members.len() - 1;
    cluster.shrink(last);
    assert_voters(&cluster, 3);

    replace_lost(&mut cluster);
    assert_voters(&cluster, 3);
    let gap = reader.finish();
    load.finish().verify(&cluster);
    cluster.assert_same_hash();
    assert!(gap < GAP_MAX, "no linearizable read for {gap:?}");
}

/// A member that lost its disk does not come back as who it was, and another takes its place.
fn replace_lost(cluster: &mut Cluster) {
    let place = cluster.members.len() - 1;
    let status = cluster.members[place].client().status().unwrap();
    let id = status.header.unwrap().member_id;
    let mut lost = cluster.members.remove(place);
    lost.kill();
    fs::remove_dir_all(&lost.plan().data_dir).unwrap();
    lost.spawn();
    let status = lost.wait_exit(Duration::from_secs(10));
    assert!(!status.success(), "it has run before");
    lost.wait_log("has run before", Duration::from_secs(1));
    cluster.insist("remove", |client| client.member_remove(id));
    let learner = cluster.grow(true);
    cluster.promote(learner);
}

pub fn assert_voters(cluster: &Cluster, count: usize) {
    let clients = cluster.clients();
    // A member that was just promoted may have to hear of it first.
    let agreed = wait_for(Duration::from_secs(5), || {
        let lists = clients.iter().map(|client| client.members().ok());
        let lists: Option<Vec<_>> = lists.collect();
        let all = |list: &MemberListResponse| {
            let voters = list.members.iter().filter(|member| !member.is_learner);
            list.members.len() == count && voters.count() == count
        };
        lists?.iter().all(all).then_some(())
    });
    agreed.unwrap_or_else(|| panic!("not {count} voters:\n{}", cluster.tails()));
}
