//! How long the event loop runs before it offers its core to others.
//!
//! While large answers are sent the loop has always something to do. A client on the same machine
//! that the scheduler has put on the loop's core would then wait for a tick of the clock, several
//! milliseconds, to see an answer that was written long ago.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Long enough that the system call shows in no profile.
const STINT: Duration = Duration::from_micros(200);

/// Since when this thread has not offered its core.
#[derive(Debug)]
pub(super) struct Stint(Instant);

impl Stint {
    pub(super) fn begin() -> Self {
        Self(Instant::now())
    }

    /// Offers the core if it is time to.
    pub(super) fn look(&mut self) {
        if self.0.elapsed() >= STINT {
            thread::yield_now();
            *self = Self::begin();
        }
    }
}
