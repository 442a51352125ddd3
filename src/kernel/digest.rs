//! A 64-bit running hash for state and traces: stable over versions and machines, not
//! cryptographic.

/// Running hash; feed it bytes and numbers in an order that is part of the meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest(u64);

const MULTIPLIER: u64 = 0x9fb2_1c65_1e98_df25;

impl Digest {
    /// The hash of nothing.
    pub const EMPTY: Self = Self(0x5851_f42d_4c95_7f2d);

    /// Continues from a value that was stored.
    pub const fn resume(value: u64) -> Self {
        Self(value)
    }

    /// The hash so far.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// Folds a number in.
    pub fn number(&mut self, word: u64) {
        let mut mixed = (self.0 ^ word).wrapping_mul(MULTIPLIER);
        mixed ^= mixed >> 35;
        self.0 = mixed.wrapping_mul(MULTIPLIER) ^ (mixed >> 28);
    }

    /// Folds bytes in, their length first, so that neighbours cannot run together.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.number(u64::from_le_bytes(
                chunk.try_into().expect("chunks of eight"),
            ));
        }
        let rest = chunks.remainder();
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.number(u64::from_le_bytes(word));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Digest;

    #[test]
    fn order_and_boundaries_matter() {
        let hash = |parts: &[&[u8]]| {
            let mut digest = Digest::EMPTY;
            parts.iter().for_each(|part| digest.bytes(part));
            digest.value()
        };
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
        assert_ne!(hash(&[b"a", b"b"]), hash(&[b"b", b"a"]));
        assert_ne!(hash(&[b"a\0"]), hash(&[b"a"]));
    }
}
