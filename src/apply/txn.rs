//! Transactions: compares on the state before, checks of the chosen branches, then the operations.

use std::cmp::Ordering;

use super::{
    ApplyError, StateMachine,
    kv::{self, header},
};
use crate::{
    backend::Backend,
    kernel::{ApiError, PartedTxn, Response as Answer},
    lease::Lessor,
    mutant,
    mvcc::{RangeQuery, WriteTxn},
    pb::{
        etcdserverpb::{
            Compare, RangeRequest, RequestOp, ResponseOp, TxnRequest, TxnResponse,
            compare::{CompareResult, CompareTarget, TargetUnion},
            request_op::Request,
            response_op::Response,
        },
        mvccpb::{Event, KeyValue},
    },
};

/// The branches that the compares chose: one for the transaction itself and, depth first, one for
/// each nested transaction that will run. All compares see the state before the first write.
struct Path {
    taken: Vec<bool>,
    next: usize,
}

impl Path {
    fn take(&mut self) -> bool {
        let branch = self.taken[self.next];
        self.next += 1;
        branch
    }
}

/// Whether a transaction consists of ranges alone. Nested transactions always count as writes.
pub fn is_read_only(txn: &TxnRequest) -> bool {
    operations(txn).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether a read-only transaction may be answered from local state: it has ranges, and all of them
/// are serializable. One with compares and no operation is linearizable here, unlike in etcd, where
/// its compares may be stale.
pub fn is_serializable(txn: &TxnRequest) -> bool {
    let mut any = false;
    let all = operations(txn).all(|op| {
        any = true;
        matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable)
    });
    all && any
}

fn operations(txn: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    txn.success.iter().chain(&txn.failure)
}

impl<B: Backend> StateMachine<B> {
    /// Runs a transaction that writes.
    pub(super) fn txn(
        &mut self,
        mut request: TxnRequest,
        revisions: &mut Vec<(i64, Vec<Event>)>,
    ) -> Result<PartedTxn, ApplyError> {
        let mut path = self.checked_path(&request)?;
        let mut txn = self.store.write(&mut self.view);
        let outcome = execute(&mut txn, &mut self.lessor, &mut request, &mut path);
        if outcome.is_ok() || mutant!("failed-txn-keeps-its-start") {
            kv::commit(txn, revisions);
        }
        outcome
    }

    /// Whether the compares hold at this moment.
    pub fn foresees(&self, request: &TxnRequest) -> bool {
        self.checked_path(request).is_ok_and(|path| path.taken[0])
    }

    /// A planted bug: the compares were decided when the transaction was proposed.
    pub(super) fn txn_as_foreseen(
        &mut self,
        mut request: TxnRequest,
        holds: bool,
        revisions: &mut Vec<(i64, Vec<Event>)>,
    ) -> Result<PartedTxn, ApplyError> {
        request.compare.clear();
        if !holds {
            request.success = std::mem::take(&mut request.failure);
        }
        let mut response = self.txn(request, revisions)?;
        response.rest.succeeded = holds;
        Ok(response)
    }

    /// Runs a transaction of ranges alone.
    pub fn read_txn(&self, request: &TxnRequest) -> Result<Answer, ApplyError> {
        let mut path = self.checked_path(request)?;
        let succeeded = path.take();
        let branch = if succeeded {
            &request.success
        } else {
            &request.failure
        };
        let mut answer = begun(branch.len());
        for op in branch {
            let Some(Request::RequestRange(range)) = &op.request else {
                unreachable!("a transaction with another operation is not read-only")
            };
            if kv::is_parted(range) {
                let read = |query: &RangeQuery<'_>| Ok(self.store.walked(&self.view, query)?);
                answer.push_range(kv::parted_of(range, read)?);
                continue;
            }
            answer.push(ResponseOp {
                response: Some(Response::ResponseRange(self.range(range)?)),
            });
        }
        answer.rest.header = header(self.store.revision());
        answer.rest.succeeded = succeeded;
        Ok(answered(answer))
    }

    /// Chooses the branches, then refuses what would fail in them, before anything is written.
    fn checked_path(&self, request: &TxnRequest) -> Result<Path, ApplyError> {
        let mut taken = Vec::new();
        self.choose(request, &mut taken)?;
        let mut path = Path { taken, next: 0 };
        if !mutant!("failed-txn-keeps-its-start") {
            self.check(request, &mut path)?;
        }
        path.next = 0;
        Ok(path)
    }

    fn choose(&self, request: &TxnRequest, taken: &mut Vec<bool>) -> Result<(), ApplyError> {
        let mut succeeded = true;
        for compare in &request.compare {
            if !self.holds(compare)? {
                succeeded = false;
                break;
            }
        }
        taken.push(succeeded);
        let branch = if succeeded {
            &request.success
        } else {
            &request.failure
        };
        for op in branch {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                self.choose(nested, taken)?;
            }
        }
        Ok(())
    }

    fn check(&self, request: &TxnRequest, path: &mut Path) -> Result<(), ApplyError> {
        let branch = if path.take() {
            &request.success
        } else {
            &request.failure
        };
        for op in branch {
            match &op.request {
                Some(Request::RequestRange(range)) => self.check_range(range)?,
                Some(Request::RequestPut(put)) => {
                    kv::check_lease(&self.lessor, put)?;
                    kv::check_previous_in_store(&self.store, put)?;
                }
                Some(Request::RequestTxn(nested)) => self.check(nested, path)?,
                Some(Request::RequestDeleteRange(_)) | None => {}
            }
        }
        Ok(())
    }

    fn check_range(&self, range: &RangeRequest) -> Result<(), ApiError> {
        if range.revision == 0 {
            Ok(())
        } else if range.revision > self.store.revision() {
            Err(ApiError::FutureRev)
        } else if range.revision < self.store.readable_from() {
            Err(ApiError::Compacted)
        } else {
            Ok(())
        }
    }

    /// Whether every key of the compare's range satisfies it. A missing key compares as zeros,
    /// except that no comparison of a missing value holds.
    fn holds(&self, compare: &Compare) -> Result<bool, ApplyError> {
        let query = RangeQuery {
            key: &compare.key,
            range_end: &compare.range_end,
            ..RangeQuery::default()
        };
        let kvs = self.store.range(&self.view, &query)?.kvs;
        if kvs.is_empty() && !mutant!("compare-of-nothing-holds") {
            let missing = KeyValue::default();
            return Ok(compare.target() != CompareTarget::Value && satisfies(compare, &missing));
        }
        Ok(kvs.iter().all(|kv| satisfies(compare, kv)))
    }
}

/// One comparison; an operand of another kind than the target counts as zero.
fn satisfies(compare: &Compare, kv: &KeyValue) -> bool {
    let operand = compare.target_union.as_ref();
    let number = |of: fn(&TargetUnion) -> Option<i64>| operand.and_then(of).unwrap_or(0);
    let Ok(target) = CompareTarget::try_from(compare.target) else {
        // A target nobody knows compares as equal, as in etcd.
        return matches!(
            CompareResult::try_from(compare.result),
            Ok(CompareResult::Equal) | Err(_)
        );
    };
    let order = match target {
        CompareTarget::Version => kv.version.cmp(&number(|operand| match operand {
            TargetUnion::Version(value) => Some(*value),
            _ => None,
        })),
        CompareTarget::Create => kv.create_revision.cmp(&number(|operand| match operand {
            TargetUnion::CreateRevision(value) => Some(*value),
            _ => None,
        })),
        CompareTarget::Mod => kv.mod_revision.cmp(&number(|operand| match operand {
            TargetUnion::ModRevision(value) => Some(*value),
            _ => None,
        })),
        CompareTarget::Lease => kv.lease.cmp(&number(|operand| match operand {
            TargetUnion::Lease(value) => Some(*value),
            _ => None,
        })),
        CompareTarget::Value => match operand {
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            _ => kv.value[..].cmp(&[]),
        },
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order == Ordering::Equal,
        Ok(CompareResult::NotEqual) => order != Ordering::Equal,
        Ok(CompareResult::Greater) => order == Ordering::Greater,
        Ok(CompareResult::Less) => order == Ordering::Less,
        // A comparison nobody knows holds, as in etcd.
        Err(_) => true,
    }
}

fn execute<B: Backend>(
    txn: &mut WriteTxn<'_, B>,
    lessor: &mut Lessor,
    request: &mut TxnRequest,
    path: &mut Path,
) -> Result<PartedTxn, ApplyError> {
    let succeeded = path.take();
    let branch = if succeeded || mutant!("else-runs-then") {
        &mut request.success
    } else {
        &mut request.failure
    };
    let mut answer = begun(branch.len());
    for op in branch.drain(..) {
        let response = match op.request {
            Some(Request::RequestRange(range)) if kv::is_parted(&range) => {
                let read = |query: &RangeQuery<'_>| Ok(txn.walked(query)?);
                answer.push_range(kv::parted_of(&range, read)?);
                continue;
            }
            Some(Request::RequestRange(range)) => {
                let read = |query: &RangeQuery<'_>| Ok(txn.range(query)?);
                Some(Response::ResponseRange(kv::range_of(&range, read)?))
            }
            Some(Request::RequestPut(put)) => {
                Some(Response::ResponsePut(kv::put_in(txn, lessor, put)?))
            }
            Some(Request::RequestDeleteRange(delete)) => Some(Response::ResponseDeleteRange(
                kv::delete_in(txn, lessor, &delete)?,
            )),
            Some(Request::RequestTxn(mut nested)) => {
                let mut response = execute(txn, lessor, &mut nested, path)?.joined();
                // Only the outermost answer carries a revision.
                response.header = header(0);
                Some(Response::ResponseTxn(response))
            }
            None => None,
        };
        answer.push(ResponseOp { response });
    }
    answer.rest.header = header(txn.revision_seen());
    answer.rest.succeeded = succeeded;
    Ok(answer)
}

/// An answer with room for so many responses.
fn begun(responses: usize) -> PartedTxn {
    PartedTxn {
        rest: TxnResponse {
            responses: Vec::with_capacity(responses),
            ..TxnResponse::default()
        },
        records: Vec::with_capacity(responses),
    }
}

/// The answer as it is sent: plain, unless a range in it was read in parts.
pub(super) fn answered(answer: PartedTxn) -> Answer {
    match answer.is_parted() {
        true => Answer::PartedTxn(answer),
        false => Answer::Txn(answer.rest),
    }
}
