//! The order of keys in every table.
//!
//! A search compares some ten keys, and a key of a record has 17 bytes: two loads and a comparison
//! tell more of them than the call of a general function costs.
//!
//! Invariant: it is LMDB's own order, that of bytes, so a store reads the same with it and without.

use std::cmp::Ordering;

use crate::kernel::order;

/// The order of bytes.
pub enum ByteOrder {}

impl heed::Comparator for ByteOrder {
    #[inline]
    fn compare(left: &[u8], right: &[u8]) -> Ordering {
        order::compare(left, right)
    }
}
