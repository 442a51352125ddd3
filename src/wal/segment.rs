//! Segments: their names, their sizes, a place inside one.

use crate::kernel::{SegmentId, limits};

/// What a disk writes wholly or not at all; every write starts and ends on such a border.
pub const SECTOR_BYTES: u64 = 512;
/// The smallest size of a segment that is asked for.
pub const SEGMENT_BYTES_MIN: u64 = 4096;
/// The first segment of a log that is created.
pub const FIRST_SEGMENT: SegmentId = SegmentId::new(1);

const SUFFIX: &str = ".wal";
const DIGITS: usize = 16;

const _: () = assert!(SEGMENT_BYTES_MIN.is_multiple_of(SECTOR_BYTES));
const _: () = assert!(limits::SEGMENT_BYTES.is_multiple_of(SECTOR_BYTES));
const _: () = assert!(limits::SEGMENT_BYTES >= SEGMENT_BYTES_MIN);

/// A place in the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Position {
    /// The segment.
    pub segment: SegmentId,
    /// Bytes from its beginning.
    pub offset: u64,
}

/// The file name of a segment. Names sort as ids do.
pub fn segment_name(segment: SegmentId) -> String {
    format!("{:016x}{SUFFIX}", segment.get())
}

/// The segment of a file name; `None` for files that are not ours.
pub fn parse_segment_name(name: &str) -> Option<SegmentId> {
    let digits = name.strip_suffix(SUFFIX)?;
    let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if digits.len() != DIGITS || !digits.bytes().all(plain) {
        return None;
    }
    let id = SegmentId::new(u64::from_str_radix(digits, 16).ok()?);
    // The ends of the range have no neighbour, so the log never reaches them.
    (!id.is_zero() && id.get() < u64::MAX).then_some(id)
}

/// The next sector border at or after `bytes`.
pub(super) const fn sector_ceil(bytes: u64) -> u64 {
    bytes.next_multiple_of(SECTOR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::{parse_segment_name, segment_name};
    use crate::kernel::SegmentId;

    #[test]
    fn names_come_back_and_others_are_refused() {
        for raw in [1, 9, 10, 0xabc, u64::MAX - 1] {
            let id = SegmentId::new(raw);
            assert_eq!(parse_segment_name(&segment_name(id)), Some(id));
        }
        let sixteen_zeros = "0000000000000000.wal";
        for name in ["", ".wal", "1.wal", "+000000000000001.wal", sixteen_zeros] {
            assert_eq!(parse_segment_name(name), None, "{name}");
        }
        assert_eq!(parse_segment_name("000000000000000A.wal"), None);
        assert_eq!(parse_segment_name("0000000000000001.tmp"), None);
        assert_eq!(parse_segment_name("ffffffffffffffff.wal"), None);
    }
}
