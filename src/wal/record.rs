//! Records: what one write carries, to bytes and back. Entries are plain numbers and data, so that
//! encoding is one copy; the rare records are protobuf.
//!
//! Decoding never trusts a length, although the checksum of the write has already been verified.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

use super::{Finding, outline::MarkKind};
use crate::{
    kernel::{ClusterId, EntryId, LogIndex, MemberId, Term},
    pb::fated::{peer, record as wire},
    raft::{ConfState, Entry, EntryKind, HardState, SnapshotMeta},
};

/// The format this version writes, and the only one it reads.
const FORMAT: u32 = 1;
const RECORD_HEAD_BYTES: usize = 8;
const RECORD_ALIGN: usize = 8;
const ENTRY_FIXED_BYTES: usize = 16;

const KIND_HEAD: u8 = 1;
const KIND_ENTRY: u8 = 2;
const KIND_HARD_STATE: u8 = 3;
const KIND_MARK: u8 = 4;
const KIND_REPLACE: u8 = 5;

/// What the log remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// An entry; one with an index that is already there drops that one and all after it.
    Entry(&'a Entry),
    /// The latest hard state.
    HardState(&'a HardState),
    /// The backend, or a sealed image beside it, holds everything up to here.
    Mark(&'a SnapshotMeta),
}

impl Record<'_> {
    /// Bytes this record takes inside a write.
    pub fn encoded_bytes(&self) -> u64 {
        let body = match self {
            Self::Entry(entry) => ENTRY_FIXED_BYTES + entry.data.len(),
            Self::HardState(hard_state) => hard_state_to_wire(hard_state).encoded_len(),
            Self::Mark(mark) => mark_to_wire(mark).encoded_len(),
        };
        (RECORD_HEAD_BYTES + body.next_multiple_of(RECORD_ALIGN)) as u64
    }

    /// Adds the record to a write; `kind` is what it does to the log in case it is a mark.
    pub(super) fn encode(&self, kind: MarkKind, buffer: &mut Vec<u8>) {
        match self {
            Self::Entry(entry) => encode_entry(entry, buffer),
            Self::HardState(hard_state) => {
                let body = hard_state_to_wire(hard_state).encode_to_vec();
                encode_body(KIND_HARD_STATE, &body, buffer);
            }
            Self::Mark(mark) => {
                let number = match kind {
                    MarkKind::Inside => KIND_MARK,
                    MarkKind::Instead => KIND_REPLACE,
                };
                encode_body(number, &mark_to_wire(mark).encode_to_vec(), buffer);
            }
        }
    }
}

/// The first record of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHead {
    pub cluster: ClusterId,
    pub member: MemberId,
    /// The last entry of the log before this segment.
    pub previous: EntryId,
}

impl SegmentHead {
    pub(super) fn encode(&self, buffer: &mut Vec<u8>) {
        let head = wire::SegmentHead {
            format: FORMAT,
            cluster_id: self.cluster.get(),
            member_id: self.member.get(),
            previous_index: self.previous.index.get(),
            previous_term: self.previous.term.get(),
        };
        encode_body(KIND_HEAD, &head.encode_to_vec(), buffer);
    }
}

/// A record that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Decoded {
    Head(SegmentHead),
    Entry(Entry),
    HardState(HardState),
    Mark(SnapshotMeta, MarkKind),
}

/// Takes the first record off the records of a write.
pub(super) fn decode(records: &mut &[u8]) -> Result<Decoded, Finding> {
    let unreadable = Finding::RecordUnreadable;
    let (head, rest) = records
        .split_at_checked(RECORD_HEAD_BYTES)
        .ok_or(unreadable("half a record"))?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let (body, rest) = length
        .checked_next_multiple_of(RECORD_ALIGN)
        .and_then(|padded| rest.split_at_checked(padded))
        .ok_or(unreadable("a record that is longer than the write"))?;
    *records = rest;
    let body = &body[..length];
    match head[4] {
        KIND_ENTRY => decode_entry(head[5], body),
        KIND_HEAD => decode_head(body),
        KIND_HARD_STATE => wire::HardState::decode(body)
            .map(|wire| Decoded::HardState(hard_state_from_wire(&wire)))
            .map_err(|_| unreadable("a hard state that cannot be decoded")),
        KIND_MARK => decode_mark(body, MarkKind::Inside),
        KIND_REPLACE => decode_mark(body, MarkKind::Instead),
        _ => Err(unreadable("a record of unknown kind")),
    }
}

fn encode_body(kind: u8, body: &[u8], buffer: &mut Vec<u8>) {
    push_record_head(kind, 0, body.len(), buffer);
    buffer.extend_from_slice(body);
    pad(body.len(), buffer);
}

fn encode_entry(entry: &Entry, buffer: &mut Vec<u8>) {
    let length = ENTRY_FIXED_BYTES + entry.data.len();
    buffer.reserve(RECORD_HEAD_BYTES + length + RECORD_ALIGN);
    push_record_head(KIND_ENTRY, entry.kind as u8, length, buffer);
    buffer.extend_from_slice(&entry.id.term.get().to_le_bytes());
    buffer.extend_from_slice(&entry.id.index.get().to_le_bytes());
    buffer.extend_from_slice(&entry.data);
    pad(length, buffer);
}

fn push_record_head(kind: u8, entry_kind: u8, length: usize, buffer: &mut Vec<u8>) {
    let length = u32::try_from(length).expect("limits keep a record below 4 GiB");
    let [a, b, c, d] = length.to_le_bytes();
    buffer.extend_from_slice(&[a, b, c, d, kind, entry_kind, 0, 0]);
}

fn pad(length: usize, buffer: &mut Vec<u8>) {
    let padding = length.next_multiple_of(RECORD_ALIGN) - length;
    buffer.extend_from_slice(&[0; RECORD_ALIGN][..padding]);
}

/// Copies the data. A slice of the segment would be free, but a key that lives on in the index
/// would then pin eight megabytes.
fn decode_entry(kind: u8, body: &[u8]) -> Result<Decoded, Finding> {
    let Some((fixed, data)) = body.split_first_chunk::<ENTRY_FIXED_BYTES>() else {
        return Err(Finding::RecordUnreadable("an entry without term and index"));
    };
    let (term, index) = fixed.split_at(8);
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("half of sixteen"));
    let kind = if kind == EntryKind::Normal as u8 {
        EntryKind::Normal
    } else if kind == EntryKind::ConfChange as u8 {
        EntryKind::ConfChange
    } else {
        return Err(Finding::RecordUnreadable("an entry of unknown kind"));
    };
    let index = number(index);
    if index == 0 || index == u64::MAX {
        return Err(Finding::RecordUnreadable(
            "an entry with an impossible index",
        ));
    }
    Ok(Decoded::Entry(Entry {
        id: EntryId::new(Term::new(number(term)), LogIndex::new(index)),
        kind,
        data: Bytes::copy_from_slice(data),
    }))
}

fn decode_head(body: &[u8]) -> Result<Decoded, Finding> {
    let head = wire::SegmentHead::decode(body)
        .map_err(|_| Finding::RecordUnreadable("a segment head that cannot be decoded"))?;
    if head.format != FORMAT {
        return Err(Finding::FormatUnknown(head.format));
    }
    if head.previous_index == u64::MAX {
        return Err(Finding::RecordUnreadable(
            "a segment head with an impossible index",
        ));
    }
    Ok(Decoded::Head(SegmentHead {
        cluster: ClusterId::new(head.cluster_id),
        member: MemberId::new(head.member_id),
        previous: EntryId::new(
            Term::new(head.previous_term),
            LogIndex::new(head.previous_index),
        ),
    }))
}

fn decode_mark(body: &[u8], kind: MarkKind) -> Result<Decoded, Finding> {
    wire::SnapshotMark::decode(body)
        .ok()
        .filter(|wire| wire.index < u64::MAX)
        .map(|wire| Decoded::Mark(mark_from_wire(&wire), kind))
        .ok_or(Finding::RecordUnreadable(
            "a snapshot mark that cannot be decoded",
        ))
}

/// "Voted for nobody" is member zero, an id that no member has.
fn hard_state_to_wire(hard_state: &HardState) -> wire::HardState {
    wire::HardState {
        term: hard_state.term.get(),
        vote: hard_state.vote.map_or(0, MemberId::get),
        commit: hard_state.commit.get(),
    }
}

fn hard_state_from_wire(wire: &wire::HardState) -> HardState {
    HardState {
        term: Term::new(wire.term),
        vote: (wire.vote != 0).then_some(MemberId::new(wire.vote)),
        commit: LogIndex::new(wire.commit),
    }
}

fn mark_to_wire(mark: &SnapshotMeta) -> wire::SnapshotMark {
    let ids = |set: &BTreeSet<MemberId>| set.iter().map(|id| id.get()).collect();
    let conf = &mark.conf_state;
    wire::SnapshotMark {
        index: mark.id.index.get(),
        term: mark.id.term.get(),
        conf_state: Some(peer::ConfState {
            voters: ids(&conf.voters),
            voters_outgoing: ids(&conf.voters_outgoing),
            learners: ids(&conf.learners),
            learners_next: ids(&conf.learners_next),
            auto_leave: conf.auto_leave,
        }),
    }
}

fn mark_from_wire(wire: &wire::SnapshotMark) -> SnapshotMeta {
    let ids = |list: &[u64]| list.iter().copied().map(MemberId::new).collect();
    let conf = wire.conf_state.clone().unwrap_or_default();
    SnapshotMeta {
        id: EntryId::new(Term::new(wire.term), LogIndex::new(wire.index)),
        conf_state: ConfState {
            voters: ids(&conf.voters),
            voters_outgoing: ids(&conf.voters_outgoing),
            learners: ids(&conf.learners),
            learners_next: ids(&conf.learners_next),
            auto_leave: conf.auto_leave,
        },
    }
}
