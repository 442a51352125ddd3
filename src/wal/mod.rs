//! The write-ahead log as bytes: what goes to disk, and what may be believed of what comes back.
//! No file is opened here; the journal turns [`SegmentWrite`]s into disk operations.
//!
//! # Layout
//!
//! The log is a sequence of segments, files named `{id:016x}.wal` with ids that follow each other.
//! A segment is created full of zeros and durable before the first write, so that a write neither
//! changes a file's size nor meets bytes of the past. All numbers are little-endian.
//!
//! ```text
//! segment:  | write | write | write | zeros ...                                  to its capacity
//! write:    | head 48 | record | record | ... | trailer 8 x a5 | zeros to the next 512 bytes |
//!
//! head:      0  magic "fWAL"                    24  offset of this write in the segment, u64
//!            4  crc32 of bytes 8..48            32  capacity of the segment, u64
//!            8  crc32 of bytes 48.. to the      40  bytes of records, u32
//!               end of the write, u32           44  blank sectors: how many of the write's
//!           12  crc of the write before, u32        sectors are all zero, u32
//!           16  segment id, u64
//!
//! record:   | length u32 | kind u8 | entry kind u8 | 0 u16 | body | zeros to the next 8 bytes |
//!   1 head        fated.record.SegmentHead: format, cluster, member, the entry before the segment
//!   2 entry       term u64, index u64, data
//!   3 hard state  fated.record.HardState
//!   4 mark        fated.record.SnapshotMark; the log holds the entry
//!   5 mark        the same; an image takes the place of the log
//! ```
//!
//! The first write of a segment begins with a head record and repeats the current hard state and
//! mark, so that the segments before it can be removed. "crc of the write before" runs on across
//! segments: the head crc of one write is what the next one names, so a write or a file that is
//! lost, swapped or restored from another time breaks the chain. Segment and offset inside the head
//! catch a write or a read that went to the wrong place. A write starts on a sector of its own:
//! no sector with acknowledged bytes is ever written again.
//!
//! # Torn tail or corruption
//!
//! The journal has one write on its way at a time and acknowledges nothing before that write is
//! durable. So after a crash only the *last* write can be unfinished, it was never acknowledged,
//! and of its 512-byte sectors any subset may have arrived; the others still hold zeros. Thus:
//!
//! - A write with bytes behind it was durable once. If it is not whole now, that is corruption.
//! - The head says how many sectors are blank and the trailer is never blank. A last write which
//!   fails its checksum although no sector and no trailer is missing was altered, not unfinished:
//!   corruption.
//! - A last write which misses sectors or its trailer, or whose head sector is missing while no
//!   later write can be found behind it, is a torn tail: it is cut, reported, and zeroed again
//!   before anything is appended. Zeroing may be interrupted too; the verdict stays the same.
//! - A file shorter than the capacity its heads name was cut by something else than a crash.
//!
//! Undecidable, because the bytes are the same in both cases: an acknowledged last write of which
//! sectors or the end were blanked later looks like a torn one; so do several last writes blanked
//! from some point to the end, and a last segment emptied as a whole. Unless the backend or the
//! mark proves that more was there, recovery takes them for unfinished. Every other doubt refuses
//! to start; this includes a value that imitates a later head inside a torn write without its own.
//!
//! # Invariants
//!
//! - Every record was admitted by [`Outline`], in the encoder by assertion, in recovery by verdict:
//!   entries follow each other, nothing at or below commit or mark is overwritten, terms and commit
//!   never go back, a vote never changes within its term.
//! - `commit <= last index` at every point of the log, so each prefix of it is a sound log.
//! - A segment is removable only behind a durable mark and a durable later segment.

mod encode;
mod fault;
mod frame;
mod outline;
mod record;
mod recover;
mod segment;

#[cfg(test)]
mod tests;

pub use encode::{Encoder, Prepare, SegmentWrite};
pub use fault::{Finding, LogFault};
pub use outline::{Contradiction, Outline};
pub use record::Record;
pub use recover::{Recovered, Recovery, TornTail, first_unsettled};
pub use segment::{
    FIRST_SEGMENT, Position, SECTOR_BYTES, SEGMENT_BYTES_MIN, parse_segment_name, segment_name,
};
