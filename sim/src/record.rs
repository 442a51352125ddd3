//! What clients of a run saw, in the format that the judges read.

use std::collections::{BTreeMap, BTreeSet};

use fated::{
    kernel::Response,
    pb::{
        etcdserverpb as rpc,
        fated::command::{Command, command},
        mvccpb,
    },
    raft::{Entry, EntryKind},
};
use prost::Message;

use crate::{
    client::{Operation, Outcome},
    counters::Counters,
    history as h,
};

/// The committed log, and whose each write was: every write carries something that no other does.
/// Compactions do not: one that moved the compacted revision is taken for the one that was
/// answered well, one that did not for one that was refused, and else either for one that nobody
/// knows about.
pub fn commits<'a>(
    log: impl Iterator<Item = &'a (u64, Entry)>,
    operations: &[h::Operation],
) -> Vec<h::Commit> {
    let mut owners: BTreeMap<h::Text, u64> = BTreeMap::new();
    let mut compactions: BTreeMap<i64, Compactions<'_>> = BTreeMap::new();
    let mut compacted = 0;
    for op in operations {
        if let h::Request::Compact(compact) = &op.request {
            let same = compactions.entry(compact.revision).or_default();
            match &op.outcome {
                h::Outcome::Ok(_) => same.done.push(op),
                h::Outcome::Unknown => same.unknown.push(op),
                h::Outcome::Failed(_) => same.refused.push(op),
            }
        } else if let Some(mark) = mark(&op.request) {
            owners.insert(mark, op.id);
        }
    }
    let mut commits = Vec::new();
    for (time, entry) in log.filter(|(_, entry)| is_command(entry)) {
        let command = Command::decode(entry.data.clone()).expect("members propose commands");
        let Some(request) = command.body.and_then(body) else {
            continue;
        };
        let op = match &request {
            h::Request::Compact(compact) => {
                let moves = compact.revision > compacted;
                compacted = compacted.max(compact.revision);
                let same = compactions.get_mut(&compact.revision);
                same.and_then(|same| same.take(moves, *time))
            }
            other => mark(other).and_then(|mark| owners.get(&mark).copied()),
        };
        commits.push(h::Commit {
            index: entry.id.index.get(),
            op,
            time: None,
            request,
        });
    }
    commits
}

/// What became of the writes whose clients never heard of it.
pub fn count_unknown(history: &h::History, counters: &mut Counters) {
    let applied: BTreeSet<u64> = history
        .commits
        .iter()
        .filter_map(|commit| commit.op)
        .collect();
    for op in &history.ops {
        let writes = matches!(op.request, h::Request::Compact(_)) || mark(&op.request).is_some();
        if writes && op.outcome == h::Outcome::Unknown {
            counters.hit(match applied.contains(&op.id) {
                true => "client: unknown outcome was applied",
                false => "client: unknown outcome was not applied",
            });
        }
    }
}

fn is_command(entry: &Entry) -> bool {
    entry.kind == EntryKind::Normal && !entry.data.is_empty()
}

/// Operations that asked for one compaction.
#[derive(Default)]
struct Compactions<'a> {
    done: Vec<&'a h::Operation>,
    refused: Vec<&'a h::Operation>,
    unknown: Vec<&'a h::Operation>,
}

impl Compactions<'_> {
    /// One that fits an entry committed at this time: it was not asked for later, nor answered
    /// before.
    fn take(&mut self, moves: bool, time: u64) -> Option<u64> {
        let fits = |op: &&h::Operation| op.call < time && op.ret.is_none_or(|ret| ret >= time);
        let known = match moves {
            true => &mut self.done,
            false => &mut self.refused,
        };
        let place = known.iter().position(fits);
        let (list, place) = match place {
            Some(place) => (known, place),
            None => {
                let place = self.unknown.iter().position(fits)?;
                (&mut self.unknown, place)
            }
        };
        Some(list.remove(place).id)
    }
}

/// What no other write has: a value, or the end of a range.
fn mark(request: &h::Request) -> Option<h::Text> {
    match request {
        h::Request::Put(put) => Some(put.value.clone()),
        h::Request::DeleteRange(delete) => Some(delete.range_end.clone()),
        h::Request::Txn(txn) => txn.success.iter().chain(&txn.failure).find_map(mark),
        h::Request::Range(_)
        | h::Request::Compact(_)
        | h::Request::LeaseGrant(_)
        | h::Request::LeaseRevoke(_)
        | h::Request::LeaseKeepAlive(_)
        | h::Request::LeaseTimeToLive(_)
        | h::Request::LeaseLeases => None,
    }
}

fn body(body: command::Body) -> Option<h::Request> {
    use command::Body;
    Some(match body {
        Body::Put(it) => h::Request::Put(put(&it)),
        Body::DeleteRange(it) => h::Request::DeleteRange(delete(&it)),
        Body::Txn(it) => h::Request::Txn(txn(&it)?),
        Body::Compact(it) => h::Request::Compact(h::CompactRequest {
            revision: it.revision,
            physical: it.physical,
        }),
        Body::LeaseGrant(_)
        | Body::LeaseRevoke(_)
        | Body::LeaseCheckpoint(_)
        | Body::Alarm(_)
        | Body::MemberPublish(_)
        | Body::ClusterVersion(_) => return None,
    })
}

/// The history of a run. Requests that reached nobody are left out.
pub fn history(operations: &[Operation], watches: &[h::WatchRecord]) -> h::History {
    let ops = operations.iter().enumerate();
    let ops = ops.filter_map(|(id, operation)| Some(op(id as u64 + 1, operation)?));
    h::History {
        ops: ops.collect(),
        watches: watches.to_vec(),
        ..h::History::default()
    }
}

fn op(id: u64, operation: &Operation) -> Option<h::Operation> {
    let outcome = match &operation.outcome {
        Outcome::Open | Outcome::Unknown => h::Outcome::Unknown,
        Outcome::Refused => return None,
        Outcome::Failed(error) => h::Outcome::Failed(h::Failure {
            code: error.code() as u32,
            text: error.text().to_owned(),
        }),
        Outcome::Ok(answer) => h::Outcome::Ok(response(answer)?),
    };
    Some(h::Operation {
        id,
        client: operation.client as u64,
        process: 0,
        call: operation.call_at,
        ret: operation.return_at,
        endpoint: format!("m{}", operation.member),
        request: request(&operation.request)?,
        outcome,
    })
}

fn request(request: &fated::kernel::Request) -> Option<h::Request> {
    use fated::kernel::Request;
    Some(match request {
        Request::Range(it) => h::Request::Range(range(it)),
        Request::Put(it) => h::Request::Put(put(it)),
        Request::DeleteRange(it) => h::Request::DeleteRange(delete(it)),
        Request::Txn(it) => h::Request::Txn(txn(it)?),
        Request::Compact(it) => h::Request::Compact(h::CompactRequest {
            revision: it.revision,
            physical: it.physical,
        }),
        _ => return None,
    })
}

fn range(it: &rpc::RangeRequest) -> h::RangeRequest {
    h::RangeRequest {
        key: text(&it.key),
        range_end: text(&it.range_end),
        limit: it.limit,
        revision: it.revision,
        serializable: it.serializable,
        ..h::RangeRequest::default()
    }
}

fn put(it: &rpc::PutRequest) -> h::PutRequest {
    h::PutRequest {
        key: text(&it.key),
        value: text(&it.value),
        lease: it.lease,
        prev_kv: it.prev_kv,
        ..h::PutRequest::default()
    }
}

fn delete(it: &rpc::DeleteRangeRequest) -> h::DeleteRangeRequest {
    h::DeleteRangeRequest {
        key: text(&it.key),
        range_end: text(&it.range_end),
        prev_kv: it.prev_kv,
    }
}

fn txn(it: &rpc::TxnRequest) -> Option<h::TxnRequest> {
    let list = |ops: &[rpc::RequestOp]| ops.iter().map(request_op).collect::<Option<Vec<_>>>();
    Some(h::TxnRequest {
        compare: it.compare.iter().map(compare).collect::<Option<Vec<_>>>()?,
        success: list(&it.success)?,
        failure: list(&it.failure)?,
    })
}

fn request_op(op: &rpc::RequestOp) -> Option<h::Request> {
    use rpc::request_op::Request;
    Some(match op.request.as_ref()? {
        Request::RequestRange(it) => h::Request::Range(range(it)),
        Request::RequestPut(it) => h::Request::Put(put(it)),
        Request::RequestDeleteRange(it) => h::Request::DeleteRange(delete(it)),
        Request::RequestTxn(it) => h::Request::Txn(txn(it)?),
    })
}

fn compare(it: &rpc::Compare) -> Option<h::Compare> {
    use rpc::compare::{CompareResult, TargetUnion};
    let result = match CompareResult::try_from(it.result).ok()? {
        CompareResult::Equal => h::CompareResult::Equal,
        CompareResult::Greater => h::CompareResult::Greater,
        CompareResult::Less => h::CompareResult::Less,
        CompareResult::NotEqual => h::CompareResult::NotEqual,
    };
    let target = match it.target_union.as_ref()? {
        TargetUnion::Version(version) => h::CompareTarget::Version(*version),
        TargetUnion::CreateRevision(revision) => h::CompareTarget::Create(*revision),
        TargetUnion::ModRevision(revision) => h::CompareTarget::Mod(*revision),
        TargetUnion::Value(value) => h::CompareTarget::Value(text(value)),
        TargetUnion::Lease(lease) => h::CompareTarget::Lease(*lease),
    };
    Some(h::Compare {
        key: text(&it.key),
        range_end: text(&it.range_end),
        result,
        target,
    })
}

fn response(response: &Response) -> Option<h::Response> {
    let (header, reply) = match response {
        Response::Range(it) => (&it.header, h::Reply::Range(range_reply(it))),
        Response::Put(it) => (&it.header, h::Reply::Put(put_reply(it))),
        Response::DeleteRange(it) => (&it.header, h::Reply::DeleteRange(delete_reply(it))),
        Response::Txn(it) => (&it.header, h::Reply::Txn(txn_reply(it)?)),
        Response::Compact(it) => (&it.header, h::Reply::Compact),
        _ => return None,
    };
    let header = header.as_ref().map(|header| h::Header {
        revision: header.revision,
        member_id: header.member_id,
        raft_term: header.raft_term,
    });
    let header = header.unwrap_or_default();
    Some(h::Response { header, reply })
}

fn range_reply(it: &rpc::RangeResponse) -> h::RangeReply {
    h::RangeReply {
        kvs: it.kvs.iter().map(pair).collect(),
        more: it.more,
        count: it.count,
    }
}

fn put_reply(it: &rpc::PutResponse) -> h::PutReply {
    h::PutReply {
        prev_kv: it.prev_kv.as_ref().map(pair),
    }
}

fn delete_reply(it: &rpc::DeleteRangeResponse) -> h::DeleteRangeReply {
    h::DeleteRangeReply {
        deleted: it.deleted,
        prev_kvs: it.prev_kvs.iter().map(pair).collect(),
    }
}

fn txn_reply(it: &rpc::TxnResponse) -> Option<h::TxnReply> {
    use rpc::response_op::Response;
    let one = |op: &rpc::ResponseOp| {
        Some(match op.response.as_ref()? {
            Response::ResponseRange(it) => h::Reply::Range(range_reply(it)),
            Response::ResponsePut(it) => h::Reply::Put(put_reply(it)),
            Response::ResponseDeleteRange(it) => h::Reply::DeleteRange(delete_reply(it)),
            Response::ResponseTxn(it) => h::Reply::Txn(txn_reply(it)?),
        })
    };
    Some(h::TxnReply {
        succeeded: it.succeeded,
        responses: it.responses.iter().map(one).collect::<Option<Vec<_>>>()?,
    })
}

/// A pair of the API.
pub fn pair(it: &mvccpb::KeyValue) -> h::KeyValue {
    h::KeyValue {
        key: text(&it.key),
        create_revision: it.create_revision,
        mod_revision: it.mod_revision,
        version: it.version,
        value: text(&it.value),
        lease: it.lease,
    }
}

fn text(bytes: &[u8]) -> h::Text {
    h::Text::from(bytes)
}
