//! From bytes to records: reads a log segment by segment, in order, and decides what of it counts.
//! The rules are in the parent module. One segment is in memory at a time, beside the entries.
//!
//! Entries before the mark are kept as far as their segments are: followers may ask for them.
//! A gap between segments is forgiven when the part behind it stands alone, that is when its mark
//! covers all that came before: removing old segments may be interrupted, and names may survive in
//! any order.
//!
//! The reader's duty: what is read of a segment file from [`first_unsettled`] on is written to it
//! once more and synced, before recovery gets to see it. After a crash of the process alone the
//! last write may be whole in the system's cache and nowhere else; what recovery returns counts as
//! durable, so it has to be. A sync alone does not do: after one that failed, the system may show
//! the lost bytes as clean.

use std::{collections::BTreeMap, fmt};

use super::{
    Contradiction, FIRST_SEGMENT, Finding, LogFault, Outline, Record, SECTOR_BYTES,
    frame::{self, Place, Reading},
    outline::MarkKind,
    record::{self, Decoded, SegmentHead},
    segment_name,
};
use crate::{
    kernel::{ClusterId, EntryId, MemberId, SegmentId},
    mutant,
    raft::{Entry, HardState, SnapshotMeta},
};

/// A log that is being read.
#[derive(Default, Debug)]
pub struct Recovery {
    identity: Option<(ClusterId, MemberId)>,
    outline: Outline,
    /// Invariant: follows `outline.first()` without gaps and ends with `outline.last()`.
    entries: Vec<Entry>,
    table: BTreeMap<SegmentId, EntryId>,
    /// Where the next write would begin; nothing before the first whole write.
    place: Option<Place>,
    torn: Option<TornTail>,
    /// Segments behind the end, none of which holds a whole write.
    spares: BTreeMap<SegmentId, u64>,
    /// The segment that was fed last.
    fed: Option<SegmentId>,
    /// The last segment that is missing before the ones that count.
    missing: Option<SegmentId>,
}

/// What a log holds after a restart.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// To whom the log belongs.
    pub head: (ClusterId, MemberId),
    /// The latest hard state; its commit covers what mark and backend prove.
    pub hard_state: HardState,
    /// The latest snapshot mark; all zero when there is none.
    pub mark: SnapshotMeta,
    /// The entry before the first one.
    pub first: EntryId,
    /// The entries that follow `first`, without gaps.
    pub entries: Vec<Entry>,
    /// What was cut; worth a line in the log file.
    pub torn: Option<TornTail>,
    pub(super) resume: Resume,
}

/// A write that never became whole, and so was never acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// The segment.
    pub segment: SegmentId,
    /// Where the write began.
    pub offset: u64,
    /// How many bytes from there on are dropped.
    pub bytes_cut: u64,
}

/// What an encoder needs to go on.
#[derive(Clone, Debug)]
pub(super) struct Resume {
    pub place: Place,
    pub outline: Outline,
    pub table: BTreeMap<SegmentId, EntryId>,
    pub spares: BTreeMap<SegmentId, u64>,
}

/// The first segment of which something may not be durable, given for all segments in the order of
/// ids whether their first sector holds anything. The journal begins a segment only after all that
/// it wrote before is durable. Segments behind that one may hold a torn write without its head, or
/// what is left of one that was being blanked.
pub fn first_unsettled(segments: &[(SegmentId, bool)]) -> Option<SegmentId> {
    let begun = segments.iter().rfind(|(_, begun)| *begun);
    begun.or(segments.first()).map(|(segment, _)| *segment)
}

impl Recovery {
    /// Nothing is read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next segment, in the order of ids. After a fault nothing more may be fed.
    pub fn feed(&mut self, segment: SegmentId, bytes: &[u8]) -> Result<(), LogFault> {
        assert!(Some(segment) > self.fed, "segments are fed in order");
        let before = self.fed.replace(segment).unwrap_or(FIRST_SEGMENT.prev());
        if !self.spares.is_empty() || self.torn.is_some() {
            return self.feed_behind_end(segment, bytes);
        }
        if before.next() != segment {
            self.begin_after_gap(segment);
        }
        let mut offset = 0;
        loop {
            let chain = self.place.map(|place| place.chain);
            match frame::read(bytes, segment, offset, chain) {
                Reading::Write { records, next } => {
                    self.take_records(segment, offset, records)?;
                    assert!(next.offset > offset, "a write without length");
                    offset = next.offset;
                    self.place = Some(next);
                }
                Reading::End => break,
                Reading::Torn { end } => {
                    assert!(end > offset, "a torn write without bytes");
                    self.torn = Some(TornTail {
                        segment,
                        offset,
                        bytes_cut: end - offset,
                    });
                    break;
                }
                Reading::Fault(finding) => return Err(fault(segment, offset, finding)),
            }
        }
        if offset == 0 {
            self.spares.insert(segment, spare_bytes(bytes));
        }
        Ok(())
    }

    /// The latest mark so far. When it lies ahead of the backend, an installation was interrupted:
    /// complete it before [`Self::finish`].
    pub fn mark(&self) -> Option<&SnapshotMeta> {
        self.outline.mark()
    }

    /// Ends reading, and compares with the last entry inside the backend. Nothing is returned when
    /// the log was never written to, as after a crash in the first moments of a member.
    pub fn finish(mut self, backend: EntryId) -> Result<Option<Recovered>, LogFault> {
        let at = Place {
            segment: FIRST_SEGMENT,
            offset: 0,
            capacity: 0,
            chain: 0,
        };
        let place = self.place.unwrap_or(at);
        let refuse = |finding| Err(fault(place.segment, place.offset, finding));
        if let Some(missing) = self.missing {
            // Also when `first` is zero: then nothing whole was read behind the gap.
            if self.place.is_none() || self.outline.first().index > self.outline.mark_index() {
                return Err(fault(missing, 0, Finding::FileMissing));
            }
        }
        let (first, last) = (self.outline.first(), self.outline.last());
        if backend.index > last.index {
            let last = last.index;
            return refuse(Finding::BackendAhead { backend, last });
        }
        if backend.index < first.index {
            let first = first.index;
            return refuse(Finding::BackendBehind { backend, first });
        }
        let term = self.outline.term_at(backend.index);
        let term = term.expect("the backend ends inside the log");
        if term != backend.term {
            let log = EntryId::new(term, backend.index);
            return refuse(Finding::BackendDiffers { backend, log });
        }
        let Some((head, place)) = self.identity.zip(self.place) else {
            return Ok(None);
        };
        let proved = backend.index.max(self.outline.mark_index());
        self.outline.raise(last.term, proved);
        Ok(Some(self.recovered(head, place)))
    }

    fn recovered(self, head: (ClusterId, MemberId), place: Place) -> Recovered {
        let (first, last) = (self.outline.first(), self.outline.last());
        let count = self.entries.len() as u64;
        assert!(
            first.index.forward(count) == last.index,
            "entries do not fill the log"
        );
        assert!(
            self.entries.last().is_none_or(|entry| entry.id == last),
            "the log ends with another entry"
        );
        Recovered {
            head,
            hard_state: *self.outline.hard_state(),
            mark: self.outline.mark().cloned().unwrap_or_default(),
            first,
            entries: self.entries,
            torn: self.torn,
            resume: Resume {
                place,
                outline: self.outline,
                table: self.table,
                spares: self.spares,
            },
        }
    }

    /// The journal starts a write only after the one before is durable, so behind an unfinished
    /// write or an empty segment there can be nothing.
    fn feed_behind_end(&mut self, segment: SegmentId, bytes: &[u8]) -> Result<(), LogFault> {
        if !frame::is_blank(bytes) {
            let (segment, offset) = match (&self.torn, self.spares.first_key_value()) {
                (Some(torn), _) => (torn.segment, torn.offset),
                (None, Some((spare, _))) => (*spare, 0),
                (None, None) => unreachable!("the end was seen"),
            };
            return Err(fault(segment, offset, Finding::WriteIncomplete));
        }
        self.spares.insert(segment, spare_bytes(bytes));
        Ok(())
    }

    fn begin_after_gap(&mut self, segment: SegmentId) {
        self.missing = Some(segment.prev());
        self.outline = Outline::default();
        self.entries.clear();
        self.table.clear();
        self.place = None;
    }

    fn take_records(
        &mut self,
        segment: SegmentId,
        offset: u64,
        mut records: &[u8],
    ) -> Result<(), LogFault> {
        let refuse = |finding| fault(segment, offset, finding);
        let mut at_start = offset == 0;
        while !records.is_empty() || at_start {
            let decoded = record::decode(&mut records).map_err(refuse)?;
            let is_head = matches!(decoded, Decoded::Head(_));
            if is_head != at_start {
                let what = "a segment head elsewhere than at the beginning of the segment";
                return Err(refuse(Finding::RecordUnreadable(what)));
            }
            at_start = false;
            let taken = match decoded {
                Decoded::Head(head) => self.take_head(segment, head),
                Decoded::Entry(entry) => self.take_entry(entry),
                Decoded::HardState(hard_state) => self.admit(Record::HardState(&hard_state)),
                Decoded::Mark(mark, kind) => self.take_mark(&mark, kind),
            };
            taken.map_err(refuse)?;
        }
        Ok(())
    }

    fn take_head(&mut self, segment: SegmentId, head: SegmentHead) -> Result<(), Finding> {
        let found = (head.cluster, head.member);
        let expected = *self.identity.get_or_insert(found);
        if found != expected {
            return Err(Finding::Foreign { expected, found });
        }
        let (last, previous) = (self.outline.last(), head.previous);
        if self.place.is_none() {
            self.outline = Outline::new(previous);
        } else if previous != last {
            let contradiction = Contradiction::SegmentElsewhere { last, previous };
            return Err(Finding::Contradiction(contradiction));
        }
        self.table.insert(segment, previous);
        Ok(())
    }

    fn take_entry(&mut self, entry: Entry) -> Result<(), Finding> {
        if mutant!("first-write-of-an-index-wins") && entry.id.index <= self.outline.last().index {
            return Ok(());
        }
        self.admit(Record::Entry(&entry))?;
        let first = self.outline.first();
        let keep = first.index.distance_to(entry.id.index.prev());
        self.entries
            .truncate(usize::try_from(keep).expect("entries are in memory"));
        // At `first` the entry only tells where the log begins.
        if entry.id != first {
            self.entries.push(entry);
        }
        Ok(())
    }

    fn take_mark(&mut self, mark: &SnapshotMeta, kind: MarkKind) -> Result<(), Finding> {
        self.outline
            .admit_mark(mark, kind)
            .map_err(Finding::Contradiction)?;
        match kind {
            MarkKind::Inside => (),
            MarkKind::Instead => self.entries.clear(),
        }
        Ok(())
    }

    fn admit(&mut self, record: Record<'_>) -> Result<(), Finding> {
        self.outline.admit(record).map_err(Finding::Contradiction)
    }
}

impl fmt::Display for TornTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cut {} bytes of an unfinished, never acknowledged write from {} at offset {}",
            self.bytes_cut,
            segment_name(self.segment),
            self.offset
        )
    }
}

/// Bytes of a segment that can be written to. A file half made is as good as a small one.
fn spare_bytes(bytes: &[u8]) -> u64 {
    let length = bytes.len() as u64;
    length - length % SECTOR_BYTES
}

fn fault(segment: SegmentId, offset: u64, finding: Finding) -> LogFault {
    LogFault {
        segment,
        offset,
        finding,
    }
}
