//! What an actor may use of the world.
//!
//! An actor is a struct with `on_input`, and where it has timers `deadline` and `on_deadline`; it
//! runs to completion, never waits, and reaches the world only through its `Context`. There is no
//! trait for it: the node knows its actors by type, and some of them read the state machine of
//! another while they run.

use std::collections::VecDeque;

use super::{Effect, Entropy, Instant, WallTime};

/// Everything an actor may use of the world during one step.
#[derive(Debug)]
pub struct Context<'a, M> {
    /// Monotonic time; stands still within a step.
    pub now: Instant,
    /// Civil time; for log lines, member ids and token expiry only.
    pub wall: WallTime,
    /// The member's seeded generator.
    pub entropy: &'a mut Entropy,
    outbox: &'a mut Outbox<M>,
}

/// What the actors of one step produced and nobody has taken yet.
#[derive(Debug)]
pub struct Outbox<M> {
    /// For actors of the same node, first in, first out.
    pub mail: VecDeque<M>,
    /// For the host, in order.
    pub effects: Vec<Effect>,
}

impl<M> Default for Outbox<M> {
    fn default() -> Self {
        Self {
            mail: VecDeque::new(),
            effects: Vec::new(),
        }
    }
}

impl<'a, M> Context<'a, M> {
    /// The context of one step.
    pub fn new(
        now: Instant,
        wall: WallTime,
        entropy: &'a mut Entropy,
        outbox: &'a mut Outbox<M>,
    ) -> Self {
        Self {
            now,
            wall,
            entropy,
            outbox,
        }
    }

    /// Sends mail to an actor of this node; it arrives later in the same step.
    pub fn tell(&mut self, mail: M) {
        self.outbox.mail.push_back(mail);
    }

    /// The oldest mail nobody has taken yet; for the node's own loop.
    pub fn take_mail(&mut self) -> Option<M> {
        self.outbox.mail.pop_front()
    }

    /// Whether mail waits.
    pub fn has_mail(&self) -> bool {
        !self.outbox.mail.is_empty()
    }

    /// Asks the host to do something once the step is over.
    pub fn emit(&mut self, effect: Effect) {
        self.outbox.effects.push(effect);
    }
}
