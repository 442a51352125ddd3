//! The end of a run with a quota: history goes, and whoever has space then takes writes again.

use fated::kernel::Request;
use fated::pb::etcdserverpb as rpc;

use super::Runner;
use crate::world::World;

/// What must be free, in percent of the quota, so that members cannot but clear their alarms.
const FREE_PERCENT: u64 = 30;

impl Runner {
    /// Compacts everything, waits for space, and has every voter take a write.
    pub(super) async fn free_space(&self) {
        let quota = {
            let mut world = self.shared.world();
            let quota = world.plan.cluster.upkeep.quota_bytes.cast_unsigned();
            let Some(leader) = world.leader().filter(|_| quota > 0) else {
                return;
            };
            let revision = world.members[leader].view.revision;
            let physical = false;
            let request = rpc::CompactionRequest { revision, physical };
            world.own_call(leader, Request::Compact(request));
            quota
        };
        let room = quota - quota * FREE_PERCENT / 100;
        let has_room = move |world: &World| {
            let mut voters = world.voters().into_iter();
            voters.all(|at| world.members[at].space.1 < room)
        };
        if !self.until(self.patience(), has_room).await {
            return; // what is left is live
        }
        self.shared.world().clients.has_space = true;
        self.probe_all().await;
        let mut world = self.shared.world();
        if world.broken.is_none() && world.clients.was_full {
            world
                .counters
                .hit("space: written again after it was short");
        }
    }
}
