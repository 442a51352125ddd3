//! What the frontend counts: leaders, proposals, barriers, and how long calls took from their
//! arrival to their answer. Nothing here is read by anything but `/metrics`.

use std::collections::BTreeMap;

use super::Frontend;
use crate::{
    apply::txn,
    kernel::{
        ApiError, Instant, Request, Response,
        figure::{Figure, Histogram, Scale, Sheet},
    },
    node::pending::{Kind, Waiting},
    raft::Role,
};

const REQUEST: Scale = Scale::seconds(1000, 14);
/// The kind under which promotions wait; their outcomes are counted and not their durations.
pub(super) const PROMOTE: &str = "MemberPromote";

/// The counters of the frontend.
#[derive(Default, Debug)]
pub(super) struct Meter {
    /// How often a leader appeared.
    pub leaders_seen: u64,
    /// Barriers that were not confirmed while anybody waited for them.
    pub barriers_failed: u64,
    proposals_failed: u64,
    durations: BTreeMap<(&'static str, bool), Histogram>,
    promoted: u64,
    not_promoted: BTreeMap<&'static str, u64>,
}

impl Meter {
    /// A call got its answer.
    pub(super) fn on_answered(
        &mut self,
        waiting: &Waiting,
        result: &Result<Response, ApiError>,
        role: Role,
        now: Instant,
    ) {
        if let (Kind::Write(_), Err(error)) = (waiting.kind, result) {
            self.proposals_failed += u64::from(lost(*error));
        }
        let Some((kind, since)) = waiting.timed else {
            return;
        };
        if kind != PROMOTE {
            let histogram = self.durations.entry((kind, result.is_ok()));
            let histogram = histogram.or_insert_with(|| Histogram::new(REQUEST));
            histogram.took(now.since(since));
        } else if role == Role::Leader {
            match result {
                Ok(_) => self.promoted += 1,
                Err(error) => *self.not_promoted.entry(error.text()).or_default() += 1,
            }
        }
    }

    /// Nobody waits for a call any more.
    pub(super) fn on_cancelled(&mut self, waiting: &Waiting) {
        self.proposals_failed += u64::from(matches!(waiting.kind, Kind::Write(_)));
    }
}

/// Whether a proposal that ended so was never applied, as far as this member knows.
fn lost(error: ApiError) -> bool {
    [
        ApiError::Timeout,
        ApiError::TimeoutDueToLeaderFail,
        ApiError::TimeoutDueToConnectionLost,
        ApiError::TooManyRequests,
        ApiError::Stopped,
    ]
    .contains(&error)
}

/// Under which of etcd's names the duration of a call is counted.
pub(super) fn timed(request: &Request) -> Option<&'static str> {
    Some(match request {
        Request::Range(_) => "Range",
        Request::Txn(request) if txn::is_read_only(request) => "ReadonlyTxn",
        Request::Put(_) => "Put",
        Request::DeleteRange(_) => "DeleteRange",
        Request::Txn(_) => "Txn",
        Request::Compact(_) => "Compaction",
        Request::LeaseGrant(_) => "LeaseGrant",
        Request::LeaseRevoke(_) => "LeaseRevoke",
        Request::Alarm(_) => "Alarm",
        Request::MemberPromote(_) => PROMOTE,
        Request::RangeChunk(_)
        | Request::LeaseKeepAlive(_)
        | Request::LeaseTimeToLive(_)
        | Request::LeaseLeases(_)
        | Request::MemberList(_)
        | Request::MemberAdd(_)
        | Request::MemberRemove(_)
        | Request::MemberUpdate(_)
        | Request::Status(_)
        | Request::Defragment(_)
        | Request::Hash(_)
        | Request::HashKv(_)
        | Request::MoveLeader(_)
        | Request::Invalid(..)
        | Request::Downgrade(_)
        | Request::SnapshotOpen
        | Request::SnapshotRead { .. }
        | Request::SnapshotClose { .. }
        | Request::Health
        | Request::Metrics => return None,
    })
}

impl Frontend {
    /// What the frontend counts.
    pub fn figures(&self, sheet: &mut Sheet) {
        let Meter {
            leaders_seen,
            barriers_failed,
            proposals_failed,
            durations,
            promoted,
            not_promoted,
        } = &self.meter;
        let has_leader = u64::from(self.role.leader.is_some());
        let help = "1 if this member knows a leader, else 0.";
        sheet.gauge("etcd_server_has_leader", has_leader, help);
        let leads = u64::from(self.role.role == Role::Leader);
        sheet.gauge(
            "etcd_server_is_leader",
            leads,
            "1 if this member leads, else 0.",
        );
        let learner = u64::from(self.learner);
        sheet.gauge(
            "etcd_server_is_learner",
            learner,
            "1 if this member learns, else 0.",
        );
        let help = "How often this member saw a leader appear.";
        sheet.counter("etcd_server_leader_changes_seen_total", *leaders_seen, help);
        let help = "Proposals of this member's clients that are not applied yet.";
        let writes = self.pending.writes() as u64;
        sheet.gauge("etcd_server_proposals_pending", writes, help);
        let help = "Proposals of this member's clients that timed out or were refused or given up.";
        sheet.counter(
            "etcd_server_proposals_failed_total",
            *proposals_failed,
            help,
        );
        let slow = self.barriers_repeated + barriers_failed;
        let help = "Read barriers that were not confirmed in half a second.";
        sheet.counter("etcd_server_slow_read_indexes_total", slow, help);
        let help = "Read barriers that were not confirmed while anybody waited for them.";
        sheet.counter(
            "etcd_server_read_indexes_failed_total",
            *barriers_failed,
            help,
        );
        for ((kind, success), histogram) in durations {
            let labels = vec![
                ("type", (*kind).to_owned()),
                ("success", success.to_string()),
            ];
            let figure = Figure::Histogram(histogram.clone());
            let help = "How long requests took from their arrival in the core to their answer.";
            sheet.add("etcd_server_request_duration_seconds", labels, figure, help);
        }
        let help = "Learners promoted while this member led.";
        sheet.counter("etcd_server_learner_promote_successes", *promoted, help);
        for (reason, count) in not_promoted {
            let labels = vec![("Reason", (*reason).to_owned())];
            let help = "Promotions refused while this member led, by reason.";
            let figure = Figure::Counter(*count);
            sheet.add("etcd_server_learner_promote_failures", labels, figure, help);
        }
    }
}
