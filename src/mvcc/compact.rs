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
//! What is gathered has a bound. A walk that took all it finds would come to the bound after some
//! of the keys, and remove some records of every page; the next one some more of the same pages.
//! So a walk begins with a sample, estimates how much there is, and goes only up to the revision
//! before which about as much lies as may be gathered: whole pages go, and no page changes in each
//! walk.
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
    key_index::Walk,
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

/// Records that a walk looks at to know how many there are.
const SAMPLE: usize = match cfg!(test) {
    true => 4,
    false => 2048,
};
/// A walk goes for so many records, if the sample is right: it may be wrong by some.
const AIM: usize = GATHERED_MAX / 4 * 3;
/// A walk goes for no less than one in so many of the records that it finds first.
const SHARE_MIN: usize = 64;
/// Walks of one pass that stop before its target: then one takes all there is, however uneven the
/// keys are and whatever the samples said.
const WALKS_MAX: usize = 64;

/// One compaction on its way, in one or more walks over the index.
#[derive(Debug)]
pub(super) struct Pass {
    target: i64,
    /// Up to which revision this walk goes. What a sample has gathered beyond it waits for a later
    /// walk.
    limit: i64,
    walks: usize,
    /// The last key that is done with.
    cursor: Option<Key>,
    /// Gathered, and not removed yet.
    due: BTreeSet<RecordKey>,
    /// How many of them lie beyond the limit.
    parked: usize,
    phase: Phase,
}

/// What a pass is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Beginning a walk: how far it goes is not known yet.
    Sampling,
    /// Looking for records, until there are enough.
    Gathering,
    /// Removing what was gathered; there is more in the index behind the cursor.
    Removing,
    /// Removing the last of it, or of this walk.
    Ending,
}

/// What a slice may do at most.
#[derive(Clone, Copy, Debug)]
pub struct SliceMax {
    /// Records that are removed.
    pub records: usize,
    /// What their removal may change, in quarters of a page.
    pub quarters: usize,
}

/// What a slice has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sliced {
    /// Whether there is more to do.
    pub more: bool,
    /// What it has changed about, in quarters of a page.
    pub quarters: usize,
}

/// What one removal changes if nothing is removed beside it.
pub const QUARTERS_PER_PAGE: usize = 4;

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

    /// Goes on with the running compaction: gathers some, or removes some. Must not be called
    /// within a write transaction.
    pub fn compact_slice<B: Backend>(&mut self, view: &mut View<B>, max: SliceMax) -> Sliced {
        assert!(!self.writing, "a slice within a write transaction");
        let mut sliced = Sliced {
            more: false,
            quarters: 0,
        };
        let Some(pass) = &mut self.pass else {
            return sliced;
        };
        sliced.more = true;
        pass.look(&mut self.index, max.records.saturating_mul(GATHER_TIMES));
        if pass.phase == Phase::Sampling || pass.phase == Phase::Gathering {
            return sliced;
        }
        let mut before = None;
        for _ in 0..max.records {
            if sliced.quarters >= max.quarters {
                return sliced;
            }
            let Some(record) = pass.pop() else {
                break;
            };
            sliced.quarters += quarters(before.replace(record), record);
            self.removed += 1;
            view.delete(Bucket::Key, record.encode().to_bytes());
        }
        let target = pass.target;
        if !pass.ends() {
            return sliced;
        }
        assert!(target > self.finished, "a finished compaction ran again");
        set_mark(view, FINISHED_KEY, target);
        self.finished = target;
        self.pass = None;
        self.start_pass();
        sliced.more = self.pass.is_some();
        sliced
    }

    /// Whether a compaction waits for the one that runs.
    pub fn compaction_waits(&self) -> bool {
        let running = |pass: &Pass| pass.target < self.compacted;
        self.pass.as_ref().is_some_and(running)
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
                limit: self.compacted,
                walks: 0,
                cursor: None,
                due: BTreeSet::new(),
                parked: 0,
                phase: Phase::Sampling,
            });
        }
    }
}

impl Pass {
    /// Goes on with what comes before a removal.
    fn look(&mut self, index: &mut Index, records_max: usize) {
        match self.phase {
            Phase::Sampling => self.sample(index, records_max.min(SAMPLE)),
            Phase::Gathering => drop(self.gather(index, records_max)),
            Phase::Removing | Phase::Ending => {}
        }
    }

    /// Begins a walk, and decides from what it finds first how far it goes.
    fn sample(&mut self, index: &mut Index, records_max: usize) {
        self.walks += 1;
        self.limit = self.target;
        self.parked = self.due.len();
        let keys = index.len();
        let found = self.gather(index, records_max);
        self.parked = 0;
        let records = found.records.len();
        let all = records.saturating_mul(keys) / found.keys.max(1);
        if self.phase != Phase::Gathering || self.walks > WALKS_MAX || all <= AIM {
            return;
        }
        let mut mains = found.records;
        mains.sort_unstable();
        // All that was found are few, so this does not overflow.
        let share = (records * AIM / all).max(records / SHARE_MIN);
        if let Some(limit) = mains.get(share) {
            self.limit = *limit;
            let beyond = RecordKey::put(Revision::new(limit.saturating_add(1), 0));
            self.parked = self.due.range(beyond..).count();
        }
    }

    /// Takes at most so many records out of the index.
    fn gather(&mut self, index: &mut Index, records_max: usize) -> Found {
        let walk = Walk {
            target: self.target,
            limit: self.limit,
        };
        let Self { cursor, due, .. } = self;
        let mut records = Vec::new();
        let visited = index.compact(cursor, walk, records_max, |record| {
            due.insert(record);
            records.push(record.revision.main);
        });
        self.phase = match visited.more {
            false => Phase::Ending,
            true if due.len() - self.parked >= GATHERED_MAX => Phase::Removing,
            true => Phase::Gathering,
        };
        Found {
            records,
            keys: visited.keys,
        }
    }

    /// The next record to be removed in this walk.
    fn pop(&mut self) -> Option<RecordKey> {
        let first = self.due.first()?;
        if first.revision.main > self.limit {
            return None;
        }
        self.due.pop_first()
    }

    /// Whether everything is removed; else it goes on as it must.
    fn ends(&mut self) -> bool {
        let first = self.due.first();
        if first.is_some_and(|record| record.revision.main <= self.limit) {
            return false;
        }
        match self.phase {
            Phase::Ending if self.limit == self.target => return true,
            Phase::Ending => {
                self.cursor = None;
                self.phase = Phase::Sampling;
            }
            Phase::Removing => self.phase = Phase::Gathering,
            Phase::Sampling | Phase::Gathering => {}
        }
        false
    }
}

/// What was gathered in one go.
struct Found {
    /// Main revisions of the records.
    records: Vec<i64>,
    /// Keys that are done with.
    keys: usize,
}

/// What a removal changes, in quarters of a page, if the one before it was the last: most pages
/// hold four records or more, in the order of revisions.
fn quarters(before: Option<RecordKey>, record: RecordKey) -> usize {
    let gap = before.map(|before| record.revision.main - before.revision.main);
    let gap = gap.and_then(|gap| usize::try_from(gap).ok());
    gap.map_or(QUARTERS_PER_PAGE, |gap| gap.clamp(1, QUARTERS_PER_PAGE))
}

fn set_mark<B: Backend>(view: &mut View<B>, key: &'static [u8], revision: i64) {
    let mark = Revision::floor(revision).to_bytes();
    view.put(Bucket::Meta, key.into(), mark);
}
