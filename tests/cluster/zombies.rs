//! Members that should be gone, and come back.

use std::{fs, time::Duration};

use super::members::assert_voters;
use crate::support::{Client, Cluster};

const SOON: Duration = Duration::from_secs(20);
const REMOVED: &str = "the member has been permanently removed from the cluster";

/// Who leads, in which term, as this member says.
fn reign(client: &Client) -> (u64, u64) {
    let status = client.status().expect("it serves");
    (status.leader, status.raft_term)
}

/// Goal: a member that was removed while it was down disturbs nobody when it comes back, however
/// often, and ends in good order with a line that says why; with its disk emptied it does not come
/// back under its old id either, and neither does a member that lost its disk and was not removed.
/// Method: three founders; leader and term must be the same before and after.
#[test]
fn nobody_comes_back_as_what_it_no_longer_is() {
    let mut cluster = Cluster::of(3).start();
    let leader = cluster.leader();
    let client = cluster.members[leader].client();
    client.put("key", "value").unwrap();
    let place = (leader + 1) % 3;
    let id = cluster.members[place].client().status().unwrap();
    let id = id.header.unwrap().member_id;
    let mut gone = cluster.members.remove(place);
    gone.kill();
    cluster.insist("remove", |client| client.member_remove(id));
    assert_voters(&cluster, 2);
    let before = reign(&client);
    for _ in 0..2 {
        gone.spawn();
        let status = gone.wait_exit(SOON);
        assert!(status.success(), "a removed member ends in good order");
        gone.wait_log(REMOVED, SOON);
    }
    fs::remove_dir_all(&gone.plan().data_dir).unwrap();
    gone.spawn();
    assert!(!gone.wait_exit(SOON).success());
    gone.wait_log("was removed from the running cluster", SOON);
    assert_eq!(reign(&client), before, "it disturbed them");

    let joined = cluster.applicant();
    cluster.members.push(joined);
    let joined = cluster.members.last_mut().expect("just added");
    joined.start();
    joined.wait_log("the cluster lets this member vote", SOON);
    assert_voters(&cluster, 3);
    let before = reign(&client);
    let leads = |at: &usize| {
        let status = cluster.members[*at].client().status().expect("it serves");
        status.header.expect("a header").member_id == before.0
    };
    let follower = (0..2).find(|at| !leads(at)).expect("one founder follows");
    let mut lost = cluster.members.remove(follower);
    lost.kill();
    fs::remove_dir_all(&lost.plan().data_dir).unwrap();
    lost.spawn();
    assert!(!lost.wait_exit(SOON).success());
    lost.wait_log("has already been bootstrapped", SOON);
    assert_eq!(reign(&client), before, "it disturbed them");
    assert_eq!(client.get("key").unwrap(), Some("value".into()));
    cluster.assert_same_hash();
}

/// Goal: a member that applied its own removal stays removed. Method: it is the one that is asked.
#[test]
fn a_member_that_removed_itself_stays_removed() {
    let mut cluster = Cluster::of(3).start();
    let place = cluster.leader();
    let mut leaving = cluster.members.remove(place);
    let client = leaving.client();
    let id = client.status().unwrap().header.unwrap().member_id;
    client.put("key", "value").unwrap();
    let removed = crate::support::wait_for(SOON, || client.member_remove(id).ok());
    let removed = removed.expect("connected long enough");
    assert_eq!(removed.members.len(), 2);
    for _ in 0..2 {
        let status = leaving.wait_exit(SOON);
        assert!(status.success(), "a removed member ends in good order");
        leaving.wait_log(REMOVED, SOON);
        leaving.spawn();
    }
    assert!(leaving.wait_exit(SOON).success());
    assert_voters(&cluster, 2);
    let client = cluster.members[0].client();
    assert_eq!(client.get("key").unwrap(), Some("value".into()));
}
