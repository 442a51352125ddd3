//! A disk of byte vectors, and a log on it with a record of what was acknowledged.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    kernel::{ClusterId, EntryId, LogIndex, MemberId, SegmentId, Term},
    raft::{ConfState, Entry, EntryKind, HardState, SnapshotMeta},
    wal::{Encoder, LogFault, Record, Recovered, Recovery, SegmentWrite},
};

pub const CLUSTER: ClusterId = ClusterId::new(0xc1);
pub const MEMBER: MemberId = MemberId::new(0x3e);

/// Segments by id.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Disk(pub BTreeMap<SegmentId, Vec<u8>>);

impl Disk {
    pub fn write(&mut self, write: &SegmentWrite) {
        let file = self
            .0
            .get_mut(&write.segment)
            .expect("segments are prepared");
        let offset = usize::try_from(write.offset).unwrap();
        file[offset..offset + write.bytes.len()].copy_from_slice(&write.bytes);
    }

    pub fn recover(&self, backend: EntryId) -> Result<Option<Recovered>, LogFault> {
        let mut recovery = Recovery::new();
        for (segment, bytes) in &self.0 {
            recovery.feed(*segment, bytes)?;
        }
        recovery.finish(backend)
    }

    pub fn recovered(&self) -> Recovered {
        let recovered = self.recover(EntryId::ZERO).expect("a sound log");
        recovered.expect("a log that was written to")
    }
}

/// A log on a disk; every batch goes through the duties of the caller.
pub struct Log {
    pub disk: Disk,
    pub encoder: Encoder,
    /// Every write, in order, with the disk before it.
    pub writes: Vec<(Disk, SegmentWrite)>,
}

impl Log {
    pub fn create(segment_bytes: u64) -> Self {
        Self {
            disk: Disk::default(),
            encoder: Encoder::create(CLUSTER, MEMBER, segment_bytes),
            writes: Vec::new(),
        }
    }

    pub fn batch(&mut self, records: &[Record<'_>]) {
        let upcoming = records.iter().map(Record::encoded_bytes).sum();
        self.prepare(upcoming);
        assert!(self.encoder.has_room(upcoming));
        records
            .iter()
            .for_each(|record| self.encoder.append(*record));
        self.flush();
        self.prepare(0);
    }

    pub fn prepare(&mut self, upcoming: u64) {
        while let Some(prepare) = self.encoder.take_prepare(upcoming) {
            let bytes = usize::try_from(prepare.bytes).unwrap();
            self.disk.0.insert(prepare.segment, vec![0; bytes]);
            self.encoder.on_prepared(prepare.segment);
        }
    }

    pub fn flush(&mut self) {
        let writes = self.encoder.take_writes();
        for write in &writes {
            self.writes.push((self.disk.clone(), write.clone()));
            self.disk.write(write);
        }
        if !writes.is_empty() {
            self.encoder.on_durable();
        }
        self.encoder.check();
    }
}

pub fn entry(term: u64, index: u64, data: impl Into<Vec<u8>>) -> Entry {
    Entry {
        id: id(term, index),
        kind: EntryKind::Normal,
        data: Bytes::from(data.into()),
    }
}

pub fn id(term: u64, index: u64) -> EntryId {
    EntryId::new(Term::new(term), LogIndex::new(index))
}

pub fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState {
        term: Term::new(term),
        vote: (vote != 0).then_some(MemberId::new(vote)),
        commit: LogIndex::new(commit),
    }
}

pub fn mark(term: u64, index: u64) -> SnapshotMeta {
    let conf_state = ConfState {
        voters: [MEMBER, MemberId::new(7)].into(),
        learners: [MemberId::new(9)].into(),
        auto_leave: true,
        ..ConfState::default()
    };
    SnapshotMeta {
        id: id(term, index),
        conf_state,
    }
}
