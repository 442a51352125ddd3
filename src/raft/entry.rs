//! What the log is made of, and what must survive a restart beside it.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::kernel::{EntryId, LogIndex, MemberId, Term};

/// What an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EntryKind {
    /// A command of the state machine; empty data is a new leader's first entry.
    Normal = 0,
    /// A change of the configuration.
    ConfChange = 1,
}

/// One entry of the log. The data is shared, never copied, on its way to WAL, peers and apply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Term and index.
    pub id: EntryId,
    /// What it is for.
    pub kind: EntryKind,
    /// Its encoded command.
    pub data: Bytes,
}

/// What a member must remember before it answers anything.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct HardState {
    /// The latest term it has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<MemberId>,
    /// Highest index known committed; a hint that may be stale after a restart.
    pub commit: LogIndex,
}

/// Who votes and who only listens. Joint while `voters_outgoing` is not empty.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct ConfState {
    /// Voters of the current, or of the incoming, configuration.
    pub voters: BTreeSet<MemberId>,
    /// Voters of the outgoing configuration while joint.
    pub voters_outgoing: BTreeSet<MemberId>,
    /// Members that receive the log and do not vote.
    pub learners: BTreeSet<MemberId>,
    /// Voters of the outgoing configuration that become learners when it is left.
    pub learners_next: BTreeSet<MemberId>,
    /// Whether the leader leaves the joint configuration by itself.
    pub auto_leave: bool,
}

/// The point up to which an image replaces the log.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct SnapshotMeta {
    /// The last entry inside the image.
    pub id: EntryId,
    /// The configuration at that entry.
    pub conf_state: ConfState,
}
