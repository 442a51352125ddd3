//! A single client's write to the log, done by the event loop itself.
//!
//! Handing a write to its lane and hearing of its end are two changes of thread, which take about
//! as long as the sync of a good disk. They buy that others are served meanwhile; where there are
//! no others they buy nothing. So the write of a step in which nothing but one call came in, and
//! which did nothing but this write, is kept back until the loop would wait; if nothing has come
//! by then, the loop does the write.
//!
//! Who comes while it does waits for the rest of that one write. Invariants: a write that would
//! leave something else waiting is never kept back, and none while another is on the lane; when
//! they have taken long of late, the next `RESPITE` writes go to the lane whatever the step looks
//! like, so that on a slow disk few waits are of this kind. A single one that took long says
//! nothing about the disk: good ones do that a few times in a thousand.

use std::time::Duration;

use crate::kernel::{DiskOp, Effect, Event, Ticket, effect::LogLine};

/// Writes that take longer than this are worth a lane.
const LONG: Duration = Duration::from_millis(1);
/// A write counts for so much of how long they take of late.
const WEIGHT: u32 = 16;
/// Writes that go to the lane when they have taken long.
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
    /// How long writes have taken of late, nothing at first.
    of_late: Duration,
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
        self.of_late = self.of_late - self.of_late / WEIGHT + time / WEIGHT;
        if self.of_late > LONG {
            self.respite = RESPITE;
            self.of_late = Duration::ZERO;
        }
    }
}

#[cfg(all(test, not(feature = "failpoints")))]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::kernel::{CallId, Credentials, Request, SegmentId};

    fn is_kept(lone: &mut Lone) -> bool {
        let call = Event::Call {
            call: CallId::new(1),
            credentials: Credentials::default(),
            request: Request::Health,
        };
        lone.begin(&[call]);
        let op = DiskOp::WalWrite {
            segment: SegmentId::new(1),
            offset: 0,
            bytes: Bytes::from_static(b"x"),
            sync: true,
        };
        lone.keep(Ticket::new(1), op, true);
        lone.take().is_some()
    }

    /// Goal: a slow disk gets its lane for a while, a good one that was slow once does not.
    #[test]
    fn writes_that_take_long_go_to_the_lane_for_a_while() {
        let mut lone = Lone::default();
        for round in 1..200 {
            assert!(is_kept(&mut lone));
            let slow = round % 20 == 0;
            lone.took(Duration::from_micros(if slow { 6000 } else { 80 }));
        }
        let mut slow = 0;
        while is_kept(&mut lone) {
            lone.took(Duration::from_millis(4));
            slow += 1;
        }
        assert!((1..=6).contains(&slow), "{slow} slow writes in a row");
        let away = (1..).take_while(|_| !is_kept(&mut lone)).count();
        assert_eq!(away + 1, RESPITE as usize);
    }
}
