//! Failpoints by etcd's names, in builds that have them.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Child,
    time::Duration,
};

use fated::pb::etcdserverpb::RangeRequest;

use crate::support::{
    Client,
    permit::Permit,
    ports::free_port,
    server::{Plan, command},
    wait_for,
};

const SOON: Duration = Duration::from_secs(20);

struct Member {
    plan: Plan,
    port: u16,
    child: Child,
}

impl Member {
    fn start(plan: Plan, failpoints: &str) -> Self {
        let port = free_port();
        let mut command = command(&plan.arguments());
        command.stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
        command.env("GOFAIL_HTTP", format!("127.0.0.1:{port}"));
        command.env("GOFAIL_FAILPOINTS", failpoints);
        let child = command
            .spawn()
            .expect("the binary was built with this test");
        Self { plan, port, child }
    }

    fn client(&self) -> Client {
        Client::new(&format!("http://127.0.0.1:{}", self.plan.client_port))
            .with_timeout(Duration::from_secs(1))
    }

    fn wait_ready(&self) {
        let client = self.client();
        wait_for(SOON, || client.status().ok()).expect("the member serves");
    }

    fn set(&self, name: &str, terms: &str) {
        let length = terms.len();
        let head = format!("PUT /{name} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.write_all((head + terms).as_bytes()).unwrap();
        let mut answer = String::new();
        let read = socket.read_to_string(&mut answer);
        // A member that is to panic may do so before it has answered.
        let cut_short = terms == "panic" && (read.is_err() || answer.is_empty());
        let done = answer.starts_with("HTTP/1.1 204 ");
        assert!(done || cut_short, "{name}: {answer}");
    }

    /// Ends by a panic of a failpoint, and comes back.
    fn dies_and_returns(mut self) -> Self {
        let ended = wait_for(SOON, || self.child.try_wait().expect("our own process"));
        assert_eq!(ended.expect("the place was reached").code(), Some(2));
        let member = Self::start(self.plan.clone(), "");
        member.wait_ready();
        member
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Goal: `panic` ends the process at each place that a single member passes, and nothing that was
/// acknowledged is lost by it. Method: writes and a compaction until the process is gone, then
/// everything is read back.
#[test]
fn a_member_that_panics_at_a_failpoint_keeps_what_it_acknowledged() {
    let _permit = Permit::take(1);
    let home = tempfile::tempdir().unwrap();
    let plan = Plan::new("m0", home.path(), &[]);
    let mut member = Member::start(plan, "");
    member.wait_ready();
    let mut acknowledged = Vec::new();
    for name in [
        "raftBeforeSave",
        "walBeforeSync",
        "walAfterSync",
        "raftAfterSave",
        "beforeApplyOneEntryNormal",
        "beforeCommit",
        "afterCommit",
        "compactBeforeCommitScheduledCompact",
        "compactBeforeCommitBatch",
        "compactBeforeSetFinishedCompact",
        "compactAfterSetFinishedCompact",
        "defragBeforeCopy",
        "defragBeforeRename",
    ] {
        member.set(name, "panic");
        let client = member.client();
        let put = |number: u32| {
            let key = format!("{name}/{number}");
            client.put(key.clone(), "v").ok().map(|put| (key, put))
        };
        for number in 0.. {
            let Some((key, answer)) = put(number % 10) else {
                break;
            };
            acknowledged.push(key);
            if name.starts_with("compact") && number == 20 {
                let revision = answer.header.expect("every answer has one").revision;
                let _ = client.compact(revision);
            }
            if name.starts_with("defrag") && number == 20 {
                let _ = client.defragment();
            }
        }
        drop(client);
        member = member.dies_and_returns();
        let client = member.client();
        for key in &acknowledged {
            assert!(
                client.get(key.clone()).unwrap().is_some(),
                "{key} after {name}"
            );
        }
    }
}

/// Goal: `sleep` holds a place up for as long as it is set and no longer, and the environment sets
/// places as well.
#[test]
fn a_failpoint_sleeps_until_it_is_let_be() {
    let _permit = Permit::take(1);
    let home = tempfile::tempdir().unwrap();
    let plan = Plan::new("m0", home.path(), &[]);
    let member = Member::start(plan, "beforePublishing=1*sleep(100)->off");
    member.wait_ready();
    let client = member.client();
    client.put("k", "1").unwrap();
    member.set("raftBeforeSave", "1*sleep(\"1500ms\")");
    assert!(
        client.put("k", "2").is_err(),
        "the write waits longer than the client"
    );
    let late = wait_for(SOON, || client.put("k", "3").ok());
    assert!(late.is_some());
}

/// Goal: the places of leases and of streamed ranges end the member that is asked, also where the
/// question came by way of another one; and a defragmentation fails as it is told. Method: two
/// members, of which the follower forwards.
#[test]
fn questions_about_leases_and_chunks_pass_their_places() {
    let _permit = Permit::take(1);
    let home = tempfile::tempdir().unwrap();
    let mut plans = ["m0", "m1"].map(|name| Plan::new(name, home.path(), &[]));
    let cluster = plans.each_ref().map(|plan| plan.initial_cluster.clone());
    plans
        .iter_mut()
        .for_each(|plan| plan.initial_cluster = cluster.join(","));
    let mut members = plans.map(|plan| Member::start(plan, ""));
    members.iter().for_each(Member::wait_ready);
    let lease = wait_for(SOON, || members[0].client().grant(600, 0).ok());
    let lease = lease.expect("a leader").id;
    let stream = |client: &Client| {
        let request = RangeRequest {
            key: "a".into(),
            ..Default::default()
        };
        let mut kv = client.kv();
        client.block_on(async { kv.range_stream(request).await?.into_inner().message().await })
    };
    for (name, by_follower) in [
        ("beforeLookupWhenLeaseTimeToLive", false),
        ("beforeRangeStreamChunk", false),
        ("beforeServeHTTPLeaseRenew", true),
        ("beforeLookupWhenForwardLeaseTimeToLive", true),
    ] {
        let leads = |member: &Member| {
            let status = member.client().status().ok()?;
            Some(status.leader == status.header?.member_id)
        };
        let settled = || match (leads(&members[0])?, leads(&members[1])?) {
            (true, false) => Some((0, 1)),
            (false, true) => Some((1, 0)),
            (true, true) | (false, false) => None,
        };
        let (leader, follower) = wait_for(SOON, settled).expect("one leader");
        members[leader].set(name, "panic");
        let client = members[if by_follower { follower } else { leader }].client();
        let failed = match name {
            "beforeRangeStreamChunk" => stream(&client).is_err(),
            "beforeServeHTTPLeaseRenew" => client.keep_alive(lease).is_err(),
            _ => client.time_to_live(lease).is_err(),
        };
        assert!(failed, "{name}");
        members = match (leader, members) {
            (0, [leader, follower]) => [leader.dies_and_returns(), follower],
            (_, [follower, leader]) => [follower, leader.dies_and_returns()],
        };
        let kept = wait_for(SOON, || members[0].client().time_to_live(lease).ok());
        assert_eq!(kept.expect("it serves again").granted_ttl, 600, "{name}");
    }
    members[0].set("defragOpenFileError", "1*return(\"no room\")");
    let client = members[0].client();
    let refused = client.defragment().unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    client.defragment().expect("it failed once");
}
