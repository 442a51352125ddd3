//! The production host: real clocks, files, sockets and signals under one tokio runtime.
//!
//! Everything that happens outside becomes an event in one queue; the event loop takes from it in
//! order. Invariants: each disk ticket comes back exactly once; a link's frames come in order
//! between its `LinkUp` and its one `LinkDown`; nothing here knows what the bytes mean.

mod alarm;
pub mod clock;
mod direct;
mod journal_log;
pub mod lanes;
pub mod links;
pub mod lock;
pub mod log;
mod lone;
pub mod meter;
mod rotate;
pub mod signal;
pub mod socket;
mod stint;
pub mod wal;
mod wire;

use std::{io, time::Duration};

use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use self::{
    alarm::Alarm,
    clock::Clock,
    lanes::{LaneSet, Lanes},
    links::Links,
    log::Log,
    lone::Lone,
    meter::Meter,
    stint::Stint,
};
use super::port::Host;
use crate::kernel::{
    ApiError, CallId, Effect, Event, Instant, Response, StreamId, StreamItem, WallTime, limits,
};

const CALLER: &str = "tokio/mod.rs:0";

/// Where answers for clients go: the edge.
pub trait Answers: Send {
    /// Answers a call; unknown calls were cancelled.
    fn reply(&self, call: CallId, result: Result<Response, ApiError>);

    /// Sends on a watch stream; unknown streams are gone.
    fn stream(&self, stream: StreamId, item: StreamItem);

    /// The member can serve now.
    fn ready(&self);
}

/// Both ends of the event queue.
pub fn events() -> (UnboundedSender<Event>, UnboundedReceiver<Event>) {
    unbounded_channel()
}

/// Time, disks, network and clients for one member.
pub struct TokioHost {
    clock: Clock,
    events: UnboundedReceiver<Event>,
    lanes: Lanes,
    links: Links,
    answers: Box<dyn Answers>,
    log: Log,
    /// Steps that take longer are told.
    slow_step: Option<Duration>,
    /// When the step began that runs now.
    step_began: Option<std::time::Instant>,
    lone: Lone,
    alarm: Alarm,
    stint: Stint,
}

impl TokioHost {
    /// Starts the disk lanes; links must have been opened with the same event queue.
    pub fn new(
        queue: (UnboundedSender<Event>, UnboundedReceiver<Event>),
        lanes: LaneSet,
        links: Links,
        answers: Box<dyn Answers>,
        log: Log,
        meter: &Meter,
    ) -> io::Result<Self> {
        let (sender, events) = queue;
        Ok(Self {
            clock: Clock::start(),
            events,
            lanes: Lanes::start(lanes, &sender, meter)?,
            links,
            answers,
            log,
            slow_step: None,
            step_began: None,
            lone: Lone::default(),
            alarm: Alarm::default(),
            stint: Stint::begin(),
        })
    }

    /// Tells the operator of steps that take longer than this; the entries of a step are applied
    /// together.
    pub fn tell_slow_steps(mut self, limit: Duration) -> Self {
        self.slow_step = Some(limit);
        self
    }

    fn begin_step(&mut self, events: &[Event]) {
        self.lone.begin(events);
        self.step_began = self.slow_step.map(|_| std::time::Instant::now());
    }

    /// Does the write that was kept back, if nobody is there who would wait for it.
    fn write_alone(&mut self) -> Option<Event> {
        let (ticket, op) = self.lone.take()?;
        if !self.events.is_empty() {
            self.lanes.submit(ticket, op);
            return None;
        }
        let began = std::time::Instant::now();
        let outcome = self.lanes.write_here(op);
        self.lone.took(began.elapsed());
        Some(Event::DiskDone { ticket, outcome })
    }

    fn look_at_step(&mut self) {
        let took = self.step_began.take().map(|began| began.elapsed());
        let (Some(took), Some(limit)) = (took, self.slow_step) else {
            return;
        };
        if took > limit {
            let fields = [
                ("took", json!(format!("{took:?}"))),
                ("expected-duration", json!(format!("{limit:?}"))),
                ("prefix", json!("")),
                ("request", json!("a step of the event loop")),
                ("response", json!("")),
            ];
            self.log
                .warn(CALLER, "apply request took too long", &fields);
        }
    }
}

impl Host for TokioHost {
    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn wall(&self) -> WallTime {
        Clock::wall()
    }

    async fn wait(&mut self, until: Option<Instant>, events: &mut Vec<Event>) {
        self.look_at_step();
        if let Some(done) = self.write_alone() {
            events.push(done);
            self.begin_step(events);
            return;
        }
        // Lets the edge's tasks run once between two steps, so that answers leave and requests that
        // came in meanwhile share the next step and with it one write to the log. Where there is
        // something to wait for, waiting lets them run as well.
        let is_due = until.is_some_and(|at| at <= self.clock.now());
        if is_due || !self.events.is_empty() {
            tokio::task::yield_now().await;
            self.stint.look();
        }
        let first = events.len();
        let limit = limits::EVENTS_PER_STEP_MAX.saturating_sub(first);
        assert!(limit > 0, "the event loop hands over an emptied list");
        let receive = self.events.recv_many(events, limit);
        match until {
            None => {
                receive.await;
            }
            Some(at) => {
                let at = self.clock.deadline(at);
                // Both will do: something happened, or what the loop waited for has come.
                let _ = self.alarm.before(at, receive).await;
            }
        }
        for event in &events[first..] {
            self.links.on_handover(event);
        }
        self.begin_step(&events[first..]);
    }

    fn execute(&mut self, effect: Effect) {
        if let Some((ticket, op)) = self.lone.beside(&effect) {
            self.lanes.submit(ticket, op);
        }
        match effect {
            Effect::Disk { ticket, op } => {
                let idle = self.lanes.wal_is_idle();
                if let Some(op) = self.lone.keep(ticket, op, idle) {
                    self.lanes.submit(ticket, op);
                }
            }
            Effect::Link(op) => self.links.execute(op),
            Effect::Reply { call, result } => self.answers.reply(call, result),
            Effect::Stream { stream, item } => self.answers.stream(stream, item),
            Effect::Log(line) => self.log.line(&line),
            Effect::Ready => self.answers.ready(),
            Effect::Halt(fault) => unreachable!("the event loop keeps {fault} to itself"),
        }
    }
}

#[cfg(test)]
mod tests;
