//! The end of a run with downgrades: the cluster comes to stand where the last one wants it, and
//! at its servers' version once that is taken back.

use fated::kernel::{Request, Response};
use fated::pb::etcdserverpb::{self as rpc, downgrade_request::DowngradeAction};

use super::Runner;
use crate::work::downgrades::{GUARANTEE, levels};

impl Runner {
    /// Waits for the version that the downgrade in force wants, takes it back, and waits for the
    /// servers' own.
    pub(super) async fn settle_versions(&self) {
        if self.await_version(None).await != Some(true) {
            return;
        }
        {
            let mut world = self.shared.world();
            world.counters.hit("version: a downgrade came to its end");
            let Some(leader) = world.leader() else { return };
            let action = DowngradeAction::Cancel as i32;
            let version = String::new();
            let request = rpc::DowngradeRequest { action, version };
            world.own_call(leader, Request::Downgrade(request));
        }
        if self.await_version(Some(false)).await.is_some() {
            let mut world = self.shared.world();
            world
                .counters
                .hit("version: raised again behind a downgrade");
        }
    }

    /// Waits until all voters tell of the version they should have, and of a downgrade as wanted;
    /// whether there is one.
    async fn await_version(&self, wanted: Option<bool>) -> Option<bool> {
        let patience = self.patience();
        let limit = self.shared.world().now + patience;
        let request = Request::Status(rpc::StatusRequest::default());
        loop {
            let Some(answers) = self.ask_voters(&request).await else {
                self.fail("a healed cluster serves", "no answer to Status".to_owned());
                return None;
            };
            let statuses = answers.iter().filter_map(|answer| match answer {
                Ok(Response::Status(status)) => Some(status),
                _ => None,
            });
            let told: Vec<_> = statuses.map(stands).collect();
            let lowered = wanted.or(told.first().map(|one| one.1));
            let settled = |one: &(bool, bool)| one.0 && Some(one.1) == lowered;
            if told.len() == answers.len() && told.iter().all(settled) {
                return told.first().map(|one| one.1);
            }
            let world = self.shared.world();
            let over = world.now >= limit || world.broken.is_some();
            drop(world);
            if over {
                self.fail(GUARANTEE, format!("at the end: {answers:?}"));
                return None;
            }
            self.until(100_000_000, |_| false).await;
        }
    }
}

/// Whether a member stands where its downgrade, or none, wants it; and whether there is one.
fn stands(status: &rpc::StatusResponse) -> (bool, bool) {
    let Some([own, below]) = levels(&status.version) else {
        return (false, false);
    };
    let downgrade = status
        .downgrade_info
        .as_ref()
        .is_some_and(|info| info.enabled);
    let wanted = match downgrade {
        true => below,
        false => own,
    };
    (status.storage_version == wanted, downgrade)
}
