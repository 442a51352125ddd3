//! Situations worth naming, most of them from etcd's own bugs.

use bytes::Bytes;

use super::{
    super::{
        HistoryQuery, RangeQuery, Store,
        revision::{RecordKey, Revision},
    },
    model::Op,
    random::World,
};
use crate::{
    kernel::{Bucket, DiskErrorKind},
    pb::mvccpb::event::EventType,
};

fn put(key: &'static str) -> Op {
    Op::Put(key.into(), Bytes::from_static(b"v"), 0)
}

fn delete(key: &'static str) -> Op {
    Op::Delete(key.into(), Bytes::new())
}

fn everything(from: i64) -> HistoryQuery<'static> {
    HistoryQuery {
        from,
        to: i64::MAX,
        key: b"\0",
        range_end: b"\0",
        revisions_max: 100,
        bytes_max: usize::MAX,
    }
}

#[test]
fn an_empty_store_is_at_revision_one_and_never_compacted() {
    let world = World::new();
    assert_eq!(world.store.revision(), 1);
    assert_eq!(world.store.compact_revision(), -1);
    assert_eq!(
        world
            .store
            .history(&world.view, &everything(0))
            .unwrap()
            .next,
        2
    );
}

// etcd bugs 18089 and 19179: a watch that begins at the compact revision needs its tombstone.
#[test]
fn a_tombstone_at_the_compact_revision_is_replayed() {
    let mut world = World::new();
    world.txn(&[put("a")]);
    world.txn(&[delete("a")]);
    world.compact(3);
    while world.slice(1) {}
    let history = world.store.history(&world.view, &everything(3)).unwrap();
    let [(3, events)] = &history.events[..] else {
        panic!("{history:?}");
    };
    assert_eq!(events[0].r#type(), EventType::Delete);
    assert_eq!(world.records().len(), 1);
    world.txn(&[put("b")]);
    world.compact(4);
    while world.slice(1) {}
    assert_eq!(world.records().len(), 1, "the next compaction takes it");
}

// etcd bug 17780: the marks alone must hold the revision, whatever became of the records.
#[test]
fn the_revision_never_goes_below_the_marks() {
    for marks in [&[&b"scheduledCompactRev"[..]][..], &[b"finishedCompactRev"]] {
        let mut world = World::new();
        world.txn(&[put("a")]);
        for mark in marks {
            let value = Revision::floor(9).to_bytes();
            world
                .view
                .put(Bucket::Meta, Bytes::from_static(mark), value);
        }
        let store = Store::load(&world.view).unwrap();
        assert_eq!((store.revision(), store.compact_revision()), (9, 9));
    }
}

// A key that is deleted and put in one transaction keeps its new life over a compaction there.
#[test]
fn a_key_reborn_within_one_transaction_survives_compaction() {
    let mut world = World::new();
    world.txn(&[put("a")]);
    world.txn(&[delete("a"), put("a")]);
    world.compact(3);
    while world.slice(10) {}
    let kv = world.store.get(&world.view, b"a", 0).unwrap().unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (3, 3, 1));
}

// A compaction accepted while another runs does not throw it back; both end.
#[test]
fn compactions_end_though_new_ones_keep_coming() {
    let mut world = World::new();
    for i in 0..40u8 {
        world.txn(&[Op::Put(Bytes::from(vec![b'a' + i % 8]), Bytes::new(), 0)]);
    }
    let mut finished = Vec::new();
    for revision in 20..40 {
        world.compact(revision);
        world.slice(2);
        if finished.last() != Some(&world.store.compaction_finished()) {
            finished.push(world.store.compaction_finished());
        }
    }
    assert!(finished.len() > 2, "no pass ended: {finished:?}");
    while world.slice(2) {}
    assert_eq!(world.store.compaction_finished(), 39);
}

// A long history of one key is cut in slices too, and gives its memory back.
#[test]
fn one_key_with_a_long_history_is_compacted_in_slices() {
    let mut world = World::new();
    for _ in 0..100 {
        world.txn(&[put("a")]);
    }
    world.compact(101);
    let mut slices = 1;
    while world.slice(10) {
        slices += 1;
    }
    // One slice looks how much there is, and one removes the few that are left over from that.
    assert_eq!((slices, world.records().len()), (12, 1));
    assert_eq!(world.store.meta(b"a").unwrap().version, 100);
}

// Goal: a history that is longer than what may be gathered goes from its beginning on, and not some
// records of all of it, then some more: each would change all its pages.
#[test]
fn a_long_history_is_removed_from_its_beginning_on() {
    const KEYS: usize = 10;
    let mut world = World::new();
    for _ in 0..8 {
        for key in 0..KEYS as u8 {
            world.txn(&[Op::Put(Bytes::from(vec![key]), Bytes::new(), 0)]);
        }
    }
    let all = world.records();
    world.compact(world.store.revision());
    let doomed = &all[..all.len() - KEYS];
    loop {
        let more = world.slice(1);
        let left = world.records();
        let is_left = |record: &&RecordKey| left.contains(record);
        let last_gone = doomed.iter().rposition(|record| !left.contains(record));
        let first_left = doomed.iter().position(|record| is_left(&record));
        let Some((last_gone, first_left)) = last_gone.zip(first_left) else {
            if more {
                continue;
            }
            break;
        };
        assert!(
            last_gone < first_left + 2 * KEYS,
            "{last_gone} went before {first_left}"
        );
    }
    assert_eq!(world.records(), all[doomed.len()..]);
}

// Keys without anything to remove cost a slice its time too.
#[test]
fn a_slice_is_bounded_by_the_keys_it_looks_at() {
    let mut world = World::new();
    for i in 0..100u8 {
        world.txn(&[Op::Put(Bytes::from(vec![i]), Bytes::new(), 0)]);
    }
    world.compact(101);
    assert!(
        world.slice(1),
        "a hundred keys are too many for the smallest slice"
    );
    while world.slice(1) {}
    assert_eq!(world.records().len(), 100);
}

// A history scan stops by itself even if nothing matches.
#[test]
fn a_scan_without_matches_is_bounded() {
    let mut world = World::new();
    let mut txn = world.store.write(&mut world.view);
    for i in 0..11_000u32 {
        txn.put(Bytes::from(i.to_be_bytes().to_vec()), Bytes::new(), 0);
    }
    txn.finish();
    let mut txn = world.store.write(&mut world.view);
    txn.put(Bytes::from_static(b"z"), Bytes::new(), 0);
    txn.finish();
    let mut query = HistoryQuery {
        key: b"z",
        range_end: b"",
        ..everything(1)
    };
    let first = world.store.history(&world.view, &query).unwrap();
    assert_eq!((first.events.len(), first.next), (0, 3));
    query.from = first.next;
    let second = world.store.history(&world.view, &query).unwrap();
    assert_eq!((second.events.len(), second.next), (1, 4));
}

#[test]
#[should_panic(expected = "a write transaction was not finished")]
fn an_unfinished_transaction_is_noticed() {
    let mut world = World::new();
    let mut txn = world.store.write(&mut world.view);
    txn.put(Bytes::from_static(b"a"), Bytes::new(), 0);
    drop(txn);
    let _ = world.store.write(&mut world.view);
}

// Records that cannot belong together are refused at load, with what is wrong.
#[test]
fn contradicting_records_are_corruption() {
    let mut world = World::new();
    world.txn(&[put("a")]);
    world.txn(&[put("a")]);
    let [first, second] = world.records()[..] else {
        panic!("two puts make two records");
    };
    let swapped = world
        .view
        .get(Bucket::Key, first.encode().as_slice())
        .unwrap()
        .unwrap();
    world
        .view
        .put(Bucket::Key, second.encode().to_bytes(), swapped);
    assert_eq!(
        Store::load(&world.view).unwrap_err().kind,
        DiskErrorKind::Corrupt
    );
    let query = RangeQuery {
        key: b"a",
        ..RangeQuery::default()
    };
    assert!(world.store.range(&world.view, &query).is_err());
}
