//! A range that is read in parts says what it would have said in one go when it began.

use bytes::Bytes;

use super::{
    super::{Part, RangeQuery, RangeResult},
    model::Op,
    random::World,
};
use crate::{kernel::PartedRange, pb::etcdserverpb::RangeResponse};

fn put(number: usize) -> Op {
    let value = Bytes::from(vec![b'v'; number % 7]);
    Op::Put(format!("k{number:03}").into(), value, 0)
}

#[test]
fn parts_are_one_moment_whatever_is_written_and_compacted_meanwhile() {
    for (limit, keys_only, keys_max, bytes_max) in [
        (0, false, 1, usize::MAX),
        (0, false, 7, usize::MAX),
        (0, true, 7, usize::MAX),
        (0, false, 1000, 1),
        (5, false, 2, usize::MAX),
        (5, false, 5, usize::MAX),
        (30, false, 4, 20),
        (31, true, 1000, usize::MAX),
    ] {
        let mut world = World::new();
        (0..30).for_each(|number| {
            world.txn(&[put(number)]);
        });
        world.txn(&[Op::Delete("k007".into(), Bytes::new())]);
        let query = RangeQuery {
            key: b"k",
            range_end: b"l",
            limit,
            keys_only,
            ..RangeQuery::default()
        };
        let whole = world.store.range(&world.view, &query).unwrap();
        let mut walk = world.store.walk(&query).unwrap();
        assert_eq!(walk.revision(), world.store.revision());
        let part = Part {
            keys_max,
            bytes_max,
        };
        let mut parts = 0;
        while walk.step(&world.store, &world.view, part).unwrap() {
            parts += 1;
            // Overwritten, deleted, made anew; and what it reads may not be asked for any more.
            world.txn(&[put(parts % 30)]);
            world.txn(&[Op::Delete(
                format!("k{:03}", 29 - parts % 9).into(),
                Bytes::new(),
            )]);
            world.txn(&[put(7)]);
            world.compact(world.store.revision());
        }
        let walked = walk.finish(&world.store);
        let decoded = |parts| {
            let rest = RangeResponse::default();
            PartedRange { rest, parts }.joined().kvs
        };
        let small = |part: &Bytes| (1..=keys_max).contains(&decoded(vec![part.clone()]).len());
        assert!(walked.parts.iter().all(small));
        let read = RangeResult {
            count: walked.count,
            revision: walked.revision,
            kvs: decoded(walked.parts),
        };
        assert_eq!(read.kvs.len(), walked.records);
        assert_eq!(read, whole, "{limit} {keys_max}");
        assert!(parts < 31);
    }
}

#[test]
fn what_cannot_be_read_is_refused_before_the_first_part() {
    let mut world = World::new();
    (0..3).for_each(|number| {
        world.txn(&[put(number)]);
    });
    world.compact(3);
    let at = |revision| RangeQuery {
        key: b"k",
        range_end: b"l",
        revision,
        ..RangeQuery::default()
    };
    assert!(world.store.walk(&at(2)).is_err());
    assert!(world.store.walk(&at(3)).is_ok());
    assert!(world.store.walk(&at(5)).is_err());
}
