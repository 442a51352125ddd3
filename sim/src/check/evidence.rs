//! What is known about revisions that no known operation claims.
//!
//! A pair that anybody saw names the revision that wrote it, and a watch event says what a
//! revision did. So an operation with an unknown outcome, whose value is its own, is found out by
//! whoever saw the value.

use std::collections::{BTreeMap, BTreeSet};

use super::Timeline;
use super::prepare::{Kind, Prepared};
use crate::history::*;

/// One thing that a revision is known to have done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trace {
    /// The key.
    pub key: Text,
    /// What happened to it.
    pub kind: EventKind,
    /// The value written, if it was seen.
    pub value: Option<Text>,
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
    /// What unclaimed revisions did.
    pub traces: BTreeMap<i64, BTreeSet<Trace>>,
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
        for op in &prepared.ops {
            let is_believed = sources == Sources::All || op.kind != Kind::Aside;
            if let (Outcome::Ok(response), true) = (&op.source.outcome, is_believed) {
                evidence.see_reply(&op.request, &response.reply);
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
        evidence
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

    fn see_reply(&mut self, request: &Request, reply: &Reply) {
        match reply {
            Reply::Range(reply) => {
                let keys_only = matches!(request, Request::Range(range) if range.keys_only);
                for kv in &reply.kvs {
                    self.see_pair(kv, keys_only);
                }
            }
            Reply::Put(reply) => {
                if let Some(kv) = &reply.prev_kv {
                    self.see_pair(kv, false);
                }
            }
            Reply::DeleteRange(reply) => {
                reply
                    .prev_kvs
                    .iter()
                    .for_each(|kv| self.see_pair(kv, false));
            }
            Reply::Txn(reply) => {
                let Request::Txn(txn) = request else { return };
                let ops = if reply.succeeded {
                    &txn.success
                } else {
                    &txn.failure
                };
                for (op, reply) in ops.iter().zip(&reply.responses) {
                    self.see_reply(op, reply);
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

    fn see_event(&mut self, event: &WatchEvent) {
        match event.kind {
            EventKind::Put => self.see_pair(&event.kv, false),
            EventKind::Delete => {
                self.see(
                    event.kv.mod_revision,
                    &event.kv.key,
                    EventKind::Delete,
                    None,
                );
            }
        }
        if let Some(before) = &event.prev_kv {
            self.see_pair(before, false);
        }
    }

    fn see_pair(&mut self, kv: &KeyValue, keys_only: bool) {
        let value = if keys_only { None } else { Some(&kv.value) };
        self.see(kv.mod_revision, &kv.key, EventKind::Put, value);
        if kv.create_revision != kv.mod_revision {
            self.see(kv.create_revision, &kv.key, EventKind::Put, None);
        }
    }

    fn see(&mut self, revision: i64, key: &Text, kind: EventKind, value: Option<&Text>) {
        self.last_revision = self.last_revision.max(revision);
        if revision <= self.first_revision || self.claims.contains_key(&revision) {
            return;
        }
        let traces = self.traces.entry(revision).or_default();
        if value.is_none()
            && traces
                .iter()
                .any(|trace| trace.key == *key && trace.kind == kind)
        {
            return;
        }
        traces.insert(Trace {
            key: key.clone(),
            kind,
            value: value.cloned(),
        });
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
        for entry in &log.entries {
            let moved = entry.revision > before;
            before = entry.revision;
            let Some(place) = entry.op else { continue };
            effective.insert(place);
            if moved && prepared.ops[place].kind == Kind::MaybeWrite {
                self.found.insert(place, entry.revision);
                self.claims.entry(entry.revision).or_insert(place);
            }
        }
        for (place, op) in prepared.ops.iter().enumerate() {
            let is_write = op.kind == Kind::MaybeWrite;
            let is_beside = matches!(op.kind, Kind::MaybeGrant | Kind::MaybeCompact);
            let is_over = is_write && !self.found.contains_key(&place);
            if is_over || is_beside && !effective.contains(&place) {
                self.absent.insert(place);
            }
        }
    }

    /// Whether what a step did fits what is known of the revision it made.
    pub fn allows(&self, revision: i64, events: &[WatchEvent]) -> bool {
        let Some(traces) = self.traces.get(&revision) else {
            return true;
        };
        traces.iter().all(|trace| {
            events.iter().any(|event| {
                event.kv.key == trace.key
                    && event.kind == trace.kind
                    && trace
                        .value
                        .as_ref()
                        .is_none_or(|value| *value == event.kv.value)
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
