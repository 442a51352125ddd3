//! The outline of a log without its data: where it begins and ends, which terms it has, its hard
//! state and mark; and the one place that decides which record may follow.
//!
//! Invariant: `commit <= last.index`, `mark.index <= last.index`, and `terms` holds the first index
//! of each run of equal terms after `first`.

use std::{collections::BTreeMap, fmt};

use super::Record;
use crate::{
    kernel::{EntryId, LogIndex, Term},
    raft::{HardState, SnapshotMeta},
};

/// What a log holds, in short.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Outline {
    first: EntryId,
    last: EntryId,
    terms: BTreeMap<LogIndex, Term>,
    hard_state: HardState,
    mark: Option<SnapshotMeta>,
}

/// What a mark does to the log. It is written down, because a reader who begins in the middle
/// cannot tell: a mark before the first entry it knows may be either.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MarkKind {
    /// The log holds the entry and stays as it is.
    Inside,
    /// The image takes the place of the whole log.
    Instead,
}

/// A record that cannot follow what came before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Contradiction {
    /// An entry that leaves out indexes.
    EntryGap { last: EntryId, entry: EntryId },
    /// An entry in place of one that is committed.
    CommittedOverwritten { committed: LogIndex, entry: EntryId },
    /// An entry with a lower term than the one before it.
    TermLower { before: EntryId, entry: EntryId },
    /// A hard state whose term or commit goes back.
    HardStateBack { before: HardState, found: HardState },
    /// A hard state with another vote in the same term.
    VoteChanged { before: HardState, found: HardState },
    /// A hard state that commits more than the log holds.
    CommitBeyondEnd { last: EntryId, commit: LogIndex },
    /// A mark before the one that is known.
    MarkBack { before: EntryId, found: EntryId },
    /// A mark inside the log whose entry the log does not hold.
    MarkOutside { last: EntryId, mark: EntryId },
    /// A mark that drops entries known as committed.
    MarkDropsCommitted { commit: LogIndex, mark: EntryId },
    /// A segment that starts after another entry than the log's last.
    SegmentElsewhere { last: EntryId, previous: EntryId },
}

impl Outline {
    /// The outline of a log that begins after `previous`.
    pub fn new(previous: EntryId) -> Self {
        Self {
            first: previous,
            last: previous,
            ..Self::default()
        }
    }

    /// Adds a record, or says why it cannot follow.
    pub fn admit(&mut self, record: Record<'_>) -> Result<(), Contradiction> {
        match record {
            Record::Entry(entry) => self.admit_entry(entry.id)?,
            Record::HardState(hard_state) => self.admit_hard_state(hard_state)?,
            Record::Mark(mark) => self.admit_mark(mark, self.kind_of(mark))?,
        }
        assert!(
            self.first.index <= self.last.index,
            "a log ends before it begins"
        );
        assert!(
            self.hard_state.commit <= self.last.index,
            "the log lost a committed entry"
        );
        Ok(())
    }

    /// Adds a mark of a known kind, or says why it cannot follow.
    pub(super) fn admit_mark(
        &mut self,
        mark: &SnapshotMeta,
        kind: MarkKind,
    ) -> Result<(), Contradiction> {
        self.check_mark(mark.id)?;
        let commit = self.hard_state.commit;
        match kind {
            MarkKind::Inside if self.kind_of(mark) == MarkKind::Instead => {
                let (last, mark) = (self.last, mark.id);
                return Err(Contradiction::MarkOutside { last, mark });
            }
            MarkKind::Inside => (),
            MarkKind::Instead if mark.id.index <= commit => {
                let mark = mark.id;
                return Err(Contradiction::MarkDropsCommitted { commit, mark });
            }
            MarkKind::Instead => {
                self.first = mark.id;
                self.last = mark.id;
                self.terms.clear();
            }
        }
        self.mark = Some(mark.clone());
        Ok(())
    }

    /// What a new mark means for the log. One before `first` leaves it alone.
    pub(super) fn kind_of(&self, mark: &SnapshotMeta) -> MarkKind {
        let older = mark.id.index < self.first.index;
        if older || self.term_at(mark.id.index) == Some(mark.id.term) {
            MarkKind::Inside
        } else {
            MarkKind::Instead
        }
    }

    /// Forgets terms up to `previous`, if that entry is in the log.
    pub(super) fn begin_after(&mut self, previous: EntryId) {
        if previous.index > self.first.index && self.term_at(previous.index) == Some(previous.term)
        {
            let next = previous.index.next();
            let term = self.term_at(next);
            self.terms = self.terms.split_off(&next);
            if let Some(term) = term {
                self.terms.insert(next, term);
            }
            self.first = previous;
        }
    }

    /// The entry before the first one.
    pub fn first(&self) -> EntryId {
        self.first
    }

    /// The last entry, or `first` in an empty log.
    pub fn last(&self) -> EntryId {
        self.last
    }

    /// The latest hard state.
    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// The latest mark.
    pub fn mark(&self) -> Option<&SnapshotMeta> {
        self.mark.as_ref()
    }

    /// Index of the latest mark, zero without one.
    pub fn mark_index(&self) -> LogIndex {
        self.mark
            .as_ref()
            .map_or(LogIndex::ZERO, |mark| mark.id.index)
    }

    /// The term of an entry from `first` to `last`.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index < self.first.index || index > self.last.index {
            return None;
        }
        match self.terms.range(..=index).next_back() {
            Some((_, term)) => Some(*term),
            None => Some(self.first.term),
        }
    }

    /// What is proved by other means than the log's own records: a term and a commit index.
    pub(super) fn raise(&mut self, term: Term, commit: LogIndex) {
        assert!(
            commit <= self.last.index,
            "a commit index beyond the log was proved"
        );
        if term > self.hard_state.term {
            // A vote is durable before anybody hears of it, so none was given in that term.
            self.hard_state.term = term;
            self.hard_state.vote = None;
        }
        self.hard_state.commit = self.hard_state.commit.max(commit);
    }

    fn admit_entry(&mut self, entry: EntryId) -> Result<(), Contradiction> {
        let follows = self.last.index.next() == entry.index;
        if follows && entry.term == self.last.term && self.last.index > self.first.index {
            self.last = entry;
            return Ok(());
        }
        if entry.index > self.last.index.next() {
            let last = self.last;
            return Err(Contradiction::EntryGap { last, entry });
        }
        let committed = self.hard_state.commit.max(self.mark_index());
        if entry.index <= committed {
            return Err(Contradiction::CommittedOverwritten { committed, entry });
        }
        if entry.index <= self.first.index {
            // Raft overwrote entries which older, removed segments held. All that is after this
            // entry follows in the log, and it is all a reader may still need.
            *self = Self {
                first: entry,
                last: entry,
                terms: BTreeMap::new(),
                hard_state: self.hard_state,
                mark: self.mark.take(),
            };
            return Ok(());
        }
        let before = entry.index.prev();
        let term = self
            .term_at(before)
            .expect("the index before lies in first..=last");
        if entry.term < term {
            let before = EntryId::new(term, before);
            return Err(Contradiction::TermLower { before, entry });
        }
        self.terms.split_off(&entry.index);
        if self.terms.is_empty() || term != entry.term {
            self.terms.insert(entry.index, entry.term);
        }
        self.last = entry;
        Ok(())
    }

    fn admit_hard_state(&mut self, found: &HardState) -> Result<(), Contradiction> {
        let (before, found) = (self.hard_state, *found);
        if found.term < before.term || found.commit < before.commit {
            return Err(Contradiction::HardStateBack { before, found });
        }
        if found.term == before.term && before.vote.is_some() && found.vote != before.vote {
            return Err(Contradiction::VoteChanged { before, found });
        }
        if found.commit > self.last.index {
            let (last, commit) = (self.last, found.commit);
            return Err(Contradiction::CommitBeyondEnd { last, commit });
        }
        self.hard_state = found;
        Ok(())
    }

    fn check_mark(&self, mark: EntryId) -> Result<(), Contradiction> {
        let Some(before) = self.mark.as_ref().map(|before| before.id) else {
            return Ok(());
        };
        let same_index = mark.index == before.index;
        if mark.index < before.index || (same_index && mark.term != before.term) {
            let found = mark;
            return Err(Contradiction::MarkBack { before, found });
        }
        Ok(())
    }
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |id: &EntryId| format!("{} of term {}", id.index, id.term);
        match self {
            Self::EntryGap { last, entry } => {
                write!(f, "entry {} follows entry {}", name(entry), name(last))
            }
            Self::CommittedOverwritten { committed, entry } => write!(
                f,
                "entry {} overwrites the log, which is committed up to {committed}",
                name(entry)
            ),
            Self::TermLower { before, entry } => write!(
                f,
                "entry {} has a lower term than entry {} before it",
                name(entry),
                name(before)
            ),
            Self::HardStateBack { before, found } => write!(
                f,
                "the hard state goes back from term {}, commit {} to term {}, commit {}",
                before.term, before.commit, found.term, found.commit
            ),
            Self::VoteChanged { found, .. } => {
                write!(f, "the vote changes within term {}", found.term)
            }
            Self::CommitBeyondEnd { last, commit } => {
                write!(
                    f,
                    "commit {commit} lies behind the last entry {}",
                    name(last)
                )
            }
            Self::MarkBack { before, found } => write!(
                f,
                "the snapshot mark goes back from {} to {}",
                name(before),
                name(found)
            ),
            Self::MarkOutside { last, mark } => write!(
                f,
                "the snapshot mark {} is not in the log, which ends with entry {}",
                name(mark),
                name(last)
            ),
            Self::MarkDropsCommitted { commit, mark } => write!(
                f,
                "the snapshot mark {} replaces a log that is committed up to {commit}",
                name(mark)
            ),
            Self::SegmentElsewhere { last, previous } => write!(
                f,
                "the segment starts after entry {} where the log ends with entry {}",
                name(previous),
                name(last)
            ),
        }
    }
}
