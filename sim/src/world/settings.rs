//! The settings a member starts with, from the plan and from what its operator knows.

use std::time::Duration;

use fated::node::{InitialMember, NodeConfig, RewriteRules, upkeep::AutoCompaction};

use super::{CLUSTER, World, member::founder_id};
use crate::{
    operator::{self, Standing},
    plan::UpkeepPlan,
};

/// Small stores are rewritten in many parts and often, so that everything else comes in between.
const REWRITE: RewriteRules = RewriteRules {
    part_bytes: 2048,
    free_bytes_min: Some(4096),
    settle: Duration::from_millis(200),
    rest: Duration::from_millis(1000),
    rest_unpaid: Duration::from_millis(3000),
};

impl World {
    /// The settings a member starts with.
    pub fn node_config(&self, at: usize) -> NodeConfig {
        let cluster = &self.plan.cluster;
        let changes = &self.plan.membership;
        let joined = match &self.members[at].standing {
            Standing::Joined(told) => Some(told.clone()),
            Standing::Founder | Standing::Free | Standing::Awaited | Standing::Lost => None,
        };
        // Each calls the others as it likes, and knows for sure only its own name.
        let founder = |other| InitialMember {
            id: founder_id(other),
            name: format!("m{other} as m{at} calls it"),
            peer_urls: vec![operator::url_of(other, 0)],
        };
        let mut config = NodeConfig {
            cluster: CLUSTER,
            member: self.members[at].id,
            name: format!("m{at}"),
            client_urls: vec![format!("http://m{at}:2379")],
            joining: joined.is_some(),
            promote_itself: self.members[at].joins,
            force_new_cluster: self.members[at].forced,
            initial_members: joined.unwrap_or_else(|| (0..cluster.members).map(founder).collect()),
            strict_reconfig: changes.strict,
            learners_max: changes.learners_max,
            health_interval: Duration::from_millis(changes.health_ms),
            joint_changes: changes.joint,
            heartbeat: Duration::from_millis(cluster.heartbeat_ms),
            election: Duration::from_millis(cluster.election_ms),
            pre_vote: cluster.pre_vote,
            snapshot_count: cluster.snapshot_count,
            catchup_entries: cluster.catchup_entries,
            segment_bytes: cluster.segment_bytes,
            append_bytes_max: cluster.append_bytes,
            compaction_slice: cluster.compaction_slice,
            batch_operations_max: cluster.batch_operations,
            batch_interval: Duration::from_millis(cluster.batch_ms),
            progress_interval: Duration::from_millis(cluster.progress_ms),
            stream_window_bytes: cluster.watch.window_bytes,
            catchup_revisions: cluster.watch.catchup_revisions,
            fragment_bytes_max: cluster.watch.fragment_bytes,
            quota_bytes: cluster.upkeep.quota_bytes,
            auto_compaction: auto_compaction(&cluster.upkeep),
            rewrite: REWRITE,
            ..NodeConfig::default()
        };
        self.plan.overload.settle(&mut config);
        config
    }
}

fn auto_compaction(plan: &UpkeepPlan) -> Option<AutoCompaction> {
    if plan.keep_ms > 0 {
        let keep = Duration::from_millis(plan.keep_ms);
        return Some(AutoCompaction::Periodic { keep });
    }
    (plan.keep_revisions > 0).then_some(AutoCompaction::Revision {
        keep: plan.keep_revisions,
        every: Duration::from_millis(plan.every_ms),
    })
}
