//! Goal: no damage makes the log lose an acknowledged record silently, no crash makes it refuse.
//! Method: a small log of several segments and writes, harmed at every byte; each write in every
//! subset of its sectors. "Whole" means that recovery returns what it returns on the unharmed log.

use std::panic::catch_unwind;

use proptest::prelude::*;

use super::disk::{Disk, Log, MEMBER, entry, hard_state, id, mark};
use crate::{
    kernel::{ClusterId, EntryId, MemberId, SegmentId},
    raft::{Entry, HardState},
    wal::{Encoder, FIRST_SEGMENT, Finding, Record, Recovered, SECTOR_BYTES, SegmentWrite, frame},
};

const SECTOR: usize = SECTOR_BYTES as usize;

/// Three segments; the last write has five sectors, of which two are blank by content.
fn sample() -> Log {
    let mut log = Log::create(4096);
    let batch = |log: &mut Log, from: u64, to: u64, bytes: usize| {
        let entries: Vec<Entry> = (from..to)
            .map(|index| entry(2, index, vec![index as u8; bytes]))
            .collect();
        let state = hard_state(2, 7, from);
        let mut records: Vec<Record<'_>> = entries.iter().map(Record::Entry).collect();
        records.push(Record::HardState(&state));
        log.batch(&records);
    };
    batch(&mut log, 1, 4, 100);
    batch(&mut log, 4, 5, 900);
    batch(&mut log, 5, 9, 333);
    batch(&mut log, 9, 13, 400);
    batch(&mut log, 13, 14, 10);
    batch(&mut log, 14, 20, 100);
    batch(&mut log, 20, 21, 600);
    batch(&mut log, 21, 23, 20);
    log.batch(&[Record::Mark(&mark(2, 13))]);
    batch(&mut log, 23, 24, 20);
    let hollow = [vec![1; 600], vec![0; 1100], vec![2; 400]].concat();
    log.batch(&[Record::Entry(&entry(2, 24, hollow))]);
    assert_eq!(log.disk.0.len(), 4, "three with writes and a spare one");
    assert_eq!(log.writes.len(), 12, "one batch is split by a rotation");
    log
}

/// What a member would go on with.
fn content(recovered: &Recovered) -> (HardState, Vec<Entry>, EntryId, EntryId) {
    let mark = recovered.mark.id;
    (
        recovered.hard_state,
        recovered.entries.clone(),
        recovered.first,
        mark,
    )
}

fn last_write(log: &Log) -> (Disk, SegmentWrite) {
    log.writes.last().expect("writes").clone()
}

fn end_of(write: &SegmentWrite) -> usize {
    write.offset as usize + write.bytes.len()
}

/// Where the last byte lies that is not zero.
fn last_byte(write: &SegmentWrite) -> usize {
    let mut bytes = write.bytes.iter();
    let last = bytes
        .rposition(|byte| *byte != 0)
        .expect("no write is blank");
    write.offset as usize + last
}

#[test]
fn every_cut_of_a_file_is_refused() {
    let log = sample();
    let whole = content(&log.disk.recovered());
    let (_, last) = last_write(&log);
    for (segment, bytes) in &log.disk.0 {
        for length in 0..bytes.len() {
            let mut disk = log.disk.clone();
            disk.0.get_mut(segment).unwrap().truncate(length);
            let verdict = disk.recover(EntryId::ZERO);
            if *segment > last.segment {
                let recovered = verdict.expect("a spare half made").expect("a log");
                assert_eq!(content(&recovered), whole, "spare cut to {length}");
            } else if *segment == last.segment && length == 0 {
                // Undecidable: an empty file is what a crash during its making leaves.
                let recovered = verdict.expect("an empty spare").expect("a log");
                assert!(recovered.entries.len() < whole.1.len());
            } else {
                let fault = verdict.expect_err("a file that was cut");
                assert_eq!(fault.segment, *segment, "cut to {length}: {fault}");
            }
        }
    }
}

#[test]
fn blanked_from_any_byte_on_is_torn_there_or_refused() {
    let log = sample();
    let (_, last) = last_write(&log);
    for (segment, bytes) in &log.disk.0 {
        for from in 0..bytes.len() {
            let mut disk = log.disk.clone();
            disk.0.get_mut(segment).unwrap()[from..].fill(0);
            if disk == log.disk {
                continue;
            }
            let verdict = disk.recover(EntryId::ZERO);
            if *segment < last.segment {
                let fault = verdict.expect_err("acknowledged writes are gone");
                assert!(fault.segment <= segment.next(), "from {from}: {fault}");
                continue;
            }
            // The same bytes as an unfinished write: what was complete before it must be there.
            let (before, write) = log
                .writes
                .iter()
                .find(|(_, write)| write.segment == *segment && last_byte(write) >= from)
                .expect("something was blanked");
            let recovered = verdict.expect("an unfinished write").expect("a log");
            assert_eq!(
                content(&recovered),
                content(&before.recovered()),
                "from {from}"
            );
            let torn = recovered.torn.map(|torn| (torn.segment, torn.offset));
            let partial = (from > write.offset as usize).then_some((*segment, write.offset));
            assert_eq!(torn, partial, "from {from}");
        }
    }
}

#[test]
fn every_flipped_byte_is_refused_or_harmless() {
    let log = sample();
    let whole = content(&log.disk.recovered());
    for (segment, bytes) in &log.disk.0 {
        let mut writes = log.writes.iter().map(|(_, write)| write);
        let end = writes
            .rfind(|write| write.segment == *segment)
            .map_or(0, end_of);
        for at in 0..bytes.len() {
            for mask in [0x01, 0x80, 0xff] {
                let mut disk = log.disk.clone();
                disk.0.get_mut(segment).unwrap()[at] ^= mask;
                match disk.recover(EntryId::ZERO) {
                    Err(fault) if at < end => {
                        assert_eq!(fault.segment, *segment, "{at}: {fault}");
                        assert!(fault.offset as usize <= at, "{at}: {fault}");
                        assert!(at < fault.offset as usize + 5 * SECTOR, "{at}: {fault}");
                    }
                    Err(_) => (),
                    Ok(recovered) => {
                        assert!(at >= end, "an altered byte of {segment} passed at {at}");
                        assert_eq!(content(&recovered.unwrap()), whole);
                    }
                }
            }
        }
    }
}

#[test]
fn every_blanked_sector_but_those_of_the_last_write_is_refused() {
    let log = sample();
    let (before, last) = last_write(&log);
    for (segment, bytes) in &log.disk.0 {
        for at in (0..bytes.len()).step_by(SECTOR) {
            let mut disk = log.disk.clone();
            disk.0.get_mut(segment).unwrap()[at..at + SECTOR].fill(0);
            if disk == log.disk {
                continue;
            }
            let verdict = disk.recover(EntryId::ZERO);
            if *segment == last.segment && at >= last.offset as usize {
                let recovered = verdict.expect("an unfinished write").expect("a log");
                assert_eq!(content(&recovered), content(&before.recovered()));
            } else {
                verdict.expect_err("an acknowledged sector is gone");
            }
        }
    }
}

/// Goal: whatever part of any single write arrives, the member starts, with everything before it;
/// an interrupted repair changes nothing of that. Method: every subset for the first write of a
/// segment and the long ones, then every prefix of the zeroing and a new write on top.
#[test]
fn any_sectors_of_an_unfinished_write_are_a_torn_tail() {
    let log = sample();
    for (before, write) in &log.writes {
        let sectors = write.bytes.len() / SECTOR;
        assert!(sectors <= 8, "subsets stay few");
        let expected = before
            .recover(EntryId::ZERO)
            .expect("sound")
            .map(|it| content(&it));
        for subset in 0..1_u32 << sectors {
            let mut disk = before.clone();
            let base = write.offset as usize;
            for sector in (0..sectors).filter(|sector| subset & (1 << sector) != 0) {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                let file = disk.0.get_mut(&write.segment).unwrap();
                file[base + range.start..base + range.end].copy_from_slice(&write.bytes[range]);
            }
            let recovered = disk
                .recover(EntryId::ZERO)
                .expect("a crash is no reason to refuse");
            let mut whole = before.clone();
            whole.write(write);
            if disk == whole {
                assert!(recovered.expect("the write is whole").torn.is_none());
                continue;
            }
            assert_eq!(
                recovered.as_ref().map(content),
                expected,
                "subset {subset:b}"
            );
            if let Some(recovered) = recovered {
                assert_eq!(
                    recovered.torn.is_some(),
                    disk != *before,
                    "subset {subset:b}"
                );
                repair_and_go_on(&disk, &recovered);
            }
        }
    }
}

fn repair_and_go_on(disk: &Disk, recovered: &Recovered) {
    let mut encoder = Encoder::resume(recovered, 4096);
    let last = recovered
        .entries
        .last()
        .map_or(recovered.first, |entry| entry.id);
    let next = entry(9, last.index.get() + 1, vec![0xee; 300]);
    let record = Record::Entry(&next);
    let mut disk = disk.clone();
    while let Some(prepare) = encoder.take_prepare(record.encoded_bytes()) {
        disk.0
            .insert(prepare.segment, vec![0; prepare.bytes as usize]);
        encoder.on_prepared(prepare.segment);
    }
    encoder.append(record);
    let writes = encoder.take_writes();
    let zeroing = usize::from(recovered.torn.is_some());
    assert!(writes.len() > zeroing, "zeros first, then the new entry");
    for write in &writes[..zeroing] {
        assert!(frame::is_blank(&write.bytes));
        for keep in 0..=write.bytes.len() / SECTOR {
            let mut partial = disk.clone();
            let bytes = write.bytes.slice(keep * SECTOR..);
            let offset = write.offset + (keep * SECTOR) as u64;
            let segment = write.segment;
            partial.write(&SegmentWrite {
                segment,
                offset,
                bytes,
            });
            assert_eq!(content(&partial.recovered()), content(recovered));
        }
    }
    writes.iter().for_each(|write| disk.write(write));
    let after = disk.recovered();
    assert_eq!(after.torn, None);
    assert_eq!(after.entries.last(), Some(&next));
    assert_eq!(after.entries.len(), recovered.entries.len() + 1);
}

#[test]
fn lost_swapped_stale_and_foreign_files_are_refused() {
    let log = sample();
    let segment = SegmentId::new;
    let refusal = |disk: &Disk| disk.recover(EntryId::ZERO).expect_err("refused").finding;

    let mut lost = log.disk.clone();
    lost.0.remove(&segment(2));
    assert_eq!(refusal(&lost), Finding::FileMissing);

    let mut swapped = log.disk.clone();
    let (one, two) = (
        swapped.0[&segment(1)].clone(),
        swapped.0[&segment(2)].clone(),
    );
    swapped.0.insert(segment(1), two);
    swapped.0.insert(segment(2), one);
    assert!(matches!(refusal(&swapped), Finding::Misplaced { .. }));

    // A file as it was before its last write.
    let mut stale = log.disk.clone();
    let mut writes = log.writes.iter();
    let (before, _) = writes
        .rfind(|(_, write)| write.segment == segment(2))
        .unwrap();
    stale.0.insert(segment(2), before.0[&segment(2)].clone());
    assert!(matches!(refusal(&stale), Finding::ChainBroken { .. }));

    let other = |cluster: u64, member: u64| {
        let mut other = Log::create(4096);
        let ids = (ClusterId::new(cluster), MemberId::new(member));
        other.encoder = Encoder::create(ids.0, ids.1, 4096);
        other
    };
    for mut foreign in [other(0xc1, 1), other(2, MEMBER.get())] {
        (1..=20).for_each(|index| foreign.batch(&[Record::Entry(&entry(2, index, "x"))]));
        let mut mixed = log.disk.clone();
        mixed
            .0
            .insert(segment(2), foreign.disk.0[&segment(2)].clone());
        let finding = refusal(&mixed);
        assert!(matches!(finding, Finding::ChainBroken { .. }), "{finding}");
        mixed.0.remove(&segment(1));
        mixed
            .0
            .insert(segment(1), foreign.disk.0[&segment(1)].clone());
        mixed.0.insert(segment(2), log.disk.0[&segment(2)].clone());
        assert!(matches!(refusal(&mixed), Finding::ChainBroken { .. }));
        // Behind a gap no chain tells, but the identity does.
        let mut behind = log.disk.clone();
        behind.0.remove(&segment(2));
        behind
            .0
            .insert(segment(3), foreign.disk.0[&segment(3)].clone());
        assert!(matches!(refusal(&behind), Finding::Foreign { .. }));
    }
}

#[test]
fn a_gap_is_forgiven_only_when_the_mark_covers_it() {
    let mut log = Log::create(4096);
    for index in 1..=40 {
        log.batch(&[Record::Entry(&entry(1, index, vec![1; 300]))]);
    }
    let keep = SegmentId::new(4);
    let mut gap = log.disk.clone();
    gap.0.remove(&keep.prev());
    let fault = gap
        .recover(id(1, 30))
        .expect_err("nothing says that the part behind is enough");
    assert_eq!(
        (fault.segment, fault.finding),
        (keep.prev(), Finding::FileMissing)
    );

    log.batch(&[Record::Mark(&mark(1, 35))]);
    let whole = log.disk.recover(id(1, 35)).unwrap().unwrap();
    log.disk.0.remove(&keep.prev());
    let recovered = log.disk.recover(id(1, 35)).unwrap().unwrap();
    let kept = whole.entries.len() - recovered.entries.len();
    assert_eq!(whole.entries[kept..], recovered.entries[..]);
    assert_eq!(whole.entries[kept - 1].id, recovered.first);
    assert_eq!(whole.mark, recovered.mark);
}

#[test]
fn the_backend_must_fit_the_log() {
    let log = sample();
    let refusal = |backend| log.disk.recover(backend).expect_err("refused").finding;
    assert!(log.disk.recover(id(2, 24)).is_ok());
    assert!(matches!(refusal(id(2, 25)), Finding::BackendAhead { .. }));
    assert!(matches!(refusal(id(1, 24)), Finding::BackendDiffers { .. }));
    let empty = Disk::default();
    assert!(empty.recover(EntryId::ZERO).unwrap().is_none());
    assert!(empty.recover(id(1, 1)).is_err());

    let mut restored = Log::create(4096);
    restored.batch(&[Record::Mark(&mark(3, 50))]);
    let behind = restored.disk.recover(id(2, 49)).expect_err("refused");
    assert!(matches!(behind.finding, Finding::BackendBehind { .. }));
    let recovered = restored.disk.recover(id(3, 50)).unwrap().unwrap();
    assert_eq!(
        (recovered.first, recovered.hard_state),
        (id(3, 50), hard_state(3, 0, 50))
    );
}

#[test]
fn a_fault_names_file_offset_and_remedy() {
    let log = sample();
    let mut disk = log.disk.clone();
    disk.0.get_mut(&FIRST_SEGMENT).unwrap()[100] ^= 1;
    let text = disk.recover(EntryId::ZERO).unwrap_err().to_string();
    for part in [
        "0000000000000001.wal",
        "offset 0",
        "checksum",
        "add it again as a new member",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn the_encoder_refuses_what_recovery_would_refuse() {
    let wrong: [fn(&mut Log); 6] = [
        |log| log.batch(&[Record::Entry(&entry(2, 26, "gap"))]),
        |log| log.batch(&[Record::Entry(&entry(2, 13, "below commit"))]),
        |log| log.batch(&[Record::Entry(&entry(1, 25, "lower term"))]),
        |log| log.batch(&[Record::HardState(&hard_state(2, 8, 24))]),
        |log| log.batch(&[Record::HardState(&hard_state(2, 7, 25))]),
        |log| log.batch(&[Record::Mark(&mark(2, 12))]),
    ];
    for (number, wrong) in wrong.into_iter().enumerate() {
        let caught = catch_unwind(|| wrong(&mut sample()));
        assert!(caught.is_err(), "case {number} passed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Goal: no bytes make recovery panic. Method: noise, and noise in a sound log.
    #[test]
    fn noise_never_panics(
        noise in prop::collection::vec(any::<u8>(), 0..3000),
        at in 0_usize..12_000,
        backend in 0_u64..30,
    ) {
        let mut disk = Disk::default();
        disk.0.insert(FIRST_SEGMENT, noise.clone());
        let _ = disk.recover(id(2, backend));
        let mut disk = sample().disk;
        let segment = SegmentId::new(1 + at as u64 / 4096);
        let file = disk.0.get_mut(&segment).unwrap();
        let at = at % 4096;
        let end = file.len().min(at + noise.len());
        file[at..end].copy_from_slice(&noise[..end - at]);
        let _ = disk.recover(id(2, backend));
    }

    /// Goal: records that are wrong inside a write with right checksums are refused and
    /// no panic. Method: noise and altered records, sealed as the encoder would.
    #[test]
    fn sealed_noise_never_panics(
        noise in prop::collection::vec(any::<u8>(), 1..200),
        flip in 0_usize..400,
        mask in 1_u8..,
        keep_head in any::<bool>(),
    ) {
        let log = sample();
        let (_, first) = &log.writes[0];
        let head = &log.disk.0[&FIRST_SEGMENT][frame::HEAD_BYTES..first.bytes.len()];
        let mut buffer = vec![0; frame::HEAD_BYTES];
        if keep_head {
            buffer.extend_from_slice(&head[..head.len().min(flip + 1)]);
            let at = buffer.len() - 1;
            buffer[at] ^= mask;
        }
        buffer.extend_from_slice(&noise);
        let place = frame::Place {
            segment: FIRST_SEGMENT,
            offset: 0,
            capacity: 4096,
            chain: 0,
        };
        frame::seal(&mut buffer, place);
        buffer.resize(4096, 0);
        let mut disk = Disk::default();
        disk.0.insert(FIRST_SEGMENT, buffer);
        let verdict = disk.recover(EntryId::ZERO);
        prop_assert!(keep_head || verdict.is_err(), "noise is no segment head");
    }
}
