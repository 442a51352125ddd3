//! `--force-new-cluster`: one member of three is left.

use std::time::Duration;

use super::{chaos::endpoints, load::Load, members::assert_voters};
use crate::support::{Cluster, Random};

const SOON: Duration = Duration::from_secs(20);

/// Goal: two of three members are lost for ever; the third goes on alone with everything that was
/// acknowledged and reached its disk, and grows to three members again. Method: clients write until
/// the moment in which all are killed; the member that is kept was part of every quorum, because
/// one of the others was down all the time.
#[test]
fn the_last_of_three_members_goes_on_and_grows_again() {
    let seed = Random::seed();
    eprintln!("FATED_SEED={seed}");
    let mut cluster = Cluster::of(3).start();
    let kept = cluster.follower();
    let lost = (0..3).find(|at| *at != kept && *at != cluster.leader());
    cluster.members[lost.expect("three members")].kill();
    let load = Load::start(&endpoints(&cluster), 2, seed);
    std::thread::sleep(Duration::from_secs(2));
    cluster.kill_all();
    let ledger = load.finish();
    assert!(ledger.acknowledged() > 20, "there was hardly any load");
    let mut last = cluster.members.swap_remove(kept);
    let others = std::mem::take(&mut cluster.members);

    // Beside one that runs it is refused, for both would be the cluster.
    let mut others = others.into_iter();
    let mut beside = others.next().expect("two others");
    beside.spawn();
    beside.wait_log("restarting local member", SOON);
    last.plan_mut().flags.push("--force-new-cluster".to_owned());
    last.spawn();
    assert!(!last.wait_exit(SOON).success());
    last.wait_log("still runs", SOON);
    beside.kill();

    last.start();
    last.wait_log("forcing restart member", SOON);
    let members = last.client().members().unwrap().members;
    assert_eq!(members.len(), 1, "{members:?}");
    let id = members[0].id;
    cluster.members.push(last);
    ledger.verify(&cluster);
    // With the flag left in place it starts again, and without.
    cluster.members[0].restart();
    cluster.members[0].plan_mut().flags.pop();
    cluster.members[0].restart();
    let members = cluster.members[0].client().members().unwrap().members;
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].id, id);
    ledger.verify(&cluster);

    for _ in 0..2 {
        let member = cluster.applicant();
        cluster.members.push(member);
        let member = cluster.members.last_mut().expect("just added");
        member.start();
        member.wait_log("the cluster lets this member vote", SOON);
    }
    assert_voters(&cluster, 3);
    ledger.verify(&cluster);
    cluster.assert_same_hash();

    // The one that was given up comes back after all: it is told, and ends in good order.
    beside.spawn();
    assert!(beside.wait_exit(SOON).success());
    let line = "the member has been permanently removed from the cluster";
    beside.wait_log(line, SOON);
    assert_voters(&cluster, 3);
}
