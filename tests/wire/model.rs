//! Random requests against one server and against the simplest possible store.
//!
//! Goal: full responses are equal: keys, values, all counters, order, `more`, `count`, revisions,
//! errors with code and text. Method: few keys, so that everything meets everything; the model
//! keeps a whole map of keys per revision and sorts, filters and cuts plain vectors.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fated::pb::{
    etcdserverpb::{
        CompactionRequest, CompactionResponse, Compare, DeleteRangeRequest, DeleteRangeResponse,
        PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseHeader,
        ResponseOp, TxnRequest, TxnResponse, compare::TargetUnion, request_op::Request as Op,
        response_op::Response as Said,
    },
    mvccpb::KeyValue,
};
use proptest::{
    collection::vec,
    option::weighted,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tonic::Code;

use super::server::{Client, Server, told};

type Refusal = (Code, String);
type Keys = BTreeMap<Bytes, KeyValue>;

#[derive(Clone, Debug)]
enum Call {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
}

#[derive(Clone, PartialEq, Debug)]
enum Reply {
    Range(RangeResponse),
    Put(PutResponse),
    Delete(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
}

/// The store: all keys as they were after each revision. Revisions before `compacted` are refused.
struct Model {
    past: Vec<Keys>,
    compacted: i64,
}

/// A write under way: the keys as they will be, and what was changed so far.
struct Write {
    keys: Keys,
    revision: i64,
    changed: bool,
}

fn refused(code: Code, text: &str) -> Refusal {
    (code, format!("etcdserver: {text}"))
}

fn future() -> Refusal {
    refused(
        Code::OutOfRange,
        "mvcc: required revision is a future revision",
    )
}

fn compacted() -> Refusal {
    refused(
        Code::OutOfRange,
        "mvcc: required revision has been compacted",
    )
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..Default::default()
    })
}

fn within(key: &[u8], begin: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == begin,
        [0] => key >= begin,
        _ => key >= begin && key < end,
    }
}

/// What of these keys a range shows, once the revision is settled.
fn show(keys: &Keys, request: &RangeRequest, revision: i64) -> RangeResponse {
    let inside = |key: &Bytes| within(key, &request.key, &request.range_end);
    let mut kvs: Vec<KeyValue> = keys
        .iter()
        .filter(|(key, _)| inside(key))
        .map(|(_, kv)| kv.clone())
        .collect();
    let count = i64::try_from(kvs.len()).expect("few");
    if request.count_only {
        return RangeResponse {
            header: header(revision),
            count,
            ..Default::default()
        };
    }
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let filtered = request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    // Without an order, what lies beyond the limit is not even looked at, whatever the target.
    if request.sort_order == 0 && !filtered && limit > 0 {
        kvs.truncate(limit.saturating_add(1));
    }
    let between =
        |it: i64, low: i64, high: i64| (low == 0 || it >= low) && (high == 0 || it <= high);
    kvs.retain(|kv| {
        between(
            kv.mod_revision,
            request.min_mod_revision,
            request.max_mod_revision,
        ) && between(
            kv.create_revision,
            request.min_create_revision,
            request.max_create_revision,
        )
    });
    let number = |kv: &KeyValue| match request.sort_target {
        1 => kv.version,
        2 => kv.create_revision,
        3 => kv.mod_revision,
        _ => 0,
    };
    let bytes = |kv: &KeyValue| match request.sort_target {
        0 => kv.key.clone(),
        4 => kv.value.clone(),
        _ => Bytes::new(),
    };
    // Equals keep the order of their keys, in both directions.
    kvs.sort_by(|one, two| {
        let order = (number(one), bytes(one)).cmp(&(number(two), bytes(two)));
        if request.sort_order == 2 {
            order.reverse()
        } else {
            order
        }
    });
    let more = limit > 0 && kvs.len() > limit;
    if more {
        kvs.truncate(limit);
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    RangeResponse {
        header: header(revision),
        kvs,
        more,
        count,
    }
}

fn holds(keys: &Keys, compare: &Compare) -> bool {
    let inside = |key: &Bytes| within(key, &compare.key, &compare.range_end);
    let found: Vec<&KeyValue> = keys
        .iter()
        .filter(|(key, _)| inside(key))
        .map(|(_, kv)| kv)
        .collect();
    let nothing = KeyValue::default();
    let by_value = compare.target == 3;
    let kvs = match (found.is_empty(), by_value) {
        (true, true) => return false,
        (true, false) => vec![&nothing],
        (false, _) => found,
    };
    kvs.into_iter().all(|kv| {
        let order = match &compare.target_union {
            Some(TargetUnion::Version(number)) => kv.version.cmp(number),
            Some(TargetUnion::CreateRevision(number)) => kv.create_revision.cmp(number),
            Some(TargetUnion::ModRevision(number)) => kv.mod_revision.cmp(number),
            Some(TargetUnion::Lease(number)) => kv.lease.cmp(number),
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            None => panic!("every generated compare has an operand"),
        };
        match compare.result {
            0 => order.is_eq(),
            1 => order.is_gt(),
            2 => order.is_lt(),
            _ => order.is_ne(),
        }
    })
}

/// What a branch puts and deletes, deletes as they are written; an error where both can meet.
fn conflicts(ops: &[RequestOp]) -> Result<(BTreeSet<Bytes>, Vec<(Bytes, Bytes)>), Refusal> {
    let duplicate = || refused(Code::InvalidArgument, "duplicate key given in txn request");
    // The check takes an end of one zero byte literally.
    let covers = |deletes: &[(Bytes, Bytes)], key: &Bytes| {
        deletes.iter().any(|(begin, end)| {
            if end.is_empty() {
                key == begin
            } else {
                key >= begin && key < end
            }
        })
    };
    let mut puts = BTreeSet::new();
    let mut deletes: Vec<(Bytes, Bytes)> = Vec::new();
    for op in ops {
        if let Some(Op::RequestDeleteRange(delete)) = &op.request {
            deletes.push((delete.key.clone(), delete.range_end.clone()));
        }
    }
    for op in ops {
        let Some(Op::RequestTxn(txn)) = &op.request else {
            continue;
        };
        let (then, then_deletes) = conflicts(&txn.success)?;
        let (otherwise, otherwise_deletes) = conflicts(&txn.failure)?;
        for key in then.union(&otherwise) {
            if puts.contains(key) || covers(&deletes, key) {
                return Err(duplicate());
            }
        }
        puts.extend(then);
        puts.extend(otherwise);
        deletes.extend(then_deletes);
        deletes.extend(otherwise_deletes);
    }
    for op in ops {
        if let Some(Op::RequestPut(put)) = &op.request
            && (covers(&deletes, &put.key) || !puts.insert(put.key.clone()))
        {
            return Err(duplicate());
        }
    }
    Ok((puts, deletes))
}

impl Model {
    fn current(&self) -> i64 {
        i64::try_from(self.past.len()).expect("few") - 1
    }

    fn keys(&self) -> &Keys {
        self.past.last().expect("there is always a present")
    }

    fn at(&self, revision: i64) -> &Keys {
        &self.past[usize::try_from(revision).expect("checked")]
    }

    fn write(&self) -> Write {
        Write {
            keys: self.keys().clone(),
            revision: self.current() + 1,
            changed: false,
        }
    }

    fn end(&mut self, write: Write) {
        if write.changed {
            self.past.push(write.keys);
        }
    }

    fn call(&mut self, call: &Call) -> Result<Reply, Refusal> {
        match call {
            Call::Range(request) => self.range(request).map(Reply::Range),
            Call::Put(request) => {
                self.may_put(request)?;
                let mut write = self.write();
                let reply = write.put(request);
                self.end(write);
                Ok(Reply::Put(reply))
            }
            Call::Delete(request) => {
                let mut write = self.write();
                let reply = write.delete(request);
                self.end(write);
                Ok(Reply::Delete(reply))
            }
            Call::Txn(request) => self.txn(request).map(Reply::Txn),
            Call::Compact(request) => {
                if request.revision <= self.compacted {
                    return Err(compacted());
                }
                if request.revision > self.current() {
                    return Err(future());
                }
                self.compacted = request.revision;
                let header = header(self.current());
                Ok(Reply::Compact(CompactionResponse { header }))
            }
        }
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Refusal> {
        let revision = request.revision;
        if revision > self.current() {
            return Err(future());
        }
        let keys = if revision <= 0 {
            self.keys()
        } else {
            self.at(revision)
        };
        if revision > 0 && revision < self.compacted {
            return Err(compacted());
        }
        Ok(show(keys, request, self.current()))
    }

    fn may_put(&self, request: &PutRequest) -> Result<(), Refusal> {
        let keeps = request.ignore_value || request.ignore_lease;
        if keeps && !self.keys().contains_key(&request.key) {
            return Err(refused(Code::InvalidArgument, "key not found"));
        }
        Ok(())
    }

    fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Refusal> {
        conflicts(&request.success)?;
        conflicts(&request.failure)?;
        self.may_txn(request)?;
        let mut write = self.write();
        let before = self.keys().clone();
        let mut reply = write.txn(self, &before, request);
        let revision = write.seen();
        reply.header = header(revision);
        self.end(write);
        Ok(reply)
    }

    fn branch<'a>(keys: &Keys, request: &'a TxnRequest) -> (bool, &'a [RequestOp]) {
        let succeeded = request.compare.iter().all(|compare| holds(keys, compare));
        let branch = if succeeded {
            &request.success
        } else {
            &request.failure
        };
        (succeeded, branch)
    }

    /// Everything is checked on the state before, in the order of the operations that will run.
    fn may_txn(&self, request: &TxnRequest) -> Result<(), Refusal> {
        for op in Self::branch(self.keys(), request).1 {
            match op
                .request
                .as_ref()
                .expect("every generated operation is one")
            {
                Op::RequestRange(range) if range.revision == 0 => {}
                Op::RequestRange(range) if range.revision > self.current() => {
                    return Err(future());
                }
                Op::RequestRange(range) if range.revision < self.compacted => {
                    return Err(compacted());
                }
                Op::RequestRange(_) | Op::RequestDeleteRange(_) => {}
                Op::RequestPut(put) => self.may_put(put)?,
                Op::RequestTxn(txn) => self.may_txn(txn)?,
            }
        }
        Ok(())
    }
}

impl Write {
    /// The revision a reader within sees.
    fn seen(&self) -> i64 {
        if self.changed {
            self.revision
        } else {
            self.revision - 1
        }
    }

    fn put(&mut self, request: &PutRequest) -> PutResponse {
        let previous = self.keys.get(&request.key).cloned();
        let (created, version) = match &previous {
            Some(kv) => (kv.create_revision, kv.version),
            None => (self.revision, 0),
        };
        let kept = previous.as_ref().filter(|_| request.ignore_value);
        let kv = KeyValue {
            key: request.key.clone(),
            value: kept.map_or(request.value.clone(), |kv| kv.value.clone()),
            create_revision: created,
            mod_revision: self.revision,
            version: version + 1,
            lease: 0,
        };
        self.keys.insert(request.key.clone(), kv);
        self.changed = true;
        PutResponse {
            header: header(self.revision),
            prev_kv: previous.filter(|_| request.prev_kv),
        }
    }

    fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let inside = |key: &Bytes| within(key, &request.key, &request.range_end);
        let gone: Vec<KeyValue> = self
            .keys
            .iter()
            .filter(|(key, _)| inside(key))
            .map(|(_, kv)| kv.clone())
            .collect();
        for kv in &gone {
            self.keys.remove(&kv.key);
            self.changed = true;
        }
        DeleteRangeResponse {
            header: header(self.seen()),
            deleted: i64::try_from(gone.len()).expect("few"),
            prev_kvs: if request.prev_kv { gone } else { Vec::new() },
        }
    }

    fn txn(&mut self, model: &Model, before: &Keys, request: &TxnRequest) -> TxnResponse {
        let (succeeded, branch) = Model::branch(before, request);
        let mut responses = Vec::new();
        for op in branch {
            let said = match op
                .request
                .as_ref()
                .expect("every generated operation is one")
            {
                Op::RequestRange(range) => {
                    let past = range.revision > 0 && range.revision < self.revision;
                    let keys = if past {
                        model.at(range.revision)
                    } else {
                        &self.keys
                    };
                    Said::ResponseRange(show(keys, range, self.seen()))
                }
                Op::RequestPut(put) => Said::ResponsePut(self.put(put)),
                Op::RequestDeleteRange(delete) => Said::ResponseDeleteRange(self.delete(delete)),
                Op::RequestTxn(txn) => Said::ResponseTxn(self.txn(model, before, txn)),
            };
            responses.push(ResponseOp {
                response: Some(said),
            });
        }
        TxnResponse {
            // Only the outermost answer carries a revision.
            header: header(0),
            succeeded,
            responses,
        }
    }
}

// ---- what is generated: revisions are offsets, made real when the state is known ----

/// Six different ones: Go's sort keeps equal elements in order only when they are that few.
const KEYS: [&str; 8] = ["a", "a", "a", "aa", "b", "c", "c\0", "\u{ff}"];
const ENDS: [&str; 9] = ["", "", "\0", "\0", "b", "bb", "c", "d", "z"];

fn some_key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(&KEYS[..]).prop_map(|key| Bytes::from_static(key.as_bytes()))
}

fn some_end() -> impl Strategy<Value = Bytes> {
    prop::sample::select(&ENDS[..]).prop_map(|end| Bytes::from_static(end.as_bytes()))
}

fn some_value() -> impl Strategy<Value = Bytes> {
    prop::sample::select(&["", "x", "y", "zz"][..])
        .prop_map(|value| Bytes::from_static(value.as_bytes()))
}

/// Half of the ranges show off every option, the other half can show much: all keys, few filters.
fn some_range() -> impl Strategy<Value = RangeRequest> {
    prop_oneof![
        any_range(),
        any_range().prop_map(|range| RangeRequest {
            key: "a".into(),
            range_end: "\0".into(),
            revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
            count_only: false,
            ..range
        }),
    ]
}

fn any_range() -> impl Strategy<Value = RangeRequest> {
    let place = (some_key(), some_end(), weighted(0.3, -4..14_i64));
    let order = (0..3_i32, 0..5_i32, weighted(0.5, -1..5_i64));
    let bound = || weighted(0.1, -1..14_i64).prop_map(|bound| bound.unwrap_or(0));
    let bounds = (bound(), bound(), bound(), bound());
    let flags = (
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.15),
    );
    (place, order, bounds, flags).prop_map(|(place, order, bounds, flags)| RangeRequest {
        key: place.0,
        range_end: place.1,
        revision: place.2.unwrap_or(0),
        sort_order: order.0,
        sort_target: order.1,
        limit: order.2.unwrap_or(0),
        min_mod_revision: bounds.0,
        max_mod_revision: bounds.1,
        min_create_revision: bounds.2,
        max_create_revision: bounds.3,
        serializable: flags.0,
        keys_only: flags.1,
        count_only: flags.2,
    })
}

fn some_put() -> impl Strategy<Value = PutRequest> {
    let flags = (
        any::<bool>(),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    );
    (some_key(), some_value(), flags).prop_map(|(key, value, flags)| PutRequest {
        key,
        value: if flags.1 { Bytes::new() } else { value },
        lease: 0,
        prev_kv: flags.0,
        ignore_value: flags.1,
        ignore_lease: flags.2,
    })
}

fn some_delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (some_key(), some_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| {
        DeleteRangeRequest {
            key,
            range_end,
            prev_kv,
        }
    })
}

fn some_compare() -> impl Strategy<Value = Compare> {
    let operand = (0..5_i32, 0..14_i64, some_value());
    let place = (
        some_key(),
        prop_oneof![3 => Just(Bytes::new()), 2 => some_end()],
    );
    (place, 0..4_i32, operand).prop_map(|((key, range_end), result, (target, number, value))| {
        let operand = match target {
            0 => TargetUnion::Version(number % 4),
            1 => TargetUnion::CreateRevision(number),
            2 => TargetUnion::ModRevision(number),
            3 => TargetUnion::Value(value),
            _ => TargetUnion::Lease(number % 2),
        };
        Compare {
            key,
            range_end,
            result,
            target,
            target_union: Some(operand),
        }
    })
}

fn some_txn() -> impl Strategy<Value = TxnRequest> {
    let plain = prop_oneof![
        4 => some_range().prop_map(Op::RequestRange),
        4 => some_put().prop_map(Op::RequestPut),
        2 => some_delete().prop_map(Op::RequestDeleteRange),
    ];
    let op = plain.prop_recursive(2, 12, 3, |inner| txn_of(inner).prop_map(Op::RequestTxn));
    txn_of(op)
}

fn txn_of(op: impl Strategy<Value = Op> + Clone + 'static) -> impl Strategy<Value = TxnRequest> {
    let branch = move || {
        let op = op.clone().prop_map(|request| RequestOp {
            request: Some(request),
        });
        vec(op, 0..4)
    };
    (vec(some_compare(), 0..3), branch(), branch()).prop_map(|(compare, success, failure)| {
        TxnRequest {
            compare,
            success,
            failure,
        }
    })
}

fn some_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        8 => some_range().prop_map(Call::Range),
        8 => some_put().prop_map(Call::Put),
        3 => some_delete().prop_map(Call::Delete),
        8 => some_txn().prop_map(Call::Txn),
        1 => (-2..12_i64, any::<bool>()).prop_map(|(revision, physical)| {
            Call::Compact(CompactionRequest { revision, physical })
        }),
    ]
}

// ---- the comparison ----

/// The server has a past from earlier cases: revisions of this case begin behind it.
struct Shift {
    base: i64,
    rounds: u32,
    /// Before 3.6 the checks of a transaction look at all puts first, so of several errors another
    /// one is told.
    strict: bool,
}

impl Shift {
    fn up(&self, revision: &mut i64) {
        // Small numbers stay what they are: zero and below mean something of their own.
        if *revision > 0 {
            *revision += self.base;
        }
    }

    fn range(&self, range: &mut RangeRequest) {
        self.up(&mut range.revision);
        self.up(&mut range.min_mod_revision);
        self.up(&mut range.max_mod_revision);
        self.up(&mut range.min_create_revision);
        self.up(&mut range.max_create_revision);
    }

    fn txn(&self, txn: &mut TxnRequest) {
        for compare in &mut txn.compare {
            match &mut compare.target_union {
                Some(TargetUnion::CreateRevision(number) | TargetUnion::ModRevision(number)) => {
                    self.up(number);
                }
                _ => {}
            }
        }
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            match &mut op.request {
                Some(Op::RequestRange(range)) => self.range(range),
                Some(Op::RequestTxn(txn)) => self.txn(txn),
                _ => {}
            }
        }
    }

    fn call(&self, call: &mut Call) {
        match call {
            Call::Range(range) => self.range(range),
            Call::Txn(txn) => self.txn(txn),
            Call::Compact(compact) => self.up(&mut compact.revision),
            Call::Put(_) | Call::Delete(_) => {}
        }
    }
}

async fn ask(client: &mut Client, call: &Call) -> Result<Reply, Refusal> {
    let kv = &mut client.kv;
    let reply = match call.clone() {
        Call::Range(request) => kv
            .range(request)
            .await
            .map(|it| Reply::Range(it.into_inner())),
        Call::Put(request) => kv.put(request).await.map(|it| Reply::Put(it.into_inner())),
        Call::Delete(request) => kv
            .delete_range(request)
            .await
            .map(|it| Reply::Delete(it.into_inner())),
        Call::Txn(request) => kv.txn(request).await.map(|it| Reply::Txn(it.into_inner())),
        Call::Compact(request) => kv
            .compact(request)
            .await
            .map(|it| Reply::Compact(it.into_inner())),
    };
    reply.map(bare).map_err(|status| told(&status))
}

/// The outermost header names cluster, member and term, which the model does not have.
fn bare(mut reply: Reply) -> Reply {
    let header = match &mut reply {
        Reply::Range(reply) => &mut reply.header,
        Reply::Put(reply) => &mut reply.header,
        Reply::Delete(reply) => &mut reply.header,
        Reply::Txn(reply) => &mut reply.header,
        Reply::Compact(reply) => &mut reply.header,
    };
    let full = header.as_mut().expect("every answer has a header");
    assert!(
        full.cluster_id != 0 && full.member_id != 0 && full.raft_term != 0,
        "{full:?}"
    );
    full.cluster_id = 0;
    full.member_id = 0;
    full.raft_term = 0;
    reply
}

/// Empties the store and forgets its past, so that a case begins on known ground.
async fn begin(client: &mut Client, strict: bool) -> (Model, Shift) {
    let all = DeleteRangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        prev_kv: false,
    };
    client.put("x", "something to delete").await.expect("a put");
    let deleted = client
        .kv
        .delete_range(all)
        .await
        .expect("a delete")
        .into_inner();
    let base = deleted.header.expect("a header").revision;
    let request = CompactionRequest {
        revision: base,
        physical: false,
    };
    client.kv.compact(request).await.expect("a compaction");
    let past = vec![Keys::new(); usize::try_from(base).expect("small") + 1];
    let model = Model {
        past,
        compacted: base,
    };
    let shift = Shift {
        base,
        rounds: 0,
        strict,
    };
    (model, shift)
}

async fn run_case(
    client: &mut Client,
    strict: bool,
    calls: Vec<Call>,
) -> Result<(), TestCaseError> {
    let (mut model, mut shift) = begin(client, strict).await;
    for mut call in calls {
        shift.call(&mut call);
        shift.rounds += 1;
        let expected = model.call(&call);
        let got = ask(client, &call).await;
        if !shift.strict && expected.is_err() && got.is_err() {
            continue;
        }
        prop_assert_eq!(got, expected, "call {} was {:?}", shift.rounds, call);
    }
    Ok(())
}

#[test]
fn every_response_is_the_models() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let (mut server, client, strict) = runtime.block_on(async {
        let server = Server::start().await;
        let client = server.connect().await;
        let strict = server.version().await >= (3, 6);
        (server, client, strict)
    });
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(64),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let first = vec(some_put().prop_map(Call::Put), 0..10);
    let calls = (first, vec(some_call(), 1..40)).prop_map(|(first, then)| [first, then].concat());
    let result = runner.run(&calls, |calls| {
        runtime.block_on(run_case(&mut client.clone(), strict, calls))
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    runtime.block_on(server.assert_healthy("random requests"));
}
