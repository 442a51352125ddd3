//! A store that is full, as its clients see it: what grows is refused, the rest works, and it is
//! writable again.

use std::time::Duration;

use fated::pb::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, PutRequest, RequestOp, TxnRequest,
    alarm_request::AlarmAction, request_op,
};
use tonic::{Code, Status};

use crate::support::{Client, Cluster, Server, wait_for};

const SOON: Duration = Duration::from_secs(20);
const QUOTA: &str = "--quota-backend-bytes=1048576";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

fn alarm(client: &Client, action: AlarmAction, member_id: u64) -> AlarmResponse {
    let request = AlarmRequest {
        action: action as i32,
        member_id,
        alarm: AlarmType::Nospace as i32,
    };
    let answer = client.run(client.maintenance().alarm(request));
    answer.expect("alarms are told and changed at any time")
}

fn refused(result: Result<impl std::fmt::Debug, Status>) {
    let status = result.expect_err("there is no space");
    assert_eq!(
        (status.code(), status.message()),
        (Code::ResourceExhausted, NO_SPACE)
    );
}

/// Puts until something does not fit; how many fitted.
fn fill(client: &Client) -> usize {
    for number in 0..1000 {
        if let Err(status) = client.put(format!("full{number:03}"), vec![b'v'; 16 * 1024]) {
            refused(Err::<(), _>(status));
            return number;
        }
    }
    panic!("16 MB fitted into one");
}

fn put_in_txn() -> TxnRequest {
    let put = PutRequest {
        key: "k".into(),
        ..Default::default()
    };
    TxnRequest {
        failure: vec![RequestOp {
            request: Some(request_op::Request::RequestPut(put)),
        }],
        ..Default::default()
    }
}

/// What must hold while the alarm stands.
fn refuses_what_grows(client: &Client) {
    refused(client.put("k", "v"));
    refused(client.txn(put_in_txn()));
    refused(client.grant(60, 0));
    assert!(client.get("full000").expect("reads work").is_some());
    client.txn(TxnRequest::default()).expect("nothing grows");
    client.keep_alive(1).expect("leases go on");
    let status = client.status().expect("status works");
    assert_eq!(status.db_size_quota, 1_048_576);
    let shown = |error: &String| error.starts_with("memberID:") && error.ends_with("alarm:NOSPACE");
    assert!(status.errors.iter().any(shown), "{:?}", status.errors);
}

/// Deletes everything and compacts it away.
fn empty(client: &Client) {
    let end = fated::pb::etcdserverpb::DeleteRangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        ..Default::default()
    };
    let deleted = client.run(client.kv().delete_range(end));
    let deleted = deleted.expect("deletes are never refused");
    assert!(deleted.deleted > 10);
    let revision = deleted.header.expect("a header").revision;
    client.compact(revision).expect("compaction works");
}

/// Goal: with no operator near, three full members refuse what grows and serve on; when there is
/// space again they take writes, with no defragmentation and no call about alarms.
#[test]
fn a_full_cluster_is_writable_again_by_itself() {
    let cluster = Cluster::of(3).flag(QUOTA).start();
    let clients = cluster.clients();
    let fitted = fill(&clients[1]);
    assert!(fitted > 30, "{fitted}");
    for client in &clients {
        let stands = || (!alarm(client, AlarmAction::Get, 0).alarms.is_empty()).then_some(());
        wait_for(SOON, stands).expect("the alarm is raised");
        refuses_what_grows(client);
    }
    empty(&clients[0]);
    for client in &clients {
        wait_for(SOON, || client.put("again", "1").ok()).expect("there is space again");
        assert!(client.status().expect("status").errors.is_empty());
    }
}

/// Goal: etcd's manual way: space alone does not end the alarm, also over a restart; clearing does.
#[test]
fn the_manual_way_is_etcds() {
    let mut server = Server::alone(&[QUOTA, "--quota-alarm-clear=manual"]);
    fill(&server.client());
    let client = server.client();
    refuses_what_grows(&client);
    empty(&client);
    let size = || client.status().expect("status").db_size_in_use;
    wait_for(SOON, || (size() < 500_000).then_some(())).expect("space is free");
    std::thread::sleep(Duration::from_secs(4)); // twice as long as the other way takes
    refused(client.put("k", "v"));
    server.restart();
    let client = server.client();
    refused(client.put("k", "v"));
    let standing = alarm(&client, AlarmAction::Get, 0).alarms;
    assert_eq!(standing.len(), 1);
    let cleared = alarm(&client, AlarmAction::Deactivate, standing[0].member_id);
    assert_eq!(cleared.alarms, standing);
    client.put("k", "v").expect("writable");
    assert!(alarm(&client, AlarmAction::Get, 0).alarms.is_empty());
}

/// Goal: clients hardly notice that a store is rewritten. Method: writes and reads go on beside
/// defragmentations of a store of 60 MB; the bound leaves room for a machine with other work.
#[test]
fn clients_go_on_beside_a_defragmentation() {
    let server = Server::alone(&[]);
    let client = server.client();
    for number in 0..600 {
        client
            .put(format!("large{number}"), vec![b'v'; 100_000])
            .expect("there is space");
    }
    let other = server.client();
    let rewriting = std::thread::spawn(move || {
        for _ in 0..3 {
            let request = fated::pb::etcdserverpb::DefragmentRequest {};
            other
                .run(other.maintenance().defragment(request))
                .expect("rewritten");
        }
    });
    let (mut calls, mut longest) = (0, Duration::ZERO);
    while !rewriting.is_finished() {
        let began = std::time::Instant::now();
        client.put("beside", "v").expect("written");
        client.get("beside").expect("read");
        longest = longest.max(began.elapsed());
        calls += 1;
    }
    rewriting.join().expect("every rewriting succeeds");
    println!("{calls} writes and reads meanwhile, the longest took {longest:?}");
    assert!(calls >= 20, "{calls} calls during three rewritings");
    assert!(longest < Duration::from_secs(1), "a call took {longest:?}");
}

/// Goal: when live data fall to a tenth, the file follows with no call, beside writes, and what it
/// holds is there after a restart too. Method: the size a member tells, and its directory.
#[test]
fn a_file_becomes_shorter_by_itself() {
    let mut server = Server::alone(&[]);
    let client = server.client();
    for number in 0..200 {
        client
            .put(format!("large{number:03}"), vec![b'v'; 100_000])
            .expect("there is space");
    }
    let delete = fated::pb::etcdserverpb::DeleteRangeRequest {
        key: "large020".into(),
        range_end: "large999".into(),
        ..Default::default()
    };
    let deleted = client.run(client.kv().delete_range(delete));
    let deleted = deleted.expect("deleted");
    assert_eq!(deleted.deleted, 180);
    let revision = deleted.header.expect("a header").revision;
    client.compact(revision).expect("compaction works");
    let mut written = 0;
    let shorter = || {
        written += 1;
        client.put("beside", written.to_string()).expect("written");
        let status = client.status().expect("status");
        let (file, live) = (status.db_size, status.db_size_in_use);
        (live < 3_000_000 && file * 10 <= live * 13).then_some(())
    };
    wait_for(SOON, shorter).expect("the file follows what is live");
    server.restart();
    let client = server.client();
    let beside = client.get("beside").expect("read").expect("written before");
    assert_eq!(beside, written.to_string().into_bytes());
    let large = client.get("large019").expect("read").expect("not deleted");
    assert_eq!(large.len(), 100_000);
}
