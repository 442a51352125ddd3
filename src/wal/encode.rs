//! From records to writes. The encoder owns the end of the log: the segment, the offset, the chain,
//! and what a new segment has to repeat.
//!
//! The caller's duties, on which the torn-tail verdict rests:
//! 1. A batch from [`Encoder::take_writes`] is issued in order, each write synced before the next
//!    one starts, and [`Encoder::on_durable`] is called once all of them are. Only then is the next
//!    batch taken, and only then is anything of this one acknowledged.
//! 2. Preparing a segment makes its file anew, all zeros, durable with its directory entry. It is
//!    only ever asked for a segment that holds no write.
//! 3. Within a batch, entries stand before the hard state that commits them.

use std::{collections::BTreeMap, mem};

use bytes::Bytes;

use super::{
    FIRST_SEGMENT, Outline, Position, Record, Recovered, SECTOR_BYTES, SEGMENT_BYTES_MIN,
    frame::{self, HEAD_BYTES, Place},
    outline::MarkKind,
    record::SegmentHead,
    segment::sector_ceil,
};
use crate::{
    kernel::{ClusterId, EntryId, LogIndex, MemberId, SegmentId, limits},
    mutant,
};

/// Room for what a segment repeats, without the mark.
const CARRY_BYTES: u64 = 256;

/// The writing end of the log.
///
/// Invariant: `place` is where the records in `buffer` go once they are taken.
#[derive(Debug)]
pub struct Encoder {
    cluster: ClusterId,
    member: MemberId,
    segment_bytes: u64,
    outline: Outline,
    place: Place,
    /// The write that is being filled: room for its head, then records.
    buffer: Vec<u8>,
    /// Writes that are complete and not yet taken.
    sealed: Vec<SegmentWrite>,
    /// Segments behind the current one.
    spares: BTreeMap<SegmentId, Spare>,
    /// Every segment with writes, and the last entry of the log before it.
    table: BTreeMap<SegmentId, EntryId>,
    in_flight: Option<Extent>,
    durable: Extent,
}

/// Bytes that go to one place of one segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentWrite {
    /// The segment, which is prepared.
    pub segment: SegmentId,
    /// Bytes from its beginning.
    pub offset: u64,
    /// What to write there.
    pub bytes: Bytes,
}

/// A segment that has to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prepare {
    /// Its id.
    pub segment: SegmentId,
    /// Its size.
    pub bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Spare {
    bytes: u64,
    ready: bool,
}

/// How far the log reaches, for the purpose of removing segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Extent {
    segment: SegmentId,
    mark: LogIndex,
}

impl Encoder {
    /// The encoder of a new, empty log.
    pub fn create(cluster: ClusterId, member: MemberId, segment_bytes: u64) -> Self {
        // The segment before the first one is full by definition, so the first record rotates.
        let segment = FIRST_SEGMENT.prev();
        let place = Place {
            segment,
            offset: 0,
            capacity: 0,
            chain: 0,
        };
        let mark = LogIndex::ZERO;
        Self {
            cluster,
            member,
            segment_bytes: checked_segment_bytes(segment_bytes),
            outline: Outline::default(),
            place,
            buffer: Vec::new(),
            sealed: Vec::new(),
            spares: BTreeMap::new(),
            table: BTreeMap::new(),
            in_flight: None,
            durable: Extent { segment, mark },
        }
    }

    /// The encoder that goes on where recovery ended. When a torn tail was cut, the first batch
    /// begins with the writes that zero it.
    pub fn resume(recovered: &Recovered, segment_bytes: u64) -> Self {
        let resume = &recovered.resume;
        let (cluster, member) = recovered.head;
        let ready = true;
        let spares = resume
            .spares
            .iter()
            .map(|(segment, bytes)| {
                (
                    *segment,
                    Spare {
                        bytes: *bytes,
                        ready,
                    },
                )
            })
            .collect();
        let torn = recovered.torn.iter().filter(|_| !mutant!("torn-tail-kept"));
        let zeros = torn.map(|torn| SegmentWrite {
            segment: torn.segment,
            offset: torn.offset,
            bytes: Bytes::from(vec![
                0;
                usize::try_from(torn.bytes_cut)
                    .expect("it was in memory")
            ]),
        });
        Self {
            cluster,
            member,
            segment_bytes: checked_segment_bytes(segment_bytes),
            outline: resume.outline.clone(),
            place: resume.place,
            buffer: Vec::new(),
            sealed: zeros.collect(),
            spares,
            table: resume.table.clone(),
            in_flight: None,
            durable: Extent {
                segment: resume.place.segment,
                mark: resume.outline.mark_index(),
            },
        }
    }

    /// The segment that should be prepared now: the next one ahead of need, or a larger one when
    /// `upcoming` bytes of records would not fit. Says so once; [`Self::on_prepared`] answers.
    pub fn take_prepare(&mut self, upcoming: u64) -> Option<Prepare> {
        let segment = self.place.segment.next();
        let bytes = if self.fits_current(upcoming) {
            self.segment_bytes
        } else {
            self.segment_bytes.max(self.spare_bytes_needed(upcoming))
        };
        // One that is being made has to be finished before it can be made larger.
        if let Some(spare) = self.spares.get(&segment)
            && (!spare.ready || spare.bytes >= bytes)
        {
            return None;
        }
        let ready = false;
        self.spares.insert(segment, Spare { bytes, ready });
        Some(Prepare { segment, bytes })
    }

    /// A segment that was asked for exists now.
    pub fn on_prepared(&mut self, segment: SegmentId) {
        let spare = self
            .spares
            .get_mut(&segment)
            .expect("only what was asked for is prepared");
        assert!(!spare.ready, "a segment was prepared twice");
        spare.ready = true;
    }

    /// Whether records of together `upcoming` bytes (see [`Record::encoded_bytes`]) can be appended
    /// now. If not, prepare a segment first.
    pub fn has_room(&self, upcoming: u64) -> bool {
        self.fits_current(upcoming)
            || self
                .spares
                .get(&self.place.segment.next())
                .is_some_and(|spare| {
                    spare.ready && spare.bytes >= self.spare_bytes_needed(upcoming)
                })
    }

    /// So many bytes of records are about to be appended: makes room for them in one piece.
    pub fn expect(&mut self, upcoming: u64) {
        let bytes = usize::try_from(upcoming.min(limits::WAL_WRITE_BYTES_MAX as u64));
        let bytes = bytes.expect("a bound of what is in memory");
        if self.buffer.is_empty() && bytes > 0 {
            self.buffer
                .reserve(frame::write_bytes(bytes as u64) as usize);
        }
    }

    /// Adds a record to the current batch. There must be room for it.
    pub fn append(&mut self, record: Record<'_>) {
        let bytes = record.encoded_bytes();
        if !self.fits_current(bytes) {
            self.rotate();
            assert!(
                self.fits_current(bytes),
                "a record without room for it: {bytes} bytes"
            );
        }
        let kind = match record {
            Record::Mark(mark) => self.outline.kind_of(mark),
            Record::Entry(_) | Record::HardState(_) => MarkKind::Inside,
        };
        if let Err(contradiction) = self.outline.admit(record) {
            panic!("the log must not say this: {contradiction}");
        }
        if self.buffer.is_empty() {
            self.buffer.extend_from_slice(&[0; HEAD_BYTES]);
        }
        record.encode(kind, &mut self.buffer);
    }

    /// Whether a batch is on its way to the disk.
    pub fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Bytes in the current batch.
    pub fn batch_bytes(&self) -> u64 {
        let sealed: usize = self.sealed.iter().map(|write| write.bytes.len()).sum();
        (sealed + self.buffer.len()) as u64
    }

    /// Takes the current batch, one write per segment, in order; nothing when nothing was appended.
    pub fn take_writes(&mut self) -> Vec<SegmentWrite> {
        assert!(
            self.in_flight.is_none(),
            "a second batch beside one in flight"
        );
        self.seal();
        let writes = mem::take(&mut self.sealed);
        if !writes.is_empty() {
            self.in_flight = Some(Extent {
                segment: self.place.segment,
                mark: self.outline.mark_index(),
            });
        }
        writes
    }

    /// The batch that was taken is durable.
    pub fn on_durable(&mut self) {
        let extent = self.in_flight.take().expect("a batch is in flight");
        assert!(
            extent.segment >= self.durable.segment,
            "the log became shorter"
        );
        self.durable = extent;
    }

    /// The first segment that must stay when entries up to `keep_after` are no longer wanted, if
    /// there are older ones; the caller removes those, oldest first. Entries after the durable mark
    /// stay in any case.
    pub fn take_removable(&mut self, keep_after: LogIndex) -> Option<SegmentId> {
        let bound = match mutant!("segments-removed-early") {
            true => self.outline.last().index,
            false => keep_after.min(self.durable.mark),
        };
        let (&stays, &previous) = self
            .table
            .range(..=self.durable.segment)
            .rev()
            .find(|(_, previous)| previous.index <= bound)?;
        let (&oldest, _) = self.table.first_key_value()?;
        if stays == oldest {
            return None;
        }
        self.table = self.table.split_off(&stays);
        self.outline.begin_after(previous);
        Some(stays)
    }

    /// Where the next write begins.
    pub fn position(&self) -> Position {
        Position {
            segment: self.place.segment,
            offset: self.place.offset,
        }
    }

    /// What the log holds, the current batch included.
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    /// Asserts what must hold at any time.
    pub fn check(&self) {
        assert!(
            self.place.offset <= self.place.capacity,
            "the log leaves its segment"
        );
        assert!(
            self.place.offset.is_multiple_of(SECTOR_BYTES),
            "the log ends inside a sector"
        );
        assert!(
            self.durable.segment <= self.place.segment,
            "durable before it was written"
        );
        assert!(
            self.durable.mark <= self.outline.mark_index(),
            "durable before it was known"
        );
        assert!(
            self.spares
                .keys()
                .all(|segment| *segment > self.place.segment),
            "a spare segment is in use"
        );
    }

    fn fits_current(&self, upcoming: u64) -> bool {
        let filled = self.buffer.len().saturating_sub(HEAD_BYTES) as u64;
        frame::write_bytes(filled + upcoming) <= self.place.capacity - self.place.offset
    }

    fn spare_bytes_needed(&self, upcoming: u64) -> u64 {
        let mark = self
            .outline
            .mark()
            .map_or(0, |mark| Record::Mark(mark).encoded_bytes());
        frame::write_bytes(CARRY_BYTES + mark + upcoming)
    }

    fn rotate(&mut self) {
        self.seal();
        let segment = self.place.segment.next();
        let spare = self.spares.remove(&segment);
        let spare = spare
            .filter(|spare| spare.ready)
            .expect("the next segment is prepared");
        self.table.insert(segment, self.outline.last());
        self.place = Place {
            segment,
            offset: 0,
            capacity: spare.bytes,
            chain: self.place.chain,
        };
        self.buffer.extend_from_slice(&[0; HEAD_BYTES]);
        let head = SegmentHead {
            cluster: self.cluster,
            member: self.member,
            previous: self.outline.last(),
        };
        head.encode(&mut self.buffer);
        let hard_state = Record::HardState(self.outline.hard_state());
        hard_state.encode(MarkKind::Inside, &mut self.buffer);
        assert!(
            self.buffer.len() - HEAD_BYTES <= CARRY_BYTES as usize,
            "the carry outgrew its room"
        );
        if let Some(mark) = self.outline.mark() {
            Record::Mark(mark).encode(MarkKind::Inside, &mut self.buffer);
        }
    }

    fn seal(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let mut bytes = mem::take(&mut self.buffer);
        let next = frame::seal(&mut bytes, self.place);
        self.sealed.push(SegmentWrite {
            segment: self.place.segment,
            offset: self.place.offset,
            bytes: Bytes::from(bytes),
        });
        self.place = next;
    }
}

fn checked_segment_bytes(bytes: u64) -> u64 {
    assert!(
        bytes >= SEGMENT_BYTES_MIN,
        "a segment of {bytes} bytes is too small"
    );
    sector_ceil(bytes)
}
