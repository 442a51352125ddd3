//! The barrier for linearizable reads (thesis 6.4).
//!
//! A read may be served once its member has applied what was committed when the read began, and the
//! leader that named that index was still the leader after the read began. The second half is
//! proven by a round: the leader counts up, sends the count with heartbeats, and a quorum answers
//! with that count or a higher one. Counts are never used again, so a late or repeated reply proves
//! nothing about a newer read.
//!
//! Invariant: rounds in flight have growing counts, none above `round`.

use std::collections::VecDeque;

use crate::kernel::{LogIndex, MemberId, ReadId};

/// Rounds in flight; further reads wait and share the next one.
pub const ROUNDS_MAX: usize = 4;
/// Reads in all rounds together; further ones are not answered.
pub const READS_MAX: usize = 1 << 18;

/// A read and who asked for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Read {
    /// The member that will serve it.
    pub from: MemberId,
    /// That member's boot.
    pub boot: u64,
    /// That member's name for it.
    pub id: ReadId,
}

/// Reads of a leader that are not confirmed.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    /// The latest round; survives a change of role, so that it never repeats.
    round: u64,
    waiting: Vec<Read>,
    rounds: VecDeque<Round>,
    count: usize,
}

/// Reads that are confirmed together.
#[derive(Clone, Debug)]
pub struct Round {
    /// Its number.
    pub number: u64,
    /// What was committed when it began.
    pub index: LogIndex,
    /// Its reads.
    pub reads: Vec<Read>,
}

impl Reads {
    /// The latest round.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Whether a new round would have something to do and may begin.
    pub fn is_ready(&self) -> bool {
        !self.waiting.is_empty() && self.rounds.len() < ROUNDS_MAX
    }

    /// Takes a read in for the next round.
    pub fn add(&mut self, read: Read) {
        if self.count < READS_MAX {
            self.waiting.push(read);
            self.count += 1;
        }
    }

    /// Begins a round with everything that waits, at this commit index.
    pub fn begin(&mut self, index: LogIndex) -> u64 {
        assert!(self.is_ready(), "a round needs reads and room");
        self.round += 1;
        self.rounds.push_back(Round {
            number: self.round,
            index,
            reads: std::mem::take(&mut self.waiting),
        });
        self.round
    }

    /// Adds what waits to a round that is already on its way. Only a planted bug does that: answers
    /// to that round may be older than these reads.
    pub fn join_running(&mut self, index: LogIndex) -> bool {
        let Some(round) = self.rounds.back_mut() else {
            return false;
        };
        round.index = index;
        round.reads.append(&mut self.waiting);
        true
    }

    /// Takes out the next round that is confirmed, if `confirmed` covers it.
    pub fn take_confirmed(&mut self, confirmed: u64) -> Option<Round> {
        if self.rounds.front()?.number > confirmed {
            return None;
        }
        let round = self.rounds.pop_front()?;
        self.count -= round.reads.len();
        Some(round)
    }

    /// Forgets all reads: whoever asked must ask again.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.rounds.clear();
        self.count = 0;
    }

    /// Asserts the invariants.
    pub fn check(&self) {
        let numbers: Vec<u64> = self.rounds.iter().map(|round| round.number).collect();
        assert!(numbers.is_sorted() && numbers.last().is_none_or(|&last| last <= self.round));
        let inside: usize = self.rounds.iter().map(|round| round.reads.len()).sum();
        assert!(inside + self.waiting.len() == self.count, "a read was lost");
        assert!(self.rounds.len() <= ROUNDS_MAX && self.count <= READS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_never_repeat_and_share_waiting_reads() {
        let read = |id| Read {
            from: MemberId::new(1),
            boot: 0,
            id: ReadId::new(id),
        };
        let mut reads = Reads::default();
        reads.add(read(1));
        reads.add(read(2));
        let first = reads.begin(LogIndex::new(5));
        reads.add(read(3));
        let second = reads.begin(LogIndex::new(6));
        assert!(second > first);
        assert!(reads.take_confirmed(first - 1).is_none());
        assert_eq!(
            reads.take_confirmed(second).expect("covered").reads.len(),
            2
        );
        reads.check();
        reads.clear();
        reads.check();
        assert!(reads.take_confirmed(u64::MAX).is_none());
        reads.add(read(4));
        assert!(
            reads.begin(LogIndex::new(7)) > second,
            "also after a change of role"
        );
    }
}
