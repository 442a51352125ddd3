//! Numbers and enum values at their edges, where no error is defined: the server means by them
//! what etcd means, and lives.

use bytes::Bytes;
use fated::pb::etcdserverpb::{
    AlarmRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    WatchCancelRequest, WatchCreateRequest, WatchRequest, WatchResponse, compare::TargetUnion,
    request_op, watch_request::RequestUnion,
};
use tonic::Code;

use super::server::{Client, Server};

async fn succeeds(client: &mut Client, compare: Compare) -> bool {
    let request = TxnRequest {
        compare: vec![compare],
        ..Default::default()
    };
    client
        .kv
        .txn(request)
        .await
        .expect("a txn")
        .into_inner()
        .succeeded
}

/// An operand of the wrong kind counts as zero; a target nobody knows compares as equal; a
/// comparison nobody knows holds.
#[tokio::test]
async fn compares_with_unknown_parts_mean_what_etcd_means() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.put("cmp", "v").await.expect("a put");
    let of = |result, target, operand| Compare {
        key: "cmp".into(),
        result,
        target,
        target_union: operand,
        ..Default::default()
    };
    let (equal, greater, less, unequal) = (0, 1, 2, 3);
    let (version, value) = (0, 3);
    let number = |number| Some(TargetUnion::Version(number));
    let cases = [
        (of(greater, version, None), true),
        (of(equal, version, None), false),
        (
            of(greater, version, Some(TargetUnion::ModRevision(999))),
            true,
        ),
        (of(greater, version, number(i64::MAX)), false),
        (of(greater, version, number(i64::MIN)), true),
        (of(greater, version, number(-1)), true),
        (of(greater, value, None), true),
        (of(greater, value, number(7)), true),
        (of(equal, 77, number(5)), true),
        (of(greater, 77, number(0)), false),
        (of(less, -1, number(9)), false),
        (of(unequal, i32::MAX, number(9)), false),
        (of(77, version, number(12345)), true),
        (of(-1, version, number(12345)), true),
        (of(i32::MIN, value, None), true),
    ];
    for (compare, expected) in cases {
        let shown = format!("{compare:?}");
        assert_eq!(succeeds(&mut client, compare).await, expected, "{shown}");
    }
    // Of a key that is not there, no comparison of the value holds, known or not.
    let absent = Compare {
        key: "cmp/absent".into(),
        ..of(77, value, None)
    };
    assert!(!succeeds(&mut client, absent).await);
}

/// Revision filters below zero, limits at both ends.
#[tokio::test]
async fn extreme_numbers_in_ranges_are_taken_as_they_are() {
    let mut server = Server::start().await;
    let mut client = server.connect().await;
    for at in 0..5 {
        client.put(&format!("num/{at}"), "v").await.expect("a put");
    }
    let all = RangeRequest {
        key: "num/".into(),
        range_end: "num0".into(),
        ..Default::default()
    };
    let cases = [
        (
            RangeRequest {
                limit: i64::MIN,
                ..all.clone()
            },
            5,
            false,
        ),
        (
            RangeRequest {
                limit: i64::MAX,
                ..all.clone()
            },
            5,
            false,
        ),
        (
            RangeRequest {
                limit: 4,
                ..all.clone()
            },
            4,
            true,
        ),
        (
            RangeRequest {
                limit: 5,
                ..all.clone()
            },
            5,
            false,
        ),
        (
            RangeRequest {
                min_mod_revision: i64::MIN,
                ..all.clone()
            },
            5,
            false,
        ),
        (
            RangeRequest {
                min_mod_revision: i64::MAX,
                ..all.clone()
            },
            0,
            false,
        ),
        (
            RangeRequest {
                max_mod_revision: i64::MIN,
                ..all.clone()
            },
            0,
            false,
        ),
        (
            RangeRequest {
                max_mod_revision: -1,
                ..all.clone()
            },
            0,
            false,
        ),
        (
            RangeRequest {
                max_create_revision: i64::MAX,
                limit: i64::MAX,
                ..all.clone()
            },
            5,
            false,
        ),
        (
            RangeRequest {
                revision: i64::MIN,
                ..all.clone()
            },
            5,
            false,
        ),
    ];
    for (request, keys, more) in cases {
        let shown = format!("{request:?}");
        let answer = client
            .kv
            .range(request)
            .await
            .expect("a range")
            .into_inner();
        assert_eq!(
            (answer.kvs.len(), answer.more, answer.count),
            (keys, more, 5),
            "{shown}"
        );
    }
    server.assert_healthy("extreme numbers").await;
}

/// A sort target without an order sorts what the limit left, ascending; and a stream of chunks
/// does not follow it at all, because its chunks follow each other by key.
#[tokio::test]
async fn a_sort_target_without_an_order_sorts_behind_the_limit() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let earlier = DeleteRangeRequest {
        key: "sort/".into(),
        range_end: "sort0".into(),
        ..Default::default()
    };
    let gone = client.kv.delete_range(earlier).await;
    gone.expect("a server asked before starts afresh");
    // Later keys are put less often, so by version the order is the reverse of that by key.
    for at in 0..40 {
        for _ in at..40 {
            let key = format!("sort/{at:02}");
            client.put(&key, &"v".repeat(40 - at)).await.expect("a put");
        }
    }
    let by_version = RangeRequest {
        key: "sort/".into(),
        range_end: "sort0".into(),
        sort_target: 1,
        ..Default::default()
    };
    let limited = RangeRequest {
        limit: 2,
        ..by_version.clone()
    };
    let answer = client
        .kv
        .range(limited)
        .await
        .expect("a range")
        .into_inner();
    let versions: Vec<i64> = answer.kvs.iter().map(|kv| kv.version).collect();
    assert_eq!(
        (versions, answer.more, answer.count),
        (vec![38, 39], true, 40)
    );
    if server.version().await < (3, 7) {
        return;
    }
    let stream = client.kv.range_stream(by_version).await.expect("a stream");
    let mut stream = stream.into_inner();
    let mut keys = Vec::new();
    while let Some(chunk) = stream.message().await.expect("no error") {
        let kvs = chunk.range_response.expect("a range").kvs;
        keys.extend(kvs.into_iter().map(|kv| kv.key));
    }
    let expected: Vec<String> = (0..40).map(|at| format!("sort/{at:02}")).collect();
    assert_eq!(keys, expected);
}

/// Keys of every shape: long, with zero bytes, with no text in them.
#[tokio::test]
async fn keys_may_be_any_bytes() {
    let mut server = Server::start().await;
    let mut client = server.connect().await;
    let keys: [Vec<u8>; 8] = [
        vec![0],
        vec![0, 0],
        vec![0xff],
        vec![0xff; 300],
        vec![b'k'; 511],
        vec![b'k'; 512],
        vec![b'k'; 70_000],
        vec![0xc3, 0x28],
    ];
    for (at, key) in keys.iter().enumerate() {
        let request = PutRequest {
            key: Bytes::from(key.clone()),
            value: vec![u8::try_from(at).expect("few")].into(),
            ..Default::default()
        };
        client.kv.put(request).await.expect("a put");
    }
    for (at, key) in keys.iter().enumerate() {
        let request = RangeRequest {
            key: Bytes::from(key.clone()),
            ..Default::default()
        };
        let answer = client
            .kv
            .range(request)
            .await
            .expect("a range")
            .into_inner();
        assert_eq!(answer.kvs.len(), 1);
        assert_eq!(answer.kvs[0].key, &key[..]);
        assert_eq!(usize::from(answer.kvs[0].value[0]), at);
    }
    server.assert_healthy("odd keys").await;
}

/// An alarm action that does not exist changes nothing, and the answer is a proper one.
#[tokio::test]
async fn unknown_alarm_actions_are_answered() {
    let mut server = Server::start_own().await;
    let mut client = server.connect().await;
    for (action, alarm) in [
        (77, 1),
        (-1, 0),
        (0, 77),
        (0, -1),
        (0, i32::MAX),
        (i32::MIN, 2),
    ] {
        let request = AlarmRequest {
            action,
            member_id: u64::MAX,
            alarm,
        };
        match client.maintenance.alarm(request).await {
            Ok(answer) => assert!(answer.into_inner().alarms.is_empty()),
            Err(status) => assert_eq!(status.message(), "etcdserver: unknown method"),
        }
    }
    let list = client.maintenance.alarm(AlarmRequest::default()).await;
    assert!(list.expect("a list").into_inner().alarms.is_empty());
    server.assert_healthy("unknown alarms").await;
}

/// Watch ids and filters nobody knows; unknown ids in cancels are ignored.
#[tokio::test]
async fn odd_watches_are_answered_in_order() {
    let mut server = Server::start().await;
    let mut client = server.connect().await;
    let create = |watch_id, filters: &[i32]| WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
            key: "odd".into(),
            watch_id,
            filters: filters.to_vec(),
            ..Default::default()
        })),
    };
    let cancel = |watch_id| WatchRequest {
        request_union: Some(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })),
    };
    let requests = vec![
        WatchRequest::default(),
        cancel(0),
        cancel(-1),
        cancel(i64::MIN),
        cancel(i64::MAX),
        create(i64::MAX, &[77, -1]),
        create(0, &[0, 0, 1, 1, 9]),
        create(5, &[]),
        cancel(5),
        cancel(5),
        create(0, &[]),
    ];
    let (sender, receiver) = tokio::sync::mpsc::channel(requests.len());
    for request in requests {
        sender.try_send(request).expect("room");
    }
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = client
        .watch
        .watch(stream)
        .await
        .expect("a stream")
        .into_inner();
    let mut told = Vec::new();
    for _ in 0..5 {
        let WatchResponse {
            watch_id,
            created,
            canceled,
            ..
        } = answers.message().await.expect("an answer").expect("more");
        told.push((watch_id, created, canceled));
    }
    let expected = [
        (i64::MAX, true, false),
        (0, true, false),
        (5, true, false),
        (5, false, true),
        (1, true, false),
    ];
    assert_eq!(told, expected);
    client.put("odd", "v").await.expect("a put");
    let mut seen = Vec::new();
    for _ in 0..2 {
        let answer = answers.message().await.expect("an event").expect("more");
        assert_eq!(answer.events.len(), 1);
        seen.push(answer.watch_id);
    }
    seen.sort_unstable();
    assert_eq!(
        seen,
        [1, i64::MAX],
        "the one that filters both kinds sees nothing"
    );
    drop(sender);
    server.assert_healthy("odd watches").await;
}

/// A transaction nested far beyond what any client writes is refused, not followed to the end of
/// the stack.
#[tokio::test]
async fn bottomless_transactions_are_refused() {
    let mut server = Server::start_own().await;
    let mut client = server.connect().await;
    let nest = |txn: TxnRequest| TxnRequest {
        success: vec![RequestOp {
            request: Some(request_op::Request::RequestTxn(txn)),
        }],
        ..Default::default()
    };
    for depth in [60, 127, 200, 1000] {
        let txn = (0..depth).fold(TxnRequest::default(), |txn, _| nest(txn));
        if let Err(status) = client.kv.txn(txn).await {
            let code = status.code();
            assert!(
                matches!(code, Code::InvalidArgument | Code::Internal),
                "{depth}: {status}"
            );
        } else {
            assert!(depth <= 127, "more levels than operations are allowed");
        }
    }
    server.assert_healthy("bottomless transactions").await;
}
