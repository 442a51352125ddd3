//! Reads at a revision: which keys exist is the index's answer, their records come from the view.

use std::{fmt, ops::ControlFlow};

use super::{
    key::KeyRange,
    key_index::KeyMeta,
    record,
    records::{self, Wanted},
    revision::RecordKey,
    store::Store,
};
use crate::{
    backend::{Backend, Bucket, View},
    kernel::DiskError,
    mutant,
    pb::mvccpb::KeyValue,
};

/// Why a read was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadError {
    /// The revision is below the compact revision.
    Compacted,
    /// The revision is above the current one.
    FutureRevision,
    /// The backend failed; this member must stop.
    Disk(DiskError),
}

/// Which keys to read, as of when, and how much of them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct RangeQuery<'a> {
    /// The key, or the first of the range.
    pub key: &'a [u8],
    /// etcd's rules: empty is one key, a zero byte is all from `key` on.
    pub range_end: &'a [u8],
    /// Zero or less is the current one.
    pub revision: i64,
    /// At most so many records; zero is no bound.
    pub limit: usize,
    /// No records, only their number.
    pub count_only: bool,
    /// Records without value, straight from the index; as in etcd 3.7, without lease too.
    pub keys_only: bool,
    /// Stop at the limit; `count` is then the number of records returned.
    pub uncounted: bool,
}

/// What a range holds.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct RangeResult {
    /// The records, in key order.
    pub kvs: Vec<KeyValue>,
    /// All keys in the range at that revision, whatever the limit.
    pub count: u64,
    /// The store's revision at the time of the read.
    pub revision: i64,
}

impl Store {
    /// Reads a range. Touches as many records as it returns.
    pub fn range<B: Backend>(
        &self,
        view: &View<B>,
        query: &RangeQuery<'_>,
    ) -> Result<RangeResult, ReadError> {
        self.range_seen_at(view, query, self.revision)
    }

    /// How many keys of a range exist at a revision; zero or less is the current one.
    pub fn count(&self, key: &[u8], range_end: &[u8], revision: i64) -> Result<u64, ReadError> {
        let at = self.readable(revision, self.revision)?;
        Ok(self.index.count(KeyRange::new(key, range_end), at))
    }

    /// One key at a revision; zero or less is the current one.
    pub fn get<B: Backend>(
        &self,
        view: &View<B>,
        key: &[u8],
        revision: i64,
    ) -> Result<Option<KeyValue>, ReadError> {
        let at = self.readable(revision, self.revision)?;
        match self.index.at(key, at) {
            Some(meta) => Ok(Some(fetch(view, key, meta)?)),
            None => Ok(None),
        }
    }

    /// Reads a range while the current revision is `current`, one ahead within a write transaction.
    pub(super) fn range_seen_at<B: Backend>(
        &self,
        view: &View<B>,
        query: &RangeQuery<'_>,
        current: i64,
    ) -> Result<RangeResult, ReadError> {
        let at = self.readable(query.revision, current)?;
        let range = KeyRange::new(query.key, query.range_end);
        let mut result = RangeResult {
            kvs: Vec::new(),
            count: 0,
            revision: current,
        };
        if query.count_only {
            let at = if mutant!("count-of-now") { current } else { at };
            result.count = self.index.count(range, at);
            return Ok(result);
        }
        let limit = if query.limit == 0 {
            usize::MAX
        } else {
            query.limit
        };
        let (mut wanted, mut more) = (Vec::new(), false);
        self.index.visit(range, at, |key, meta| {
            if wanted.len() == limit {
                more = true;
                return ControlFlow::Break(());
            }
            wanted.push(Wanted { key, meta });
            ControlFlow::Continue(())
        });
        result.kvs = match (query.keys_only, &wanted[..]) {
            (true, _) => wanted.iter().map(Wanted::known).collect(),
            (false, [one]) => vec![fetch(view, one.key, one.meta)?],
            (false, _) => records::read(view, &wanted)?,
        };
        result.count = match more && !query.uncounted {
            true => self.index.count(range, at),
            false => result.kvs.len() as u64,
        };
        Ok(result)
    }

    /// The main revision to read at, if it can be read.
    pub(super) fn readable(&self, revision: i64, current: i64) -> Result<i64, ReadError> {
        if revision > current && !mutant!("future-revision-served") {
            return Err(ReadError::FutureRevision);
        }
        let at = if revision <= 0 { current } else { revision };
        if at < self.readable_from() && !mutant!("compacted-revision-served") {
            return Err(ReadError::Compacted);
        }
        Ok(at)
    }

    /// The oldest revision that can be read.
    pub fn readable_from(&self) -> i64 {
        match mutant!("answers-by-how-far-compaction-got") {
            true => self.finished,
            false => self.compacted,
        }
    }
}

/// The record the index speaks of; the index was built from it, so its absence is damage.
pub(super) fn fetch<B: Backend>(
    view: &View<B>,
    key: &[u8],
    meta: KeyMeta,
) -> Result<KeyValue, DiskError> {
    let revision = meta.revision();
    let stored = RecordKey::put(revision).encode();
    let Some(bytes) = view.get(Bucket::Key, stored.as_slice())? else {
        return Err(records::gone(revision));
    };
    Wanted { key, meta }.check(&bytes)?;
    record::decode(bytes)
}

impl From<DiskError> for ReadError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compacted => f.write_str("required revision has been compacted"),
            Self::FutureRevision => f.write_str("required revision is a future revision"),
            Self::Disk(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReadError {}
