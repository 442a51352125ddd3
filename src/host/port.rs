//! What a host must do for the reactor. There are two: tokio in production, madsim in simulation.
//!
//! Obligations of a host:
//! 1. `wait` returns when there is at least one event, or when `until` has passed. It hands over at
//!    most `EVENTS_PER_STEP_MAX` events, in the order in which they happened.
//! 2. `execute` neither blocks nor fails; every failure comes back as an event.
//! 3. Disk operations of one lane run and complete in the order of `execute`; each ticket comes
//!    back exactly once as `Event::DiskDone`. After a failure on the Wal, Keep or Backend lane
//!    nothing more is done on that lane, and everything that waits on it fails: the member is about
//!    to halt, and a later operation that took effect without the failed one would leave a gap. A
//!    `Defragment` that found no room is no such failure: it changed nothing.
//! 4. What is sent on one link arrives in order or not at all; a broken link is one `LinkDown`.
//! 5. Items of one stream reach the client in order.

use std::future::Future;

use crate::kernel::{Effect, Event, Instant, WallTime};

/// Time, events and effects, as the reactor needs them.
pub trait Host {
    /// Monotonic time since boot.
    fn now(&self) -> Instant;

    /// Civil time.
    fn wall(&self) -> WallTime;

    /// Appends what happened to `events`; waits until something does or `until` has passed.
    fn wait(&mut self, until: Option<Instant>, events: &mut Vec<Event>)
    -> impl Future<Output = ()>;

    /// Begins one effect.
    fn execute(&mut self, effect: Effect);
}
