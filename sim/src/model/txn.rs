//! Transactions: what they may hold, which lists they take, and that they are one change.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::{KeyRange, Model, Refusal, not_empty};
use crate::history::*;

/// What a txn alone forbids.
pub(super) fn check(model: &Model, txn: &TxnRequest) -> Result<(), Refusal> {
    check_lists(model, txn, model.txn_ops_max)?;
    written(&txn.success)?;
    written(&txn.failure)?;
    Ok(())
}

/// Nested txns share what their parent leaves of the budget.
fn check_lists(model: &Model, txn: &TxnRequest, budget: usize) -> Result<(), Refusal> {
    let used = txn
        .compare
        .len()
        .max(txn.success.len())
        .max(txn.failure.len());
    let rest = budget.checked_sub(used).ok_or(Refusal::TooManyOps)?;
    for compare in &txn.compare {
        not_empty(&compare.key)?;
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Request::Txn(inner) => check_lists(model, inner, rest)?,
            Request::Range(_)
            | Request::Put(_)
            | Request::DeleteRange(_)
            | Request::Compact(_)
            | Request::LeaseGrant(_)
            | Request::LeaseRevoke(_)
            | Request::LeaseKeepAlive(_)
            | Request::LeaseTimeToLive(_)
            | Request::LeaseLeases => model.check(op)?,
        }
    }
    Ok(())
}

/// The keys that a list puts and the ranges that it deletes, if they keep apart: no key may be put
/// twice, nor put and deleted. The two lists of an inner txn exclude each other and may overlap.
fn written(ops: &[Request]) -> Result<(BTreeSet<Text>, Vec<KeyRange>), Refusal> {
    let mut deletes = Vec::new();
    for op in ops {
        // etcd takes an open end by its letter here: a zero byte, before which no key lies. So a
        // delete of everything from a key on is not seen to overlap.
        if let Request::DeleteRange(delete) = op
            && delete.range_end.bytes() != [0]
        {
            deletes.push(KeyRange::new(&delete.key, &delete.range_end));
        }
    }
    let mut puts = BTreeSet::new();
    for op in ops {
        let Request::Txn(inner) = op else { continue };
        let (then_puts, then_deletes) = written(&inner.success)?;
        let (else_puts, else_deletes) = written(&inner.failure)?;
        for key in then_puts.union(&else_puts) {
            claim(key, &puts, &deletes)?;
        }
        puts.extend(then_puts.into_iter().chain(else_puts));
        deletes.extend(then_deletes.into_iter().chain(else_deletes));
    }
    for op in ops {
        let Request::Put(put) = op else { continue };
        claim(&put.key, &puts, &deletes)?;
        puts.insert(put.key.clone());
    }
    Ok((puts, deletes))
}

fn claim(key: &Text, puts: &BTreeSet<Text>, deletes: &[KeyRange]) -> Result<(), Refusal> {
    if puts.contains(key) || deletes.iter().any(|range| range.has(key)) {
        return Err(Refusal::DuplicateKey);
    }
    Ok(())
}

impl Model {
    /// Compares everything, nested txns too, before anything is written; then checks what would be
    /// done; then does it.
    pub(super) fn txn(&mut self, txn: &TxnRequest) -> Result<TxnReply, Refusal> {
        let mut branches = Vec::new();
        self.choose(txn, &mut branches);
        self.check_branches(txn, &mut branches.iter().copied());
        self.first_refusal()?;
        let revision = self.revision + 1;
        Ok(self.run(txn, &mut branches.into_iter(), revision))
    }

    /// The branch of this txn and of every inner one on the way, in the order they are met.
    fn choose(&self, txn: &TxnRequest, branches: &mut Vec<bool>) {
        let holds = txn.compare.iter().all(|compare| self.holds(compare));
        branches.push(holds);
        for op in branch(txn, holds) {
            if let Request::Txn(inner) = op {
                self.choose(inner, branches);
            }
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let range = KeyRange::new(&compare.key, &compare.range_end);
        let mut kvs = range.of(&self.kvs).peekable();
        if kvs.peek().is_some() {
            return kvs.all(|(_, kv)| pair_holds(kv, compare));
        }
        // A missing key compares as zeros, but has no value that anything could be compared with.
        match &compare.target {
            CompareTarget::Value(_) => false,
            CompareTarget::Version(_)
            | CompareTarget::Create(_)
            | CompareTarget::Mod(_)
            | CompareTarget::Lease(_) => pair_holds(&KeyValue::default(), compare),
        }
    }

    /// Collects what is wrong with the branches that were chosen.
    fn check_branches(&mut self, txn: &TxnRequest, branches: &mut dyn Iterator<Item = bool>) {
        let holds = branches.next().expect("a branch was chosen for every txn");
        for op in branch(txn, holds) {
            match op {
                Request::Range(range) => {
                    self.refusals
                        .extend(self.check_revision(range.revision).err());
                }
                // The refusals are collected; the first one found is only wanted outside of txns.
                Request::Put(put) => self.check_put(put).unwrap_or(()),
                Request::Txn(inner) => self.check_branches(inner, branches),
                Request::DeleteRange(_)
                | Request::Compact(_)
                | Request::LeaseGrant(_)
                | Request::LeaseRevoke(_)
                | Request::LeaseKeepAlive(_)
                | Request::LeaseTimeToLive(_)
                | Request::LeaseLeases => (),
            }
        }
    }

    fn run(
        &mut self,
        txn: &TxnRequest,
        branches: &mut dyn Iterator<Item = bool>,
        revision: i64,
    ) -> TxnReply {
        let succeeded = branches.next().expect("a branch was chosen for every txn");
        let mut responses = Vec::new();
        for op in branch(txn, succeeded) {
            responses.push(match op {
                Request::Range(range) => Reply::Range(self.range(range)),
                Request::Put(put) => Reply::Put(self.put(put, revision)),
                Request::DeleteRange(delete) => {
                    Reply::DeleteRange(self.delete_range(delete, revision))
                }
                Request::Txn(inner) => Reply::Txn(self.run(inner, branches, revision)),
                Request::Compact(_)
                | Request::LeaseGrant(_)
                | Request::LeaseRevoke(_)
                | Request::LeaseKeepAlive(_)
                | Request::LeaseTimeToLive(_)
                | Request::LeaseLeases => unreachable!("a reader refuses such a txn"),
            });
        }
        TxnReply {
            succeeded,
            responses,
        }
    }
}

fn branch(txn: &TxnRequest, holds: bool) -> &[Request] {
    if holds { &txn.success } else { &txn.failure }
}

fn pair_holds(kv: &KeyValue, compare: &Compare) -> bool {
    let order = match &compare.target {
        CompareTarget::Version(version) => kv.version.cmp(version),
        CompareTarget::Create(revision) => kv.create_revision.cmp(revision),
        CompareTarget::Mod(revision) => kv.mod_revision.cmp(revision),
        CompareTarget::Value(value) => kv.value.cmp(value),
        CompareTarget::Lease(lease) => kv.lease.cmp(lease),
    };
    match compare.result {
        CompareResult::Equal => order == Ordering::Equal,
        CompareResult::NotEqual => order != Ordering::Equal,
        CompareResult::Greater => order == Ordering::Greater,
        CompareResult::Less => order == Ordering::Less,
    }
}
