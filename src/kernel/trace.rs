//! One line per step: virtual time, member, actor, what, term, indexes, revision, in fixed columns.

use std::fmt;

use super::{Instant, LogIndex, MemberId, Term};

/// The columns of one trace line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceLine {
    /// Monotonic time of the member.
    pub now: Instant,
    /// Which member.
    pub member: MemberId,
    /// `leader`, `follower`, `candidate`, `pre-candidate` or `learner`.
    pub role: &'static str,
    /// What came in or went out.
    pub what: String,
    /// Raft term.
    pub term: Term,
    /// Highest index known committed.
    pub commit: LogIndex,
    /// Highest index applied.
    pub applied: LogIndex,
    /// Highest index durable in the local log.
    pub durable: LogIndex,
    /// Store revision.
    pub revision: i64,
}

impl fmt::Display for TraceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>14} {:016x} {:<13} t{:<4} c{:<7} a{:<7} d{:<7} r{:<7} {}",
            self.now.as_nanos() / 1000,
            self.member.get(),
            self.role,
            self.term.get(),
            self.commit.get(),
            self.applied.get(),
            self.durable.get(),
            self.revision,
            self.what,
        )
    }
}
