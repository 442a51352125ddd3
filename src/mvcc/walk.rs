//! A range that is read a part at a time, so that a large one holds nobody up.
//!
//! Invariant: all parts are read at one revision, which was readable when the walk began. Writes do
//! not change the past; a later compaction does, so whoever walks keeps its removals back while
//! `revision` is below the compact revision.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{
    key::KeyRange,
    read::{RangeQuery, RangeResult, ReadError, read},
    store::Store,
};
use crate::{
    backend::{Backend, View},
    kernel::{PartedRange, limits},
    pb::mvccpb::KeyValue,
};

/// What one part may read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Keys of one part.
    pub keys_max: usize,
    /// Bytes of keys and values after which a part ends.
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
    /// What was read, each part in a list of its own; none is empty.
    parts: Vec<Vec<KeyValue>>,
    records: usize,
    /// Bytes of keys and values.
    bytes: usize,
    /// Bytes of the records in a message.
    message_bytes: usize,
}

/// What a walk has read.
#[derive(Clone, PartialEq, Debug)]
pub struct Walked {
    /// The records in the order of their keys, as they were read; no part is empty.
    pub parts: Vec<Vec<KeyValue>>,
    /// How many records that are.
    pub records: usize,
    /// Bytes that they take of a message.
    pub message_bytes: usize,
    /// As in `RangeResult`.
    pub count: u64,
    /// As in `RangeResult`.
    pub revision: i64,
}

impl Walked {
    /// All records in one list.
    pub fn joined(mut self) -> RangeResult {
        let kvs = match self.parts.len() {
            1 => self.parts.remove(0),
            _ => self.parts.concat(),
        };
        RangeResult {
            kvs,
            count: self.count,
            revision: self.revision,
        }
    }
}

const _: () = assert!(size_of::<KeyValue>() <= limits::RECORD_HELD_BYTES);

impl Store {
    /// Begins to walk a range. Counting alone is no walk.
    pub fn walk(&self, query: &RangeQuery<'_>) -> Result<RangeWalk, ReadError> {
        assert!(!query.count_only, "a walk reads records");
        Ok(RangeWalk {
            key: Bytes::copy_from_slice(query.key),
            range_end: Bytes::copy_from_slice(query.range_end),
            at: self.readable(query.revision, self.revision)?,
            current: self.revision,
            limit: query.limit,
            keys_only: query.keys_only,
            parts: Vec::new(),
            records: 0,
            bytes: 0,
            message_bytes: 0,
        })
    }
}

impl RangeWalk {
    /// The revision that is read.
    pub fn revision(&self) -> i64 {
        self.at
    }

    /// Memory of what was gathered so far.
    pub fn bytes(&self) -> usize {
        self.bytes + self.records * limits::RECORD_HELD_BYTES
    }

    /// Reads a part; whether there is more.
    pub fn step<B: Backend>(
        &mut self,
        store: &Store,
        view: &View<B>,
        part: Part,
    ) -> Result<bool, ReadError> {
        assert!(part.keys_max > 0, "a part that may read nothing never ends");
        let mut next = Vec::new();
        let first = match self.parts.last().and_then(|part| part.last()) {
            None => &self.key[..],
            Some(last) => {
                next.extend_from_slice(&last.key);
                next.push(0);
                &next[..]
            }
        };
        let mut kvs = Vec::new();
        let (mut bytes, mut message_bytes) = (0, 0);
        let (mut more, mut failed) = (false, None);
        let range = KeyRange::new(first, &self.range_end);
        store.index.visit(range, self.at, |key, meta| {
            if self.limit > 0 && self.records + kvs.len() == self.limit {
                return ControlFlow::Break(());
            }
            if kvs.len() == part.keys_max || bytes >= part.bytes_max {
                more = true;
                return ControlFlow::Break(());
            }
            match read(view, key, meta, self.keys_only) {
                Ok(kv) => {
                    bytes += kv.key.len() + kv.value.len();
                    message_bytes += PartedRange::record_bytes(&kv);
                    kvs.push(kv);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        self.bytes += bytes;
        self.message_bytes += message_bytes;
        self.records += kvs.len();
        if !kvs.is_empty() {
            self.parts.push(kvs);
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(more),
        }
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
            message_bytes: self.message_bytes,
            count,
            revision: self.current,
        }
    }
}
