//! What the applier knows for others: how much waits and how much space is taken, and whether a
//! downgrade is possible.

use super::Applier;
use crate::{
    backend::Backend,
    kernel::{
        CallId, Context, Effect, Response,
        effect::{LogLevel, LogLine},
    },
    node::mail::{FrontendInput, Mail},
    pb::{
        etcdserverpb::{DowngradeRequest, downgrade_request::DowngradeAction},
        fated::command::{DowngradeSet, command::Body},
    },
};

impl<B: Backend> Applier<B> {
    /// Bytes that live data take: the pages in use, and what is on its way to them.
    pub fn live_bytes(&self) -> u64 {
        self.size.used_bytes + self.machine.view().overlay_bytes() as u64
    }

    /// Tells admission how far this member is behind, and how much space is taken.
    pub fn tell_load(&self, cx: &mut Context<'_, Mail>) {
        cx.tell(Mail::Frontend(FrontendInput::Load {
            applied: self.machine.applied_index(),
            committed: self.committed,
            overlay_bytes: self.machine.view().overlay_bytes(),
            live_bytes: self.live_bytes(),
        }));
    }

    /// A call about a downgrade, behind the barrier: what must be recorded goes through the log.
    pub(super) fn on_downgrade(
        &self,
        call: CallId,
        request: DowngradeRequest,
        cx: &mut Context<'_, Mail>,
    ) {
        let set = |enabled, version| FrontendInput::Decided {
            call,
            body: Body::Downgrade(DowngradeSet { enabled, version }),
        };
        let answer = |result| FrontendInput::Answer { call, result };
        let done = Ok(Response::Downgrade(self.machine.downgrade_response()));
        let valid = self.machine.validate_downgrade(&request.version);
        let input = match (request.action(), valid) {
            (DowngradeAction::Validate | DowngradeAction::Enable, Err(error)) => answer(Err(error)),
            (DowngradeAction::Validate, Ok(_)) => answer(done),
            (DowngradeAction::Enable, Ok(target)) => set(true, target.to_string()),
            (DowngradeAction::Cancel, _) if self.machine.cluster().downgrade().is_some() => {
                set(false, String::new())
            }
            (DowngradeAction::Cancel, _) => {
                // As in etcd, the caller is told that all is well, and only the log knows better.
                cx.emit(Effect::Log(LogLine {
                    level: LogLevel::Warn,
                    caller: "node/applier/upkeep.rs",
                    message: "no downgrade to cancel".to_owned(),
                    fields: Vec::new(),
                }));
                answer(done)
            }
        };
        cx.tell(Mail::Frontend(input));
    }
}
