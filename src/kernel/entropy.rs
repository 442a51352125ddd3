//! The one source of randomness in the core: a generator (xoshiro256**) whose seed the host hands
//! in.

/// A seeded generator. Two with the same seed give the same numbers for ever.
#[derive(Clone, Debug)]
pub struct Entropy {
    state: [u64; 4],
}

impl Entropy {
    /// Spreads the seed over the state with splitmix64, so that near seeds give unrelated streams.
    pub fn from_seed(seed: u64) -> Self {
        let mut word = seed;
        let mut state = [0; 4];
        for slot in &mut state {
            word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = word;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *slot = z ^ (z >> 31);
        }
        Self { state }
    }

    /// An independent stream for one purpose. Taking it does not disturb other forks of other
    /// names.
    #[must_use]
    pub fn fork(&self, purpose: &str) -> Self {
        let mut seed = self.state[0] ^ self.state[3].rotate_left(17);
        for byte in purpose.bytes() {
            seed = (seed ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Self::from_seed(seed)
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let result = self.state[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = self.state[1] << 17;
        self.state[2] ^= self.state[0];
        self.state[3] ^= self.state[1];
        self.state[1] ^= self.state[2];
        self.state[0] ^= self.state[3];
        self.state[2] ^= shifted;
        self.state[3] = self.state[3].rotate_left(45);
        result
    }

    /// A number below `bound`, which must not be zero. The bias is below 2^-32 for bounds below
    /// 2^32.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a number below zero was asked for");
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the upper half of a 128-bit product fits")
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range was asked for");
        low + self.below(high - low + 1)
    }

    /// True once in `odds` times on average.
    pub fn one_in(&mut self, odds: u64) -> bool {
        self.below(odds) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::Entropy;

    #[test]
    fn same_seed_same_numbers_and_forks_differ() {
        let (mut a, mut b) = (Entropy::from_seed(7), Entropy::from_seed(7));
        assert!((0..100).all(|_| a.next_u64() == b.next_u64()));
        assert_ne!(a.fork("disk").next_u64(), a.fork("link").next_u64());
    }

    #[test]
    fn numbers_stay_in_range() {
        let mut entropy = Entropy::from_seed(1);
        assert!((0..1000).all(|_| (3..=9).contains(&entropy.between(3, 9))));
    }
}
