//! What members say to each other. Each message is one variant with only the fields it has.
//!
//! `term` is the sender's term, with two exceptions that PreVote needs: a pre-vote request and its
//! granted reply carry the term the candidate would start. Images of the state machine are no
//! message of the core.

use bytes::Bytes;

use crate::kernel::{EntryId, LogIndex, MemberId, ReadId, Term};

use super::{Entry, EntryKind};

/// One message between two members. The network may lose, repeat, delay and reorder it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Who sent it.
    pub from: MemberId,
    /// Whom it is for.
    pub to: MemberId,
    /// The term it belongs to.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// The content of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Would you vote for me in this term, with my log ending here?
    PreVote {
        /// Last entry of the candidate's log.
        last: EntryId,
    },
    /// The answer to a pre-vote; binds nobody.
    PreVoteReply {
        /// Yes or no.
        granted: bool,
        /// What the sender knows committed, see `VoteReply`.
        commit: EntryId,
    },
    /// Vote for me in this term.
    Vote {
        /// Last entry of the candidate's log.
        last: EntryId,
        /// The old leader asked for this election, so a live leader is no reason to refuse.
        transfer: bool,
    },
    /// The answer to a vote request; leaves only once the vote is durable.
    VoteReply {
        /// Yes or no.
        granted: bool,
        /// What the sender knows committed. A candidate may lack only this to get on: a leader that
        /// removed itself has stepped down with a longer log, votes for nobody, and cannot lead.
        commit: EntryId,
    },
    /// Entries that follow `prev`; none makes it a probe or tells a commit.
    Append {
        /// The entry right before the new ones, which the receiver must have.
        prev: EntryId,
        /// New entries, in order.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit: LogIndex,
    },
    /// The receiver's log equals the leader's up to here, durably.
    AppendReply {
        /// The last entry known equal; zero from a member of a later term that only says so.
        matched: EntryId,
    },
    /// The receiver does not have the entry before the new ones.
    AppendReject {
        /// Index of the `prev` that was refused.
        rejected: LogIndex,
        /// Where the logs may agree: the highest entry at or below it whose term is not above
        /// `prev`'s.
        hint: EntryId,
    },
    /// The leader is alive.
    Heartbeat {
        /// What the receiver may commit: never beyond what it acknowledged.
        commit: LogIndex,
        /// The latest round of read confirmation; rounds only grow, so an old reply confirms
        /// nothing new.
        round: u64,
    },
    /// The sender still follows this leader.
    HeartbeatReply {
        /// The round of the heartbeat it answers.
        round: u64,
    },
    /// Proposals a follower hands to its leader, once.
    Propose {
        /// Drawn at the sender's boot, so that counters of two boots are never mixed up.
        boot: u64,
        /// Counts the sender's forwards of this boot; the leader takes each at most once.
        sequence: u64,
        /// What to append.
        entries: Vec<(EntryKind, Bytes)>,
    },
    /// A follower asks for a read barrier.
    ReadIndex {
        /// Drawn at the sender's boot; comes back in the reply.
        boot: u64,
        /// The sender's name for the read.
        id: ReadId,
    },
    /// Once the asker has applied this index, the read is linearizable.
    ReadIndexReply {
        /// The asker's boot.
        boot: u64,
        /// The asker's name for the read.
        id: ReadId,
        /// What must be applied first.
        index: LogIndex,
    },
    /// A follower asks its leader to hand leadership over.
    TransferLeader {
        /// To whom.
        to: MemberId,
    },
    /// The leader asks the receiver to start an election at once.
    TimeoutNow,
}

impl Body {
    /// A short name, for traces and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PreVote { .. } => "pre-vote",
            Self::PreVoteReply { .. } => "pre-vote-reply",
            Self::Vote { .. } => "vote",
            Self::VoteReply { .. } => "vote-reply",
            Self::Append { .. } => "append",
            Self::AppendReply { .. } => "append-reply",
            Self::AppendReject { .. } => "append-reject",
            Self::Heartbeat { .. } => "heartbeat",
            Self::HeartbeatReply { .. } => "heartbeat-reply",
            Self::Propose { .. } => "propose",
            Self::ReadIndex { .. } => "read-index",
            Self::ReadIndexReply { .. } => "read-index-reply",
            Self::TransferLeader { .. } => "transfer-leader",
            Self::TimeoutNow => "timeout-now",
        }
    }
}
