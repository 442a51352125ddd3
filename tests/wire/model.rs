//! Random requests against one server and against the simplest possible store.
//!
//! Goal: full responses are equal: keys, values, all counters, order, `more`, `count`, revisions,
//! errors with code and text. Method: few keys, so that everything meets everything; the model
//! keeps a whole map of keys per revision and sorts, filters and cuts plain vectors.

mod generate;
mod store;

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

use self::{
    generate::{some_call, some_put},
    store::Model,
};
use super::server::{Client, Server, told};

type Refusal = (Code, String);
type Keys = BTreeMap<Bytes, KeyValue>;
/// The keys a branch puts, and the spans it deletes.
type Changes = (BTreeSet<Bytes>, Vec<(Bytes, Bytes)>);

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
            if let Some(TargetUnion::CreateRevision(number) | TargetUnion::ModRevision(number)) =
                &mut compare.target_union
            {
                self.up(number);
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
