//! What an actor is: state, inputs, a deadline. It runs to completion, never waits, and reaches the
//! world only through its `Context`.

use std::collections::VecDeque;

use super::{Effect, Entropy, Instant, WallTime};

/// A synchronous state machine. `Mail` is the enum that carries inputs between actors.
pub trait Actor {
    /// What it receives.
    type Input;
    /// What it may send to other actors.
    type Mail;

    /// Handles one input.
    fn on_input(&mut self, input: Self::Input, cx: &mut Context<'_, Self::Mail>);

    /// When it wants `on_deadline`. Timers are state, never callbacks.
    fn deadline(&self) -> Option<Instant>;

    /// Called once the deadline has passed.
    fn on_deadline(&mut self, cx: &mut Context<'_, Self::Mail>);

    /// Asserts every invariant that can be checked from the inside; called after each simulated step.
    fn check(&self);
}

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

    /// Asks the host to do something once the step is over.
    pub fn emit(&mut self, effect: Effect) {
        self.outbox.effects.push(effect);
    }
}
