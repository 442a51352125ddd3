//! `HashKV`: a checksum over the history up to a revision, equal on all members and to etcd's.
//!
//! CRC-32C over the bucket's name, then key and value of each record in order. Records that a
//! compaction has removed, or is about to, must not count, and members may be at different points
//! of the same compaction. etcd's rules, which are kept:
//! - a record at or below the compact revision counts only if it is its key's state at the hashed
//!   revision; but if no key at all exists at the hashed revision, this rule is left out;
//! - a tombstone at the compact revision does not count.
//!
//! Where that exception leaves etcd's number to the progress of the compaction, here a record the
//! compaction will remove never counts.
//!
//! The work is done in slices. Writes between slices change nothing below the hashed revision; a
//! new compaction does, so the hash begins again under the new compact revision.

use std::ops::ControlFlow;

use super::{
    read::ReadError,
    record,
    revision::{RecordKey, Revision},
    store::{Store, after},
};
use crate::{
    backend::{Backend, Bucket, View},
    kernel::DiskError,
};

/// A hash in the making. Lives no longer than the store it was begun on.
#[derive(Clone, Debug)]
pub struct HashKv {
    revision: i64,
    compacted: i64,
    /// Where the next slice begins.
    next: Revision,
    /// The checksum under the first rule.
    strict: u32,
    /// The checksum with that rule left out; of no further use once a living key was seen.
    lenient: u32,
    living: bool,
}

/// A finished hash, as `HashKV` answers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashResult {
    /// The checksum.
    pub hash: u32,
    /// The compact revision it was made under; -1 when nothing was ever compacted.
    pub compact_revision: i64,
    /// The revision it was made at.
    pub hash_revision: i64,
}

impl Store {
    /// Begins a hash at a revision; zero is the current one.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, ReadError> {
        assert!(!self.writing, "a hash within a write transaction");
        let at = if revision == 0 {
            self.revision
        } else {
            revision
        };
        if at > self.revision {
            return Err(ReadError::FutureRevision);
        }
        HashKv::new(self, at)
    }
}

impl HashKv {
    fn new(store: &Store, revision: i64) -> Result<Self, ReadError> {
        // etcd does not refuse a negative revision: nothing is that old, so nothing is hashed.
        if revision > 0 && revision < store.compacted {
            return Err(ReadError::Compacted);
        }
        let seed = crc32c::crc32c(Bucket::Key.name().as_bytes());
        Ok(Self {
            revision,
            compacted: store.compacted,
            next: Revision::default(),
            strict: seed,
            lenient: seed,
            living: false,
        })
    }

    /// Hashes at most `records_max` further records; the result when none is left.
    pub fn step<B: Backend>(
        &mut self,
        store: &Store,
        view: &View<B>,
        records_max: usize,
    ) -> Result<Option<HashResult>, ReadError> {
        assert!(records_max > 0, "a slice that may do nothing never ends");
        assert!(!store.writing, "a hash within a write transaction");
        if store.compacted != self.compacted {
            *self = Self::new(store, self.revision)?;
        }
        if self.revision < 0 {
            return Ok(Some(self.result()));
        }
        let mut left = records_max;
        let mut failed = None;
        let from = RecordKey::put(self.next).encode();
        let end = Revision::floor(self.revision.saturating_add(1));
        let range = (from.as_slice(), Some(end.as_slice()));
        let mut more = false;
        view.range(Bucket::Key, range.0, range.1, &mut |key, value| {
            if left == 0 {
                more = true;
                return ControlFlow::Break(());
            }
            left -= 1;
            match self.add(store, key, value) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        Ok((!more).then(|| self.result()))
    }

    fn add(&mut self, store: &Store, key: &[u8], value: &[u8]) -> Result<(), DiskError> {
        let record = RecordKey::decode(key)?;
        let at = record.revision;
        assert!(at >= self.next, "records are hashed in order");
        self.next = after(at);
        let old = at.main <= self.compacted;
        if record.tombstone && old {
            return Ok(());
        }
        if !old && (record.tombstone || self.living) {
            self.feed(key, value, true);
            return Ok(());
        }
        let owner = record::header(value)?.key;
        let lives = store
            .index
            .at(owner, self.revision)
            .is_some_and(|meta| meta.revision() == at);
        self.living |= lives;
        if old && !lives {
            if !self.living && store.index.keeps(owner, at, self.compacted) {
                self.feed(key, value, false);
            }
            return Ok(());
        }
        self.feed(key, value, true);
        Ok(())
    }

    fn feed(&mut self, key: &[u8], value: &[u8], strict: bool) {
        if strict {
            self.strict = add(self.strict, key, value);
        }
        if !self.living {
            self.lenient = add(self.lenient, key, value);
        }
    }

    fn result(&self) -> HashResult {
        HashResult {
            hash: if self.living {
                self.strict
            } else {
                self.lenient
            },
            compact_revision: self.compacted,
            hash_revision: self.revision,
        }
    }
}

fn add(sum: u32, key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(sum, key), value)
}
