//! When a revision can have come to be, and when it was seen at the latest.

use std::collections::BTreeMap;

use super::{Prepared, Timeline};
use crate::history::*;

/// Bounds on the birth of revisions.
#[derive(Debug)]
pub struct Times {
    /// The revision, and the earliest moment that it can have been there.
    born: BTreeMap<i64, Time>,
    /// Revisions that rise with the moment at which one at least as high had been seen.
    seen: BTreeMap<i64, Time>,
    /// Compactions: how far, not before when, and whether somebody knows that it was done.
    pub compactions: Vec<(i64, Time)>,
}

impl Times {
    /// Gathers the bounds from an order and from all answers.
    pub fn new(prepared: &Prepared<'_>, timeline: &Timeline) -> Times {
        let mut born = BTreeMap::new();
        let mut compactions = Vec::new();
        let mut last = prepared.history.meta.revision;
        for entry in &timeline.entries {
            let call = entry.op.map(|place| prepared.ops[place].source.call);
            let earliest = entry.time.or(call).unwrap_or(0);
            if entry.revision > last {
                born.insert(entry.revision, earliest);
                last = entry.revision;
            }
            if let Request::Compact(compact) = &entry.request {
                compactions.push((compact.revision, earliest));
            }
        }
        // An unknown compaction may have been done without a place in the order.
        for op in prepared.ops.iter().filter(|op| op.source.ret.is_none()) {
            if let Request::Compact(compact) = &*op.request {
                compactions.push((compact.revision, op.source.call));
            }
        }
        Times {
            born,
            seen: seen(prepared),
            compactions,
        }
    }

    /// The earliest moment at which a revision can have been there.
    pub fn born(&self, revision: i64) -> Time {
        self.born.get(&revision).copied().unwrap_or(0)
    }

    /// The last revision that can have been there at a moment.
    pub fn last_at(&self, time: Time, first: i64) -> i64 {
        let mut born = self.born.iter().rev();
        born.find(|(_, at)| **at <= time)
            .map_or(first, |(revision, _)| *revision)
    }

    /// The moment at which somebody had seen this revision or a later one.
    pub fn seen(&self, revision: i64) -> Option<Time> {
        self.seen.range(revision..).next().map(|(_, time)| *time)
    }

    /// Whether a compaction beyond this revision can have been done at a moment.
    pub fn may_be_compacted(&self, revision: i64, time: Time) -> bool {
        self.compactions
            .iter()
            .any(|(to, at)| *to > revision && *at <= time)
    }
}

/// Revisions that rise, each with the moment at which it or a later one had been seen.
pub fn seen(prepared: &Prepared<'_>) -> BTreeMap<i64, Time> {
    let mut all: Vec<(i64, Time)> = Vec::new();
    for op in &prepared.ops {
        if let (Outcome::Ok(response), Some(ret)) = (&op.source.outcome, op.source.ret) {
            all.push((response.header.revision, ret));
        }
    }
    for line in &prepared.history.watches {
        if let WatchItem::Response(response) = &line.item {
            let events = response.events.iter();
            all.extend(events.map(|event| (event.kv.mod_revision, line.time)));
        }
    }
    // From the highest down, keep each moment that is earlier than all of higher revisions.
    all.sort_unstable_by_key(|(revision, time)| (std::cmp::Reverse(*revision), *time));
    let mut seen = BTreeMap::new();
    let mut earliest = Time::MAX;
    for (revision, time) in all {
        if time < earliest {
            earliest = time;
            seen.insert(revision, time);
        }
    }
    seen
}
