//! What is known about revisions that no known operation claims.
//!
//! A pair that anybody saw names the revision that wrote it, and a watch event says what a
//! revision did. So an operation with an unknown outcome, whose value is its own, is found out by
//! whoever saw the value.

use std::collections::{BTreeMap, BTreeSet};

use super::Timeline;
use super::absent::{Absences, is_whole};
use super::facts::Facts;
use super::prepare::{Kind, Prepared};
use crate::history::*;
use crate::model::KeyRange;

/// One thing that a revision is known to have done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trace {
    /// The key.
    pub key: Text,
    /// What happened to it.
    pub kind: EventKind,
    /// The value written, if it was seen.
    pub value: Option<Text>,
    /// The revision that created the pair, and its version, if they were seen.
    pub birth: Option<(i64, i64)>,
}

/// All that is known.
#[derive(Debug, Default)]
pub struct Evidence {
    /// The operation that is the step to a revision.
    pub claims: BTreeMap<i64, usize>,
    /// Unknown operations that were found out, with their revision.
    pub found: BTreeMap<usize, i64>,
    /// Unknown operations that are known to have had no effect.
    pub absent: BTreeSet<usize>,
    /// By the log, the leases that ended by themselves, by the revision that this made.
    pub ends: Option<BTreeMap<i64, i64>>,
    /// What unclaimed revisions did.
    pub traces: BTreeMap<i64, BTreeSet<Trace>>,
    /// What is known about the time between revisions.
    pub facts: Facts,
    /// What is known about keys that were not there.
    pub absences: Absences,
    /// Spans of revisions that no known operation claims, first and last, rising.
    holes: Vec<(i64, i64)>,
    /// The revision that the history begins with.
    first_revision: i64,
    /// The last revision that anything names.
    pub last_revision: i64,
    /// Two operations that cannot both be, with the reason.
    pub clash: Option<(usize, usize, String)>,
}

/// Which sources to believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sources {
    /// All answers and watch streams.
    All,
    /// Only answers that have a place in the order, to tell a wrong watch or stale read from a
    /// wrong order.
    Answers,
}

impl Evidence {
    /// Gathers what the history says about revisions.
    pub fn gather(prepared: &Prepared<'_>, sources: Sources) -> Evidence {
        let mut evidence = Evidence {
            first_revision: prepared.history.meta.revision,
            last_revision: prepared.history.meta.revision,
            ..Evidence::default()
        };
        evidence.claim(prepared);
        evidence.find_holes();
        for op in &prepared.ops {
            let is_believed = sources == Sources::All || op.kind != Kind::Aside;
            if let (Outcome::Ok(response), true) = (&op.source.outcome, is_believed) {
                let moved = matches!(op.kind, Kind::Write(_) | Kind::Revoke(_));
                let until = response.header.revision - i64::from(moved);
                evidence.last_revision = evidence.last_revision.max(response.header.revision);
                evidence.see_reply(&op.request, &response.reply, until);
                evidence.see_absence(&op.request, &response.reply, until);
            }
        }
        if sources == Sources::All {
            for line in &prepared.history.watches {
                if let WatchItem::Response(response) = &line.item {
                    response
                        .events
                        .iter()
                        .for_each(|event| evidence.see_event(event));
                }
            }
        }
        evidence.find_out(prepared);
        evidence.facts.conclude(prepared, &evidence.claims);
        evidence.absences.conclude(prepared, &evidence.claims);
        evidence
    }

    fn find_holes(&mut self) {
        let mut next = self.first_revision + 1;
        for revision in self.claims.keys() {
            if *revision > next {
                self.holes.push((next, *revision - 1));
            }
            next = next.max(*revision + 1);
        }
        self.holes.push((next, i64::MAX));
    }

    /// Whether nobody claims one of these revisions.
    fn has_hole(&self, first: i64, last: i64) -> bool {
        let at = self.holes.partition_point(|(_, end)| *end < first);
        self.holes.get(at).is_some_and(|(start, _)| *start <= last)
    }

    fn claim(&mut self, prepared: &Prepared<'_>) {
        for (place, op) in prepared.ops.iter().enumerate() {
            let revision = op.kind.revision().unwrap_or(0);
            self.last_revision = self.last_revision.max(revision);
            let Kind::Write(revision) = op.kind else {
                continue;
            };
            let Some(other) = self.claims.insert(revision, place) else {
                continue;
            };
            let text = format!("both are the step to revision {revision}");
            self.clash.get_or_insert((other, place, text));
        }
    }

    /// What a reply shows, which is true until a revision.
    fn see_reply(&mut self, request: &Request, reply: &Reply, until: i64) {
        match reply {
            Reply::Range(reply) => {
                let Request::Range(range) = request else {
                    return;
                };
                let until = if range.revision > 0 {
                    range.revision
                } else {
                    until
                };
                for kv in &reply.kvs {
                    self.see_pair(kv, range.keys_only, until);
                }
            }
            Reply::Put(reply) => {
                if let Some(kv) = &reply.prev_kv {
                    self.see_pair(kv, false, until);
                }
            }
            Reply::DeleteRange(reply) => {
                reply
                    .prev_kvs
                    .iter()
                    .for_each(|kv| self.see_pair(kv, false, until));
            }
            Reply::Txn(reply) => {
                let Request::Txn(txn) = request else { return };
                let ops = if reply.succeeded {
                    &txn.success
                } else {
                    &txn.failure
                };
                for (op, reply) in ops.iter().zip(&reply.responses) {
                    self.see_reply(op, reply, until);
                }
            }
            Reply::Compact
            | Reply::LeaseGrant(_)
            | Reply::LeaseRevoke
            | Reply::LeaseKeepAlive(_)
            | Reply::LeaseTimeToLive(_)
            | Reply::LeaseLeases(_) => (),
        }
    }

    /// What a request that stands by itself shows of a whole range.
    fn see_absence(&mut self, request: &Request, reply: &Reply, until: i64) {
        let (range, at, kvs) = match (request, reply) {
            (Request::Range(range), Reply::Range(reply)) if is_whole(range, reply) => {
                let at = if range.revision > 0 {
                    range.revision
                } else {
                    until
                };
                (KeyRange::new(&range.key, &range.range_end), at, &reply.kvs)
            }
            (Request::DeleteRange(delete), Reply::DeleteRange(reply))
                if delete.prev_kv && reply.prev_kvs.len() as i64 == reply.deleted =>
            {
                let range = KeyRange::new(&delete.key, &delete.range_end);
                (range, until, &reply.prev_kvs)
            }
            (_, _) => return,
        };
        let before = self.holes.partition_point(|(first, _)| *first <= at);
        if let Some((_, last)) = before.checked_sub(1).map(|index| self.holes[index]) {
            self.absences.see(last.min(at), at, range, kvs);
        }
    }

    fn see_event(&mut self, event: &WatchEvent) {
        match event.kind {
            EventKind::Put => self.see_pair(&event.kv, false, event.kv.mod_revision),
            EventKind::Delete => {
                self.see(
                    event.kv.mod_revision,
                    &event.kv.key,
                    EventKind::Delete,
                    None,
                    None,
                );
            }
        }
        if let Some(before) = &event.prev_kv {
            self.see_pair(before, false, event.kv.mod_revision - 1);
        }
    }

    fn see_pair(&mut self, kv: &KeyValue, keys_only: bool, until: i64) {
        let last = until.max(kv.mod_revision);
        self.last_revision = self.last_revision.max(kv.mod_revision);
        if !self.has_hole(kv.create_revision, last) {
            return;
        }
        let value = if keys_only { None } else { Some(&kv.value) };
        let birth = Some((kv.create_revision, kv.version));
        self.see(kv.mod_revision, &kv.key, EventKind::Put, value, birth);
        if kv.create_revision != kv.mod_revision {
            let birth = Some((kv.create_revision, 1));
            self.see(kv.create_revision, &kv.key, EventKind::Put, None, birth);
        }
        self.facts.see(kv, until);
    }

    fn see(
        &mut self,
        revision: i64,
        key: &Text,
        kind: EventKind,
        value: Option<&Text>,
        birth: Option<(i64, i64)>,
    ) {
        self.last_revision = self.last_revision.max(revision);
        if revision <= self.first_revision || self.claims.contains_key(&revision) {
            return;
        }
        let trace = Trace {
            key: key.clone(),
            kind,
            value: value.cloned(),
            birth,
        };
        self.traces.entry(revision).or_default().insert(trace);
    }

    /// Gives a revision to each unknown operation that alone could have written what it shows.
    fn find_out(&mut self, prepared: &Prepared<'_>) {
        let mut writers: BTreeMap<(Text, Text), Vec<usize>> = BTreeMap::new();
        let mut keepers = BTreeSet::new();
        for (place, op) in prepared.ops.iter().enumerate() {
            if op.kind == Kind::MaybeWrite {
                writes_of(&op.request, &mut |put| {
                    if put.ignore_value {
                        keepers.insert(put.key.clone());
                        return;
                    }
                    let pair = (put.key.clone(), put.value.clone());
                    let places = writers.entry(pair).or_default();
                    if places.last() != Some(&place) {
                        places.push(place);
                    }
                });
            }
        }
        for (revision, traces) in &self.traces {
            for trace in traces.iter().filter(|trace| !keepers.contains(&trace.key)) {
                let Some(value) = &trace.value else { continue };
                let pair = (trace.key.clone(), value.clone());
                let Some([writer]) = writers.get(&pair).map(Vec::as_slice) else {
                    continue;
                };
                let before = self.found.insert(*writer, *revision);
                if before.is_some_and(|before| before != *revision) {
                    let text = format!("took effect twice, last at revision {revision}");
                    self.clash.get_or_insert((*writer, *writer, text));
                }
                let other = self.claims.insert(*revision, *writer);
                if let Some(other) = other.filter(|other| other != writer) {
                    let text = format!("both wrote what revision {revision} shows");
                    self.clash.get_or_insert((other, *writer, text));
                }
            }
        }
    }

    /// Lets the committed log say what became of unknown operations.
    pub fn believe(&mut self, prepared: &Prepared<'_>, log: &Timeline) {
        let mut before = prepared.history.meta.revision;
        let mut effective = BTreeSet::new();
        let mut ends = BTreeMap::new();
        for entry in &log.entries {
            let moved = entry.revision > before;
            before = entry.revision;
            if let (Request::LeaseRevoke(lease), true) = (&entry.request, moved) {
                ends.insert(entry.revision, lease.id);
            }
            let Some(place) = entry.op else { continue };
            effective.insert(place);
            if moved && prepared.ops[place].kind == Kind::MaybeWrite {
                self.found.insert(place, entry.revision);
                self.claims.entry(entry.revision).or_insert(place);
            }
        }
        self.ends = Some(ends);
        for (place, op) in prepared.ops.iter().enumerate() {
            let is_write = op.kind == Kind::MaybeWrite;
            let is_beside = matches!(op.kind, Kind::MaybeGrant | Kind::MaybeCompact);
            let is_over = is_write && !self.found.contains_key(&place);
            if is_over || is_beside && !effective.contains(&place) {
                self.absent.insert(place);
            }
        }
    }

    /// Whether a request can be the step to a revision that nobody claims, as far as can be told
    /// without trying it.
    pub fn allows_request(&self, revision: i64, request: &Request) -> bool {
        let Request::Put(put) = request else {
            return true;
        };
        let is_seen_elsewhere = |trace: &Trace| {
            trace.key != put.key
                || trace
                    .value
                    .as_ref()
                    .is_some_and(|value| *value != put.value)
        };
        let mut traces = self.traces.get(&revision).into_iter().flatten();
        let fits = put.ignore_value || !traces.any(is_seen_elsewhere);
        fits && self.facts.allow_put(revision, &put.key)
            && self.absences.allow_put(revision, &put.key)
    }

    /// Whether the end of a lease can have made a revision that nobody claims.
    pub fn allows_end(&self, revision: i64, lease: i64) -> bool {
        let ends = self.ends.as_ref();
        ends.is_none_or(|ends| ends.get(&revision) == Some(&lease))
    }

    /// Whether what a step did fits what is known of the revision it made.
    pub fn allows(&self, revision: i64, events: &[WatchEvent]) -> bool {
        let is_guess = !self.claims.contains_key(&revision);
        if is_guess && !self.facts.allow(revision, events) {
            return false;
        }
        let is_absent = |event: &WatchEvent| {
            event.kind == EventKind::Put && !self.absences.allow_put(revision, &event.kv.key)
        };
        if is_guess && events.iter().any(is_absent) {
            return false;
        }
        let Some(traces) = self.traces.get(&revision) else {
            return true;
        };
        traces.iter().all(|trace| {
            events.iter().any(|event| {
                event.kv.key == trace.key
                    && event.kind == trace.kind
                    && (trace.value.as_ref()).is_none_or(|value| *value == event.kv.value)
                    && (trace.birth)
                        .is_none_or(|birth| birth == (event.kv.create_revision, event.kv.version))
            })
        })
    }
}

fn writes_of(request: &Request, see: &mut impl FnMut(&PutRequest)) {
    match request {
        Request::Put(put) => see(put),
        Request::Txn(txn) => {
            for op in txn.success.iter().chain(&txn.failure) {
                writes_of(op, see);
            }
        }
        Request::Range(_)
        | Request::DeleteRange(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseKeepAlive(_)
        | Request::LeaseTimeToLive(_)
        | Request::LeaseLeases => (),
    }
}
