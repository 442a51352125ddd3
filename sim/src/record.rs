//! What clients of a run saw, in the format that the judges read.

use std::collections::{BTreeMap, BTreeSet};

use fated::{
    kernel::{ApiError, Request, Response},
    pb::{
        etcdserverpb as rpc,
        fated::command::{Command, LeaseRevoke, command},
        mvccpb,
    },
    raft::{Entry, EntryKind},
};
use prost::Message;

use crate::{
    client::{Operation, Outcome},
    counters::Counters,
    history as h,
    work::requests::NEVER_PREFIX,
};

mod space;

/// The client by whose name members compact.
const MEMBERS: u64 = 1 << 32;

/// The committed log, and whose each write was: every write carries something that no other does.
///
/// Compactions, grants and revocations do not. One that changed something is taken for the one
/// that was answered well, one that did not for one that was refused, and else either for one that
/// nobody knows about. Clients see to it that this decides: see `work::leases`.
pub fn commits<'a>(
    log: impl Iterator<Item = &'a (u64, Entry)>,
    operations: &[h::Operation],
    own: &BTreeMap<u64, u64>,
) -> (Vec<h::Commit>, u64) {
    let mut owners = Owners::new(operations);
    let mut alarms = space::Alarms::default();
    let mut refused = 0;
    let mut lives = Lives::default();
    let mut compacted = 0;
    let mut commits = Vec::new();
    for (time, entry) in log.filter(|(_, entry)| is_command(entry)) {
        let command = Command::decode(entry.data.clone()).expect("members propose commands");
        let Some(body) = command.body else { continue };
        alarms.on_entry(command.request_id, &body);
        if alarms.refuse(&body) {
            refused += 1;
            continue;
        }
        let mut push = |op, request| {
            commits.push(h::Commit {
                index: entry.id.index.get(),
                op,
                time: Some(*time),
                request,
            });
        };
        if let command::Body::LeaseRevoke(revoke) = &body {
            for id in lives.ended_by(revoke) {
                let moves = lives.end(id);
                let request = h::Request::LeaseRevoke(h::LeaseRequest { id });
                let op = match revoke.expired {
                    true => None,
                    false => owners.take(&request, moves, *time),
                };
                push(op, request);
            }
            continue;
        }
        let Some(request) = self::body(body) else {
            continue;
        };
        let moves = match &request {
            h::Request::Compact(compact) => {
                let moves = compact.revision > compacted;
                compacted = compacted.max(compact.revision);
                moves
            }
            h::Request::LeaseGrant(grant) => lives.begin(grant.id, entry.id.index.get()),
            _ => true,
        };
        let op = match own.get(&entry.id.index.get()) {
            Some(own) => Some(*own),
            None => owners.take(&request, moves, *time),
        };
        push(op, request);
    }
    (commits, refused)
}

/// Compactions by the clock become operations whose outcome nobody heard, so that the judges know
/// whom to ask. Answers which operation stands for which entry.
pub fn by_the_clock<'a>(
    log: impl Iterator<Item = &'a (u64, Entry)>,
    operations: &mut Vec<h::Operation>,
) -> BTreeMap<u64, u64> {
    let mut own = BTreeMap::new();
    for (time, entry) in log.filter(|(_, entry)| is_command(entry)) {
        let command = Command::decode(entry.data.clone()).expect("members propose commands");
        let Some(command::Body::Compact(compact)) = command.body else {
            continue;
        };
        if command.request_id != 0 {
            continue;
        }
        let id = operations.iter().map(|op| op.id).max().unwrap_or(0) + 1;
        own.insert(entry.id.index.get(), id);
        operations.push(h::Operation {
            id,
            client: MEMBERS,
            process: 0,
            call: time.saturating_sub(1),
            ret: None,
            endpoint: "members".to_owned(),
            request: h::Request::Compact(h::CompactRequest {
                revision: compact.revision,
                physical: false,
            }),
            outcome: h::Outcome::Unknown,
        });
    }
    own
}

/// What became of the writes whose clients never heard of it.
pub fn count_unknown(history: &h::History, counters: &mut Counters) {
    let commits = history.commits.iter();
    let applied: BTreeSet<u64> = commits.filter_map(|commit| commit.op).collect();
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

/// Which leases are there, and since which entry.
#[derive(Default)]
struct Lives(BTreeMap<i64, u64>);

impl Lives {
    /// Whether a grant makes a lease.
    fn begin(&mut self, id: i64, birth: u64) -> bool {
        if self.0.contains_key(&id) {
            return false;
        }
        self.0.insert(id, birth);
        true
    }

    /// Whether there was a lease to end.
    fn end(&mut self, id: i64) -> bool {
        self.0.remove(&id).is_some()
    }

    /// The leases that a revocation is about. One that the leader decided on passes over those
    /// that are gone or were granted anew since.
    fn ended_by(&self, revoke: &LeaseRevoke) -> Vec<i64> {
        if !revoke.expired {
            return revoke.ids.clone();
        }
        let both = revoke.ids.iter().zip(&revoke.births);
        let meant = both.filter(|(id, birth)| self.0.get(id) == Some(birth));
        meant.map(|(id, _)| *id).collect()
    }
}

/// Finds the operation of an entry.
struct Owners<'a> {
    marked: BTreeMap<h::Text, u64>,
    alike: BTreeMap<Alike, Candidates<'a>>,
    /// Grants whose id the cluster chose. It may choose one again when the lease is gone.
    chosen: BTreeMap<i64, Candidates<'a>>,
}

/// What entries without a mark are told apart by, as far as they can be.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Alike {
    Compact(i64),
    Grant(i64),
    Revoke(i64),
}

impl Alike {
    fn of(request: &h::Request) -> Option<Self> {
        match request {
            h::Request::Compact(compact) => Some(Self::Compact(compact.revision)),
            h::Request::LeaseGrant(grant) => Some(Self::Grant(grant.id)),
            h::Request::LeaseRevoke(revoke) => Some(Self::Revoke(revoke.id)),
            h::Request::Range(_)
            | h::Request::Put(_)
            | h::Request::DeleteRange(_)
            | h::Request::Txn(_)
            | h::Request::LeaseKeepAlive(_)
            | h::Request::LeaseTimeToLive(_)
            | h::Request::LeaseLeases => None,
        }
    }
}

impl<'a> Owners<'a> {
    fn new(operations: &'a [h::Operation]) -> Self {
        let mut owners = Self {
            marked: BTreeMap::new(),
            alike: BTreeMap::new(),
            chosen: BTreeMap::new(),
        };
        for op in operations.iter().filter(|op| op.client != MEMBERS) {
            if let h::Request::LeaseGrant(h::LeaseGrantRequest { id: 0, .. }) = &op.request {
                if let h::Outcome::Ok(response) = &op.outcome
                    && let h::Reply::LeaseGrant(lease) = &response.reply
                {
                    owners.chosen.entry(lease.id).or_default().done.push(op);
                }
            } else if let Some(alike) = Alike::of(&op.request) {
                let same = owners.alike.entry(alike).or_default();
                match &op.outcome {
                    h::Outcome::Ok(_) => same.done.push(op),
                    h::Outcome::Unknown => same.unknown.push(op),
                    h::Outcome::Failed(_) => same.refused.push(op),
                }
            } else if let Some(mark) = mark(&op.request) {
                owners.marked.insert(mark, op.id);
            }
        }
        owners
    }

    fn take(&mut self, request: &h::Request, moves: bool, time: u64) -> Option<u64> {
        let Some(alike) = Alike::of(request) else {
            return mark(request).and_then(|mark| self.marked.get(&mark).copied());
        };
        if let Alike::Grant(id) = alike
            && let Some(same) = self.chosen.get_mut(&id)
            && let Some(op) = same.take(moves, time)
        {
            return Some(op);
        }
        self.alike.get_mut(&alike)?.take(moves, time)
    }
}

fn is_command(entry: &Entry) -> bool {
    entry.kind == EntryKind::Normal && !entry.data.is_empty()
}

/// Operations that asked for the same.
#[derive(Default)]
struct Candidates<'a> {
    done: Vec<&'a h::Operation>,
    refused: Vec<&'a h::Operation>,
    unknown: Vec<&'a h::Operation>,
}

impl Candidates<'_> {
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

/// What no other write has: a value, the end of a range, or a condition.
fn mark(request: &h::Request) -> Option<h::Text> {
    let text = match request {
        h::Request::Put(put) => put.value.clone(),
        h::Request::DeleteRange(delete) => delete.range_end.clone(),
        h::Request::Txn(txn) => {
            let never = |one: &&h::Compare| one.key.bytes().starts_with(NEVER_PREFIX.as_bytes());
            return match txn.compare.iter().find(never) {
                Some(compare) => Some(compare.key.clone()),
                None => txn.success.iter().chain(&txn.failure).find_map(mark),
            };
        }
        h::Request::Range(_)
        | h::Request::Compact(_)
        | h::Request::LeaseGrant(_)
        | h::Request::LeaseRevoke(_)
        | h::Request::LeaseKeepAlive(_)
        | h::Request::LeaseTimeToLive(_)
        | h::Request::LeaseLeases => return None,
    };
    (!text.is_empty()).then_some(text)
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
        Body::LeaseGrant(it) => h::Request::LeaseGrant(h::LeaseGrantRequest {
            ttl: it.ttl,
            id: it.id,
        }),
        // A revocation may end several leases; whoever asks has taken it apart.
        Body::LeaseRevoke(_)
        | Body::LeaseCheckpoint(_)
        | Body::Alarm(_)
        | Body::MemberPublish(_)
        | Body::ClusterVersion(_)
        | Body::MembersSettled(_)
        | Body::Downgrade(_) => return None,
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
    let outcome = match (&operation.outcome, renewed(&operation.request)) {
        (Outcome::Open | Outcome::Unknown, _) => h::Outcome::Unknown,
        (Outcome::Refused, _) => return None,
        // The edge makes an answer of this, as etcd's does.
        (Outcome::Failed(ApiError::LeaseNotFound), Some(id)) => h::Outcome::Ok(h::Response {
            header: h::Header::default(),
            reply: h::Reply::LeaseKeepAlive(h::LeaseReply { id, ttl: 0 }),
        }),
        (Outcome::Failed(error), _) => h::Outcome::Failed(h::Failure {
            code: error.code() as u32,
            text: error.text().to_owned(),
        }),
        (Outcome::Ok(answer), _) => h::Outcome::Ok(response(answer)?),
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

/// The lease that a keep-alive is about.
fn renewed(request: &Request) -> Option<i64> {
    match request {
        Request::LeaseKeepAlive(request) => Some(request.id),
        _ => None,
    }
}

fn request(request: &Request) -> Option<h::Request> {
    Some(match request {
        Request::Range(it) => h::Request::Range(range(it)),
        Request::Put(it) => h::Request::Put(put(it)),
        Request::DeleteRange(it) => h::Request::DeleteRange(delete(it)),
        Request::Txn(it) => h::Request::Txn(txn(it)?),
        Request::Compact(it) => h::Request::Compact(h::CompactRequest {
            revision: it.revision,
            physical: it.physical,
        }),
        Request::LeaseGrant(it) => h::Request::LeaseGrant(h::LeaseGrantRequest {
            ttl: it.ttl,
            id: it.id,
        }),
        Request::LeaseRevoke(it) => h::Request::LeaseRevoke(h::LeaseRequest { id: it.id }),
        Request::LeaseKeepAlive(it) => h::Request::LeaseKeepAlive(h::LeaseRequest { id: it.id }),
        Request::LeaseTimeToLive(it) => h::Request::LeaseTimeToLive(h::LeaseTimeToLiveRequest {
            id: it.id,
            keys: it.keys,
        }),
        Request::LeaseLeases(_) => h::Request::LeaseLeases,
        _ => return None,
    })
}

fn range(it: &rpc::RangeRequest) -> h::RangeRequest {
    h::RangeRequest {
        key: text(&it.key),
        range_end: text(&it.range_end),
        limit: it.limit,
        revision: it.revision,
        sort_order: sort_order(it.sort_order()),
        sort_target: sort_target(it.sort_target()),
        serializable: it.serializable,
        keys_only: it.keys_only,
        count_only: it.count_only,
        min_mod_revision: it.min_mod_revision,
        max_mod_revision: it.max_mod_revision,
        min_create_revision: it.min_create_revision,
        max_create_revision: it.max_create_revision,
    }
}

fn sort_order(order: rpc::range_request::SortOrder) -> h::SortOrder {
    use rpc::range_request::SortOrder;
    match order {
        SortOrder::None => h::SortOrder::None,
        SortOrder::Ascend => h::SortOrder::Ascend,
        SortOrder::Descend => h::SortOrder::Descend,
    }
}

fn sort_target(target: rpc::range_request::SortTarget) -> h::SortTarget {
    use rpc::range_request::SortTarget;
    match target {
        SortTarget::Key => h::SortTarget::Key,
        SortTarget::Version => h::SortTarget::Version,
        SortTarget::Create => h::SortTarget::Create,
        SortTarget::Mod => h::SortTarget::Mod,
        SortTarget::Value => h::SortTarget::Value,
    }
}

fn put(it: &rpc::PutRequest) -> h::PutRequest {
    h::PutRequest {
        key: text(&it.key),
        value: text(&it.value),
        lease: it.lease,
        prev_kv: it.prev_kv,
        ignore_value: it.ignore_value,
        ignore_lease: it.ignore_lease,
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
        Response::LeaseGrant(it) => (
            &it.header,
            h::Reply::LeaseGrant(h::LeaseReply {
                id: it.id,
                ttl: it.ttl,
            }),
        ),
        Response::LeaseRevoke(it) => (&it.header, h::Reply::LeaseRevoke),
        Response::LeaseKeepAlive(it) => (
            &it.header,
            h::Reply::LeaseKeepAlive(h::LeaseReply {
                id: it.id,
                ttl: it.ttl,
            }),
        ),
        Response::LeaseTimeToLive(it) => (&it.header, time_to_live_reply(it)),
        Response::LeaseLeases(it) => (
            &it.header,
            h::Reply::LeaseLeases(h::LeaseLeasesReply {
                leases: it.leases.iter().map(|lease| lease.id).collect(),
            }),
        ),
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

fn time_to_live_reply(it: &rpc::LeaseTimeToLiveResponse) -> h::Reply {
    h::Reply::LeaseTimeToLive(h::LeaseTimeToLiveReply {
        id: it.id,
        ttl: it.ttl,
        granted_ttl: it.granted_ttl,
        keys: it.keys.iter().map(|key| text(key)).collect(),
    })
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
