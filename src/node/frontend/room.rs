//! Whether there is room for another call.
//!
//! Each kind of call is held against what it costs: what changes the store against what waits to be
//! applied, stored and agreed on, what reads only against the number of calls. What keeps leases
//! alive, and what an operator needs to see and mend a busy member, has a number of its own beyond
//! that, so no flood of the others can keep it out.

use super::Frontend;
use crate::{
    apply::txn,
    kernel::{ApiError, Request, limits},
    mutant,
    node::pending::Asker,
    pb::etcdserverpb::alarm_request::AlarmAction,
};

/// What a call costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Load {
    /// It keeps something alive, or looks at or mends this member.
    Vital,
    /// It reads the store.
    Read,
    /// It goes through the log.
    Write,
}

/// Bounds of the calls in flight at one member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Calls of all kinds; further ones are refused.
    pub calls_max: usize,
    /// Vital calls beyond that.
    pub vital_max: usize,
    /// Bytes of proposals.
    pub proposal_bytes_max: usize,
    /// Committed entries that are not applied yet.
    pub apply_gap_max: u64,
    /// Bytes that wait for the backend.
    pub overlay_bytes_max: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            calls_max: limits::CALLS_MAX,
            vital_max: limits::VITAL_CALLS_MAX,
            proposal_bytes_max: limits::PROPOSAL_BYTES_MAX,
            apply_gap_max: limits::APPLY_GAP_ENTRIES_MAX,
            overlay_bytes_max: limits::OVERLAY_BYTES_MAX,
        }
    }
}

/// What is in flight at one member, as its room counts it; for observers.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Crowd {
    /// Calls of all kinds.
    pub calls: usize,
    /// Those of clients at this member's edge.
    pub of_clients: usize,
    /// Bytes of proposals.
    pub proposal_bytes: usize,
    /// Committed entries that are not applied yet.
    pub apply_gap: u64,
    /// Bytes that wait for the backend.
    pub overlay_bytes: usize,
}

impl Frontend {
    /// What is in flight, for observers.
    pub fn crowd(&self) -> Crowd {
        Crowd {
            calls: self.pending.len(),
            of_clients: self.pending.count(Asker::Client),
            proposal_bytes: self.pending.proposal_bytes(),
            apply_gap: self.apply_gap,
            overlay_bytes: self.overlay_bytes,
        }
    }

    /// Whether calls that another member has taken in still have room here. All of them keep leases
    /// alive or mend the cluster.
    pub(super) fn has_room_for_peers(&self) -> bool {
        let vital_max = match mutant!("forwarded-keep-alive-without-its-room") {
            true => 0,
            false => self.room.vital_max,
        };
        self.pending.len() < self.room.calls_max.saturating_add(vital_max)
    }

    /// Refuses a call for which there is no room, before anything of it is done.
    pub(super) fn has_room(&self, request: &Request) -> Result<(), ApiError> {
        let room = &self.room;
        let load = load(request);
        let calls = match mutant!("refused-though-there-is-room") {
            true => self.pending.len() * 2,
            false => self.pending.len(),
        };
        let crowded = match load {
            Load::Vital => calls >= room.calls_max.saturating_add(room.vital_max),
            Load::Read => calls >= room.calls_max,
            Load::Write => {
                calls >= room.calls_max
                    || self.pending.proposal_bytes() >= room.proposal_bytes_max
                    || self.apply_gap > room.apply_gap_max
                    || self.overlay_bytes > room.overlay_bytes_max
            }
        };
        match crowded {
            true => Err(ApiError::TooManyRequests),
            false => Ok(()),
        }
    }
}

fn load(request: &Request) -> Load {
    match request {
        Request::LeaseKeepAlive(_) if mutant!("keep-alive-admitted-behind-writes") => Load::Write,
        Request::LeaseKeepAlive(_)
        | Request::LeaseTimeToLive(_)
        | Request::Status(_)
        | Request::Health
        | Request::Metrics
        | Request::MemberList(_)
        | Request::MemberAdd(_)
        | Request::MemberRemove(_)
        | Request::MemberUpdate(_)
        | Request::MemberPromote(_)
        | Request::MoveLeader(_)
        | Request::Defragment(_)
        | Request::Downgrade(_)
        | Request::SnapshotClose { .. }
        | Request::Invalid(..) => Load::Vital,
        Request::Alarm(request) => match request.action() {
            AlarmAction::Get => Load::Vital,
            AlarmAction::Activate | AlarmAction::Deactivate => Load::Write,
        },
        Request::Txn(request) if txn::is_read_only(request) => Load::Read,
        Request::Range(_)
        | Request::RangeChunk(_)
        | Request::LeaseLeases(_)
        | Request::Hash(_)
        | Request::HashKv(_)
        | Request::SnapshotOpen
        | Request::SnapshotRead { .. } => Load::Read,
        Request::Put(_)
        | Request::DeleteRange(_)
        | Request::Txn(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_) => Load::Write,
    }
}
