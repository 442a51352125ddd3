//! A member's own idea of time: it starts anywhere, runs a little fast or slow, and jumps.
//!
//! Invariant: the monotonic reading never goes back; only the civil one may.

use fated::kernel::{Instant, WallTime};

/// Civil time of the simulated epoch, so that dates look like dates.
const WALL_EPOCH_NANOS: u64 = 1_700_000_000_000_000_000;
const MILLION: i128 = 1_000_000;

/// The clock of one member over the virtual time of the world.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Where the present rate began, in virtual and in local time.
    began: u64,
    local: u64,
    /// How much faster than virtual time it runs, in millionths; may be negative.
    rate_ppm: i64,
    /// What civil time differs by, beyond what the monotonic clock does.
    wall_offset: i64,
    /// Local time of the last boot.
    boot: u64,
}

impl Clock {
    /// A clock with its error.
    pub fn new(rate_ppm: i64, wall_offset_nanos: i64) -> Self {
        Self {
            began: 0,
            local: 0,
            rate_ppm,
            wall_offset: wall_offset_nanos,
            boot: 0,
        }
    }

    fn local_at(&self, now: u64) -> u64 {
        let passed = i128::from(now.saturating_sub(self.began));
        let drift = passed * i128::from(self.rate_ppm) / MILLION;
        let local = i128::from(self.local) + passed + drift;
        u64::try_from(local).expect("rates stay far above minus one")
    }

    /// The member boots: its monotonic clock starts at zero.
    pub fn on_boot(&mut self, now: u64) {
        self.boot = self.local_at(now);
    }

    /// What the member reads.
    pub fn now(&self, now: u64) -> Instant {
        Instant::from_nanos(self.local_at(now) - self.boot)
    }

    /// What the member takes for civil time.
    pub fn wall(&self, now: u64) -> WallTime {
        let base = WALL_EPOCH_NANOS + self.local_at(now);
        WallTime::from_nanos(base.saturating_add_signed(self.wall_offset))
    }

    /// The first virtual moment at which the member reads `at` or later.
    pub fn virtual_at(&self, at: Instant) -> u64 {
        let local = i128::from(at.as_nanos()) + i128::from(self.boot);
        let left = (local - i128::from(self.local)).max(0);
        let rate = MILLION + i128::from(self.rate_ppm);
        let passed = (left * MILLION + rate - 1) / rate;
        self.began
            .saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// From now on it runs at another rate.
    pub fn set_rate(&mut self, now: u64, rate_ppm: i64) {
        self.local = self.local_at(now);
        self.began = now;
        self.rate_ppm = rate_ppm;
    }

    /// Civil time jumps by this much, and nothing else.
    pub fn jump_wall(&mut self, nanos: i64) {
        self.wall_offset += nanos;
    }

    /// Civil time jumps by this much; the monotonic clock goes along when it is forward.
    pub fn jump(&mut self, now: u64, nanos: i64) {
        self.local = self.local_at(now);
        self.began = now;
        match u64::try_from(nanos) {
            Ok(forward) => self.local += forward,
            Err(_) => self.wall_offset += nanos,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;
    use fated::kernel::{Entropy, Instant};

    /// Goal: a deadline is never seen early, and a wake-up is never a whole microsecond late.
    /// Method: random rates and jumps, and the way there and back.
    #[test]
    fn there_and_back() {
        let mut entropy = Entropy::from_seed(3);
        for _ in 0..2000 {
            let rate = i64::try_from(entropy.below(100_001)).unwrap() - 50_000;
            let mut clock = Clock::new(rate, 0);
            let start = entropy.below(1 << 40);
            clock.on_boot(start);
            clock.jump(start + 5, i64::try_from(entropy.below(1000)).unwrap());
            let want = Instant::from_nanos(2000 + entropy.below(1 << 36));
            let at = clock.virtual_at(want);
            assert!(clock.now(at) >= want, "early at rate {rate}");
            assert!(clock.now(at - 1000) < want, "late at rate {rate}");
        }
    }

    #[test]
    fn time_never_goes_back() {
        let mut clock = Clock::new(-20_000, 77);
        let mut last = clock.now(0);
        for step in 1..1000_u64 {
            match step % 7 {
                0 => clock.set_rate(step * 1000, 30_000 - 60 * i64::try_from(step).unwrap()),
                1 => clock.jump(step * 1000, -5_000_000),
                _ => {}
            }
            let now = clock.now(step * 1000);
            assert!(now >= last);
            last = now;
        }
    }
}
