//! What a member must know before it starts. Checked once by whoever builds it; the core trusts it.

use std::time::Duration;

use super::{frontend::Room, upkeep::AutoCompaction};
use crate::{
    apply::InitialMember,
    kernel::{ClusterId, MemberId, limits},
    lease,
    mvcc::Part,
};

/// Settings of one member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeConfig {
    /// The cluster; from the log on restart, from the bootstrap flags on the first start.
    pub cluster: ClusterId,
    /// This member.
    pub member: MemberId,
    /// `--name`.
    pub name: String,
    /// `--advertise-client-urls`.
    pub client_urls: Vec<String>,
    /// The members of a new cluster, or those a joining member was told of. Once this member has
    /// state of its own, only their names count, and only until they have told their own.
    pub initial_members: Vec<InitialMember>,
    /// Whether this member joins a running cluster: it begins with nothing and gets an image.
    pub joining: bool,
    /// `--force-new-cluster`: the other members are lost for ever; this one goes on alone.
    pub force_new_cluster: bool,
    /// Whether this member, while it is a learner, asks the leader for its vote by itself.
    pub promote_itself: bool,
    /// `--strict-reconfig-check`: refuse changes of the members that could cost the quorum.
    pub strict_reconfig: bool,
    /// `--max-learners`.
    pub learners_max: usize,
    /// How long a member must have been connected to count as healthy when members change.
    pub health_interval: Duration,
    /// Whether changes of the voters go through a joint configuration.
    pub joint_changes: bool,
    /// `--heartbeat-interval`; also the length of one raft tick.
    pub heartbeat: Duration,
    /// `--election-timeout`.
    pub election: Duration,
    /// `--pre-vote`.
    pub pre_vote: bool,
    /// `--initial-election-tick-advance`.
    pub advance_ticks: bool,
    /// `--snapshot-count`: applied entries between two compactions of the log.
    pub snapshot_count: u64,
    /// `--snapshot-catchup-entries`: entries kept for slow members when the log is compacted.
    pub catchup_entries: u64,
    /// What is read at once of a range that is known to have so few keys.
    pub range_first: Part,
    /// What one step reads of a range.
    pub range_part: Part,
    /// Bounds of the calls in flight.
    pub room: Room,
    /// `--max-request-bytes`.
    pub request_bytes_max: usize,
    /// `--max-txn-ops`.
    pub txn_ops_max: usize,
    /// `--backend-batch-interval`.
    pub batch_interval: Duration,
    /// `--backend-batch-limit`.
    pub batch_operations_max: usize,
    /// `--compaction-batch-limit`: revisions one slice of a compaction looks at.
    pub compaction_slice: usize,
    /// `--compaction-sleep-interval`: pause between two slices.
    pub compaction_pause: Duration,
    /// `--warning-apply-duration`: applying that takes longer is counted as slow.
    pub slow_apply: Duration,
    /// `--watch-progress-notify-interval`.
    pub progress_interval: Duration,
    /// Bytes on the way to one watch stream; further responses wait for credit.
    pub stream_window_bytes: u64,
    /// Bytes on the way to all watch streams, beyond which the window of each is small.
    pub stream_windows_bytes_max: u64,
    /// Watch responses of this size are split at the latest, for watches that ask for it.
    pub fragment_bytes_max: usize,
    /// Revisions of history one catch-up slice of watches reads.
    pub catchup_revisions: usize,
    /// `--quota-backend-bytes`, with etcd's default for zero: less than one means no quota.
    pub quota_bytes: i64,
    /// `--quota-alarm-clear`: whether the NOSPACE alarm is cleared by itself.
    pub quota_alarm_clears: bool,
    /// `--auto-compaction-mode` and `--auto-compaction-retention`.
    pub auto_compaction: Option<AutoCompaction>,
    /// How the store's file is rewritten.
    pub rewrite: RewriteRules,
    /// The version this server reports, for example `3.7.1`.
    pub version: String,
    /// Size of one WAL segment.
    pub segment_bytes: u64,
    /// Bytes of entries in one append; an entry that is larger goes alone.
    pub append_bytes_max: usize,
}

/// How the store's file is rewritten without its free pages, and when it is without being asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RewriteRules {
    /// Bytes of one part.
    pub part_bytes: usize,
    /// So much must be wasted, beside a share of what is live; nothing means that it is only done
    /// when asked for.
    pub free_bytes_min: Option<u64>,
    /// For so long.
    pub settle: Duration,
    /// The least time between two that nobody asked for.
    pub rest: Duration,
    /// The least time between two when less was put in between than the first one wrote.
    pub rest_unpaid: Duration,
}

impl Default for RewriteRules {
    fn default() -> Self {
        Self {
            part_bytes: limits::REWRITE_PART_BYTES,
            free_bytes_min: Some(limits::REWRITE_FREE_BYTES_MIN),
            settle: Duration::from_secs(3),
            rest: Duration::from_secs(60),
            rest_unpaid: Duration::from_secs(3600),
        }
    }
}

impl NodeConfig {
    /// The election timeout in ticks.
    pub fn election_ticks(&self) -> u32 {
        let ticks = self.election.as_nanos() / self.heartbeat.as_nanos().max(1);
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }

    /// The shortest lease this member proposes, in seconds.
    pub fn min_lease_ttl_seconds(&self) -> i64 {
        lease::minimum_ttl_seconds(self.election_ticks(), self.heartbeat)
    }
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            cluster: ClusterId::ZERO,
            member: MemberId::ZERO,
            name: "default".to_owned(),
            client_urls: Vec::new(),
            initial_members: Vec::new(),
            joining: false,
            promote_itself: false,
            force_new_cluster: false,
            strict_reconfig: true,
            learners_max: 1,
            health_interval: Duration::from_secs(5),
            joint_changes: false,
            heartbeat: Duration::from_millis(100),
            election: Duration::from_millis(1000),
            pre_vote: true,
            advance_ticks: true,
            snapshot_count: 10_000,
            catchup_entries: 5_000,
            range_first: Part {
                keys_max: limits::RANGE_FIRST_KEYS,
                bytes_max: limits::RANGE_FIRST_BYTES,
            },
            range_part: Part {
                keys_max: limits::RANGE_PART_KEYS,
                bytes_max: limits::RANGE_PART_BYTES,
            },
            room: Room::default(),
            request_bytes_max: limits::REQUEST_BYTES_MAX,
            txn_ops_max: limits::TXN_OPS_MAX,
            batch_interval: Duration::from_millis(100),
            batch_operations_max: limits::BATCH_OPERATIONS_MAX,
            compaction_slice: 1000,
            compaction_pause: Duration::from_millis(10),
            slow_apply: Duration::from_millis(100),
            progress_interval: Duration::from_secs(600),
            stream_window_bytes: limits::STREAM_WINDOW_BYTES,
            stream_windows_bytes_max: limits::STREAM_WINDOWS_BYTES_MAX,
            fragment_bytes_max: usize::MAX,
            catchup_revisions: limits::CATCHUP_REVISIONS_MAX,
            quota_bytes: 2 * 1024 * 1024 * 1024,
            quota_alarm_clears: true,
            auto_compaction: None,
            rewrite: RewriteRules::default(),
            version: "3.7.1".to_owned(),
            segment_bytes: limits::SEGMENT_BYTES,
            append_bytes_max: limits::APPEND_BYTES_MAX,
        }
    }
}
