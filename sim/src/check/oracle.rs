//! The committed log replayed: each answer must be the model's at its place, and the places must
//! keep the order of time.
//!
//! Places are even before, between and after the entries of the log, odd at them: entry `i` is at
//! `2i + 1`, and what is not in the log stands at an even place where its answer is true. Each
//! operation takes the first such place not before those of the operations that had returned when
//! it was called. That is the least of all possible places, so if it fails, every order fails.

use std::collections::BTreeMap;

use super::prepare::{Kind, Moment, Op, Prepared, Timeline, TimelineEntry, broken, events_by_time};
use super::{Guarantee, Options, Violation, Weakness};
use crate::history::*;
use crate::model::{Model, Refusal, agree};

/// What a replay found.
#[derive(Debug)]
pub struct Replay {
    /// Everything wrong.
    pub violations: Vec<Violation>,
    /// The log as an order.
    pub timeline: Timeline,
}

/// Replays the log of the history.
pub fn replay(prepared: &Prepared<'_>, options: &Options) -> Replay {
    let mut replayer = Replayer {
        prepared,
        options,
        model: Model::with_archive(&prepared.history.meta),
        probe: Model::new(&prepared.history.meta),
        at: BTreeMap::new(),
        spots: BTreeMap::new(),
        reads: BTreeMap::new(),
        refusals: Vec::new(),
        violations: Vec::new(),
        entries: Vec::new(),
    };
    replayer.index();
    replayer.walk();
    replayer.order();
    replayer.violations.sort_by_key(|violation| violation.time);
    Replay {
        timeline: Timeline {
            entries: replayer.entries,
            archive: replayer.model.into_archive().expect("it was made with one"),
            unresolved: Vec::new(),
            is_log: true,
        },
        violations: replayer.violations,
    }
}

struct Replayer<'p, 'h> {
    prepared: &'p Prepared<'h>,
    options: &'p Options,
    model: Model,
    /// The same state, but able to take a step back.
    probe: Model,
    /// The entry of an operation.
    at: BTreeMap<usize, usize>,
    /// Even places where an operation outside of the log is true, as ranges, ends included.
    spots: BTreeMap<usize, Vec<(usize, usize)>>,
    /// Reads by the revision of their answer.
    reads: BTreeMap<i64, Vec<usize>>,
    /// Refusals outside of the log with the first and last place that time allows, by the first.
    refusals: Vec<(usize, usize, usize)>,
    violations: Vec<Violation>,
    entries: Vec<TimelineEntry>,
}

impl<'p> Replayer<'p, '_> {
    fn op(&self, place: usize) -> &'p Op<'p> {
        &self.prepared.ops[place]
    }

    fn report(&mut self, guarantee: Guarantee, place: usize, text: String) {
        self.violations
            .push(broken(guarantee, self.op(place), text));
    }

    fn report_uncommitted(&mut self, place: usize, text: String) {
        if !self.options.is_weak(Weakness::NoCommitted) {
            self.report(Guarantee::Committed, place, text);
        }
    }

    /// Finds the entry of each operation, and sorts those that have none.
    fn index(&mut self) {
        for (entry, commit) in self.prepared.history.commits.iter().enumerate() {
            let Some(id) = commit.op else { continue };
            let place = self.prepared.by_id[&id];
            if let Some(first) = self.at.insert(place, entry) {
                let first = self.prepared.history.commits[first].index;
                let text = format!("is in the log twice, at {first} and {}", commit.index);
                self.report_uncommitted(place, text);
            }
        }
        let mut windows = None;
        for (place, op) in self.prepared.ops.iter().enumerate() {
            if self.at.contains_key(&place) {
                continue;
            }
            match op.kind {
                Kind::Read(Some(revision)) => self.reads.entry(revision).or_default().push(place),
                Kind::Read(None) => {
                    let windows = windows.get_or_insert_with(|| self.windows());
                    let (first, last) = windows[&place];
                    self.refusals.push((first, last, place));
                }
                Kind::Write(_) | Kind::Grant(_) | Kind::Revoke(_) | Kind::Compact => {
                    let text = "was acknowledged, but is not in the log".into();
                    self.report_uncommitted(place, text);
                }
                Kind::Aside | Kind::MaybeWrite | Kind::MaybeGrant | Kind::MaybeCompact => (),
            }
        }
        self.refusals.sort_unstable();
    }

    /// The places that time leaves to refusals: not before entries that had returned when they
    /// were called, nor after entries that were called when they had returned.
    fn windows(&self) -> BTreeMap<usize, (usize, usize)> {
        let ops = self.prepared.ops.iter().map(|op| op.source).enumerate();
        let events = events_by_time(ops, self.options);
        let mut windows = BTreeMap::new();
        let mut first = 0;
        for (_, moment, place) in &events {
            match (moment, self.at.get(place)) {
                (Moment::Return, Some(entry)) => first = first.max(entry + 1),
                (Moment::Call, None) => {
                    windows.insert(*place, (first, usize::MAX));
                }
                (Moment::Return, None) | (Moment::Call, Some(_)) => (),
            }
        }
        let mut last = self.prepared.history.commits.len();
        for (_, moment, place) in events.iter().rev() {
            match (moment, self.at.get(place)) {
                (Moment::Call, Some(entry)) => last = last.min(*entry),
                (Moment::Return, None) => {
                    let window = windows.get_mut(place).expect("called before it returned");
                    window.1 = last;
                }
                (Moment::Call, None) | (Moment::Return, Some(_)) => (),
            }
        }
        windows
    }

    /// Replays entry by entry, and tries what is not in the log between them.
    fn walk(&mut self) {
        let mut active: Vec<(usize, usize)> = Vec::new();
        let mut upcoming = std::mem::take(&mut self.refusals).into_iter().peekable();
        let all: Vec<usize> = upcoming.clone().map(|(_, _, place)| place).collect();
        let entries = self.prepared.history.commits.len();
        for slot in 0..=entries {
            self.try_reads(slot);
            while let Some((_, last, place)) = upcoming.next_if(|(first, _, _)| *first <= slot) {
                active.push((last, place));
            }
            active.retain(|(last, _)| *last >= slot);
            for (_, place) in &active {
                self.try_refusal(*place, slot);
            }
            if let Some(commit) = self.prepared.history.commits.get(slot) {
                self.apply(commit);
            }
        }
        for place in all {
            if !self.spots.contains_key(&place) {
                self.report(
                    Guarantee::Linearizable,
                    place,
                    "failed for no reason".into(),
                );
                self.spots.insert(place, Vec::new());
            }
        }
        for (revision, places) in std::mem::take(&mut self.reads) {
            for place in places {
                let text = format!("answered at revision {revision}, which never was");
                self.report(Guarantee::Linearizable, place, text);
            }
        }
    }

    /// Compares reads as soon as their revision is there, and extends their range while it is.
    fn try_reads(&mut self, slot: usize) {
        let revision = self.model.revision();
        for place in self.reads.remove(&revision).unwrap_or_default() {
            if let Err(text) = self.ask(place) {
                self.report(Guarantee::Linearizable, place, text);
            }
            self.spots.insert(place, vec![(2 * slot, usize::MAX)]);
        }
    }

    fn try_refusal(&mut self, place: usize, slot: usize) {
        if self.ask(place).is_err() {
            return;
        }
        let spots = self.spots.entry(place).or_default();
        match spots.last_mut() {
            Some((_, last)) if *last + 2 == 2 * slot => *last = 2 * slot,
            Some(_) | None => spots.push((2 * slot, 2 * slot)),
        }
    }

    /// What the model says to an operation now, without doing it.
    fn ask(&mut self, place: usize) -> Result<(), String> {
        let op = self.op(place);
        let outcome = super::weak::outcome_if_weak(self.options, &self.probe, op);
        let outcome = outcome.as_ref().unwrap_or(&op.source.outcome);
        if let Request::Range(_) = &*op.request {
            // Only this model knows the past, and a range leaves it as it is.
            let answer = self.model.step(&op.request);
            return agree(&self.model, &op.request, &answer, outcome);
        }
        let mark = self.probe.mark();
        let answer = self.probe.step(&op.request);
        let verdict = agree(&self.probe, &op.request, &answer, outcome);
        self.probe.take_back(mark);
        verdict
    }

    fn apply(&mut self, commit: &Commit) {
        let answer = self.model.step(&commit.request);
        let again = self.probe.step(&commit.request);
        self.probe.keep();
        assert_eq!(answer.is_ok(), again.is_ok(), "two models agree");
        let place = commit.op.map(|id| self.prepared.by_id[&id]);
        if answer.is_ok() {
            self.entries.push(TimelineEntry {
                op: place,
                request: commit.request.clone(),
                revision: self.model.revision(),
                time: commit.time,
            });
        }
        let Some(place) = place else { return };
        let op = self.op(place);
        if !is_same_request(&op.request, &commit.request, &self.prepared.history.meta) {
            let text = format!("is another request in the log, at {}", commit.index);
            self.report_uncommitted(place, text);
            return;
        }
        match &op.source.outcome {
            Outcome::Failed(failure) if Refusal::of(failure).is_none() => {
                if answer.is_ok() {
                    let text = format!("failed for certain ({}), but took effect", failure.text);
                    self.report_uncommitted(place, text);
                }
            }
            outcome @ (Outcome::Ok(_) | Outcome::Failed(_) | Outcome::Unknown) => {
                let weak = super::weak::outcome_if_weak(self.options, &self.model, op);
                let outcome = weak.as_ref().unwrap_or(outcome);
                if let Err(text) = agree(&self.model, &op.request, &answer, outcome) {
                    self.report(Guarantee::Linearizable, place, text);
                }
            }
        }
        self.check_times(place, commit);
    }

    fn check_times(&mut self, place: usize, commit: &Commit) {
        let Some(time) = commit.time else { return };
        let source = self.op(place).source;
        if time < source.call {
            self.report(
                Guarantee::Linearizable,
                place,
                "was applied before it was asked".into(),
            );
        }
        let is_ok = matches!(source.outcome, Outcome::Ok(_));
        if is_ok && source.ret.is_some_and(|ret| ret < time) {
            self.report_uncommitted(place, "was acknowledged before it was applied".into());
        }
    }

    /// Sweeps through time and gives each operation the least place.
    fn order(&mut self) {
        self.close_reads();
        let ops = self.prepared.ops.iter().map(|op| op.source).enumerate();
        let placed = ops.filter(|(place, _)| {
            self.at.contains_key(place) || self.spots.get(place).is_some_and(|s| !s.is_empty())
        });
        let events = events_by_time(placed, self.options);
        let mut bounds = BTreeMap::new();
        let mut highest = (0, None);
        for (_, moment, place) in events {
            match moment {
                Moment::Call => {
                    bounds.insert(place, highest);
                }
                Moment::Return => {
                    let bound = bounds.remove(&place).expect("called before it returned");
                    match self.least_place(place, bound.0) {
                        Some(least) => highest = highest.max((least, Some(place))),
                        None => self.report_order(place, bound.1),
                    }
                }
            }
        }
    }

    fn report_order(&mut self, place: usize, after: Option<usize>) {
        let mut text = "took effect before what had ended when it was asked".to_string();
        let after = after.map(|after| self.op(after).source.id);
        if let Some(after) = after {
            text.push_str(&format!(": operation {after}"));
        }
        self.report(Guarantee::Linearizable, place, text);
        let violation = self.violations.last_mut().expect("just reported");
        violation.ops.extend(after);
    }

    fn least_place(&self, place: usize, bound: usize) -> Option<usize> {
        if let Some(entry) = self.at.get(&place) {
            let at = 2 * entry + 1;
            return (at >= bound).then_some(at);
        }
        let even = bound + bound % 2;
        let spots = self.spots.get(&place)?;
        let range = spots.iter().find(|(_, last)| *last >= even)?;
        Some(range.0.max(even))
    }

    /// A read is true until the revision moves on; one at an old revision until that is compacted.
    fn close_reads(&mut self) {
        let mut ends: BTreeMap<i64, usize> = BTreeMap::new();
        let mut compactions: Vec<(i64, usize)> = Vec::new();
        let mut probe = Model::new(&self.prepared.history.meta);
        ends.insert(probe.revision(), 0);
        for (entry, commit) in self.prepared.history.commits.iter().enumerate() {
            let compacted = probe.compacted();
            let _ = probe.step(&commit.request);
            probe.keep();
            ends.insert(probe.revision(), 2 * (entry + 1));
            if probe.compacted() != compacted {
                compactions.push((probe.compacted(), 2 * entry));
            }
        }
        for (place, spots) in &mut self.spots {
            let op = &self.prepared.ops[*place];
            let Kind::Read(Some(revision)) = op.kind else {
                continue;
            };
            let mut end = ends.get(&revision).copied().unwrap_or(0);
            if let Request::Range(range) = &*op.request
                && range.revision > 0
            {
                // The first compaction beyond what was asked for; they rise.
                let at = compactions.partition_point(|(to, _)| *to <= range.revision);
                end = compactions.get(at).map_or(end, |(_, last)| end.min(*last));
            }
            for (_, last) in spots.iter_mut() {
                *last = end;
            }
        }
    }
}

/// The same, but for what the cluster decides: an id where none is given, and the least TTL.
fn is_same_request(asked: &Request, logged: &Request, meta: &Meta) -> bool {
    match (asked, logged) {
        (Request::LeaseGrant(asked), Request::LeaseGrant(logged)) => {
            let ttl = |grant: &LeaseGrantRequest| grant.ttl.max(meta.lease_ttl_min);
            (asked.id == 0 || asked.id == logged.id) && ttl(asked) == ttl(logged)
        }
        (asked, logged) => asked == logged,
    }
}
