//! Random transactions, compactions, commits, reloads and crashes; every answer is compared.

use std::sync::Arc;

use bytes::Bytes;
use proptest::{prelude::*, sample::Index};

use super::{
    super::{
        CompactError, HistoryQuery, KeyRange, QUARTERS_PER_PAGE, RangeQuery, ReadError, SliceMax,
        Sliced, Store,
        revision::{RecordKey, Revision},
    },
    hash::{hash, naive_hash},
    model::{Model, Op, State, apply, range_of},
};
use crate::{
    backend::{Backend, Memory, View},
    kernel::{Bucket, WriteBatch},
    pb::mvccpb::Event,
};

/// A store over memory with its model, and what the model was when each batch was cut.
pub struct World {
    pub store: Store,
    pub view: View<Memory>,
    pub model: Model,
    backend: Memory,
    durable: Model,
    flying: Vec<(Arc<WriteBatch>, Model)>,
}

/// A query before the revisions it speaks of exist.
#[derive(Clone, Debug)]
pub struct Ask {
    key: Bytes,
    range_end: Bytes,
    limit: usize,
    shape: u8,
}

#[derive(Clone, Debug)]
enum Step {
    Txn(Vec<Op>, Ask),
    Compact(Index),
    Slice(usize),
    Cut,
    Commit,
    Reload,
    Crash,
    Range(Ask, Index),
    History(Ask, [Index; 2], usize),
    Hash(Index, usize),
}

impl World {
    pub fn new() -> Self {
        let backend = Memory::default();
        let view = View::new(backend.clone()).unwrap();
        Self {
            store: Store::load(&view).unwrap(),
            view,
            model: Model::new(),
            backend,
            durable: Model::new(),
            flying: Vec::new(),
        }
    }

    pub fn txn(&mut self, ops: &[Op]) {
        let ask = Ask {
            key: Bytes::from_static(b"a"),
            range_end: Bytes::from_static(b"\0"),
            limit: 0,
            shape: 0,
        };
        self.txn_asking(ops, &ask);
    }

    /// Runs a transaction; the question is asked between its operations too.
    fn txn_asking(&mut self, ops: &[Op], ask: &Ask) {
        let next = self.model.revision() + 1;
        let mut state = self.model.now().clone();
        let mut events = Vec::new();
        let mut txn = self.store.write(&mut self.view);
        for op in ops {
            match op.clone() {
                Op::Put(key, value, lease) => txn.put(key, value, lease),
                Op::Delete(key, end) => {
                    let range = KeyRange::new(&key, &end);
                    let expected: Vec<Bytes> = state
                        .keys()
                        .filter(|key| range.contains(key))
                        .cloned()
                        .collect();
                    assert_eq!(txn.delete_range(&key, &end), expected);
                }
            }
            apply(op, next, &mut state, &mut events);
            let seen = next - i64::from(events.is_empty());
            let query = ask.query(0);
            let expected = range_of(&state, &query, seen);
            assert_eq!(txn.range(&query), Ok(expected));
            assert_eq!(txn.get(&ask.key), Ok(state.get(&ask.key).cloned()));
            assert_eq!(txn.revision_seen(), seen);
        }
        let committed = txn.finish();
        assert_eq!(committed.events, self.model.txn(ops));
        assert_eq!(committed.revision, self.model.revision());
    }

    pub fn compact(&mut self, revision: i64) {
        let expected = if revision <= self.model.compacted {
            Err(CompactError::Compacted)
        } else if revision > self.model.revision() {
            Err(CompactError::FutureRevision)
        } else {
            self.model.compacted = revision;
            Ok(())
        };
        assert_eq!(self.store.compact(&mut self.view, revision), expected);
    }

    /// One slice; it keeps to its bound.
    pub fn slice(&mut self, records_max: usize) -> bool {
        let before = self.view.open_size().0;
        let running = self.store.compaction_running();
        let max = SliceMax {
            records: records_max,
            quarters: records_max * QUARTERS_PER_PAGE,
        };
        let Sliced { more, quarters } = self.store.compact_slice(&mut self.view, max);
        assert!(
            quarters <= max.quarters,
            "a slice changes no more than it may"
        );
        let marks = usize::from(running);
        assert!(self.view.open_size().0 - before <= records_max + marks);
        assert_eq!(more, self.store.compaction_running());
        more
    }

    fn cut(&mut self) {
        if let Some(batch) = self.view.cut() {
            self.flying.push((batch, self.model.clone()));
        }
    }

    /// The oldest batch on its way becomes durable.
    fn commit(&mut self) {
        if !self.flying.is_empty() {
            let (batch, model) = self.flying.remove(0);
            self.backend.commit(&batch).unwrap();
            self.view.committed().unwrap();
            self.durable = model;
        }
    }

    /// What is not durable is lost, model and store alike.
    fn crash(&mut self) {
        self.flying.clear();
        self.view = View::new(self.backend.clone()).unwrap();
        self.model = self.durable.clone();
        self.store = Store::load(&self.view).unwrap();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Txn(ops, ask) => self.txn_asking(ops, ask),
            Step::Compact(at) => self.compact(self.some_revision(at)),
            Step::Slice(records_max) => {
                self.slice(*records_max);
            }
            Step::Cut => self.cut(),
            Step::Commit => self.commit(),
            Step::Reload => self.store = Store::load(&self.view).unwrap(),
            Step::Crash => self.crash(),
            Step::Range(ask, at) => self.check_range(ask, self.some_revision(at)),
            Step::History(ask, ends, max) => {
                let [from, to] = ends.each_ref().map(|end| self.some_revision(end));
                self.check_history(ask, from, to, *max);
            }
            Step::Hash(at, slice) => {
                let at = self.some_revision(at);
                if at >= self.model.compacted.max(1) && at <= self.model.revision() {
                    let answer = hash(&self.store, &self.view, at, *slice);
                    assert_eq!(answer, naive_hash(&self.model, at));
                }
            }
        }
    }

    /// From below the lowest to above the highest.
    fn some_revision(&self, index: &Index) -> i64 {
        index.index(self.model.states.len() + 3) as i64 - 1
    }

    fn check_range(&self, ask: &Ask, at: i64) {
        let query = ask.query(at);
        let expected = self.model.range(&query);
        assert_eq!(self.store.range(&self.view, &query), expected);
        let counted = self.store.count(query.key, query.range_end, query.revision);
        let whole = RangeQuery {
            count_only: true,
            ..query
        };
        let expected = self.model.range(&whole).map(|result| result.count);
        assert_eq!(counted, expected);
        let one = RangeQuery {
            key: query.key,
            revision: query.revision,
            ..RangeQuery::default()
        };
        let expected = self.model.range(&one).map(|mut result| result.kvs.pop());
        let got = self.store.get(&self.view, query.key, query.revision);
        assert_eq!(got, expected);
    }

    fn check_history(&self, ask: &Ask, from: i64, to: i64, revisions_max: usize) {
        let mut query = HistoryQuery {
            from,
            to,
            key: &ask.key,
            range_end: &ask.range_end,
            revisions_max,
            bytes_max: if ask.limit == 0 { 20 } else { usize::MAX },
        };
        if query.from.max(1) < self.model.compacted {
            let refused = self.store.history(&self.view, &query);
            assert_eq!(refused, Err(ReadError::Compacted));
            return;
        }
        let expected = self.naive_history(&query);
        let mut told = Vec::new();
        loop {
            let part = self.store.history(&self.view, &query).unwrap();
            assert!(part.events.len() <= revisions_max.max(1));
            let inside = |main: i64| main >= query.from && main < part.next;
            assert!(part.events.iter().all(|(main, _)| inside(*main)));
            told.extend(part.events);
            query.from = part.next;
            if part.next > query.to.min(self.model.revision()) {
                break;
            }
        }
        assert_eq!(told, expected);
    }

    fn naive_history(&self, query: &HistoryQuery<'_>) -> Vec<(i64, Vec<Event>)> {
        let range = KeyRange::new(query.key, query.range_end);
        let mut expected = Vec::new();
        for main in query.from.max(1)..=query.to.min(self.model.revision()) {
            let mut events = self.model.log[main as usize].clone();
            events.retain(|event| range.contains(&event.kv.as_ref().unwrap().key));
            if !events.is_empty() {
                expected.push((main, events));
            }
        }
        expected
    }

    /// What must hold at any time: the counters, and that a reload would find the same index, and
    /// beside it only what a compaction has gathered and not removed yet.
    fn check(&self) {
        self.store.check();
        assert_eq!(self.store.revision(), self.model.revision());
        assert_eq!(self.store.compact_revision(), self.model.compacted);
        let (again, leases) = Store::load_with_leases(&self.view).unwrap();
        let mut found = again.index.dump();
        let gathered = self.store.gathered();
        for (_, marks) in &mut found {
            marks.retain(|(record, _)| !gathered.contains(record));
        }
        found.retain(|(_, marks)| !marks.is_empty());
        assert_eq!(found, self.store.index.dump());
        let records = self.records();
        assert!(gathered.iter().all(|record| records.contains(record)));
        assert_eq!(again.revision(), self.store.revision());
        assert_eq!(again.compact_revision(), self.store.compact_revision());
        let expected = self.model.now().values().filter(|kv| kv.lease != 0);
        assert!(
            leases
                .into_iter()
                .eq(expected.map(|kv| (kv.key.clone(), kv.lease)))
        );
    }

    /// Every record the store holds.
    pub fn records(&self) -> Vec<RecordKey> {
        let mut records = Vec::new();
        self.view
            .range(Bucket::Key, b"", None, &mut |key, _| {
                records.push(RecordKey::decode(key).unwrap());
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        records
    }

    /// Every record that must be left once all compactions are finished.
    fn records_kept(&self) -> Vec<RecordKey> {
        let compacted = self.model.compacted;
        let mut kept = Vec::new();
        for (main, events) in (0..).zip(&self.model.log) {
            for (sub, event) in (0..).zip(events) {
                let kv = event.kv.as_ref().unwrap();
                let tombstone = kv.create_revision == 0;
                let lives = || self.model.at(compacted).get(&kv.key) == Some(kv);
                if main >= compacted || (!tombstone && lives()) {
                    kept.push(RecordKey {
                        revision: Revision::new(main, sub),
                        tombstone,
                    });
                }
            }
        }
        kept
    }
}

impl Ask {
    fn query(&self, revision: i64) -> RangeQuery<'_> {
        RangeQuery {
            key: &self.key,
            range_end: &self.range_end,
            revision,
            limit: self.limit,
            count_only: self.shape == 1,
            keys_only: self.shape == 2,
            uncounted: self.shape == 3,
        }
    }
}

/// Few keys, some of them too long to be held inline, so that histories overlap.
fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => (0..4u8).prop_map(|i| Bytes::from(vec![b'a' + i])),
        1 => (0..2u8).prop_map(|i| Bytes::from(vec![b'b' + i; 30])),
    ]
}

fn range_end() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        3 => Just(Bytes::new()),
        1 => Just(Bytes::from_static(b"\0")),
        2 => key(),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (key(), prop::collection::vec(any::<u8>(), 0..6), 0..3i64)
            .prop_map(|(key, value, lease)| Op::Put(key, value.into(), lease)),
        2 => (key(), range_end()).prop_map(|(key, end)| Op::Delete(key, end)),
    ]
}

/// Operations of one transaction. The same key may be put and deleted in any order.
pub fn txn_strategy() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 0..4)
}

fn ask() -> impl Strategy<Value = Ask> {
    (key(), range_end(), 0..4usize, 0..4u8).prop_map(|(key, range_end, limit, shape)| Ask {
        key,
        range_end,
        limit,
        shape,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (txn_strategy(), ask()).prop_map(|(ops, ask)| Step::Txn(ops, ask)),
        2 => any::<Index>().prop_map(Step::Compact),
        4 => (1..4usize).prop_map(Step::Slice),
        2 => Just(Step::Cut),
        2 => Just(Step::Commit),
        1 => Just(Step::Reload),
        1 => Just(Step::Crash),
        4 => (ask(), any::<Index>()).prop_map(|(ask, at)| Step::Range(ask, at)),
        3 => (ask(), any::<[Index; 2]>(), 0..4usize)
            .prop_map(|(ask, ends, max)| Step::History(ask, ends, max)),
        2 => (any::<Index>(), 1..6usize).prop_map(|(at, slice)| Step::Hash(at, slice)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    // Goal: every answer is the model's, at any moment of any interleaving; after all compactions
    // are finished, exactly the records are left that the model says.
    #[test]
    fn the_store_is_the_model(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
        while world.slice(2) {
            world.check();
        }
        prop_assert_eq!(world.records(), world.records_kept());
        prop_assert_eq!(world.store.compaction_finished(), world.model.compacted);
    }

    // Goal: an interruption leaves no trace. Method: one store compacts in one go, the other is
    // thrown back to its last commit again and again; both end as the same bytes.
    #[test]
    fn an_interrupted_compaction_ends_as_a_whole_one(
        txns in prop::collection::vec(txn_strategy(), 1..30),
        at in any::<Index>(),
        crashes in prop::collection::vec((1..4usize, any::<bool>()), 0..12),
    ) {
        let [mut whole, mut torn] = [World::new(), World::new()];
        for world in [&mut whole, &mut torn] {
            for txn in &txns {
                world.txn(txn);
            }
            world.compact(at.index(world.model.states.len()) as i64);
            world.cut();
            world.commit();
        }
        while whole.slice(1000) {}
        for (records, durable) in crashes {
            torn.slice(records);
            if durable {
                torn.cut();
                torn.commit();
            }
            torn.crash();
            torn.check();
        }
        while torn.slice(1) {}
        for world in [&mut whole, &mut torn] {
            world.cut();
            world.commit();
        }
        prop_assert_eq!(whole.backend.image(), torn.backend.image());
        let now = whole.model.revision();
        let hashes = [&whole, &torn].map(|world| hash(&world.store, &world.view, now, 7));
        prop_assert_eq!(hashes[0], hashes[1]);
    }

    // Goal: a damaged file is an error or a history, never a panic. Method: change one record.
    #[test]
    fn damage_is_reported(
        txns in prop::collection::vec(txn_strategy(), 1..10),
        which in any::<Index>(),
        at in any::<Index>(),
        byte in any::<u8>(),
    ) {
        let mut world = World::new();
        for txn in &txns {
            world.txn(txn);
        }
        let records = world.records();
        prop_assume!(!records.is_empty());
        let key = records[which.index(records.len())].encode().to_bytes();
        let mut value = world.view.get(Bucket::Key, &key).unwrap().unwrap().to_vec();
        let at = at.index(value.len());
        value[at] = byte;
        world.view.put(Bucket::Key, key, value.into());
        if let Ok(store) = Store::load(&world.view) {
            let query = RangeQuery { key: b"\0", range_end: b"\0", ..RangeQuery::default() };
            let _ = store.range(&world.view, &query);
        }
    }
}

#[test]
fn the_models_first_states_are_empty() {
    assert_eq!(Model::new().states, [State::new(), State::new()]);
    assert_eq!(Model::new().revision(), 1);
}
