//! The search without any guidance: every open operation is tried everywhere. It shares nothing
//! with the guided search but the model, so that an error in one of them shows as a difference.
//! Only for short histories: the number of ways grows with every unknown outcome.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Serialize;

use super::prepare::{Kind, Op, Prepared, broken};
use super::{Guarantee, Options, Violation};
use crate::history::*;
use crate::model::{Model, agrees};

/// Steps after which this search gives up.
const STEPS_MAX: u64 = 1_000_000;

/// What this search came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was not asked.
    #[default]
    NotRun,
    /// There is an order.
    Ordered,
    /// There is none.
    Refuted,
    /// Too many ways. The guided search stands alone then; it must decide in any case.
    GaveUp,
}

/// Searches for any order; a violation if there is none.
pub fn search(prepared: &Prepared<'_>, options: &Options) -> (Verdict, Option<Violation>) {
    let ops: Vec<&Op<'_>> = prepared
        .ops
        .iter()
        .filter(|op| op.kind != Kind::Aside)
        .collect();
    let mut search = Search {
        model: Model::new(&prepared.history.meta),
        left: (0..ops.len()).collect(),
        ops,
        seen: BTreeSet::new(),
        steps_left: STEPS_MAX.min(options.steps_max),
        farthest: None,
    };
    search
        .left
        .sort_by_key(|at| search.ops[*at].source.ret.unwrap_or(Time::MAX));
    match search.place_all() {
        Some(true) => (Verdict::Ordered, None),
        Some(false) => {
            let at = search.farthest.map_or(0, |(_, at)| at);
            let text = "has no place in any order".into();
            let violation = broken(Guarantee::Linearizable, search.ops[at], text);
            (Verdict::Refuted, Some(violation))
        }
        None => (Verdict::GaveUp, None),
    }
}

struct Search<'p, 'h> {
    ops: Vec<&'p Op<'h>>,
    model: Model,
    /// Operations not placed, first the one that returned first.
    left: Vec<usize>,
    seen: BTreeSet<u64>,
    steps_left: u64,
    /// The fewest known operations left, and the one that was due then.
    farthest: Option<(usize, usize)>,
}

impl Search<'_, '_> {
    /// Whether all known operations that are left can be placed from here; none: gave up.
    fn place_all(&mut self) -> Option<bool> {
        let known = self
            .left
            .iter()
            .filter(|at| self.ops[**at].source.ret.is_some())
            .count();
        if known == 0 {
            return Some(true);
        }
        let mut hasher = DefaultHasher::new();
        (self.model.fingerprint(), &self.left).hash(&mut hasher);
        if !self.seen.insert(hasher.finish()) {
            return Some(false);
        }
        let first = self.left[0];
        if self.farthest.is_none_or(|(fewest, _)| known < fewest) {
            self.farthest = Some((known, first));
        }
        // Only what was called before the first return may come first.
        let due = self.ops[first].source.ret.expect("known ones come first");
        for index in 0..self.left.len() {
            let op = self.ops[self.left[index]];
            if op.source.call > due {
                continue;
            }
            let mark = self.model.mark();
            let answer = self.model.step(&op.request);
            let refused = answer.is_err() && op.source.outcome == Outcome::Unknown;
            if !refused && agrees(&self.model, &op.request, &answer, &op.source.outcome) {
                let at = self.left.remove(index);
                let found = self.place_all();
                self.left.insert(index, at);
                if found != Some(false) {
                    return found;
                }
            }
            self.model.take_back(mark);
            self.steps_left = self.steps_left.checked_sub(1)?;
        }
        self.end_leases()
    }

    /// Any lease may end at any time.
    fn end_leases(&mut self) -> Option<bool> {
        let leases: Vec<i64> = self.model.leases().keys().copied().collect();
        for id in leases {
            let mark = self.model.mark();
            let answer = self.model.step(&Request::LeaseRevoke(LeaseRequest { id }));
            assert!(answer.is_ok(), "the lease is there");
            let found = self.place_all();
            if found != Some(false) {
                return found;
            }
            self.model.take_back(mark);
            self.steps_left = self.steps_left.checked_sub(1)?;
        }
        Some(false)
    }
}
