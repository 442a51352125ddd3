//! Changes of the member set, as far as the frontend has to do with them: sent round to be decided,
//! then proposed like any write; and the end of a member that was removed.

use super::Frontend;
use crate::{
    kernel::{ApiError, CallId, Context, Effect, Fault, Instant, LogIndex, Response},
    node::{
        mail::{ConsensusInput, Mail, PeersInput, encode_change, encode_command},
        reconfigure::{Change, Reconfigure},
    },
    pb::fated::command::{ConfChangeCommand, command::Body},
};

/// A member on its way out.
#[derive(Debug)]
pub(super) struct Leaving {
    /// When it stops; nobody knows while no member that stays has told it.
    pub until: Option<Instant>,
    /// Answers that wait for that.
    pub last_words: Vec<(CallId, Result<Response, ApiError>)>,
}

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

    /// A call was looked at behind the barrier and is proposed now.
    pub(super) fn on_decided(&mut self, call: CallId, body: Body, cx: &mut Context<'_, Mail>) {
        if !self.pending.contains(call) {
            return;
        }
        let request = self.next_request;
        self.next_request = request.next();
        self.pending.assign(call, request);
        cx.tell(Mail::Consensus(ConsensusInput::Propose {
            request,
            data: encode_command(request, self.member, body),
            conf_change: false,
        }));
    }

    /// The cluster goes on without this member. Before it stops, and before it says that anything
    /// after its removal is done, it waits for a member that stays to tell it so, which none does
    /// before the removal is settled: until then those who stay may need its vote.
    pub(super) fn on_removed(&mut self, told: bool, cx: &mut Context<'_, Mail>) {
        let leaving = self.leaving.get_or_insert(Leaving {
            until: None,
            last_words: Vec::new(),
        });
        if told && leaving.until.is_none() {
            leaving.until = Some(cx.now.after(self.election));
            self.say_last_words(cx);
        }
    }

    /// Removals up to an index are settled, and who asked for them hears of it.
    pub(super) fn on_settled(&mut self, up_to: LogIndex, cx: &mut Context<'_, Mail>) {
        let held = std::mem::take(&mut self.removals);
        for (index, call, result) in held {
            match index <= up_to {
                true => self.answer(call, result, cx),
                false => self.removals.push((index, call, result)),
            }
        }
    }

    fn say_last_words(&mut self, cx: &mut Context<'_, Mail>) {
        let leaving = self.leaving.as_mut();
        let words = leaving.map(|leaving| std::mem::take(&mut leaving.last_words));
        for (call, result) in words.unwrap_or_default() {
            self.answer(call, result, cx);
        }
    }

    pub(super) fn leave(&mut self, cx: &mut Context<'_, Mail>) {
        self.say_last_words(cx);
        for call in self.pending.all() {
            self.answer(call, Err(ApiError::Stopped), cx);
        }
        cx.emit(Effect::Halt(Fault::Removed));
    }
}
