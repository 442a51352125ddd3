//! What the core wants done. `take_output` drains it; the fields say what may happen when.
//!
//! Order the owner must keep: `install` comes before `append` and `apply` of the same output;
//! `after_append` leaves only once `install`, `append` and `hard_state` of this and all earlier
//! outputs are durable; `messages` may leave at once.

use std::fmt;

use crate::kernel::{LogIndex, MemberId, ReadId, Term};

use super::{Entry, HardState, Message, SnapshotMeta};

/// Everything that became due since the last `take_output`.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Output {
    /// Entries to write. The first may overwrite an index written before; then everything after it
    /// is void.
    pub append: Vec<Entry>,
    /// Term, vote and commit hint to write with them.
    pub hard_state: Option<HardState>,
    /// Messages that may leave now.
    pub messages: Vec<Message>,
    /// Messages that make a promise and therefore wait for durability.
    pub after_append: Vec<Message>,
    /// Entries to apply, next in order: committed and locally durable.
    pub apply: Vec<Entry>,
    /// Reads whose barrier is known.
    pub read_states: Vec<ReadState>,
    /// Peers that need an image of the state machine; named once until `report_snapshot`.
    pub snapshot_wanted: Vec<MemberId>,
    /// A staged image that becomes the state; the log restarts after it.
    pub install: Option<SnapshotMeta>,
    /// Set when role, term or leader changed.
    pub role: Option<RoleChange>,
}

impl Output {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A read is linearizable once `index` is applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadState {
    /// The read, as the owner named it.
    pub id: ReadId,
    /// What must be applied first.
    pub index: LogIndex,
}

/// Who this member is now, and whom it follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoleChange {
    /// The role.
    pub role: Role,
    /// The term.
    pub term: Term,
    /// The leader of the term, if known.
    pub leader: Option<MemberId>,
}

/// The four states of a member. Learners are followers.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Follows, or waits for a leader.
    #[default]
    Follower,
    /// Asks whether it could win.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        })
    }
}

/// Why a proposal or a read was not taken. Nothing was appended and nothing was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProposeError {
    /// Another change of the configuration is not through yet.
    Changing,
    /// No leader is known.
    NoLeader,
    /// Leadership is being handed over.
    Transferring,
    /// Too many bytes are proposed and not committed.
    Overloaded,
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoLeader => "no leader is known",
            Self::Transferring => "leadership is being transferred",
            Self::Overloaded => "too many uncommitted bytes",
            Self::Changing => "another change of the configuration is not through yet",
        })
    }
}

impl std::error::Error for ProposeError {}
