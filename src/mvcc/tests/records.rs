//! Many records that are read together are those that are read one by one.

use bytes::Bytes;

use super::{
    super::{RangeQuery, key_index::KeyMeta, records, records::Wanted, walk::Walked},
    model::Op,
    random::World,
};
use crate::{
    backend::Backend,
    kernel::{DiskErrorKind, PartedRange},
    pb::mvccpb::KeyValue,
};

const KEYS: usize = 120;

fn name(number: usize) -> String {
    format!("k{number:03}")
}

fn put(number: usize, step: usize) -> Op {
    let value = Bytes::from(format!("{step}"));
    Op::Put(name(number % KEYS).into(), value, 0)
}

/// A number that follows from another and looks like none.
fn scattered(number: usize) -> usize {
    let mixed = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(mixed >> 40).expect("24 bits")
}

fn decoded(walked: Walked) -> Vec<KeyValue> {
    PartedRange::records(walked.parts)
}

fn batch(world: &mut World) {
    let Some(batch) = world.view.cut() else {
        return;
    };
    world.view.backend().commit(&batch).unwrap();
    if world.view.flying() > 1 {
        world.view.committed().unwrap();
    }
}

// Goal: whatever lies near each other, in whichever batch, and however many changes share a
// revision. Method: keys in order, then scattered, then many in one transaction, with batches on
// their way; all ranges of many against each key of them.
#[test]
fn many_records_are_those_of_each_key() {
    let mut world = World::new();
    for step in 0..400 {
        match step {
            0..120 => world.txn(&[put(step, step)]),
            120..250 => world.txn(&[put(scattered(step), step)]),
            _ if step % 9 == 0 => {
                let key = name(scattered(step) % KEYS);
                world.txn(&[Op::Delete(key.into(), Bytes::new())])
            }
            _ => {
                let some = 1 + scattered(step) % 30;
                let distinct = (0..some).map(|add| put(scattered(step) + add * 7, step));
                world.txn(&distinct.collect::<Vec<_>>())
            }
        };
        if step % 11 == 0 {
            batch(&mut world);
        }
        if step % 20 != 0 {
            continue;
        }
        for (from, to, back) in [(0, KEYS, 0), (10, 50, 3), (90, 120, 40), (5, 7, 1)] {
            let (from, to) = (name(from), name(to));
            let revision = (world.store.revision() - back).max(1);
            let query = RangeQuery {
                key: from.as_bytes(),
                range_end: to.as_bytes(),
                revision,
                ..RangeQuery::default()
            };
            let one = |number| {
                let key = name(number);
                let within = (&from..&to).contains(&&key);
                let read = || world.store.get(&world.view, key.as_bytes(), revision);
                within.then(read).and_then(Result::unwrap)
            };
            let each: Vec<KeyValue> = (0..KEYS).filter_map(one).collect();
            let whole = world.store.range(&world.view, &query).unwrap();
            assert_eq!(whole.kvs, each);
            let walked = world.store.walked(&world.view, &query).unwrap();
            assert_eq!(decoded(walked), each);
        }
    }
}

// Goal: what the index knows and the store does not, alone, first of many near ones or last, is
// damage and neither left out nor taken from another.
#[test]
fn a_record_that_is_not_there_is_damage() {
    let mut world = World::new();
    for number in 0..20 {
        world.txn(&[put(number, number)]);
    }
    let meta = |modified| KeyMeta {
        create: modified,
        modified,
        sub: 0,
        version: 1,
    };
    let names: Vec<String> = (0..20).map(name).collect();
    let wanted = |from: usize, to: usize| {
        let known = |number: usize| Wanted {
            key: names[number].as_bytes(),
            meta: meta(2 + number as i64),
        };
        (from..to).map(known).collect::<Vec<_>>()
    };
    assert_eq!(
        records::read(&world.view, &wanted(0, 20)).unwrap().len(),
        20
    );
    for (from, to) in [(0, 1), (0, 20), (3, 9)] {
        for wrong in [from, (from + to) / 2, to - 1] {
            let mut missing = wanted(from, to);
            missing[wrong - from].meta.sub = 1;
            let mut another = wanted(from, to);
            another[wrong - from].key = b"else";
            for harmed in [missing, another] {
                let error = records::read(&world.view, &harmed).unwrap_err();
                assert_eq!(error.kind, DiskErrorKind::Corrupt);
            }
        }
    }
}
