//! The log in memory: its retained entries, and how far each of them has come.
//!
//! ```text
//! first  <=  applied <= applying  <=  min(committed, durable)
//! durable <= taken <= last,  committed <= last
//! ```
//! `taken` is what the owner was asked to write, `durable` what it said is safe. A write that is on
//! its way when its entries are overwritten must not count when it completes, not even if the same
//! entries come back (term and index alone cannot tell the two apart), so each write remembers the
//! part that was never cut.

use std::collections::VecDeque;

use crate::{
    kernel::{EntryId, LogIndex, Term},
    mutant,
};

use super::Entry;

/// What an entry costs beside its data, in every byte bound: empty entries are bounded too.
pub const ENTRY_OVERHEAD_BYTES: usize = 32;

/// The bytes an entry counts for.
pub fn entry_bytes(entry: &Entry) -> usize {
    entry.data.len() + ENTRY_OVERHEAD_BYTES
}

/// The retained log.
#[derive(Clone, Debug)]
pub struct Log {
    /// The entry just before the first retained one.
    first: EntryId,
    /// Invariant: entry `i` has index `first.index + 1 + i`, and terms never fall.
    entries: VecDeque<Entry>,
    writes: VecDeque<Write>,
    committed: LogIndex,
    durable: LogIndex,
    taken: LogIndex,
    applying: LogIndex,
    applied: LogIndex,
}

/// Entries of one term that the owner was asked to write and has not confirmed.
#[derive(Clone, Copy, Debug)]
struct Write {
    term: Term,
    from: LogIndex,
    to: LogIndex,
    /// Up to here nothing was overwritten since. Only falls.
    intact: LogIndex,
}

impl Log {
    /// A log whose entries are all durable.
    pub fn new(first: EntryId, entries: Vec<Entry>, applied: LogIndex) -> Self {
        let mut before = first;
        for entry in &entries {
            assert!(
                entry.id.index == before.index.next() && entry.id.term >= before.term,
                "the recovered log has a gap or a falling term"
            );
            before = entry.id;
        }
        assert!(
            first.index <= applied && applied <= before.index,
            "the state machine is outside the recovered log"
        );
        Self {
            first,
            entries: entries.into(),
            writes: VecDeque::new(),
            committed: applied,
            durable: before.index,
            taken: before.index,
            applying: applied,
            applied,
        }
    }

    /// The entry just before the first retained one.
    pub fn first(&self) -> EntryId {
        self.first
    }

    /// The last entry.
    pub fn last(&self) -> EntryId {
        self.entries.back().map_or(self.first, |entry| entry.id)
    }

    /// Highest index known committed.
    pub fn committed(&self) -> LogIndex {
        self.committed
    }

    /// Highest index the owner has applied.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Highest index handed out for writing.
    pub fn taken(&self) -> LogIndex {
        self.taken
    }

    /// Highest index that is durable here.
    pub fn durable(&self) -> LogIndex {
        self.durable
    }

    /// The term of an entry; `None` when it is compacted or does not exist yet.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.first.index {
            return Some(self.first.term);
        }
        self.entry(index).map(|entry| entry.id.term)
    }

    /// The id of an entry that is retained, or of the one before the first.
    pub fn id_at(&self, index: LogIndex) -> Option<EntryId> {
        self.term_at(index).map(|term| EntryId::new(term, index))
    }

    /// Whether the entry is in the log.
    pub fn contains(&self, id: EntryId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// A retained entry.
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        if index <= self.first.index {
            return None;
        }
        self.entries.get(self.slot(index))
    }

    /// Entries in `from..=to`, about `bytes_max` of them but at least one if there is one.
    pub fn slice(&self, from: LogIndex, to: LogIndex, bytes_max: usize) -> Vec<Entry> {
        assert!(from > self.first.index, "compacted entries were asked for");
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let before = bytes;
            bytes += entry_bytes(entry);
            entry.id.index <= to && (before == 0 || bytes <= bytes_max)
        };
        let start = self.slot(from).min(self.entries.len());
        self.entries
            .range(start..)
            .take_while(fits)
            .cloned()
            .collect()
    }

    /// Adds an entry at the end.
    pub fn push(&mut self, entry: Entry) {
        let last = self.last();
        assert!(
            entry.id.index == last.index.next(),
            "the log grows without gaps"
        );
        assert!(entry.id.term >= last.term, "terms in the log never fall");
        self.entries.push_back(entry);
    }

    /// Removes every entry from `index` on.
    pub fn truncate(&mut self, index: LogIndex) {
        assert!(index > self.committed, "a committed entry never goes away");
        assert!(index > self.applying, "an applied entry never goes away");
        let keep = index.prev();
        let kept = usize::try_from(self.first.index.distance_to(keep)).expect("fits in memory");
        self.entries.truncate(kept);
        self.durable = self.durable.min(keep);
        self.taken = self.taken.min(keep);
        for write in &mut self.writes {
            write.intact = write.intact.min(keep);
        }
    }

    /// Hands out what has to be written.
    pub fn take_writes(&mut self) -> Vec<Entry> {
        let last = self.last().index;
        if self.taken == last {
            return Vec::new();
        }
        let entries = self.slice(self.taken.next(), last, usize::MAX);
        for run in entries.chunk_by(|a, b| a.id.term == b.id.term) {
            let to = run[run.len() - 1].id.index;
            self.writes.push_back(Write {
                term: run[0].id.term,
                from: run[0].id.index,
                to,
                intact: to,
            });
        }
        self.taken = last;
        entries
    }

    /// The owner says that everything it wrote up to this entry is durable. Returns whether that
    /// moved anything: of a write that was overwritten since, only the untouched part counts.
    pub fn on_durable(&mut self, id: EntryId) -> bool {
        let before = self.durable;
        // The earliest write that contains the entry: if there are two, the later one is not
        // proven.
        let holds =
            |write: &Write| write.term == id.term && write.from <= id.index && id.index <= write.to;
        let Some(position) = self.writes.iter().position(holds) else {
            return false;
        };
        let intact = |write: &Write| match mutant!("late-write-counts") {
            true => write.to,
            false => write.intact,
        };
        for write in self.writes.drain(..position) {
            self.durable = self.durable.max(intact(&write).min(write.to));
        }
        let write = self
            .writes
            .front_mut()
            .expect("the write was found at this position");
        self.durable = self.durable.max(intact(write).min(id.index));
        if id.index == write.to {
            self.writes.pop_front();
        } else {
            write.from = id.index.next();
        }
        assert!(self.durable <= self.taken, "durable before it was written");
        self.durable > before
    }

    /// Moves the commit index forward; an index beyond the log counts up to its end.
    pub fn commit_to(&mut self, index: LogIndex) -> bool {
        let index = index.min(self.last().index);
        let moved = index > self.committed;
        if moved {
            self.committed = index;
        }
        moved
    }

    /// Whether `take_apply` would hand anything out.
    pub fn has_apply(&self) -> bool {
        self.applying < self.appliable()
    }

    /// Hands out the next entries to apply.
    pub fn take_apply(&mut self, bytes_max: usize) -> Vec<Entry> {
        if !self.has_apply() {
            return Vec::new();
        }
        let to = self.appliable();
        let entries = self.slice(self.applying.next(), to, bytes_max);
        let last = entries.last().expect("at least one entry is handed out");
        assert!(last.id.index <= to, "applied beyond committed or durable");
        self.applying = last.id.index;
        entries
    }

    /// The owner has applied everything up to `index`.
    pub fn on_applied(&mut self, index: LogIndex) {
        assert!(
            index <= self.applying,
            "applied what was never handed out for it"
        );
        self.applied = self.applied.max(index);
    }

    /// Forgets entries up to `upto`.
    pub fn compact(&mut self, upto: LogIndex) {
        assert!(
            upto <= self.applied,
            "only applied entries may be forgotten"
        );
        if upto <= self.first.index {
            return;
        }
        let id = self.id_at(upto).expect("applied entries are in the log");
        self.entries.drain(..=self.slot(upto));
        self.first = id;
    }

    /// Starts over after an image that ends with `id`.
    pub fn restart_after(&mut self, id: EntryId) {
        assert!(
            id.index > self.committed,
            "an image never takes back a commit"
        );
        self.entries.clear();
        self.writes.clear();
        self.first = id;
        self.committed = id.index;
        self.durable = id.index;
        self.taken = id.index;
        self.applying = id.index;
        self.applied = id.index;
    }

    /// The highest entry at or below `index` whose term is not above `term`: below it the logs may
    /// agree. Runs of one term are skipped by binary search, because terms never fall.
    pub fn agreement_hint(&self, index: LogIndex, term: Term) -> EntryId {
        let index = index.min(self.last().index);
        if index <= self.first.index {
            return self.first;
        }
        let above = self.entries.partition_point(|entry| entry.id.term <= term);
        let highest = self.first.index.forward(above as u64).min(index);
        self.id_at(highest).expect("between first and last")
    }

    /// Asserts the invariants; the order of entries only near the ends, which is where things move.
    pub fn check(&self) {
        let last = self.last().index;
        assert!(self.first.index <= self.applied && self.applied <= self.applying);
        assert!(self.applying <= self.committed && self.applying <= self.durable);
        assert!(self.durable <= self.taken && self.taken <= last);
        assert!(self.committed <= last);
        let recent = self.entries.len().saturating_sub(64);
        let mut before = match recent.checked_sub(1) {
            Some(slot) => self.entries[slot].id,
            None => self.first,
        };
        for entry in self.entries.range(recent..) {
            assert!(entry.id.index == before.index.next() && entry.id.term >= before.term);
            before = entry.id;
        }
    }

    fn appliable(&self) -> LogIndex {
        match mutant!("applied-before-durable") {
            true => self.committed,
            false => self.committed.min(self.durable),
        }
    }

    fn slot(&self, index: LogIndex) -> usize {
        let offset = self.first.index.next().distance_to(index);
        usize::try_from(offset).expect("a log in memory fits in memory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::EntryKind;
    use bytes::Bytes;

    fn id(term: u64, index: u64) -> EntryId {
        EntryId::new(Term::new(term), LogIndex::new(index))
    }

    fn entry(term: u64, index: u64) -> Entry {
        Entry {
            id: id(term, index),
            kind: EntryKind::Normal,
            data: Bytes::from_static(b"data"),
        }
    }

    fn log(terms: &[u64]) -> Log {
        let entries = (1..).zip(terms).map(|(i, &t)| entry(t, i)).collect();
        Log::new(EntryId::ZERO, entries, LogIndex::ZERO)
    }

    #[test]
    fn an_overwritten_write_does_not_count_even_if_the_entry_returns() {
        let mut log = log(&[1]);
        log.push(entry(1, 2));
        assert_eq!(log.take_writes().len(), 1);
        log.truncate(LogIndex::new(2));
        log.push(entry(2, 2));
        log.take_writes();
        log.truncate(LogIndex::new(2));
        log.push(entry(1, 2));
        log.push(entry(3, 3));
        log.take_writes();
        assert!(
            !log.on_durable(id(1, 2)),
            "the first write, overwritten since"
        );
        assert_eq!(log.durable(), LogIndex::new(1));
        assert!(!log.on_durable(id(2, 2)), "the second one, too");
        assert!(log.on_durable(id(1, 2)), "this is the write that stands");
        assert_eq!(log.durable(), LogIndex::new(2));
        assert!(log.on_durable(id(3, 3)));
        assert_eq!(log.durable(), LogIndex::new(3));
    }

    #[test]
    fn the_untouched_part_of_an_overwritten_write_counts() {
        let mut log = log(&[]);
        (1..=4).for_each(|index| log.push(entry(1, index)));
        log.take_writes();
        log.truncate(LogIndex::new(3));
        log.push(entry(2, 3));
        log.take_writes();
        assert!(log.on_durable(id(1, 4)));
        assert_eq!(log.durable(), LogIndex::new(2));
        assert!(log.on_durable(id(2, 3)));
        assert_eq!(log.durable(), LogIndex::new(3));
    }

    #[test]
    fn a_write_that_is_passed_over_counts_no_further_than_it_stands() {
        let mut log = log(&[]);
        (1..=4).for_each(|index| log.push(entry(1, index)));
        log.take_writes();
        for term in 2..=3 {
            log.truncate(LogIndex::new(3));
            log.push(entry(term, 3));
            log.take_writes();
        }
        assert!(log.on_durable(id(2, 3)), "the first two writes are done");
        assert_eq!(
            log.durable(),
            LogIndex::new(2),
            "the third one overwrites them"
        );
        assert!(log.on_durable(id(3, 3)));
        assert_eq!(log.durable(), LogIndex::new(3));
    }

    #[test]
    fn one_report_may_cover_several_writes_or_a_part_of_one() {
        let mut log = log(&[]);
        for index in 1..=3 {
            log.push(entry(1, index));
            log.take_writes();
        }
        (4..=6).for_each(|index| log.push(entry(1, index)));
        log.take_writes();
        assert!(log.on_durable(id(1, 3)));
        assert_eq!(log.durable(), LogIndex::new(3));
        assert!(log.on_durable(id(1, 5)));
        assert_eq!(log.durable(), LogIndex::new(5));
        assert!(log.on_durable(id(1, 6)));
        assert!(!log.on_durable(id(1, 6)), "said twice");
    }

    #[test]
    fn slices_hold_at_least_one_entry_and_then_mind_the_bytes() {
        let log = log(&[1, 1, 1, 1]);
        let all = LogIndex::new(4);
        let one = 4 + ENTRY_OVERHEAD_BYTES;
        assert_eq!(log.slice(LogIndex::new(1), all, 0).len(), 1);
        assert_eq!(log.slice(LogIndex::new(1), all, 2 * one).len(), 2);
        assert_eq!(log.slice(LogIndex::new(2), all, usize::MAX).len(), 3);
        assert_eq!(log.slice(LogIndex::new(5), all, usize::MAX).len(), 0);
    }

    #[test]
    fn apply_waits_for_commit_and_for_durability() {
        let mut log = log(&[1]);
        log.push(entry(1, 2));
        log.take_writes();
        log.commit_to(LogIndex::new(9));
        assert_eq!(log.committed(), LogIndex::new(2));
        assert_eq!(log.take_apply(usize::MAX).len(), 1);
        assert!(log.take_apply(usize::MAX).is_empty());
        log.on_durable(id(1, 2));
        assert_eq!(log.take_apply(usize::MAX)[0].id, id(1, 2));
        log.check();
    }

    #[test]
    fn hints_skip_runs_of_terms_that_cannot_agree() {
        let log = log(&[1, 1, 2, 2, 5, 5]);
        let hint = |index, term| log.agreement_hint(LogIndex::new(index), Term::new(term));
        assert_eq!(hint(9, 9), id(5, 6));
        assert_eq!(hint(6, 4), id(2, 4));
        assert_eq!(hint(3, 4), id(2, 3));
        assert_eq!(hint(6, 1), id(1, 2));
        assert_eq!(hint(6, 0), EntryId::ZERO);
    }

    #[test]
    fn compaction_keeps_the_term_of_the_last_dropped_entry() {
        let mut log = log(&[1, 2, 2]);
        log.commit_to(LogIndex::new(3));
        log.take_apply(usize::MAX);
        log.on_applied(LogIndex::new(2));
        log.compact(LogIndex::new(2));
        assert_eq!(log.first(), id(2, 2));
        assert_eq!(log.term_at(LogIndex::new(2)), Some(Term::new(2)));
        assert_eq!(log.term_at(LogIndex::new(1)), None);
        assert_eq!(log.last(), id(2, 3));
        log.compact(LogIndex::new(1));
        log.check();
    }
}
