//! A single client's write to the log, done by the event loop itself.
//!
//! Handing a write to its lane and hearing of its end are two changes of thread, which take about
//! as long as the sync of a good disk. They buy that others are served meanwhile; where there are
//! no others they buy nothing. So the write of a step in which nothing but one call came in, and
//! which did nothing but this write, is kept back until the loop would wait; if nothing has come
//! by then, the loop does the write.
//!
//! Who comes while it does waits for the rest of that one write. Invariants: a write that would
//! leave something else waiting is never kept back, and none while another is on the lane; after
//! one that took long, the next `RESPITE` writes go to the lane whatever the step looks like, so
//! that on a slow disk few waits are of this kind.

use std::time::Duration;

use crate::kernel::{DiskOp, Effect, Event, Ticket, effect::LogLine};

/// A write that takes longer than this was worth a lane.
const LONG: Duration = Duration::from_millis(1);
/// Writes that go to the lane after one that took long.
const RESPITE: u32 = 200;
/// Larger writes go to the lane.
const BYTES_MAX: usize = 16 * 1024;

/// Decides about the write of a step.
#[derive(Debug, Default)]
pub(super) struct Lone {
    /// This step came of one call and has done nothing else so far.
    fits: bool,
    held: Option<(Ticket, DiskOp)>,
    respite: u32,
}

impl Lone {
    /// A step begins with these events.
    pub(super) fn begin(&mut self, events: &[Event]) {
        assert!(self.held.is_none(), "a write was left behind");
        // Tests that make a disk hang look at the loop meanwhile.
        let apart = cfg!(feature = "failpoints");
        self.fits = !apart && matches!(events, [Event::Call { .. }]);
    }

    /// Keeps a write back if it may be done by the loop; `idle` tells that its lane has nothing to
    /// do. Gives back what is not kept.
    pub(super) fn keep(&mut self, ticket: Ticket, op: DiskOp, idle: bool) -> Option<DiskOp> {
        let DiskOp::WalWrite { bytes, .. } = &op else {
            return Some(op);
        };
        let small = bytes.len() <= BYTES_MAX;
        if !self.fits || !idle || self.held.is_some() || !small {
            return Some(op);
        }
        if self.respite > 0 {
            self.respite -= 1;
            return Some(op);
        }
        self.held = Some((ticket, op));
        None
    }

    /// Another effect of the step: the write that was kept back, if others would now wait for it.
    pub(super) fn beside(&mut self, effect: &Effect) -> Option<(Ticket, DiskOp)> {
        let harmless = match effect {
            Effect::Log(LogLine { .. }) | Effect::Ready | Effect::Halt(_) => true,
            // Segments are made and removed on a lane of their own, whoever writes.
            Effect::Disk { op, .. } => {
                matches!(op, DiskOp::WalPrepare { .. } | DiskOp::WalRemove { .. })
            }
            Effect::Link(_) | Effect::Reply { .. } | Effect::Stream { .. } => false,
        };
        if harmless {
            return None;
        }
        if self.held.is_some() || !matches!(effect, Effect::Disk { .. }) {
            self.fits = false;
        }
        self.held.take()
    }

    /// The write that was kept back.
    pub(super) fn take(&mut self) -> Option<(Ticket, DiskOp)> {
        self.fits = false;
        self.held.take()
    }

    /// The loop did a write in this time.
    pub(super) fn took(&mut self, time: Duration) {
        if time > LONG {
            self.respite = RESPITE;
        }
    }
}
