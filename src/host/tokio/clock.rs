//! The two clocks of a member: one that never jumps, counted from boot, and the civil one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::kernel::{Instant, WallTime};

/// Reads both clocks. Copies agree on when boot was.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    boot: tokio::time::Instant,
}

impl Clock {
    /// A clock whose boot is now.
    pub fn start() -> Self {
        Self {
            boot: tokio::time::Instant::now(),
        }
    }

    /// Monotonic time since boot.
    pub fn now(&self) -> Instant {
        Instant::ZERO.after(self.boot.elapsed())
    }

    /// The moment in the runtime's own terms, to sleep until it.
    pub fn deadline(&self, at: Instant) -> tokio::time::Instant {
        let span = at.since(Instant::ZERO);
        self.boot.checked_add(span).unwrap_or_else(far_future)
    }

    /// Civil time. A clock set before 1970 reads as 1970.
    pub fn wall() -> WallTime {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        WallTime::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Further away than any process lives.
fn far_future() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(86_400 * 365 * 30)
}

#[cfg(test)]
mod tests {
    use super::Clock;
    use crate::kernel::Instant;

    #[test]
    fn time_moves_on_and_far_deadlines_are_no_overflow() {
        let clock = Clock::start();
        let first = clock.now();
        assert!(clock.now() >= first);
        let far = clock.deadline(Instant::from_nanos(u64::MAX));
        assert!(far > clock.deadline(Instant::from_nanos(1)));
        assert!(Clock::wall().as_secs() > 1_500_000_000);
    }
}
