//! Watch streams against the log of all changes.
//!
//! Order, uniqueness, atomicity, bookmarks and lifetime need the stream alone. That nothing is
//! missing or made up needs the log, which an order of the operations gives; without an order
//! these are left out, since the history is judged wrong already.
//!
//! Deliberately absent: that a watch gets everything in the end. A history cannot show it; the
//! simulator demands it from live watches after all faults are healed.

use std::collections::{BTreeMap, BTreeSet};

use super::prepare::Prepared;
use super::times::Times;
use super::{Guarantee, Options, Timeline, Violation, Weakness};
use crate::history::*;
use crate::model::KeyRange;

/// Judges every stream.
pub fn check(
    prepared: &Prepared<'_>,
    timeline: Option<&Timeline>,
    options: &Options,
) -> Vec<Violation> {
    let log = timeline.map(|timeline| Log {
        timeline,
        times: Times::new(prepared, timeline),
        first_compacted: prepared.history.meta.compact_revision,
    });
    let mut streams: BTreeMap<(u64, u64), Stream<'_>> = BTreeMap::new();
    let mut violations = Vec::new();
    for line in &prepared.history.watches {
        let key = (line.client, line.stream);
        let stream = streams.entry(key).or_default();
        stream.time = line.time;
        stream.on_line(&line.item, log.as_ref());
        for (guarantee, text) in stream.broken.drain(..) {
            if is_looked_at(guarantee, options) {
                violations.push(Violation {
                    guarantee,
                    ops: Vec::new(),
                    time: line.time,
                    text: format!("client {} stream {}: {text}", line.client, line.stream),
                });
            }
        }
    }
    violations
}

fn is_looked_at(guarantee: Guarantee, options: &Options) -> bool {
    let weakness = match guarantee {
        Guarantee::WatchFilter => Weakness::NoFilter,
        Guarantee::WatchOrdered => Weakness::NoOrder,
        Guarantee::WatchUnique => Weakness::NoUnique,
        Guarantee::WatchAtomic => Weakness::NoAtomic,
        Guarantee::WatchBookmarkable => Weakness::NoBookmark,
        Guarantee::WatchResumable => Weakness::NoResume,
        Guarantee::WatchReliable => Weakness::NoReliable,
        Guarantee::WatchPrevKv => Weakness::NoPrevKv,
        Guarantee::WatchLifetime => Weakness::NoLifetime,
        Guarantee::WatchCompacted => Weakness::NoCompacted,
        Guarantee::Format
        | Guarantee::Linearizable
        | Guarantee::Undecided
        | Guarantee::Committed
        | Guarantee::Serializable
        | Guarantee::LeaseEarly
        | Guarantee::LeaseLate
        | Guarantee::LeaseAnswer => unreachable!("no matter of watches"),
    };
    !options.is_weak(weakness)
}

/// The log of changes, with what is known of its times.
struct Log<'t> {
    timeline: &'t Timeline,
    times: Times,
    /// The compacted revision that the history begins with.
    first_compacted: i64,
}

/// The watches of one stream.
#[derive(Default)]
struct Stream<'h> {
    watches: BTreeMap<i64, Watch<'h>>,
    /// Ids of watches that a compaction ended and nobody canceled.
    compacted: BTreeSet<i64>,
    is_closed: bool,
    time: Time,
    broken: Vec<(Guarantee, String)>,
}

/// One watch and how far it got.
struct Watch<'h> {
    request: &'h WatchRequest,
    range: KeyRange,
    /// Events before this revision must not come.
    start: i64,
    /// Matching changes from this revision on must come.
    must_from: i64,
    /// The next revision of the log to look at; everything before it is settled.
    cursor: i64,
    last_event: i64,
    /// Keys seen at the last revision.
    keys: BTreeSet<&'h Text>,
    last_progress: i64,
    /// Whether the last response said that it goes on.
    in_fragment: bool,
    /// Whether anything came yet.
    is_fresh: bool,
}

impl<'h> Stream<'h> {
    fn report(&mut self, guarantee: Guarantee, text: String) {
        self.broken.push((guarantee, text));
    }

    fn on_line(&mut self, item: &'h WatchItem, log: Option<&Log<'_>>) {
        if std::mem::replace(&mut self.is_closed, matches!(item, WatchItem::Closed)) {
            self.report(Guarantee::WatchLifetime, "spoke after it was closed".into());
        }
        match item {
            WatchItem::Created(created) => self.on_created(created, log),
            WatchItem::Response(response) if response.watch_id == -1 => {
                let ids: Vec<i64> = self.watches.keys().copied().collect();
                for id in ids {
                    self.on_progress(id, response.revision, log);
                }
            }
            WatchItem::Response(response) => {
                if !self.watches.contains_key(&response.watch_id) {
                    let text = format!("watch {} spoke but is not there", response.watch_id);
                    self.report(Guarantee::WatchLifetime, text);
                } else if response.events.is_empty() {
                    self.on_progress(response.watch_id, response.revision, log);
                } else {
                    self.on_events(response, log);
                }
            }
            WatchItem::Canceled(canceled) => self.on_canceled(canceled, log),
            WatchItem::Closed => (),
        }
    }

    fn on_created(&mut self, created: &'h WatchCreated, log: Option<&Log<'_>>) {
        if created.canceled || created.watch_id < 0 {
            return;
        }
        let request = &created.request;
        // A watch from now on begins somewhere between the revision that its reply names and the
        // last one that was there when the client had the reply.
        let (start, must_from) = match (request.start_revision, log) {
            (1.., _) => (request.start_revision, request.start_revision),
            (_, None) => (created.revision + 1, created.revision + 1),
            (_, Some(log)) => {
                let last = log.times.last_at(self.time, created.revision);
                (created.revision + 1, last.max(created.revision) + 1)
            }
        };
        // An empty key is everything, as in the API.
        let key = if request.key.is_empty() {
            Text::from("\0")
        } else {
            request.key.clone()
        };
        let watch = Watch {
            request,
            range: KeyRange::new(&key, &request.range_end),
            start,
            must_from,
            cursor: start,
            last_event: 0,
            keys: BTreeSet::new(),
            last_progress: 0,
            in_fragment: false,
            is_fresh: true,
        };
        let id = created.watch_id;
        if self.watches.insert(id, watch).is_some() || self.compacted.contains(&id) {
            let text = format!("watch {} was created while it was there", created.watch_id);
            self.report(Guarantee::WatchLifetime, text);
        }
    }

    fn on_progress(&mut self, id: i64, revision: i64, log: Option<&Log<'_>>) {
        let watch = self.watches.get_mut(&id).expect("looked up by the caller");
        let mut wrong = Vec::new();
        if revision < watch.last_event || revision < watch.last_progress {
            wrong.push(format!(
                "watch {id}: progress {revision} after event {} and progress {}",
                watch.last_event, watch.last_progress
            ));
        }
        if revision < watch.start - 1 {
            wrong.push(format!(
                "watch {id}: progress {revision} before the start at {}",
                watch.start
            ));
        }
        if watch.in_fragment {
            wrong.push(format!(
                "watch {id}: progress {revision} amid the pieces of a response"
            ));
        }
        watch.last_progress = watch.last_progress.max(revision);
        if let Some(log) = log {
            let missing = watch.missing_until(revision.saturating_add(1), log);
            wrong.extend(missing.map(|missing| {
                format!("watch {id}: progress {revision} before the events of {missing}")
            }));
        }
        for text in wrong {
            self.report(Guarantee::WatchBookmarkable, text);
        }
    }

    fn on_canceled(&mut self, canceled: &WatchCanceled, log: Option<&Log<'_>>) {
        let to = canceled.compact_revision;
        // As in etcd, a watch that a compaction ended keeps its id until its client cancels it.
        if to == 0 && self.compacted.remove(&canceled.watch_id) {
            return;
        }
        let Some(watch) = self.watches.remove(&canceled.watch_id) else {
            let text = format!("watch {} ended but is not there", canceled.watch_id);
            return self.report(Guarantee::WatchLifetime, text);
        };
        if to == 0 {
            return;
        }
        self.compacted.insert(canceled.watch_id);
        let next = watch
            .start
            .max(watch.last_event + 1)
            .max(watch.last_progress + 1);
        if next >= to {
            let text = format!(
                "watch {}: ended by a compaction to {to}, but had got to {next}",
                canceled.watch_id
            );
            self.report(Guarantee::WatchCompacted, text);
        }
        let is_true = log.is_none_or(|log| {
            let mut known = log.times.compactions.iter();
            to == log.first_compacted || known.any(|(done, at)| *done == to && *at <= self.time)
        });
        if !is_true {
            let text = format!(
                "watch {}: ended by a compaction to {to}, which never was",
                canceled.watch_id
            );
            self.report(Guarantee::WatchCompacted, text);
        }
    }

    fn on_events(&mut self, response: &'h WatchResponse, log: Option<&Log<'_>>) {
        let id = response.watch_id;
        let watch = self.watches.get_mut(&id).expect("looked up by the caller");
        let mut wrong = Vec::new();
        let first = response.events[0].kv.mod_revision;
        if !watch.is_fresh && !watch.in_fragment && first == watch.last_event {
            wrong.push((
                Guarantee::WatchAtomic,
                format!("revision {first} comes in two parts"),
            ));
        }
        for event in &response.events {
            if let (Some(log), false) = (log, event.kv.mod_revision == watch.last_event) {
                watch.close_revision(log, &mut wrong);
            }
            watch.on_event(event, &mut wrong);
            if let Some(log) = log {
                watch.compare(event, self.time, log, &mut wrong);
            }
            watch.is_fresh = false;
        }
        watch.in_fragment = response.fragment;
        if let (Some(log), false) = (log, response.fragment) {
            watch.close_revision(log, &mut wrong);
        }
        for (guarantee, text) in wrong {
            self.report(guarantee, format!("watch {id}: {text}"));
        }
    }
}

impl<'h> Watch<'h> {
    fn wants(&self, event: &WatchEvent) -> bool {
        let filtered = match event.kind {
            EventKind::Put => self.request.no_put,
            EventKind::Delete => self.request.no_delete,
        };
        !filtered && self.range.has(&event.kv.key)
    }

    /// What one event must keep by itself and after those before it.
    fn on_event(&mut self, event: &'h WatchEvent, wrong: &mut Vec<(Guarantee, String)>) {
        let (revision, key) = (event.kv.mod_revision, &event.kv.key);
        if !self.wants(event) {
            let text = format!("{key:?} at {revision} was not asked for");
            wrong.push((Guarantee::WatchFilter, text));
        }
        if revision < self.last_event {
            let text = format!("revision {revision} after {}", self.last_event);
            wrong.push((Guarantee::WatchOrdered, text));
        }
        if revision <= self.last_progress {
            let text = format!("revision {revision} after progress {}", self.last_progress);
            wrong.push((Guarantee::WatchBookmarkable, text));
        }
        if revision < self.start {
            let text = format!("revision {revision} before the start at {}", self.start);
            wrong.push((Guarantee::WatchResumable, text));
        }
        if revision != self.last_event {
            self.keys.clear();
        }
        if !self.keys.insert(key) {
            let text = format!("{key:?} at {revision} came twice");
            wrong.push((Guarantee::WatchUnique, text));
        }
        self.last_event = self.last_event.max(revision);
    }

    /// What one event must be, by the log.
    fn compare(
        &mut self,
        event: &WatchEvent,
        time: Time,
        log: &Log<'_>,
        wrong: &mut Vec<(Guarantee, String)>,
    ) {
        let (revision, key) = (event.kv.mod_revision, &event.kv.key);
        let archive = &log.timeline.archive;
        if revision <= archive.first() {
            // The log does not reach back to here.
            self.cursor = self.cursor.max(revision);
            return;
        }
        let was_fresh = self.is_fresh;
        if let Some(missing) = self.missing_until(revision, log) {
            let guarantee = if was_fresh {
                Guarantee::WatchResumable
            } else {
                Guarantee::WatchReliable
            };
            wrong.push((
                guarantee,
                format!("revision {missing} is missing before {revision}"),
            ));
        }
        let Some(real) = archive
            .events_at(revision)
            .iter()
            .find(|real| real.kv.key == *key)
        else {
            let text = format!("{key:?} did not change at {revision}");
            return wrong.push((Guarantee::WatchReliable, text));
        };
        if time < log.times.born(revision) {
            let text = format!("revision {revision} came before it was asked for");
            wrong.push((Guarantee::WatchReliable, text));
        }
        let same_birth = |kv: &KeyValue| KeyValue {
            create_revision: real.kv.create_revision,
            version: real.kv.version,
            ..kv.clone()
        };
        if (event.kind, same_birth(&event.kv)) != (real.kind, real.kv.clone()) {
            let text = format!("{:?} at {revision} is not {:?}", event.kv, real.kv);
            wrong.push((Guarantee::WatchReliable, text));
        } else if event.kv != real.kv {
            let text = format!("{key:?} at {revision}: wrong creation or version");
            wrong.push((Guarantee::WatchPrevKv, text));
        }
        self.compare_before(event, real, time, log, wrong);
    }

    fn compare_before(
        &self,
        event: &WatchEvent,
        real: &WatchEvent,
        time: Time,
        log: &Log<'_>,
        wrong: &mut Vec<(Guarantee, String)>,
    ) {
        let revision = event.kv.mod_revision;
        let expected = if self.request.prev_kv {
            real.prev_kv.as_ref()
        } else {
            None
        };
        if event.prev_kv.as_ref() == expected {
            return;
        }
        // What is compacted away cannot be told any more.
        if event.prev_kv.is_none() && log.times.may_be_compacted(revision - 1, time) {
            return;
        }
        let text = format!(
            "{:?} at {revision}: before it {:?}",
            event.kv.key, event.prev_kv
        );
        wrong.push((Guarantee::WatchPrevKv, text));
    }

    /// The first revision before `until` whose events should have come and did not. The log is
    /// settled up to there.
    fn missing_until(&mut self, until: i64, log: &Log<'_>) -> Option<i64> {
        let archive = &log.timeline.archive;
        let from = self.cursor.max(archive.first() + 1);
        let until = until.min(archive.last() + 1);
        let mut missing = None;
        for revision in from..until {
            if missing.is_some() {
                break;
            }
            let is_due = revision >= self.must_from && revision != self.last_event;
            if is_due
                && archive
                    .events_at(revision)
                    .iter()
                    .any(|event| self.wants(event))
            {
                missing = Some(revision);
            }
        }
        self.cursor = self.cursor.max(until);
        missing
    }

    /// After a response that is whole, the last revision in it must be whole too.
    fn close_revision(&mut self, log: &Log<'_>, wrong: &mut Vec<(Guarantee, String)>) {
        let revision = self.last_event;
        if revision == 0 {
            return;
        }
        let archive = &log.timeline.archive;
        let events = archive.events_at(revision).iter();
        let mut absent =
            events.filter(|event| self.wants(event) && !self.keys.contains(&event.kv.key));
        if let Some(absent) = absent.next() {
            let text = format!("{:?} at {revision} is missing", absent.kv.key);
            wrong.push((Guarantee::WatchReliable, text));
        }
        self.cursor = self.cursor.max(revision + 1);
    }
}
