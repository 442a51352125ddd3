//! What stale reads and watches say about single revisions.
//!
//! They take no part in the order, but where unknown outcomes leave several orders possible, only
//! one that fits them is worth anything: the later checks compare with it.

use std::collections::BTreeMap;

use super::prepare::{Prepared, is_serializable};
use super::times::seen;
use crate::history::*;
use crate::model::{KeyRange, Model, agrees};

/// How many revisions share a list of watches.
const BUCKET: i64 = 256;

/// Everything that somebody saw of a revision.
#[derive(Debug, Default)]
pub struct Witness<'h> {
    sights: BTreeMap<i64, Vec<Sight>>,
    spans: Vec<Span<'h>>,
    /// By revision divided by `BUCKET`, the spans that reach into it.
    buckets: BTreeMap<i64, Vec<usize>>,
    /// When a revision or a later one had been seen.
    seen: BTreeMap<i64, Time>,
}

/// One answer about a state.
#[derive(Debug)]
struct Sight {
    request: Request,
    outcome: Outcome,
}

/// The part of the log that a watch has covered.
#[derive(Debug)]
struct Span<'h> {
    range: KeyRange,
    request: &'h WatchRequest,
    /// First and last revision covered.
    first: i64,
    last: i64,
    /// Of a watch from now on: when it was known to be there. Until its first event it covers only
    /// what was asked for after that.
    since: Option<Time>,
    events: BTreeMap<i64, Vec<&'h WatchEvent>>,
    /// Events of a revision that is not known to be whole.
    pending: Vec<&'h WatchEvent>,
}

impl<'h> Witness<'h> {
    /// Gathers all stale reads and all watches.
    pub fn gather(prepared: &Prepared<'h>) -> Witness<'h> {
        let mut witness = Witness {
            seen: seen(prepared),
            ..Witness::default()
        };
        for op in &prepared.ops {
            let Outcome::Ok(response) = &op.source.outcome else {
                continue;
            };
            let stale = is_serializable(&op.source.request);
            let revision = response.header.revision;
            match (&op.source.request, &response.reply) {
                (Request::Range(range), Reply::Range(reply)) if stale || range.revision > 0 => {
                    let at = if range.revision > 0 {
                        range.revision
                    } else {
                        revision
                    };
                    let now = RangeRequest {
                        revision: 0,
                        ..range.clone()
                    };
                    let response = Response {
                        header: Header::default(),
                        reply: Reply::Range(reply.clone()),
                    };
                    witness.sights.entry(at).or_default().push(Sight {
                        request: Request::Range(now),
                        outcome: Outcome::Ok(response),
                    });
                }
                (request @ Request::Txn(_), _) if stale => {
                    witness.sights.entry(revision).or_default().push(Sight {
                        request: request.clone(),
                        outcome: op.source.outcome.clone(),
                    });
                }
                (_, _) => (),
            }
        }
        witness.gather_spans(&prepared.history.watches);
        witness
    }

    fn gather_spans(&mut self, lines: &'h [WatchRecord]) {
        let mut open: BTreeMap<(u64, u64, i64), Span<'h>> = BTreeMap::new();
        for line in lines {
            let key = |watch_id| (line.client, line.stream, watch_id);
            match &line.item {
                WatchItem::Created(created) if created.canceled || created.watch_id < 0 => (),
                WatchItem::Created(created) => {
                    open.insert(key(created.watch_id), Span::new(created, line.time));
                }
                WatchItem::Response(response) if response.watch_id == -1 => {
                    let all = (line.client, line.stream, i64::MIN)..=key(i64::MAX);
                    for (_, span) in open.range_mut(all) {
                        span.on_progress(response.revision);
                    }
                }
                WatchItem::Response(response) => {
                    let Some(span) = open.get_mut(&key(response.watch_id)) else {
                        continue;
                    };
                    if response.events.is_empty() {
                        span.on_progress(response.revision);
                    } else {
                        span.on_events(response);
                    }
                }
                WatchItem::Canceled(canceled) => {
                    self.spans.extend(open.remove(&key(canceled.watch_id)));
                }
                WatchItem::Closed => (),
            }
        }
        self.spans.extend(open.into_values());
        self.spans
            .retain(|span| span.first > 0 && span.last >= span.first);
        for (at, span) in self.spans.iter().enumerate() {
            // A hostile history may name any revision; what no operation reaches is not asked for.
            let buckets = (span.first / BUCKET..=span.last / BUCKET).take(1 << 20);
            for bucket in buckets {
                self.buckets.entry(bucket).or_default().push(at);
            }
        }
    }

    /// Whether an operation was called before what it should have done was seen.
    pub fn is_in_time(&self, revision: i64, call: Time) -> bool {
        let seen = self.seen.range(revision..).next();
        seen.is_none_or(|(_, time)| call <= *time)
    }

    /// Whether a state that has just reached its revision is what everybody saw of it.
    ///
    /// The step was asked for at this time, if anybody asked.
    pub fn allows(&self, model: &mut Model, call: Option<Time>) -> bool {
        let revision = model.revision();
        let spans = self
            .buckets
            .get(&(revision / BUCKET))
            .map_or(&[][..], Vec::as_slice);
        let fits = |at: &usize| self.spans[*at].allows(revision, model.events(), call);
        if !spans.iter().all(fits) {
            return false;
        }
        let sights = self.sights.get(&revision).map_or(&[][..], Vec::as_slice);
        sights.iter().all(|sight| sight.fits(model))
    }
}

impl Sight {
    fn fits(&self, model: &mut Model) -> bool {
        let answer = model.step(&self.request);
        agrees(model, &self.request, &answer, &self.outcome)
    }
}

impl<'h> Span<'h> {
    fn new(created: &'h WatchCreated, time: Time) -> Span<'h> {
        let request = &created.request;
        let key = if request.key.is_empty() {
            Text::from("\0")
        } else {
            request.key.clone()
        };
        let is_from_now = request.start_revision <= 0;
        Span {
            range: KeyRange::new(&key, &request.range_end),
            request,
            first: if is_from_now {
                created.revision + 1
            } else {
                request.start_revision
            },
            last: 0,
            since: is_from_now.then_some(time),
            events: BTreeMap::new(),
            pending: Vec::new(),
        }
    }

    fn on_progress(&mut self, revision: i64) {
        self.last = self.last.max(revision);
    }

    fn on_events(&mut self, response: &'h WatchResponse) {
        for event in &response.events {
            let revision = event.kv.mod_revision;
            if self
                .pending
                .first()
                .is_some_and(|first| first.kv.mod_revision != revision)
            {
                self.settle();
            }
            self.pending.push(event);
        }
        if !response.fragment {
            self.settle();
        }
    }

    fn settle(&mut self) {
        let Some(first) = self.pending.first() else {
            return;
        };
        let revision = first.kv.mod_revision;
        self.last = self.last.max(revision);
        self.events
            .insert(revision, std::mem::take(&mut self.pending));
    }

    fn allows(&self, revision: i64, events: &[WatchEvent], call: Option<Time>) -> bool {
        if !(self.first..=self.last).contains(&revision) {
            return true;
        }
        let is_before_all = || {
            self.events
                .keys()
                .next()
                .is_none_or(|first| revision < *first)
        };
        let is_after = |since: Time| call.is_some_and(|call| call > since);
        if self
            .since
            .is_some_and(|since| !is_after(since) && is_before_all())
        {
            return true;
        }
        let wanted = events.iter().filter(|event| {
            let filtered = match event.kind {
                EventKind::Put => self.request.no_put,
                EventKind::Delete => self.request.no_delete,
            };
            !filtered && self.range.has(&event.kv.key)
        });
        let seen = self.events.get(&revision).map_or(&[][..], Vec::as_slice);
        let mut wanted: Vec<_> = wanted.map(|event| (event.kind, &event.kv)).collect();
        let mut seen: Vec<_> = seen.iter().map(|event| (event.kind, &event.kv)).collect();
        wanted.sort_by_key(|(_, kv)| &kv.key);
        seen.sort_by_key(|(_, kv)| &kv.key);
        wanted == seen
    }
}
