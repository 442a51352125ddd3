//! What etcd says about a request in its span.

use opentelemetry::KeyValue;

use crate::{
    kernel::Request,
    pb::etcdserverpb::{
        PutRequest, RequestOp, TxnRequest, WatchCreateRequest, request_op::Request as Op,
    },
};

/// Name and attributes of the span of a request; none for those that etcd gives no span.
pub(super) fn of(request: &Request) -> Option<(&'static str, Vec<KeyValue>)> {
    Some(match request {
        Request::Range(range) => (
            "range",
            vec![
                text("range_begin", &range.key),
                text("range_end", &range.range_end),
                KeyValue::new("rev", range.revision),
                KeyValue::new("limit", range.limit),
                KeyValue::new("count_only", range.count_only),
                KeyValue::new("keys_only", range.keys_only),
            ],
        ),
        Request::RangeChunk(chunk) if chunk.after.is_some() => return None,
        Request::RangeChunk(chunk) => (
            "range_streaming",
            vec![
                text("range_begin", &chunk.request.key),
                text("range_end", &chunk.request.range_end),
                KeyValue::new("rev", chunk.request.revision),
                KeyValue::new("limit", chunk.request.limit),
                KeyValue::new("count_only", chunk.request.count_only),
            ],
        ),
        Request::Put(put) => ("put", vec![text("key", &put.key)]),
        Request::DeleteRange(range) => (
            "delete_range",
            vec![
                text("range_begin", &range.key),
                text("range_end", &range.range_end),
            ],
        ),
        Request::Txn(txn) => ("txn", transaction(txn)),
        Request::Compact(compaction) => (
            "compact",
            vec![
                KeyValue::new("is_physical", compaction.physical),
                KeyValue::new("rev", compaction.revision),
            ],
        ),
        Request::LeaseGrant(grant) => (
            "lease_grant",
            vec![
                KeyValue::new("id", grant.id),
                KeyValue::new("ttl", grant.ttl),
            ],
        ),
        Request::LeaseRevoke(revoke) => ("lease_revoke", vec![KeyValue::new("id", revoke.id)]),
        Request::LeaseKeepAlive(renew) => ("lease_renew", vec![KeyValue::new("id", renew.id)]),
        Request::LeaseTimeToLive(_)
        | Request::LeaseLeases(_)
        | Request::MemberList(_)
        | Request::MemberAdd(_)
        | Request::MemberRemove(_)
        | Request::MemberUpdate(_)
        | Request::MemberPromote(_)
        | Request::Alarm(_)
        | Request::Status(_)
        | Request::Defragment(_)
        | Request::Hash(_)
        | Request::HashKv(_)
        | Request::MoveLeader(_)
        | Request::Downgrade(_)
        | Request::Invalid(..)
        | Request::SnapshotOpen
        | Request::SnapshotRead { .. }
        | Request::SnapshotClose { .. }
        | Request::Health
        | Request::Metrics => return None,
    })
}

fn transaction(txn: &TxnRequest) -> Vec<KeyValue> {
    let mut compared = txn.compare.iter().map(|compare| compare.key.as_ref());
    let compared: Option<&[u8]> = compared.find(|key: &&[u8]| !key.is_empty());
    let ops = || txn.success.iter().filter_map(|op| op.request.as_ref());
    let key = ops().filter_map(key_of).find(|key| !key.is_empty());
    let lease = ops().find_map(put_of).map_or(-1, |put| put.lease);
    let length = |list: usize| i64::try_from(list).unwrap_or(i64::MAX);
    vec![
        text("compare_first_key", compared.unwrap_or_default()),
        text("success_first_key", key.unwrap_or_default()),
        KeyValue::new("success_first_type", ops().next().map_or("", kind)),
        KeyValue::new("success_first_lease", lease),
        KeyValue::new("compare_len", length(txn.compare.len())),
        KeyValue::new("success_len", length(txn.success.len())),
        KeyValue::new("failure_len", length(txn.failure.len())),
        KeyValue::new(
            "read_only",
            only_reads(&txn.success) && only_reads(&txn.failure),
        ),
    ]
}

/// The attributes of a watch that is created, as it is understood: an empty key is the first one,
/// and an end of one zero byte is none.
pub(super) fn watch(create: &WatchCreateRequest) -> Vec<KeyValue> {
    let key: &[u8] = match create.key.is_empty() {
        true => b"\0",
        false => &create.key,
    };
    let range_end: &[u8] = match &create.range_end[..] == b"\0" {
        true => b"",
        false => &create.range_end,
    };
    vec![
        text("key", key),
        text("range_end", range_end),
        KeyValue::new("start_rev", create.start_revision),
        KeyValue::new("progress_notify", create.progress_notify),
        KeyValue::new("prev_kv", create.prev_kv),
        KeyValue::new("fragment", create.fragment),
    ]
}

fn kind(op: &Op) -> &'static str {
    match op {
        Op::RequestPut(_) => "put",
        Op::RequestRange(_) => "range",
        Op::RequestDeleteRange(_) => "delete_range",
        Op::RequestTxn(_) => "txn",
    }
}

fn key_of(op: &Op) -> Option<&[u8]> {
    match op {
        Op::RequestPut(put) => Some(&put.key),
        Op::RequestRange(range) => Some(&range.key),
        Op::RequestDeleteRange(range) => Some(&range.key),
        Op::RequestTxn(_) => None,
    }
}

fn put_of(op: &Op) -> Option<&PutRequest> {
    match op {
        Op::RequestPut(put) => Some(put),
        Op::RequestRange(_) | Op::RequestDeleteRange(_) | Op::RequestTxn(_) => None,
    }
}

fn only_reads(ops: &[RequestOp]) -> bool {
    let reads = |op: &RequestOp| matches!(op.request, Some(Op::RequestRange(_)));
    ops.iter().all(reads)
}

/// Keys are bytes and attributes are text; what is no text is shown as well as it can be.
fn text(name: &'static str, bytes: &[u8]) -> KeyValue {
    KeyValue::new(name, String::from_utf8_lossy(bytes).into_owned())
}
