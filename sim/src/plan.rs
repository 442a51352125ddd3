//! A whole run as data: what the cluster is like, what clients do, what breaks and when.
//!
//! A seed makes a plan; a plan can be saved, cut down and run again. Every concern draws from a
//! stream of its own name, so that a further draw for one moves nothing for the others.

use fated::kernel::{Entropy, limits};
use serde::{Deserialize, Serialize};

use crate::{
    draw,
    faults::{Fault, FaultKind},
    membership::MembershipPlan,
    overload::{self, OverloadPlan},
    script::Step,
    watching::WatcherPlan,
};

/// Everything that decides a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// What the plan once found, for those that are kept.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub story: String,
    /// The bug that is planted in the members for this run, by its name in `mutant!`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planted: Option<String>,
    /// Seeds what is drawn while the plan runs: latencies, losses, elections.
    pub seed: u64,
    /// The cluster and its limits.
    pub cluster: ClusterPlan,
    /// Each member's clock.
    pub clocks: Vec<ClockPlan>,
    /// The network between members, and from clients to them.
    pub network: NetworkPlan,
    /// The disks.
    pub disks: DiskPlan,
    /// How long the phase of faults lasts.
    pub faults_ms: u64,
    /// Whether the run ends with the phase of faults, and nothing is healed. Only plans that are cut
    /// down, or made for a bug that shows before, do that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends_early: bool,
    /// What breaks, in order of time.
    pub faults: Vec<Fault>,
    /// The members that are whole in the liveness phase; a majority.
    pub core: Vec<usize>,
    /// Whether those of the others that are cut off then hear nothing and are still heard.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deaf: bool,
    /// Whether all members lose power after they have converged.
    pub last_cut: bool,
    /// What each client does.
    pub clients: Vec<Vec<Step>>,
    /// Whether a client waits before its first step as before all others. Only plans that are cut
    /// down say so: what is left of a script keeps its time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits_first: bool,
    /// Who watches.
    pub watchers: Vec<WatcherPlan>,
    /// How the member set changes.
    #[serde(default, skip_serializing_if = "MembershipPlan::is_nothing")]
    pub membership: MembershipPlan,
    /// How much a member takes in at a time.
    #[serde(default, skip_serializing_if = "OverloadPlan::is_off")]
    pub overload: OverloadPlan,
    /// How long a client waits for an answer.
    pub patience_ms: u64,
    /// Clients go on after the faults until they have sent so many requests.
    #[serde(default)]
    pub operations_min: u64,
    /// How late a lease may end at most, where the faults of the plan leave it a bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_late_ms: Option<u64>,
}

/// The cluster and its limits.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClusterPlan {
    /// How many members.
    pub members: usize,
    /// One raft tick.
    pub heartbeat_ms: u64,
    /// The election timeout.
    pub election_ms: u64,
    /// Whether elections are probed first.
    pub pre_vote: bool,
    /// Entries between two compactions of the log.
    pub snapshot_count: u64,
    /// Entries kept for slow members.
    pub catchup_entries: u64,
    /// Size of a WAL segment.
    pub segment_bytes: u64,
    /// Revisions per slice of a compaction.
    pub compaction_slice: usize,
    /// Operations per backend commit.
    pub batch_operations: usize,
    /// Pause between backend commits.
    pub batch_ms: u64,
    /// How often watches are told of their progress.
    pub progress_ms: u64,
    /// What a step of a member costs, at most.
    pub step_us: u64,
    /// Bytes of entries in one append.
    #[serde(default = "append_bytes_standard")]
    pub append_bytes: usize,
    /// How much watches get at a time.
    #[serde(default)]
    pub watch: WatchLimits,
    /// What members keep in shape by themselves.
    #[serde(default, skip_serializing_if = "UpkeepPlan::is_off")]
    pub upkeep: UpkeepPlan,
}

/// What members keep in shape by themselves.
#[derive(Clone, Copy, Default, PartialEq, Debug, Serialize, Deserialize)]
pub struct UpkeepPlan {
    /// The space quota; 0 leaves it so large that nobody comes to it.
    pub quota_bytes: i64,
    /// How long history is kept; 0 is for ever.
    #[serde(default)]
    pub keep_ms: u64,
    /// How many revisions are kept, looked at in this rhythm; 0 is all.
    #[serde(default)]
    pub keep_revisions: i64,
    /// The rhythm.
    #[serde(default)]
    pub every_ms: u64,
}

impl UpkeepPlan {
    fn is_off(&self) -> bool {
        *self == Self::default()
    }

    /// A small quota in one of four seeds, compaction by the clock in one of four others.
    fn draw(entropy: &mut Entropy) -> Self {
        let mut plan = Self::default();
        if entropy.one_in(4) {
            plan.quota_bytes = draw::log_uniform(8 << 10, 64 << 10, entropy).cast_signed();
        }
        match entropy.below(8) {
            0 => plan.keep_ms = draw::log_uniform(500, 20_000, entropy),
            1 => {
                plan.keep_revisions = draw::log_uniform(1, 200, entropy).cast_signed();
                plan.every_ms = draw::log_uniform(500, 20_000, entropy);
            }
            _ => {}
        }
        plan
    }
}

fn append_bytes_standard() -> usize {
    limits::APPEND_BYTES_MAX
}

/// How much watches get at a time.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct WatchLimits {
    /// Bytes on the way to one stream.
    pub window_bytes: u64,
    /// Revisions of history that are read at a time.
    pub catchup_revisions: usize,
    /// Where responses are split for those that ask for it.
    pub fragment_bytes: usize,
}

impl Default for WatchLimits {
    /// As in production.
    fn default() -> Self {
        Self {
            window_bytes: limits::STREAM_WINDOW_BYTES,
            catchup_revisions: limits::CATCHUP_REVISIONS_MAX,
            fragment_bytes: limits::REQUEST_BYTES_MAX + limits::REQUEST_OVERHEAD_BYTES,
        }
    }
}

impl WatchLimits {
    /// Half of the seeds have limits that a few events reach.
    fn draw(entropy: &mut Entropy) -> Self {
        if entropy.one_in(2) {
            return Self::default();
        }
        Self {
            window_bytes: draw::log_uniform(256, 64 << 10, entropy),
            catchup_revisions: draw::usize(draw::log_uniform(1, 64, entropy)),
            fragment_bytes: draw::usize(draw::log_uniform(128, 16 << 10, entropy)),
        }
    }
}

/// One member's clock.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClockPlan {
    /// Millionths by which it runs fast.
    pub rate_ppm: i64,
    /// By how much civil time is off.
    pub offset_ms: i64,
}

/// The network when nothing else is wrong with it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NetworkPlan {
    /// Shortest way of a frame.
    pub delay_us: u64,
    /// What is added at random.
    pub jitter_us: u64,
    /// Frames lost, per million.
    pub loss_ppm: u64,
    /// Frames delivered twice.
    pub duplicate_ppm: u64,
    /// Frames that may be overtaken.
    pub reorder_ppm: u64,
    /// Frames that arrive damaged.
    pub corrupt_ppm: u64,
    /// Requests and answers of clients that get lost.
    pub client_loss_ppm: u64,
    /// Bytes on links that no healthy member sent like that.
    #[serde(default)]
    pub hostile: HostilePlan,
}

/// Bytes on links that no healthy member sent like that, per million frames or dials.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub struct HostilePlan {
    /// Frames that end too early.
    pub truncated_ppm: u64,
    /// Frames whose head claims more than is allowed.
    pub oversized_ppm: u64,
    /// Frames whose head belongs to another frame.
    pub mismatched_ppm: u64,
    /// Frames that come once more much later, on whatever link there is then.
    pub replayed_ppm: u64,
    /// Dials that come from another cluster, or reach another member.
    pub foreign_ppm: u64,
}

/// The disks when nothing else is wrong with them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DiskPlan {
    /// A write into the page cache.
    pub write_us: u64,
    /// A sync, and a step of the backend; the slowest takes eight times as long.
    pub sync_us: u64,
    /// Whether a failed sync drops the pages from the cache.
    pub failed_sync_reverts: bool,
    /// Whether LMDB runs beside the memory backend. The run is the same with and without.
    #[serde(default)]
    pub lmdb: bool,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(seed: u64) -> Self {
        let root = Entropy::from_seed(seed).fork("plan");
        let mut cluster = ClusterPlan::draw(&mut root.fork("cluster"));
        cluster.watch = WatchLimits::draw(&mut root.fork("watch limits"));
        let members = cluster.members;
        let mut clocks = root.fork("clocks");
        let skewed = clocks.one_in(2);
        let clocks = (0..members).map(|_| ClockPlan::draw(skewed, &mut clocks));
        let clocks = clocks.collect();
        let mut phases = root.fork("phases");
        let faults_ms = phases.between(60_000, 70_000);
        let core = draw::subset(members, members / 2 + 1, &mut phases);
        let last_cut = phases.one_in(2);
        let mut clients = root.fork("clients");
        let patience_ms = draw::log_uniform(200, 4000, &mut clients);
        let scripts = crate::script::draw(faults_ms, members, &mut clients);
        let changes = &mut root.fork("membership");
        let membership = MembershipPlan::draw(&cluster, faults_ms, changes);
        let mut plan = Self {
            story: String::new(),
            planted: None,
            seed,
            clocks,
            network: NetworkPlan::draw(&mut root.fork("network")),
            disks: DiskPlan::draw(&mut root.fork("disks")),
            faults: crate::faults::draw(&cluster, faults_ms, &mut root.fork("faults")),
            cluster,
            faults_ms,
            ends_early: false,
            core,
            deaf: root.fork("deaf").one_in(2),
            last_cut,
            clients: scripts,
            waits_first: false,
            watchers: crate::watching::draw(&mut root.fork("watchers")),
            membership,
            overload: OverloadPlan::default(),
            patience_ms,
            operations_min: crate::script::STEPS_MIN,
            lease_late_ms: None,
        };
        overload::overload(&mut plan, &mut root.fork("overload"));
        plan
    }

    /// How far a clock may be off, in millionths.
    pub fn drift_ppm(&self) -> u64 {
        let clocks = self.clocks.iter().chain(&self.membership.clocks);
        let clocks = clocks.map(|clock| clock.rate_ppm);
        let faults = self.faults.iter().filter_map(|fault| match fault.kind {
            FaultKind::ClockRate { ppm, .. } => Some(ppm),
            _ => None,
        });
        let worst = clocks.chain(faults).map(i64::unsigned_abs).max();
        worst.unwrap_or(0)
    }
}

impl ClusterPlan {
    fn draw(entropy: &mut Entropy) -> Self {
        let members = [1, 3, 3, 3, 3, 5, 5, 7][draw::index(8, entropy)];
        let heartbeat_ms = draw::log_uniform(10, 100, entropy);
        Self {
            members,
            heartbeat_ms,
            election_ms: heartbeat_ms * entropy.between(5, 15),
            pre_vote: !entropy.one_in(4),
            snapshot_count: draw::log_uniform(1, 100, entropy),
            catchup_entries: entropy.below(51),
            segment_bytes: 4096 * draw::log_uniform(1, 16, entropy),
            compaction_slice: draw::usize(draw::log_uniform(1, 50, entropy)),
            batch_operations: draw::usize(draw::log_uniform(1, 1000, entropy)),
            batch_ms: draw::log_uniform(1, 200, entropy),
            progress_ms: draw::log_uniform(50, 20_000, entropy),
            step_us: draw::log_uniform(5, 500, entropy),
            // Drawn last, so that a seed keeps what it drew before this was drawn.
            append_bytes: match entropy.one_in(4) {
                true => draw::usize(draw::log_uniform(1, 4096, entropy)),
                false => append_bytes_standard(),
            },
            watch: WatchLimits::default(),
            upkeep: UpkeepPlan::draw(&mut entropy.fork("upkeep")),
        }
    }
}

impl ClockPlan {
    /// A clock, off if `skewed`.
    pub fn draw(skewed: bool, entropy: &mut Entropy) -> Self {
        if !skewed {
            return Self {
                rate_ppm: 0,
                offset_ms: 0,
            };
        }
        Self {
            rate_ppm: draw::signed(draw::log_uniform(1, 20_000, entropy), entropy),
            offset_ms: draw::signed(draw::log_uniform(1, 3_600_000, entropy), entropy),
        }
    }
}

impl NetworkPlan {
    fn draw(entropy: &mut Entropy) -> Self {
        let mut rate = |most: u64| {
            let on = entropy.one_in(2);
            let value = draw::log_uniform(100, most, entropy);
            if on { value } else { 0 }
        };
        let (loss_ppm, duplicate_ppm) = (rate(100_000), rate(200_000));
        let (reorder_ppm, corrupt_ppm) = (rate(200_000), rate(5_000));
        let client_loss_ppm = rate(30_000);
        Self {
            delay_us: draw::log_uniform(50, 5_000, entropy),
            jitter_us: draw::log_uniform(10, 20_000, entropy),
            loss_ppm,
            duplicate_ppm,
            reorder_ppm,
            corrupt_ppm,
            client_loss_ppm,
            hostile: HostilePlan::draw(&mut entropy.fork("hostile")),
        }
    }
}

impl HostilePlan {
    fn draw(entropy: &mut Entropy) -> Self {
        if !entropy.one_in(3) {
            return Self::default();
        }
        let mut rate = |most: u64| draw::log_uniform(10, most, entropy);
        Self {
            truncated_ppm: rate(2_000),
            oversized_ppm: rate(2_000),
            mismatched_ppm: rate(2_000),
            replayed_ppm: rate(50_000),
            foreign_ppm: rate(200_000),
        }
    }
}

impl DiskPlan {
    fn draw(entropy: &mut Entropy) -> Self {
        Self {
            write_us: draw::log_uniform(5, 200, entropy),
            sync_us: draw::log_uniform(50, 5_000, entropy),
            failed_sync_reverts: entropy.one_in(2),
            lmdb: entropy.fork("lmdb").one_in(16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Plan;

    /// Goal: a plan is all there is to a run. Method: it comes back from its file as it was, and a
    /// seed draws it again.
    #[test]
    fn plans_are_data() {
        for seed in 0..200 {
            let plan = Plan::draw(seed);
            let text = serde_json::to_string(&plan).unwrap();
            assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
            assert_eq!(Plan::draw(seed), plan);
            assert!(plan.core.len() > plan.cluster.members / 2);
            assert!(plan.faults.is_sorted_by_key(|fault| fault.at_ms));
        }
    }
}
