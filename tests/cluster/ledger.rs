//! What clients were told, and the comparison of it with what the members hold in the end.
//!
//! Method: each write goes to a key of its own, so that a key's revision and version show whether
//! its write was applied, once, and where. Counters are incremented by compare-and-swap, so that a
//! lost or doubled increment shows in the difference between value, version and acknowledgements.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use fated::pb::mvccpb::KeyValue;

use crate::support::Cluster;

/// Prefix of keys that are written once.
pub const WRITES: &str = "write/";
/// Prefix of counters.
pub const COUNTERS: &str = "counter/";
/// Counters there are.
pub const COUNTER_COUNT: usize = 2;

/// The record of one run.
#[derive(Debug, Default)]
pub struct Ledger {
    books: Mutex<Books>,
    /// Per counter the highest value anybody was told.
    floors: [AtomicU64; COUNTER_COUNT],
}

#[derive(Debug, Default)]
struct Books {
    /// Acknowledged writes: key to value and revision.
    writes: BTreeMap<Bytes, (Bytes, i64)>,
    /// Writes whose outcome nobody was told.
    unknown: BTreeMap<Bytes, Bytes>,
    /// Revisions of all acknowledged changes, with what changed.
    revisions: BTreeMap<i64, String>,
    counters: [Counter; COUNTER_COUNT],
}

#[derive(Debug, Default)]
struct Counter {
    /// Values that were set by acknowledged increments.
    acknowledged: BTreeSet<u64>,
    unknown: u64,
}

impl Ledger {
    /// A write was acknowledged.
    pub fn wrote(&self, key: Bytes, value: Bytes, revision: i64) {
        let mut books = self.books();
        books.claim(revision, format!("put {key:?}"));
        let old = books.writes.insert(key, (value, revision));
        assert!(old.is_none(), "the test writes a key twice");
    }

    /// A write failed, or its answer was lost.
    pub fn wrote_maybe(&self, key: Bytes, value: Bytes) {
        self.books().unknown.insert(key, value);
    }

    /// An increment of a counter to `value` was acknowledged.
    pub fn incremented(&self, counter: usize, value: u64, revision: i64) {
        let mut books = self.books();
        books.claim(revision, format!("counter {counter} to {value}"));
        let fresh = books.counters[counter].acknowledged.insert(value);
        assert!(
            fresh,
            "two increments of counter {counter} to {value} were acknowledged"
        );
        drop(books);
        self.floors[counter].fetch_max(value, Ordering::SeqCst);
    }

    /// An increment failed, or its answer was lost.
    pub fn incremented_maybe(&self, counter: usize) {
        self.books().counters[counter].unknown += 1;
    }

    /// The value a linearizable read that begins now must at least see.
    pub fn floor(&self, counter: usize) -> u64 {
        self.floors[counter].load(Ordering::SeqCst)
    }

    /// A linearizable read that began when the floor was `floor` saw `value`.
    pub fn read(&self, counter: usize, floor: u64, value: u64, who: &str) {
        assert!(
            value >= floor,
            "stale read through {who}: counter {counter} was {floor} before, and {value} was read"
        );
        self.floors[counter].fetch_max(value, Ordering::SeqCst);
    }

    /// Acknowledged changes so far.
    pub fn acknowledged(&self) -> usize {
        self.books().revisions.len()
    }

    /// Compares the books with every member: each acknowledged change is on each of them, once, at
    /// its revision, and all members are equal.
    pub fn verify(&self, cluster: &Cluster) {
        cluster.assert_same_hash();
        let books = self.books();
        assert!(
            !books.revisions.is_empty(),
            "nothing was acknowledged, so nothing is shown"
        );
        for (member, client) in cluster.members.iter().zip(cluster.clients()) {
            let name = &member.plan().name;
            let read = |prefix| client.prefix(prefix, true).expect("the member serves").kvs;
            books.verify_writes(name, read(WRITES));
            books.verify_counters(name, &read(COUNTERS));
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn claim(&mut self, revision: i64, what: String) {
        if let Some(other) = self.revisions.insert(revision, what.clone()) {
            panic!("revision {revision} was acknowledged for {other} and for {what}");
        }
    }

    fn verify_writes(&self, name: &str, kvs: Vec<KeyValue>) {
        let mut held: BTreeMap<Bytes, KeyValue> = BTreeMap::new();
        for kv in kvs {
            assert_eq!(
                kv.version, 1,
                "{name} applied the write of {:?} more than once",
                kv.key
            );
            held.insert(kv.key.clone(), kv);
        }
        for (key, (value, revision)) in &self.writes {
            let kv = held.remove(key);
            let kv = kv.unwrap_or_else(|| panic!("{name} lost {key:?} of revision {revision}"));
            assert_eq!(&kv.value, value, "{name} holds another value of {key:?}");
            assert_eq!(
                kv.mod_revision, *revision,
                "{name} holds {key:?} at another revision"
            );
        }
        for (key, kv) in held {
            let expected = self.unknown.get(&key);
            assert_eq!(
                expected,
                Some(&kv.value),
                "{name} holds {key:?}, which nobody wrote"
            );
        }
    }

    fn verify_counters(&self, name: &str, kvs: &[KeyValue]) {
        for (number, counter) in self.counters.iter().enumerate() {
            let key = counter_key(number);
            let kv = kvs.iter().find(|kv| kv.key == key);
            let value = kv.map_or(0, |kv| parse(&kv.value));
            let version = kv.map_or(0, |kv| u64::try_from(kv.version).expect("it counts"));
            assert_eq!(
                version, value,
                "{name}: {key:?} was changed without being incremented"
            );
            let known = u64::try_from(counter.acknowledged.len()).expect("it counts");
            let most = known + counter.unknown;
            assert!(
                (known..=most).contains(&value),
                "{name}: {key:?} is {value} after {known} acknowledged increments and {} unknown",
                counter.unknown
            );
            let last = counter.acknowledged.last().copied().unwrap_or(0);
            assert!(
                last <= value,
                "{name}: {key:?} is {value}, and {last} was acknowledged"
            );
        }
    }
}

/// The key of a counter.
pub fn counter_key(number: usize) -> Bytes {
    format!("{COUNTERS}{number}").into()
}

/// The number a value stands for.
pub fn parse(value: &[u8]) -> u64 {
    let text = std::str::from_utf8(value).expect("counters are text");
    text.parse().expect("counters are numbers")
}

/// The books find what is wrong.
mod tests {
    use super::*;

    fn kv(key: &str, value: &str, mod_revision: i64, version: i64) -> KeyValue {
        KeyValue {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            mod_revision,
            version,
            ..Default::default()
        }
    }

    /// One write and two increments, one of which may or may not have happened.
    fn ledger() -> Ledger {
        let ledger = Ledger::default();
        ledger.wrote("write/a".into(), "1".into(), 2);
        ledger.wrote_maybe("write/b".into(), "2".into());
        ledger.incremented(0, 1, 3);
        ledger.incremented_maybe(0);
        ledger
    }

    #[test]
    fn what_is_possible_is_accepted() {
        let ledger = ledger();
        let books = ledger.books();
        books.verify_writes("m", vec![kv("write/a", "1", 2, 1)]);
        books.verify_writes(
            "m",
            vec![kv("write/a", "1", 2, 1), kv("write/b", "2", 9, 1)],
        );
        books.verify_counters("m", &[kv("counter/0", "1", 3, 1)]);
        books.verify_counters("m", &[kv("counter/0", "2", 5, 2)]);
        drop(books);
        ledger.read(0, 1, 2, "m");
        assert_eq!(ledger.floor(0), 2);
    }

    #[test]
    #[should_panic(expected = "lost")]
    fn a_lost_write_is_found() {
        ledger().books().verify_writes("m", vec![]);
    }

    #[test]
    #[should_panic(expected = "another revision")]
    fn a_moved_write_is_found() {
        ledger()
            .books()
            .verify_writes("m", vec![kv("write/a", "1", 4, 1)]);
    }

    #[test]
    #[should_panic(expected = "more than once")]
    fn a_doubled_write_is_found() {
        ledger()
            .books()
            .verify_writes("m", vec![kv("write/a", "1", 2, 2)]);
    }

    #[test]
    #[should_panic(expected = "nobody wrote")]
    fn an_invented_write_is_found() {
        let held = vec![kv("write/a", "1", 2, 1), kv("write/b", "x", 3, 1)];
        ledger().books().verify_writes("m", held);
    }

    #[test]
    #[should_panic(expected = "after 1 acknowledged")]
    fn a_lost_increment_is_found() {
        ledger().books().verify_counters("m", &[]);
    }

    #[test]
    #[should_panic(expected = "after 1 acknowledged")]
    fn an_invented_increment_is_found() {
        ledger()
            .books()
            .verify_counters("m", &[kv("counter/0", "3", 9, 3)]);
    }

    #[test]
    #[should_panic(expected = "were acknowledged")]
    fn an_increment_acknowledged_twice_is_found() {
        ledger().incremented(0, 1, 4);
    }

    #[test]
    #[should_panic(expected = "revision 2 was acknowledged for")]
    fn a_revision_used_twice_is_found() {
        ledger().wrote("write/c".into(), "3".into(), 2);
    }

    #[test]
    #[should_panic(expected = "stale read")]
    fn a_stale_read_is_found() {
        let ledger = ledger();
        ledger.read(0, ledger.floor(0), 0, "m");
    }
}
