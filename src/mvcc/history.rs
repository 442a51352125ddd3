//! Replay of past changes, for watches that begin in the past.
//!
//! The answer never splits a revision, and never depends on a running compaction: a compaction
//! keeps every record of its own revision, and older revisions are refused.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{
    key::KeyRange,
    read::ReadError,
    record,
    revision::{RecordKey, Revision},
    store::Store,
    write::event,
};
use crate::{
    backend::{Backend, Bucket, View},
    kernel::DiskError,
    pb::mvccpb::{Event, KeyValue, event::EventType},
};

/// Records one call looks at before it stops at the next whole revision, matching or not.
const RECORDS_SCANNED_MAX: usize = 10_000;

/// Which part of the past to replay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistoryQuery<'a> {
    /// First revision wanted.
    pub from: i64,
    /// Last revision wanted; the current one when it is above that.
    pub to: i64,
    /// The key, or the first of the range.
    pub key: &'a [u8],
    /// etcd's rules: empty is one key, a zero byte is all from `key` on.
    pub range_end: &'a [u8],
    /// At most so many revisions with events; at least one.
    pub revisions_max: usize,
    /// No further revision once so many bytes of records are in; the first is never refused.
    pub bytes_max: usize,
}

/// Part of the past.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct History {
    /// Events by revision, rising; only revisions that have any.
    pub events: Vec<(i64, Vec<Event>)>,
    /// First revision not covered: where to go on. Above the query's `to` when all is told.
    pub next: i64,
}

impl Store {
    /// Replays changes of a range of keys. Puts carry their whole record, deletions key and
    /// revision. May cover less than was asked for; `next` says how far it came.
    pub fn history<B: Backend>(
        &self,
        view: &View<B>,
        query: &HistoryQuery<'_>,
    ) -> Result<History, ReadError> {
        assert!(!self.writing, "history within a write transaction");
        let from = query.from.max(1);
        if from < self.compacted {
            return Err(ReadError::Compacted);
        }
        let to = query.to.min(self.revision);
        if from > to {
            return Ok(History {
                events: Vec::new(),
                next: from,
            });
        }
        let mut replay = Replay::new(query, to + 1);
        let mut failed = None;
        let (first, end) = (Revision::floor(from), Revision::floor(to + 1));
        let range = (first.as_slice(), Some(end.as_slice()));
        view.range(Bucket::Key, range.0, range.1, &mut |key, value| {
            replay.add(key, value).unwrap_or_else(|error| {
                failed = Some(error);
                ControlFlow::Break(())
            })
        })?;
        match failed {
            Some(error) => Err(error.into()),
            None => {
                assert!(replay.history.next > from, "every call makes way");
                Ok(replay.history)
            }
        }
    }
}

struct Replay<'a> {
    range: KeyRange<'a>,
    revisions_max: usize,
    bytes_max: usize,
    history: History,
    current: i64,
    scanned: usize,
    bytes: usize,
}

impl<'a> Replay<'a> {
    fn new(query: &HistoryQuery<'a>, end: i64) -> Self {
        Self {
            range: KeyRange::new(query.key, query.range_end),
            revisions_max: query.revisions_max.max(1),
            bytes_max: query.bytes_max,
            history: History {
                events: Vec::new(),
                next: end,
            },
            current: 0,
            scanned: 0,
            bytes: 0,
        }
    }

    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<ControlFlow<()>, DiskError> {
        let RecordKey {
            revision,
            tombstone,
        } = RecordKey::decode(key)?;
        let events = &mut self.history.events;
        if revision.main != self.current {
            // Only here, between two revisions, may the replay stop.
            let full = events.len() >= self.revisions_max
                || (!events.is_empty() && self.bytes >= self.bytes_max)
                || self.scanned >= RECORDS_SCANNED_MAX;
            if full {
                self.history.next = revision.main;
                return Ok(ControlFlow::Break(()));
            }
            self.current = revision.main;
        }
        self.scanned += 1;
        let header = record::header(value)?;
        if !self.range.contains(header.key) {
            return Ok(ControlFlow::Continue(()));
        }
        self.bytes += value.len();
        let event = if tombstone {
            let kv = KeyValue {
                key: Bytes::copy_from_slice(header.key),
                mod_revision: revision.main,
                ..KeyValue::default()
            };
            event(EventType::Delete, kv)
        } else {
            let kv = record::decode(Bytes::copy_from_slice(value))?;
            event(EventType::Put, kv)
        };
        match events.last_mut() {
            Some((main, list)) if *main == revision.main => list.push(event),
            Some(_) | None => events.push((revision.main, vec![event])),
        }
        Ok(ControlFlow::Continue(()))
    }
}
