//! One write: its head, its checksums, and the verdict on what lies at a place of a segment.
//! The layout and the reasons of the verdicts are in the parent module.

use super::{Finding, SECTOR_BYTES, segment::sector_ceil};
use crate::{kernel::SegmentId, mutant};

/// Bytes of the head of a write.
pub(super) const HEAD_BYTES: usize = 48;
const TRAILER: [u8; 8] = [0xa5; 8];
const MAGIC: [u8; 4] = *b"fWAL";
const SECTOR: usize = SECTOR_BYTES as usize;

const _: () = assert!(HEAD_BYTES < SECTOR, "a head lies in one sector");

/// Where a write goes, and what it follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub segment: SegmentId,
    pub offset: u64,
    /// Bytes of the whole segment.
    pub capacity: u64,
    /// Head checksum of the write before.
    pub chain: u32,
}

/// What lies at a place.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Reading<'a> {
    /// A whole write, and the place of the next one.
    Write { records: &'a [u8], next: Place },
    /// Nothing, to the end of the segment.
    End,
    /// A write that never became whole; behind `end` there is nothing.
    Torn { end: u64 },
    /// Neither; the log cannot be trusted.
    Fault(Finding),
}

/// Bytes a write takes on disk for so many bytes of records.
pub(super) fn write_bytes(record_bytes: u64) -> u64 {
    sector_ceil(HEAD_BYTES as u64 + record_bytes + TRAILER.len() as u64)
}

/// Completes a write whose buffer holds room for the head and then the records. Returns the place
/// of the next write.
pub(super) fn seal(buffer: &mut Vec<u8>, place: Place) -> Place {
    assert!(buffer.len() > HEAD_BYTES, "a write without records");
    assert!(
        place.offset.is_multiple_of(SECTOR_BYTES),
        "a write inside a sector"
    );
    let length = buffer.len() - HEAD_BYTES;
    buffer.extend_from_slice(&TRAILER);
    buffer.resize(buffer.len().next_multiple_of(SECTOR), 0);
    let end = place.offset + buffer.len() as u64;
    assert!(end <= place.capacity, "a write beyond its segment");

    let head = Head {
        content: checksum(place.chain, &buffer[HEAD_BYTES..]),
        previous: place.chain,
        segment: place.segment,
        offset: place.offset,
        capacity: place.capacity,
        length: u32::try_from(length).expect("limits keep a write below 4 GiB"),
        // The first sector has the magic number and cannot be blank.
        blanks: blank_sectors(&buffer[SECTOR..]),
    };
    let chain = head.encode(buffer);
    debug_assert_eq!(Head::decode(buffer), Some((head, chain)));
    Place {
        offset: end,
        chain,
        ..place
    }
}

/// Judges what lies at `offset` of a segment; `chain` is unknown at the first write that is read.
pub(super) fn read(
    bytes: &[u8],
    segment: SegmentId,
    offset: u64,
    chain: Option<u32>,
) -> Reading<'_> {
    let Some(rest) = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)) else {
        return Reading::End;
    };
    if is_blank(rest) {
        return Reading::End;
    }
    let torn = || Reading::Torn {
        end: offset + written_bytes(rest),
    };
    let Some((head, own)) = Head::decode(rest) else {
        return if rest.len() < SECTOR {
            Reading::Fault(Finding::HeadDamaged)
        } else if is_blank(&rest[..SECTOR]) {
            if later_head(rest, segment, offset) {
                Reading::Fault(Finding::WriteIncomplete)
            } else {
                torn()
            }
        } else if is_blank(&rest[HEAD_BYTES..]) {
            // Not even the head is whole, and no record of this write arrived.
            torn()
        } else {
            Reading::Fault(Finding::HeadDamaged)
        };
    };
    if let Some(finding) = head.misfit(bytes.len() as u64, segment, offset, chain) {
        return Reading::Fault(finding);
    }
    let (write, behind) = rest.split_at(head.write_bytes());
    let whole = checksum(head.previous, &write[HEAD_BYTES..]) == head.content;
    if whole || mutant!("torn-write-accepted") {
        let records = &write[HEAD_BYTES..HEAD_BYTES + head.length as usize];
        let next = Place {
            segment,
            offset: offset + write.len() as u64,
            capacity: head.capacity,
            chain: own,
        };
        return Reading::Write { records, next };
    }
    let unfinished = head.is_unfinished(write);
    match (unfinished, is_blank(behind)) {
        (true, true) => torn(),
        (_, _) if mutant!("damage-cut-as-torn") => torn(),
        (true, false) => Reading::Fault(Finding::WriteIncomplete),
        (false, _) => Reading::Fault(Finding::ContentDamaged),
    }
}

/// Whether there is nothing but zeros.
pub(super) fn is_blank(bytes: &[u8]) -> bool {
    // Compared by sectors, because a comparison of slices runs many bytes at a time.
    bytes
        .chunks(SECTOR)
        .all(|sector| *sector == [0; SECTOR][..sector.len()])
}

fn blank_sectors(bytes: &[u8]) -> u32 {
    let count = bytes
        .chunks(SECTOR)
        .filter(|sector| is_blank(sector))
        .count();
    u32::try_from(count).expect("a write below 4 GiB has fewer sectors")
}

/// Bytes up to the end of the last sector that is not blank.
fn written_bytes(rest: &[u8]) -> u64 {
    let sectors = rest.chunks(SECTOR).rposition(|sector| !is_blank(sector));
    sectors.map_or(0, |last| (last as u64 + 1) * SECTOR_BYTES)
}

/// Whether a later write began behind a blank sector, which proves that the one before was durable.
fn later_head(rest: &[u8], segment: SegmentId, offset: u64) -> bool {
    (offset..)
        .step_by(SECTOR)
        .zip(rest.chunks(SECTOR))
        .filter_map(|(at, sector)| Some((at, Head::decode(sector)?.0)))
        .any(|(at, head)| head.segment == segment && head.offset == at)
}

fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Head {
    content: u32,
    previous: u32,
    segment: SegmentId,
    offset: u64,
    capacity: u64,
    length: u32,
    blanks: u32,
}

impl Head {
    /// Writes the head over the first bytes; returns its checksum.
    fn encode(&self, bytes: &mut [u8]) -> u32 {
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.content.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.previous.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.segment.get().to_le_bytes());
        bytes[24..32].copy_from_slice(&self.offset.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.capacity.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.length.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.blanks.to_le_bytes());
        let own = checksum(0, &bytes[8..HEAD_BYTES]);
        bytes[4..8].copy_from_slice(&own.to_le_bytes());
        own
    }

    /// The head at the beginning of `bytes` and its checksum, if one is there.
    fn decode(bytes: &[u8]) -> Option<(Self, u32)> {
        let bytes = bytes.first_chunk::<HEAD_BYTES>()?;
        if bytes[0..4] != MAGIC {
            return None;
        }
        let short = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at: usize| u64::from(short(at)) | (u64::from(short(at + 4)) << 32);
        let own = short(4);
        let head = Self {
            content: short(8),
            previous: short(12),
            segment: SegmentId::new(long(16)),
            offset: long(24),
            capacity: long(32),
            length: short(40),
            blanks: short(44),
        };
        (checksum(0, &bytes[8..]) == own).then_some((head, own))
    }

    /// Why this intact head cannot stand where it was found.
    fn misfit(
        &self,
        file_bytes: u64,
        segment: SegmentId,
        offset: u64,
        chain: Option<u32>,
    ) -> Option<Finding> {
        if self.segment != segment || self.offset != offset {
            let (segment, offset) = (self.segment, self.offset);
            return Some(Finding::Misplaced { segment, offset });
        }
        if let Some(expected) = chain.filter(|chain| *chain != self.previous) {
            let found = self.previous;
            return Some(Finding::ChainBroken { expected, found });
        }
        if file_bytes < self.capacity {
            let (found, expected) = (file_bytes, self.capacity);
            return Some(Finding::FileShort { found, expected });
        }
        let inside = offset
            .checked_add(self.write_bytes() as u64)
            .is_some_and(|end| end <= self.capacity);
        (!inside).then_some(Finding::HeadDamaged)
    }

    fn write_bytes(&self) -> usize {
        usize::try_from(write_bytes(u64::from(self.length))).unwrap_or(usize::MAX)
    }

    /// Whether a write that fails its checksum lacks something that a crash can take from it: a
    /// sector, or the trailer.
    fn is_unfinished(&self, write: &[u8]) -> bool {
        let trailer = HEAD_BYTES + self.length as usize;
        let last = write[trailer + TRAILER.len() - 1];
        last == 0 || blank_sectors(&write[SECTOR..]) > self.blanks
    }
}
