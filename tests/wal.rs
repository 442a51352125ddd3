//! The write-ahead log from outside. Goal: the public interface is enough for a journal and a boot,
//! and appending costs next to nothing. Method: the life of a log in memory; a stopwatch.

use std::collections::BTreeMap;

use bytes::Bytes;
use fated::{
    kernel::{ClusterId, EntryId, LogIndex, MemberId, SegmentId, Term},
    raft::{Entry, EntryKind, HardState},
    wal::{Encoder, Record, Recovery, parse_segment_name, segment_name},
};

type Files = BTreeMap<String, Vec<u8>>;

fn entry(index: u64, data: Bytes) -> Entry {
    Entry {
        id: EntryId::new(Term::new(1), LogIndex::new(index)),
        kind: EntryKind::Normal,
        data,
    }
}

fn append(files: &mut Files, encoder: &mut Encoder, records: &[Record<'_>]) {
    let upcoming = records.iter().map(Record::encoded_bytes).sum();
    while let Some(prepare) = encoder.take_prepare(upcoming) {
        let zeros = vec![0; usize::try_from(prepare.bytes).unwrap()];
        files.insert(segment_name(prepare.segment), zeros);
        encoder.on_prepared(prepare.segment);
    }
    assert!(encoder.has_room(upcoming));
    records.iter().for_each(|record| encoder.append(*record));
    for write in encoder.take_writes() {
        let file = files.get_mut(&segment_name(write.segment)).unwrap();
        let offset = usize::try_from(write.offset).unwrap();
        file[offset..offset + write.bytes.len()].copy_from_slice(&write.bytes);
    }
    encoder.on_durable();
}

#[test]
fn a_log_lives_through_restarts() {
    let (cluster, member) = (ClusterId::new(1), MemberId::new(2));
    let mut files = Files::new();
    let mut encoder = Encoder::create(cluster, member, 4096);
    for boot in 0..5 {
        for index in boot * 10 + 1..boot * 10 + 11 {
            let entry = entry(index, Bytes::from(vec![boot as u8; 500]));
            let state = HardState {
                term: Term::new(1),
                vote: Some(member),
                commit: LogIndex::new(index),
            };
            let records = [Record::Entry(&entry), Record::HardState(&state)];
            append(&mut files, &mut encoder, &records);
        }
        let mut recovery = Recovery::new();
        for (name, bytes) in &files {
            let segment: SegmentId = parse_segment_name(name).unwrap();
            recovery.feed(segment, bytes).unwrap();
        }
        let recovered = recovery.finish(EntryId::ZERO).unwrap().unwrap();
        assert_eq!(recovered.head, (cluster, member));
        assert_eq!(recovered.entries.len() as u64, boot * 10 + 10);
        assert_eq!(recovered.hard_state.commit.get(), boot * 10 + 10);
        assert_eq!(recovered.torn, None);
        encoder = Encoder::resume(&recovered, 4096);
    }
}
