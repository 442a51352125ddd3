//! The way to serving: a member tells the cluster its name and where clients reach it, and once
//! that is applied, and all that was committed by then, it is ready.

use super::{Frontend, Publishing};
use crate::{
    kernel::{Context, Effect},
    node::mail::{ConsensusInput, Mail, encode_command},
    pb::fated::command::{MemberPublish, command::Body},
};

/// A member that is not heard asks again after an election timeout, then after twice as long, and
/// so on, this many times.
const PATIENCE_DOUBLINGS: usize = 4;

impl Frontend {
    /// This member serves no earlier than its log says that it is alone.
    pub fn hold(&mut self) {
        self.held = true;
    }

    pub(super) fn maybe_publish(&mut self, cx: &mut Context<'_, Mail>) {
        let idle = !self.ready && !self.held && self.publishing.is_none();
        if idle && self.role.leader.is_some() {
            self.publish(cx);
        }
    }

    /// Tells the cluster this member's name and where clients reach it.
    pub(super) fn publish(&mut self, cx: &mut Context<'_, Mail>) {
        let request = self.next_request;
        self.next_request = request.next();
        let body = Body::MemberPublish(MemberPublish {
            id: self.member.get(),
            name: self.name.clone(),
            client_urls: self.client_urls.clone(),
        });
        let data = encode_command(request, self.member, body);
        let mut requests = self
            .publishing
            .take()
            .map_or(Vec::new(), |publishing| publishing.requests);
        // Each time later, so that members of a slow cluster do not fill its log.
        let patience = 1 << requests.len().min(PATIENCE_DOUBLINGS);
        requests.push(request);
        self.publishing = Some(Publishing {
            requests,
            retry: cx.now.after(self.election.saturating_mul(patience)),
        });
        cx.tell(Mail::Consensus(ConsensusInput::Propose {
            request,
            data,
            conf_change: false,
        }));
    }

    pub(super) fn on_published(&mut self, cx: &mut Context<'_, Mail>) {
        if !self.ready {
            self.ready = true;
            cx.emit(Effect::Ready);
            self.maybe_ask_promotion(cx);
        }
    }
}
