//! Processor time that the machine did not have: what its host gave to others meanwhile.
//!
//! A guest on a shared machine is told by the system how long its processors were ready to run and
//! did not (`steal` in `/proc/stat`). Nothing that runs on it can make up for that, so each figure
//! carries it; on a machine of one's own it is always zero.

use std::{fs, time::Duration};

use tokio::time::{Instant, sleep_until};

/// The place of stolen time among the numbers of a processor's line.
const STOLEN: usize = 7;
/// The numbers behind it are parts of those before.
const NUMBERS: usize = 8;

/// Processor time since the system began, in ticks of the system.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Ticks {
    /// Of all processors.
    all: u64,
    /// What others had of it.
    stolen: u64,
}

impl Ticks {
    /// Up to now; nothing where the system does not tell.
    pub fn now() -> Self {
        let told = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self::of(&told)
    }

    fn of(told: &str) -> Self {
        let line = told.lines().find_map(|line| line.strip_prefix("cpu "));
        let numbers = line.unwrap_or("").split_whitespace().take(NUMBERS);
        let numbers: Vec<u64> = numbers.map(|number| number.parse().unwrap_or(0)).collect();
        Self {
            all: numbers.iter().sum(),
            stolen: numbers.get(STOLEN).copied().unwrap_or(0),
        }
    }

    /// Of what there was from `before` on, how much was stolen, in percent.
    pub fn percent_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        100.0 * self.stolen.saturating_sub(before.stolen) as f64 / all as f64
    }
}

/// Waits so many seconds, and gives what percentage was stolen in each whole one of them.
pub async fn by_second(seconds: f64) -> Vec<f64> {
    let begun = Instant::now();
    let mut before = Ticks::now();
    let mut percents = Vec::new();
    for second in 1..=seconds as u64 {
        sleep_until(begun + Duration::from_secs(second)).await;
        let now = Ticks::now();
        percents.push(now.percent_since(before));
        before = now;
    }
    sleep_until(begun + Duration::from_secs_f64(seconds)).await;
    percents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_what_was_stolen_of_everything() {
        let before = Ticks::of("cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 1 2 3\n");
        let after = Ticks::of("cpu  20 0 20 140 20 0 0 100 20 0\n");
        assert_eq!((before.all, before.stolen), (100, 0));
        assert_eq!((after.all, after.stolen), (300, 100));
        assert!((after.percent_since(before) - 50.0).abs() < 1e-9);
        assert!(before.percent_since(before) < 1e-9);
        assert_eq!(Ticks::of("nothing"), Ticks::default());
    }
}
