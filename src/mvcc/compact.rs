//! Compaction: history below a revision is given up. It is refused to readers at once; its records
//! are removed in bounded slices, driven from outside.
//!
//! A slice walks the index in key order and never reads the backend: the index knows the key of
//! every record. Within a key the oldest record goes first, so that a crash at any point leaves a
//! history without its beginning, which is all that `Store::load` has to understand.
//!
//! Two marks in bucket `Meta` carry it over a restart: `scheduledCompactRev`, written when a
//! compaction is accepted, and `finishedCompactRev`, written after the last removal. A pass that
//! was interrupted runs again from its beginning and finds less to do.
//!
//! A compaction accepted while a pass runs waits for it to end, so that a stream of compactions
//! cannot keep the last keys from ever being visited.

use super::{key::Key, revision::Revision, store::Store};
use crate::backend::{Backend, Bucket, View};
use crate::mutant;

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

/// One walk over the index.
#[derive(Debug)]
pub(super) struct Pass {
    target: i64,
    /// The last key that is done with.
    cursor: Option<Key>,
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

    /// Goes on with the running compaction; removes at most `records_max` records. Whether there is
    /// more to do. Must not be called within a write transaction.
    pub fn compact_slice<B: Backend>(&mut self, view: &mut View<B>, records_max: usize) -> bool {
        assert!(!self.writing, "a slice within a write transaction");
        let Some(pass) = &mut self.pass else {
            return false;
        };
        let target = pass.target;
        let removed = &mut self.removed;
        let more = self
            .index
            .compact(&mut pass.cursor, target, records_max, |record| {
                *removed += 1;
                view.delete(Bucket::Key, record.encode().to_bytes());
            });
        if more {
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

    /// Begins a walk for the newest accepted compaction, if it needs one and none runs.
    pub(super) fn start_pass(&mut self) {
        if self.pass.is_none() && self.finished < self.compacted {
            self.pass = Some(Pass {
                target: self.compacted,
                cursor: None,
            });
        }
    }
}

fn set_mark<B: Backend>(view: &mut View<B>, key: &'static [u8], revision: i64) {
    let mark = Revision::floor(revision).to_bytes();
    view.put(Bucket::Meta, key.into(), mark);
}
