//! What was asked about leases, found without going through the whole history: a long one has a
//! hundred thousand lives of leases, and each asks when it was last renewed.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Life;
use crate::check::prepare::Prepared;
use crate::history::*;

/// Renewals, revocations and grants, by lease.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// By lease: when renewals were called, rising, and until when one of those so far was open.
    renewals: BTreeMap<i64, Vec<(Time, Time)>>,
    /// By lease: when a revocation was first called of which nothing is known.
    revoked_from: BTreeMap<i64, Time>,
    /// When a grant was first called whose id was chosen and never told.
    chosen_from: Option<Time>,
    /// The last moment of the history.
    pub(super) last: Time,
}

impl Asked {
    pub(super) fn new(prepared: &Prepared<'_>) -> Asked {
        let mut asked = Asked::default();
        for op in &prepared.ops {
            let (call, ret) = (op.source.call, op.source.ret);
            asked.last = asked.last.max(ret.unwrap_or(call));
            match &*op.request {
                Request::LeaseKeepAlive(lease) => {
                    let renewals = asked.renewals.entry(lease.id).or_default();
                    renewals.push((call, ret.unwrap_or(Time::MAX)));
                }
                Request::LeaseRevoke(lease) if ret.is_none() => {
                    let first = asked.revoked_from.entry(lease.id).or_insert(call);
                    *first = call.min(*first);
                }
                Request::LeaseGrant(grant) if grant.id == 0 && ret.is_none() => {
                    asked.chosen_from = Some(asked.chosen_from.map_or(call, |at| at.min(call)));
                }
                Request::LeaseRevoke(_)
                | Request::LeaseGrant(_)
                | Request::Range(_)
                | Request::Put(_)
                | Request::DeleteRange(_)
                | Request::Txn(_)
                | Request::Compact(_)
                | Request::LeaseTimeToLive(_)
                | Request::LeaseLeases => (),
            }
        }
        for renewals in asked.renewals.values_mut() {
            renewals.sort_unstable();
            let mut open = 0;
            for (_, ret) in renewals {
                open = open.max(*ret);
                *ret = open;
            }
        }
        let watches = prepared.history.watches.iter().map(|line| line.time);
        asked.last = watches.fold(asked.last, Time::max);
        asked
    }

    /// When the last renewal was over that was called until this moment.
    pub(super) fn last_renewal(&self, id: i64, until: Time) -> Option<Time> {
        let renewals = self.renewals.get(&id)?;
        let called = renewals.partition_point(|(call, _)| *call <= until);
        called.checked_sub(1).map(|last| renewals[last].1)
    }

    /// Whether somebody may have revoked the lease without a place in the order.
    pub(super) fn may_be_revoked(&self, id: i64, until: Time) -> bool {
        self.revoked_from.get(&id).is_some_and(|at| *at <= until)
    }

    /// Whether the cluster may have chosen an id that it never told.
    pub(super) fn may_be_chosen(&self, until: Time) -> bool {
        self.chosen_from.is_some_and(|at| at <= until)
    }
}

/// Finds the lives of one lease that a span of time may touch.
#[derive(Debug, Default)]
pub(super) struct Spans {
    /// The latest end of the lives up to here: it rises.
    ends: Vec<Time>,
    /// The earliest beginning of the lives from here on: it rises too.
    begins: Vec<Time>,
}

impl Spans {
    pub(super) fn new(lives: &[Life]) -> Spans {
        let mut latest = 0;
        let ends = lives.iter().map(|life| {
            latest = latest.max(life.end.1);
            latest
        });
        let ends = ends.collect();
        let mut earliest = Time::MAX;
        let begins = lives.iter().rev().map(|life| {
            earliest = earliest.min(life.begin.0);
            earliest
        });
        let mut begins: Vec<Time> = begins.collect();
        begins.reverse();
        Spans { ends, begins }
    }

    /// All others have ended before this span, or began after it.
    pub(super) fn within(&self, from: Time, until: Time) -> Range<usize> {
        let first = self.ends.partition_point(|end| *end < from);
        let last = self.begins.partition_point(|begin| *begin <= until);
        first..last.max(first)
    }
}
