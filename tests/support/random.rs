//! A small seeded generator (xorshift64*), so that a failed run can be repeated by its seed.

use std::time::{SystemTime, UNIX_EPOCH};

/// The generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A fresh seed, or the one of the variable `FATED_SEED`.
    pub fn seed() -> u64 {
        if let Ok(text) = std::env::var("FATED_SEED") {
            return text.parse().expect("FATED_SEED is a number");
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        u64::from(since.expect("after 1970").subsec_nanos())
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below zero");
        (self.next() >> 11) % bound
    }

    /// An index into something of length `length`.
    pub fn index(&mut self, length: usize) -> usize {
        let bound = u64::try_from(length).expect("lengths fit");
        usize::try_from(self.below(bound)).expect("below a usize")
    }
}
