//! One member.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use bytes::Bytes;
use fated::pb::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, compare,
        request_op, response_op,
    },
    mvccpb::event::EventType,
};

use crate::support::{Server, server::command};

const SOON: Duration = Duration::from_secs(5);
const MIB: u64 = 1024 * 1024;

/// The usual calls of a client, each with its effect.
#[test]
fn one_member_answers_the_usual_calls() {
    let server = Server::alone(&[]);
    let client = server.client();
    let mut watch = client.watch_prefix("k", 0).unwrap();

    let first = client.put("k1", "a").unwrap().header.unwrap().revision;
    let second = client.put("k1", "b").unwrap().header.unwrap().revision;
    assert_eq!(second, first + 1);
    assert_eq!(client.get("k1").unwrap().unwrap(), "b");
    let past = RangeRequest {
        key: "k1".into(),
        revision: first,
        ..Default::default()
    };
    assert_eq!(client.range(past).unwrap().kvs[0].value, "a");

    let moved = client.txn(move_if("k1", "b", "k2")).unwrap();
    assert!(moved.succeeded);
    assert_eq!(moved.header.unwrap().revision, second + 1);
    assert_eq!(client.get("k1").unwrap(), None);
    assert_eq!(client.get("k2").unwrap().unwrap(), "b");
    let again = client.txn(move_if("k1", "b", "k2")).unwrap();
    assert!(!again.succeeded);
    let Some(response_op::Response::ResponseRange(read)) = &again.responses[0].response else {
        panic!("the failure branch reads: {again:?}");
    };
    assert_eq!(read.kvs[0].value, "b");

    assert_eq!(client.delete("k2").unwrap().deleted, 1);
    assert_eq!(client.delete("k2").unwrap().deleted, 0);

    let mut seen = Vec::new();
    while seen.len() < 5 {
        let response = watch.next(SOON).expect("events arrive").unwrap();
        seen.extend(response.events.into_iter().map(|event| {
            let kv = event.kv.as_ref().expect("an event has a key").clone();
            (event.r#type(), kv.key, kv.value, kv.mod_revision)
        }));
    }
    let put = |key: &'static str, value: &'static str, at| {
        (EventType::Put, Bytes::from(key), Bytes::from(value), at)
    };
    let delete = |key: &'static str, at| (EventType::Delete, Bytes::from(key), Bytes::new(), at);
    seen[2..4].sort_by(|a, b| a.1.cmp(&b.1)); // one revision
    let expected = [
        put("k1", "a", first),
        put("k1", "b", second),
        delete("k1", second + 1),
        put("k2", "b", second + 1),
        delete("k2", second + 2),
    ];
    assert_eq!(seen, expected);
}

/// A lease carries its keys with it, by revocation and by running out.
#[test]
fn one_member_ends_leases() {
    let server = Server::alone(&[]);
    let client = server.client();
    let attach = |key: &'static str, lease| {
        let request = PutRequest {
            key: key.into(),
            lease,
            ..Default::default()
        };
        client.put_request(request).unwrap();
    };
    let long = client.grant(600, 7).unwrap();
    assert_eq!((long.id, long.ttl), (7, 600));
    attach("long", 7);
    let left = client.time_to_live(7).unwrap();
    assert_eq!(left.granted_ttl, 600);
    assert_eq!(left.keys, [Bytes::from("long")]);
    assert!((590..=600).contains(&left.ttl), "{left:?}");
    assert_eq!(client.keep_alive(7).unwrap().ttl, 600);

    let short = client.grant(2, 0).unwrap();
    attach("short", short.id);
    assert_eq!(client.leases().unwrap().leases.len(), 2);
    client.revoke(7).unwrap();
    assert_eq!(client.get("long").unwrap(), None);
    let gone = crate::support::wait_for(Duration::from_secs(10), || {
        client.get("short").unwrap().is_none().then_some(())
    });
    gone.expect("the lease runs out");
    assert_eq!(client.time_to_live(short.id).unwrap().ttl, -1);
}

/// Data, revisions and leases outlive both ways to end.
#[test]
fn a_restart_keeps_everything() {
    let mut server = Server::alone(&[]);
    let client = server.client();
    client.grant(600, 9).unwrap();
    let request = PutRequest {
        key: "a".into(),
        value: "1".into(),
        lease: 9,
        ..Default::default()
    };
    client.put_request(request).unwrap();
    let before = client.hash_kv(0).unwrap();
    let status = server.terminate(Duration::from_secs(2));
    assert_eq!(status.code(), Some(0), "{}", server.log().tail());

    server.start();
    let after = server.client().hash_kv(0).unwrap();
    assert_eq!(after.hash, before.hash);
    let revision = |response: &fated::pb::etcdserverpb::HashKvResponse| {
        response.header.as_ref().expect("a header").revision
    };
    assert_eq!(revision(&after), revision(&before));
    server.restart();
    let client = server.client();
    assert_eq!(client.get("a").unwrap().unwrap(), "1");
    assert_eq!(client.time_to_live(9).unwrap().granted_ttl, 600);
    let next = client.put("a", "2").unwrap().header.unwrap().revision;
    assert_eq!(next, revision(&before) + 1);
}

/// The end comes quickly although a client holds a stream open and does not listen any more.
#[test]
fn sigterm_ends_a_member_with_open_streams() {
    let mut server = Server::alone(&[]);
    let client = server.client();
    let watch = client.watch_prefix("k", 0).unwrap();
    let status = server.terminate(Duration::from_secs(2));
    assert_eq!(status.code(), Some(0), "{}", server.log().tail());
    drop(watch);
}

/// A new member does not take a surprising amount of disk.
#[test]
fn a_new_member_is_small_on_disk() {
    let server = Server::alone(&[]);
    server.client().put("a", "b").unwrap();
    let used = used_bytes(&server.plan().data_dir);
    assert!(used <= 20 * MIB, "{} KiB", used / 1024);
    assert!(used > 0, "it keeps its data somewhere else");
}

/// Two processes would destroy each other's data.
#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let server = Server::alone(&[]);
    let mut plan = server.plan().clone();
    plan.client_port = crate::support::ports::free_port();
    plan.peer_port = crate::support::ports::free_port();
    plan.initial_cluster = format!("{}=http://127.0.0.1:{}", plan.name, plan.peer_port);
    let output = command(&plan.arguments()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let last = text.lines().last().expect("it says why");
    assert!(
        last.contains("another process already uses the data directory"),
        "{text}"
    );
    server.client().put("still", "here").unwrap();
}

/// Deletes `from` and puts its value at `to` if it is `value`; otherwise reads `to`.
fn move_if(from: &'static str, value: &'static str, to: &'static str) -> TxnRequest {
    let op = |request| RequestOp {
        request: Some(request),
    };
    TxnRequest {
        compare: vec![Compare {
            result: compare::CompareResult::Equal.into(),
            target: compare::CompareTarget::Value.into(),
            key: from.into(),
            target_union: Some(compare::TargetUnion::Value(value.into())),
            ..Default::default()
        }],
        success: vec![
            op(request_op::Request::RequestDeleteRange(
                DeleteRangeRequest {
                    key: from.into(),
                    ..Default::default()
                },
            )),
            op(request_op::Request::RequestPut(PutRequest {
                key: to.into(),
                value: value.into(),
                ..Default::default()
            })),
        ],
        failure: vec![op(request_op::Request::RequestRange(RangeRequest {
            key: to.into(),
            ..Default::default()
        }))],
    }
}

/// Bytes of disk under a directory, as `du` counts them.
fn used_bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap();
    let used = entries.map(|entry| {
        let path = entry.unwrap().path();
        let facts = fs::symlink_metadata(&path).unwrap();
        let below = if facts.is_dir() { used_bytes(&path) } else { 0 };
        below + facts.blocks() * 512
    });
    used.sum()
}
