//! The way to serving: a member tells the cluster its name and where clients reach it, and once
//! that is applied, and all that was committed by then, it is ready.

use super::{Frontend, Publishing};
use crate::{
    kernel::{Context, Effect},
    node::mail::{ConsensusInput, Mail, encode_command},
    pb::fated::command::{MemberPublish, command::Body},
};

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
        self.publishing = Some(Publishing {
            request,
            retry: cx.now.after(self.election),
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
