//! A range that is read a part at a time, so that a large one holds nobody up.
//!
//! Invariant: all parts are read at one revision, which was readable when the walk began. Writes do
//! not change the past; a later compaction does, so whoever walks keeps its removals back while
//! `revision` is below the compact revision.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{
    key::KeyRange,
    read::{RangeQuery, ReadError},
    records::{self, Wanted},
    store::Store,
};
use crate::backend::{Backend, View};

/// What one part may read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Keys of one part.
    pub keys_max: usize,
    /// Bytes of an answer after which a part ends.
    pub bytes_max: usize,
}

/// A range on its way.
#[derive(Clone, PartialEq, Debug)]
pub struct RangeWalk {
    key: Bytes,
    range_end: Bytes,
    /// The revision that is read.
    at: i64,
    /// The store's revision when the walk began.
    current: i64,
    /// As in `RangeQuery`; zero is no bound.
    limit: usize,
    keys_only: bool,
    /// What was read, as in a `PartedRange`.
    parts: Vec<Bytes>,
    records: usize,
    /// The last key that was read.
    last: Option<Vec<u8>>,
    /// Bytes of the parts.
    bytes: usize,
}

/// What a walk has read.
#[derive(Clone, PartialEq, Debug)]
pub struct Walked {
    /// The records in the order of their keys, as in a `PartedRange`.
    pub parts: Vec<Bytes>,
    /// How many records that are.
    pub records: usize,
    /// As in `RangeResult`.
    pub count: u64,
    /// As in `RangeResult`.
    pub revision: i64,
}

impl Store {
    /// Begins to walk a range. Counting alone is no walk.
    pub fn walk(&self, query: &RangeQuery<'_>) -> Result<RangeWalk, ReadError> {
        self.walk_seen_at(query, self.revision)
    }

    /// Walks a range to its end at once.
    pub fn walked<B: Backend>(
        &self,
        view: &View<B>,
        query: &RangeQuery<'_>,
    ) -> Result<Walked, ReadError> {
        self.walked_seen_at(view, query, self.revision)
    }

    /// The same while the current revision is `current`, one ahead within a write transaction.
    pub(super) fn walked_seen_at<B: Backend>(
        &self,
        view: &View<B>,
        query: &RangeQuery<'_>,
        current: i64,
    ) -> Result<Walked, ReadError> {
        let mut walk = self.walk_seen_at(query, current)?;
        let part = Part {
            keys_max: records::TOGETHER_MAX,
            bytes_max: usize::MAX,
        };
        while walk.step(self, view, part)? {}
        Ok(walk.finish(self))
    }

    fn walk_seen_at(&self, query: &RangeQuery<'_>, current: i64) -> Result<RangeWalk, ReadError> {
        assert!(!query.count_only, "a walk reads records");
        Ok(RangeWalk {
            key: Bytes::copy_from_slice(query.key),
            range_end: Bytes::copy_from_slice(query.range_end),
            at: self.readable(query.revision, current)?,
            current,
            limit: query.limit,
            keys_only: query.keys_only,
            parts: Vec::new(),
            records: 0,
            last: None,
            bytes: 0,
        })
    }
}

impl RangeWalk {
    /// The revision that is read.
    pub fn revision(&self) -> i64 {
        self.at
    }

    /// Whether no more keys than this are read, as far as that can be told without looking at them.
    pub fn is_within(&self, keys: usize, store: &Store) -> bool {
        if self.limit > 0 && self.limit <= keys {
            return true; // the count is asked for at the end, and need not be now
        }
        let range = KeyRange::new(&self.key, &self.range_end);
        match range {
            KeyRange::One(_) => true,
            // In the past each key that has changed since must be looked at.
            KeyRange::Span { .. } => {
                self.at == store.revision && store.index.count(range, self.at) <= keys as u64
            }
        }
    }

    /// Memory of what was gathered so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reads a part; whether there is more.
    pub fn step<B: Backend>(
        &mut self,
        store: &Store,
        view: &View<B>,
        part: Part,
    ) -> Result<bool, ReadError> {
        assert!(part.keys_max > 0, "a part that may read nothing never ends");
        let next = self.last.take().map(|mut last| {
            last.push(0);
            last
        });
        let range = KeyRange::new(next.as_deref().unwrap_or(&self.key), &self.range_end);
        let left = match self.limit {
            0 => usize::MAX,
            limit => limit - self.records,
        };
        let (mut wanted, mut more) = (Vec::new(), false);
        store.index.visit(range, self.at, |key, meta| {
            if wanted.len() == left {
                return ControlFlow::Break(());
            }
            if wanted.len() == part.keys_max {
                more = true;
                return ControlFlow::Break(());
            }
            wanted.push(Wanted { key, meta });
            ControlFlow::Continue(())
        });
        let (bytes, taken) = match self.keys_only {
            true => records::append_known(&wanted, part.bytes_max),
            false => records::append(&wanted, &records::find(view, &wanted)?, part.bytes_max)?,
        };
        more |= taken < wanted.len();
        self.last = taken.checked_sub(1).map(|last| wanted[last].key.to_vec());
        self.records += taken;
        if taken > 0 {
            self.bytes += bytes.capacity();
            self.parts.push(bytes.into());
        }
        Ok(more)
    }

    /// What was read, once there is no more.
    pub fn finish(self, store: &Store) -> Walked {
        let count = match self.limit {
            0 => self.records as u64,
            _ => store
                .index
                .count(KeyRange::new(&self.key, &self.range_end), self.at),
        };
        Walked {
            parts: self.parts,
            records: self.records,
            count,
            revision: self.current,
        }
    }
}
