//! The order of keys in every table: that of their bytes, which is LMDB's own.
//!
//! A search compares some ten keys, and a key of a record has 17 bytes: two loads and a comparison
//! tell more of them than the call of a general function costs.
//!
//! Invariant: it is LMDB's own order, so a store reads the same with it and without.

use std::cmp::Ordering;

/// The order of bytes.
pub enum ByteOrder {}

impl heed::Comparator for ByteOrder {
    #[inline]
    fn compare(left: &[u8], right: &[u8]) -> Ordering {
        let ((left_words, left_rest), (right_words, right_rest)) =
            (left.as_chunks::<8>(), right.as_chunks::<8>());
        for (left, right) in left_words.iter().zip(right_words) {
            let (left, right) = (u64::from_be_bytes(*left), u64::from_be_bytes(*right));
            if left != right {
                return left.cmp(&right);
            }
        }
        if left_words.len() != right_words.len() {
            return left.cmp(right);
        }
        // Less than a word is left of both.
        for (left, right) in left_rest.iter().zip(right_rest) {
            if left != right {
                return left.cmp(right);
            }
        }
        left_rest.len().cmp(&right_rest.len())
    }
}

#[cfg(test)]
mod tests {
    use heed::Comparator;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_order_of_bytes(
            left in prop::collection::vec(0..3u8, 0..30),
            right in prop::collection::vec(0..3u8, 0..30),
        ) {
            prop_assert_eq!(ByteOrder::compare(&left, &right), left.cmp(&right));
        }
    }
}
