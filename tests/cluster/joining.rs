//! Members that join with one flag.

use std::{fs, time::Duration};

use super::members::assert_voters;
use crate::support::Cluster;

const SOON: Duration = Duration::from_secs(20);

/// Goal: one flag makes an empty process a voter of a running cluster, and again the next one,
/// while the cluster allows one learner at a time; with the same flag it simply starts again.
/// Method: the second and the third member start at once, before there is a cluster to speak of.
#[test]
fn one_flag_adds_a_member_that_becomes_a_voter() {
    let mut cluster = Cluster::of(1).start();
    let client = cluster.members[0].client();
    client.put("before", "1").unwrap();
    let mut joining = [cluster.applicant(), cluster.applicant()];
    for server in &mut joining {
        server.spawn();
    }
    for server in joining {
        server.wait_ready();
        server.wait_log("the cluster lets this member vote", SOON);
        cluster.members.push(server);
    }
    assert_voters(&cluster, 3);
    for member in &cluster.members[1..] {
        let client = member.client();
        assert_eq!(client.get("before").unwrap(), Some("1".into()));
        client.put(member.plan().name.clone(), "2").unwrap();
    }
    cluster.members[2].restart();
    cluster.members[2].wait_log("restarting local member", SOON);
    cluster.members[1].kill();
    cluster.members[2].client().put("two", "of three").unwrap();
    cluster.members[1].start();
    assert_voters(&cluster, 3);
    cluster.assert_same_hash();

    // Its directory is lost: it does not come back as who it was, nor as anybody else.
    let mut lost = cluster.members.pop().expect("three members");
    lost.kill();
    fs::remove_dir_all(&lost.plan().data_dir).unwrap();
    lost.spawn();
    assert!(!lost.wait_exit(SOON).success());
    let line = lost.wait_log("cannot join", SOON);
    assert!(line.contains("remove it first"), "{line}");
    assert_eq!(client.members().unwrap().members.len(), 3);
}

/// Goal: what cannot be a member of its own is refused with what to change, and nobody is added; a
/// seat left over by an attempt that died is taken and not added twice.
#[test]
fn clashes_are_refused_and_left_over_seats_are_taken() {
    let mut cluster = Cluster::of(1).start();
    let mut twin = cluster.applicant();
    twin.plan_mut().name = "m0".to_owned();
    twin.spawn();
    assert!(!twin.wait_exit(SOON).success());
    let line = twin.wait_log("has the name", SOON);
    assert!(line.contains("another --name"), "{line}");

    let mut squatter = cluster.applicant();
    let taken = cluster.members[0].plan().peer_url();
    squatter
        .plan_mut()
        .flags
        .push(format!("--initial-advertise-peer-urls={taken}"));
    squatter.spawn();
    assert!(!squatter.wait_exit(SOON).success());
    let line = squatter.wait_log("has the peer URL", SOON);
    assert!(
        line.contains("another --initial-advertise-peer-urls"),
        "{line}"
    );
    let client = cluster.members[0].client();
    assert_eq!(client.members().unwrap().members.len(), 1);

    let mut heir = cluster.applicant();
    let seat = client.member_add(&heir.plan().peer_url(), true).unwrap();
    heir.start();
    heir.wait_log("the cluster lets this member vote", SOON);
    let members = client.members().unwrap().members;
    assert_eq!(members.len(), 2, "the seat was taken, and no other added");
    assert!(
        members
            .iter()
            .any(|member| member.id == seat.member.as_ref().unwrap().id)
    );
    cluster.members.push(heir);
    assert_voters(&cluster, 2);
}
