//! What a member's consensus core is told once, at boot.
//!
//! Invariant: a `Config` that passed `check` keeps `0 < heartbeat_ticks < election_ticks`, and
//! every bound lets at least one entry through.

use crate::kernel::{EntryId, LogIndex, MemberId, limits};

use super::{ConfState, Entry, HardState};

/// Settings of the core. Times are in ticks, whose length only the owner knows.
#[derive(Clone, Debug)]
pub struct Config {
    /// This member.
    pub id: MemberId,
    /// Ticks without a leader before an election; the real wait is drawn from one to two times
    /// this.
    pub election_ticks: u32,
    /// Ticks between heartbeats of a leader.
    pub heartbeat_ticks: u32,
    /// Ask whether an election could be won before raising the term (thesis 9.6).
    pub pre_vote: bool,
    /// A leader that hears no quorum for an election timeout steps down, and followers of a live
    /// leader refuse votes (thesis 6.2, 4.2.3).
    pub check_quorum: bool,
    /// Entry bytes of one append message, unless a single entry is larger.
    pub append_bytes_max: usize,
    /// Append messages on the way to one peer.
    pub inflight_appends_max: usize,
    /// Entry bytes on the way to one peer; a single larger message passes alone.
    pub inflight_bytes_max: usize,
    /// Data bytes proposed and not yet committed; a single larger proposal passes alone.
    pub uncommitted_bytes_max: usize,
    /// Entry bytes handed out for apply in one output, unless a single entry is larger.
    pub apply_bytes_max: usize,
}

impl Config {
    /// The settings the server runs with: PreVote and CheckQuorum on, bounds from `limits`.
    pub fn new(id: MemberId, election_ticks: u32, heartbeat_ticks: u32) -> Self {
        Self {
            id,
            election_ticks,
            heartbeat_ticks,
            pre_vote: true,
            check_quorum: true,
            append_bytes_max: limits::APPEND_BYTES_MAX,
            inflight_appends_max: limits::INFLIGHT_APPENDS_MAX,
            inflight_bytes_max: limits::INFLIGHT_BYTES_MAX,
            uncommitted_bytes_max: limits::UNCOMMITTED_BYTES_MAX,
            apply_bytes_max: limits::APPEND_BYTES_MAX,
        }
    }

    /// Asserts what the core relies on; the command line refuses anything else before it gets here.
    pub fn check(&self) {
        assert!(!self.id.is_zero(), "member id zero means nobody");
        assert!(self.heartbeat_ticks > 0, "heartbeats need an interval");
        assert!(
            self.election_ticks > self.heartbeat_ticks,
            "an election timeout must outlast a heartbeat"
        );
        assert!(
            self.inflight_appends_max > 0,
            "replication needs one append in flight"
        );
    }
}

/// What a restart found on disk; all of it is durable.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Term, vote and commit hint.
    pub hard_state: HardState,
    /// The entry just before the first retained one.
    pub first: EntryId,
    /// The retained log, in order, starting right after `first`.
    pub entries: Vec<Entry>,
    /// How far the state machine has come. Invariant: from `first.index` to the last entry.
    pub applied: LogIndex,
    /// The configuration as of `applied`.
    pub conf_state: ConfState,
}

impl Recovered {
    /// An empty disk: of a cluster that starts with these members, or, with the empty
    /// configuration, of a member that joins a running one. The latter takes no entries before it
    /// got an image.
    pub fn fresh(conf_state: ConfState) -> Self {
        Self {
            hard_state: HardState::default(),
            first: EntryId::ZERO,
            entries: Vec::new(),
            applied: LogIndex::ZERO,
            conf_state,
        }
    }
}
