//! The end of a run with downgrades: the cluster comes to stand where the last one wants it, and
//! at its servers' version once that is taken back.

use fated::kernel::{Request, Response};
use fated::pb::etcdserverpb::{self as rpc, downgrade_request::DowngradeAction};

use super::{Answer, Asked, Runner};
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
        let request = Request::Status(rpc::StatusRequest::default());
        let lowered = |answers: &[Answer]| wanted.or(answers.first().and_then(stands));
        let settled = |answers: &[Answer]| {
            let lowered = lowered(answers);
            lowered.is_some() && answers.iter().all(|answer| stands(answer) == lowered)
        };
        match self.ask_until(&request, settled).await {
            Asked::Wanted(answers) => lowered(&answers),
            Asked::Other(answers) => {
                self.fail(GUARANTEE, format!("at the end: {answers:?}"));
                None
            }
            Asked::Nothing => {
                self.fail("a healed cluster serves", "no answer to Status".to_owned());
                None
            }
        }
    }
}

/// Whether a member that stands where its downgrade, or none, wants it has one; nothing if it stands
/// elsewhere.
fn stands(answer: &Answer) -> Option<bool> {
    let Ok(Response::Status(status)) = answer else {
        return None;
    };
    let [own, below] = levels(&status.version)?;
    let downgrade = status
        .downgrade_info
        .as_ref()
        .is_some_and(|info| info.enabled);
    let wanted = match downgrade {
        true => below,
        false => own,
    };
    (status.storage_version == wanted).then_some(downgrade)
}
