//! Fills a snapshot download up to whole units.

use bytes::Bytes;

/// Downloads are a multiple of this, so that a checksum behind one can be told from its last block.
const UNIT_BYTES: u64 = 512;

/// What must follow `length` bytes of an encoded image.
pub fn padding(length: u64) -> Bytes {
    let missing = length.next_multiple_of(UNIT_BYTES) - length;
    Bytes::from(vec![0; usize::try_from(missing).expect("less than a unit")])
}
