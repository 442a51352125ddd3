//! A learner that joined by itself and is to vote: it asks the leader, again and again, until it
//! does.
//!
//! It begins once it serves, which is when it holds all that the cluster had committed by then. The
//! leader decides, by the same rules as for an operator's call.
//!
//! Invariant: at most one such call waits.

use std::time::Duration;

use super::Frontend;
use crate::{
    kernel::{
        ApiError, CallId, Context, Effect, Instant, Response,
        effect::{LogLevel, LogLine},
    },
    mutant,
    node::{
        mail::{Mail, PeerRequest},
        pending::Asker,
    },
    pb::etcdserverpb::MemberPromoteRequest,
};

/// Pause after a refusal.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// The way of this member to its vote.
#[derive(Debug)]
pub(super) struct Promotion {
    /// Whether anybody wants it to vote.
    wanted: bool,
    /// The call that waits for the leader's answer.
    asked: Option<CallId>,
    /// When to ask again.
    pub retry: Option<Instant>,
    /// What was refused last; the operator hears of each reason once.
    told: Option<ApiError>,
}

impl Promotion {
    /// Nothing was asked yet.
    pub fn new(wanted: bool) -> Self {
        Self {
            wanted,
            asked: None,
            retry: None,
            told: None,
        }
    }
}

impl Frontend {
    /// Asks for promotion if it is wanted and nothing stands against it here.
    pub(super) fn maybe_ask_promotion(&mut self, cx: &mut Context<'_, Mail>) {
        let ends = self.stopping.is_some() || self.leaving.is_some() || self.corrupt;
        let waits = self.promotion.retry.is_some_and(|retry| retry > cx.now);
        if !self.promotion.wanted || !self.learner || !self.ready || ends || waits {
            return;
        }
        if self.promotion.asked.is_some() {
            return;
        }
        self.promotion.retry = None;
        let call = self.pending.peer_call();
        self.promotion.asked = Some(call);
        self.wait(call, Asker::Itself, true, cx.now);
        let id = self.member.get();
        self.ask_leader(call, PeerRequest::Promote(MemberPromoteRequest { id }), cx);
    }

    /// Whatever came of it, the member set says whether this member votes; until it does, the
    /// question is put again.
    pub(super) fn on_promotion_answer(
        &mut self,
        result: Result<Response, ApiError>,
        cx: &mut Context<'_, Mail>,
    ) {
        self.promotion.asked = None;
        self.promotion.retry = match mutant!("promotion-asked-once") {
            true => None,
            false => Some(cx.now.after(ASK_AGAIN)),
        };
        let refused = result.err();
        if refused.is_some() && self.promotion.told == refused {
            return;
        }
        self.promotion.told = refused;
        let (level, message, fields) = match refused {
            None => (LogLevel::Info, "the cluster lets this member vote", vec![]),
            Some(error) => (
                LogLevel::Warn,
                "the leader does not let this member vote yet; it is asked again",
                vec![("error", error.to_string())],
            ),
        };
        cx.emit(Effect::Log(LogLine {
            level,
            caller: "node/frontend/promotion.rs",
            message: message.to_owned(),
            fields,
        }));
    }
}
