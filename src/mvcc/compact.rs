//! Compaction: history below a revision is given up. It is refused to readers at once; its records
//! are removed in bounded slices, driven from outside.
//!
//! A pass never reads the backend: the index knows the key of every record. It walks the index in
//! key order, where neighbours have revisions from anywhere, and gathers what has to go; then it
//! removes what was gathered in the order of revisions, which is the order of the backend's pages.
//! So a slice changes a few pages that lie together instead of one page for each record. Within a
//! key the oldest record goes first, so that a crash at any point leaves a history without its
//! beginning, which is all that `Store::load` has to understand.
//!
//! What was gathered is gone from the index and still in the backend. Nobody reads it there: it is
//! older than what readers may ask for, and a hash asks the index what counts.
//!
//! Two marks in bucket `Meta` carry it over a restart: `scheduledCompactRev`, written when a
//! compaction is accepted, and `finishedCompactRev`, written after the last removal. A pass that
//! was interrupted runs again from its beginning and finds less to do.
//!
//! A compaction accepted while a pass runs waits for it to end, so that a stream of compactions
//! cannot keep the last keys from ever being visited.

use std::collections::BTreeSet;

use super::{
    index::Index,
    key::Key,
    revision::{RecordKey, Revision},
    store::Store,
};
use crate::{
    backend::{Backend, Bucket, View},
    kernel::limits,
    mutant,
};

pub(super) const SCHEDULED_KEY: &[u8] = b"scheduledCompactRev";
pub(super) const FINISHED_KEY: &[u8] = b"finishedCompactRev";

/// Why a compaction was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CompactError {
    /// The revision is not above the compact revision.
    Compacted,
    /// The revision is above the current one.
    FutureRevision,
}

/// One slice gathers so many times what it may remove: gathering writes nothing.
const GATHER_TIMES: usize = 4;

/// Few in tests, so that small histories come to this bound.
const GATHERED_MAX: usize = match cfg!(test) {
    true => 8,
    false => limits::COMPACTION_GATHERED_MAX,
};

/// One walk over the index.
#[derive(Debug)]
pub(super) struct Pass {
    target: i64,
    /// The last key that is done with.
    cursor: Option<Key>,
    /// Gathered, and not removed yet.
    due: BTreeSet<RecordKey>,
    phase: Phase,
}

/// What a pass is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Looking for records, until there are enough.
    Gathering,
    /// Removing what was gathered; there is more in the index behind the cursor.
    Removing,
    /// Removing the last of it.
    Ending,
}

impl Store {
    /// Accepts a compaction: records it, and refuses older revisions to readers from now on. The
    /// revision itself stays readable. `compact_slice` does the removals.
    pub fn compact<B: Backend>(
        &mut self,
        view: &mut View<B>,
        revision: i64,
    ) -> Result<(), CompactError> {
        self.check();
        if revision <= self.compacted {
            return Err(CompactError::Compacted);
        }
        if revision > self.revision {
            return Err(CompactError::FutureRevision);
        }
        assert!(revision >= 0, "-1, never compacted, is the lowest bound");
        self.compacted = revision;
        if !mutant!("compaction-forgotten-by-a-crash") {
            set_mark(view, SCHEDULED_KEY, revision);
        }
        self.start_pass();
        Ok(())
    }

    /// Goes on with the running compaction: gathers some, or removes at most `records_max` records.
    /// Whether there is more to do. Must not be called within a write transaction.
    pub fn compact_slice<B: Backend>(&mut self, view: &mut View<B>, records_max: usize) -> bool {
        assert!(!self.writing, "a slice within a write transaction");
        let Some(pass) = &mut self.pass else {
            return false;
        };
        let target = pass.target;
        if pass.phase == Phase::Gathering {
            pass.gather(&mut self.index, records_max.saturating_mul(GATHER_TIMES));
            if pass.phase == Phase::Gathering {
                return true;
            }
        }
        for _ in 0..records_max {
            let Some(record) = pass.due.pop_first() else {
                break;
            };
            self.removed += 1;
            view.delete(Bucket::Key, record.encode().to_bytes());
        }
        if !pass.due.is_empty() {
            return true;
        }
        if pass.phase == Phase::Removing {
            pass.phase = Phase::Gathering;
            return true;
        }
        assert!(target > self.finished, "a finished compaction ran again");
        set_mark(view, FINISHED_KEY, target);
        self.finished = target;
        self.pass = None;
        self.start_pass();
        self.pass.is_some()
    }

    /// Whether removals are left to do.
    pub fn compaction_running(&self) -> bool {
        self.pass.is_some()
    }

    /// The last compaction whose removals are all in the view; -1 before the first. A `physical`
    /// compaction is done when this has reached it and the view's batch is committed.
    pub fn compaction_finished(&self) -> i64 {
        self.finished
    }

    /// What the running pass has gathered and not removed yet.
    #[cfg(test)]
    pub(super) fn gathered(&self) -> BTreeSet<RecordKey> {
        let pass = self.pass.as_ref();
        pass.map_or_else(BTreeSet::new, |pass| pass.due.clone())
    }

    /// Begins a walk for the newest accepted compaction, if it needs one and none runs.
    pub(super) fn start_pass(&mut self) {
        if self.pass.is_none() && self.finished < self.compacted {
            self.pass = Some(Pass {
                target: self.compacted,
                cursor: None,
                due: BTreeSet::new(),
                phase: Phase::Gathering,
            });
        }
    }
}

impl Pass {
    /// Takes at most so many records out of the index.
    fn gather(&mut self, index: &mut Index, records_max: usize) {
        let Self { cursor, due, .. } = self;
        let more = index.compact(cursor, self.target, records_max, |record| {
            due.insert(record);
        });
        self.phase = match more {
            false => Phase::Ending,
            true if due.len() >= GATHERED_MAX => Phase::Removing,
            true => Phase::Gathering,
        };
    }
}

fn set_mark<B: Backend>(view: &mut View<B>, key: &'static [u8], revision: i64) {
    let mark = Revision::floor(revision).to_bytes();
    view.put(Bucket::Meta, key.into(), mark);
}
