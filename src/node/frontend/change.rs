//! Changes of the member set, as far as the frontend has to do with them: sent round to be decided,
//! then proposed like any write; and the end of a member that was removed.

use super::Frontend;
use crate::{
    kernel::{ApiError, CallId, Context, Effect, Fault},
    node::{
        mail::{ConsensusInput, Mail, PeersInput, encode_change},
        reconfigure::{Change, Reconfigure},
    },
    pb::fated::command::ConfChangeCommand,
};

/// Sends a change on its round.
pub(super) fn reconfigure(call: CallId, change: Change, cx: &mut Context<'_, Mail>) {
    let wanted = Reconfigure::new(call, change);
    cx.tell(Mail::Peers(PeersInput::Reconfigure(wanted)));
}

impl Frontend {
    /// A change came back from its round.
    pub(super) fn on_reconfigured(
        &mut self,
        call: CallId,
        outcome: Result<ConfChangeCommand, ApiError>,
        cx: &mut Context<'_, Mail>,
    ) {
        let change = match outcome {
            Ok(change) => change,
            Err(error) => return self.answer(call, Err(error), cx),
        };
        if !self.pending.contains(call) {
            return;
        }
        let request = self.next_request;
        let data = encode_change(request, self.member, change);
        if data.len() > self.request_bytes_max {
            return self.answer(call, Err(ApiError::RequestTooLarge), cx);
        }
        self.next_request = request.next();
        self.pending.assign(call, request);
        cx.tell(Mail::Consensus(ConsensusInput::Propose {
            request,
            data,
            conf_change: true,
        }));
    }

    /// The cluster goes on without this member. It lives for a moment longer, so that answers and
    /// the last messages get out.
    pub(super) fn on_removed(&mut self, cx: &Context<'_, Mail>) {
        self.leaving.get_or_insert(cx.now.after(self.election));
    }

    pub(super) fn leave(&mut self, cx: &mut Context<'_, Mail>) {
        for call in self.pending.all() {
            self.answer(call, Err(ApiError::Stopped), cx);
        }
        cx.emit(Effect::Halt(Fault::Removed));
    }
}
