//! The backends against a naive model and against each other; the view against a model; images from
//! one store into another.

mod cases;
mod churn;
mod view;

use std::{collections::BTreeMap, ops::ControlFlow, path::Path, sync::Arc};

use bytes::Bytes;
use fated::{
    backend::{Backend, Bucket, Memory, ReadSnapshot, WriteBatch},
    host::{lanes::Lanes, lmdb::Lmdb},
    kernel::{DiskError, DiskErrorKind, DiskOp, DiskOutcome, EntryId, LogIndex, SnapshotId, Term},
};
use proptest::{collection::vec, prelude::*, sample::Index};
use tempfile::TempDir;

/// The simplest store: one map, and the entry it stands at.
#[derive(Clone, Default, PartialEq, Debug)]
struct Model {
    pairs: BTreeMap<(Bucket, Bytes), Bytes>,
    index: u64,
}

/// A bucket, a key, and what is to become of it.
type Write = (Bucket, Bytes, Option<Bytes>);

impl Model {
    /// Applies writes and answers the batch that does the same to a backend.
    fn step(&mut self, writes: &[Write]) -> WriteBatch {
        let mut batch = WriteBatch::default();
        for (bucket, key, value) in writes {
            match value.clone() {
                Some(value) => {
                    batch.put(*bucket, key.clone(), value.clone());
                    self.pairs.insert((*bucket, key.clone()), value);
                }
                None => {
                    batch.delete(*bucket, key.clone());
                    self.pairs.remove(&(*bucket, key.clone()));
                }
            }
        }
        self.index += 1;
        batch.consistent = EntryId::new(Term::new(5), LogIndex::new(self.index));
        batch.state_hash = !self.index;
        batch
    }

    fn range(&self, bucket: Bucket, from: &[u8], to: Option<&[u8]>) -> Vec<(Bytes, Bytes)> {
        let inside = |key: &[u8]| key >= from && to.is_none_or(|to| key < to);
        self.pairs
            .iter()
            .filter(|((at, key), _)| *at == bucket && inside(key))
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect()
    }
}

/// Everything a snapshot shows is what the model holds.
fn check<S: ReadSnapshot>(snapshot: &S, model: &Model) {
    for bucket in Bucket::ALL {
        assert_eq!(
            collect(snapshot, bucket, &[], None),
            model.range(bucket, &[], None)
        );
    }
    let extent = snapshot.extent().unwrap();
    assert_eq!(extent.records, model.pairs.len() as u64);
    assert_eq!(snapshot.consistent().unwrap().index.get(), model.index);
    let hash = if model.index == 0 { 0 } else { !model.index };
    assert_eq!(snapshot.state_hash().unwrap(), hash);
}

fn collect<S: ReadSnapshot>(
    snapshot: &S,
    bucket: Bucket,
    from: &[u8],
    to: Option<&[u8]>,
) -> Vec<(Bytes, Bytes)> {
    let mut found = Vec::new();
    snapshot
        .range(bucket, from, to, &mut |key, value| {
            found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

/// Moves an image from one store into another through lanes, and installs it.
fn transfer<A: Backend, B: Backend>(
    from: &Lanes<A>,
    to: &Lanes<B>,
    id: SnapshotId,
    bytes_max: usize,
) -> Result<(), DiskError> {
    to.execute(&DiskOp::StageOpen { id })?;
    for data in read_all(from, id, bytes_max) {
        to.execute(&DiskOp::StageWrite { id, data })?;
    }
    to.execute(&DiskOp::StageSeal { id })?;
    to.execute(&DiskOp::StageInstall { id })?;
    Ok(())
}

/// The chunks of the state a store is in.
fn read_all<B: Backend>(lanes: &Lanes<B>, id: SnapshotId, bytes_max: usize) -> Vec<Bytes> {
    let opened = lanes.execute(&DiskOp::SnapshotOpen { id }).unwrap();
    assert!(matches!(opened, DiskOutcome::SnapshotOpened { .. }));
    let mut chunks = Vec::new();
    let mut cursor = None;
    loop {
        let read = DiskOp::SnapshotRead {
            id,
            cursor,
            bytes_max,
        };
        let DiskOutcome::SnapshotChunk { data, next } = lanes.execute(&read).unwrap() else {
            panic!("a read brought no chunk");
        };
        chunks.push(data);
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    lanes.execute(&DiskOp::SnapshotClose { id }).unwrap();
    let read = DiskOp::SnapshotRead {
        id,
        cursor: None,
        bytes_max,
    };
    let closed = lanes.execute(&read).unwrap_err();
    assert_eq!(closed.kind, DiskErrorKind::Missing);
    chunks
}

/// A directory in memory where there is one: these tests are about content, not about the device.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

fn bucket() -> impl Strategy<Value = Bucket> {
    prop_oneof![3 => Just(Bucket::Key), 1 => Just(Bucket::AuthUsers), 1 => Just(Bucket::Meta)]
}

/// Few short keys, so that they meet, and long ones around the length that LMDB takes.
fn key() -> impl Strategy<Value = Bytes> {
    let long = (509..515_usize, vec(0..3_u8, 0..3)).prop_map(|(length, tail)| {
        let mut key = vec![1; length];
        key.extend(tail);
        key
    });
    prop_oneof![6 => vec(0..3_u8, 1..5), 1 => long].prop_map(Bytes::from)
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let value = prop_oneof![
        8 => vec(any::<u8>(), 0..12),
        1 => vec(any::<u8>(), 5_000..9_000),
    ];
    let value = proptest::option::weighted(0.7, value.prop_map(Bytes::from));
    vec((bucket(), key(), value), 0..20)
}

#[derive(Clone, Debug)]
enum Act {
    Commit(Vec<Write>),
    Hold,
    Release(Index),
    Read(Bucket, Bytes, Option<Bytes>),
    Reopen,
    /// One part of a rewriting, which may be the last.
    Rewrite(usize),
    RemoveReplaced,
    Transfer(Vec<Write>, usize),
    Abandon(Vec<Write>, bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => writes().prop_map(Act::Commit),
        2 => Just(Act::Hold),
        1 => any::<Index>().prop_map(Act::Release),
        6 => (bucket(), key(), proptest::option::of(key()))
            .prop_map(|(bucket, from, to)| Act::Read(bucket, from, to)),
        1 => Just(Act::Reopen),
        6 => (1..6000_usize).prop_map(Act::Rewrite),
        1 => Just(Act::RemoveReplaced),
        1 => (writes(), 1..20_000_usize).prop_map(|(w, bytes)| Act::Transfer(w, bytes)),
        1 => (writes(), any::<bool>()).prop_map(|(w, seal)| Act::Abandon(w, seal)),
    ]
}

/// Both backends, the model, and snapshots with the model of their time.
struct Pair {
    dir: TempDir,
    lmdb: Option<Lanes<Lmdb>>,
    memory: Lanes<Memory>,
    model: Model,
    held: Vec<(
        <Lmdb as Backend>::Snapshot,
        <Memory as Backend>::Snapshot,
        Model,
    )>,
    next_id: u64,
}

impl Pair {
    fn new() -> Self {
        let dir = directory();
        let lmdb = Lanes::new(Lmdb::open(dir.path()).unwrap());
        Self {
            dir,
            lmdb: Some(lmdb),
            memory: Lanes::new(Memory::default()),
            model: Model::default(),
            held: Vec::new(),
            next_id: 1,
        }
    }

    fn lmdb(&self) -> &Lanes<Lmdb> {
        self.lmdb.as_ref().expect("closed only while it reopens")
    }

    fn id(&mut self) -> SnapshotId {
        self.next_id += 1;
        SnapshotId::new(self.next_id)
    }

    fn run(&mut self, act: &Act) {
        match act {
            Act::Commit(writes) => {
                let batch = Arc::new(self.model.step(writes));
                let commit = DiskOp::Commit { batch };
                self.lmdb().execute(&commit).unwrap();
                self.memory.execute(&commit).unwrap();
            }
            Act::Hold => {
                let lmdb = self.lmdb().backend().snapshot().unwrap();
                let memory = self.memory.backend().snapshot().unwrap();
                self.held.push((lmdb, memory, self.model.clone()));
            }
            Act::Release(index) => {
                if !self.held.is_empty() {
                    self.held.swap_remove(index.index(self.held.len()));
                }
            }
            Act::Read(bucket, from, to) => self.read(*bucket, from, to.as_deref()),
            Act::Reopen => {
                self.held.clear();
                self.lmdb = None;
                self.lmdb = Some(Lanes::new(Lmdb::open(self.dir.path()).unwrap()));
                self.memory = Lanes::new(self.memory.backend().after_crash());
            }
            Act::Rewrite(bytes_max) => {
                let bytes_max = *bytes_max;
                let part = DiskOp::Defragment { bytes_max };
                self.lmdb().execute(&part).unwrap();
                self.memory.execute(&part).unwrap();
            }
            Act::RemoveReplaced => {
                self.lmdb().execute(&DiskOp::RemoveReplaced).unwrap();
                self.memory.execute(&DiskOp::RemoveReplaced).unwrap();
            }
            Act::Transfer(writes, bytes_max) => self.transfer(writes, *bytes_max),
            Act::Abandon(writes, seal) => self.abandon(writes, *seal),
        }
    }

    fn read(&self, bucket: Bucket, from: &[u8], to: Option<&[u8]>) {
        let expected = self.model.range(bucket, from, to);
        let lmdb = self.lmdb().backend().snapshot().unwrap();
        let memory = self.memory.backend().snapshot().unwrap();
        assert_eq!(collect(&lmdb, bucket, from, to), expected);
        assert_eq!(collect(&memory, bucket, from, to), expected);
        let value = self
            .model
            .pairs
            .get(&(bucket, Bytes::copy_from_slice(from)));
        assert_eq!(lmdb.get(bucket, from).unwrap().as_ref(), value);
        assert_eq!(memory.get(bucket, from).unwrap().as_ref(), value);
    }

    /// Installs the image of a store that is ahead, and takes one out again.
    fn transfer(&mut self, writes: &[Write], bytes_max: usize) {
        let ahead = Lanes::new(Memory::from_image(self.memory.backend().image()));
        ahead.backend().commit(&self.model.step(writes)).unwrap();
        let (id, copy) = (self.id(), Lanes::new(Memory::default()));
        transfer(&ahead, self.lmdb(), id, bytes_max).unwrap();
        transfer(&ahead, &self.memory, id, bytes_max).unwrap();
        transfer(self.lmdb(), &copy, id, bytes_max).unwrap();
        check(&copy.backend().image(), &self.model);
    }

    /// Stages an image that is never installed.
    fn abandon(&mut self, writes: &[Write], seal: bool) {
        let id = self.id();
        let batch = Model::default().step(writes);
        let (lmdb, memory) = (self.lmdb().backend(), self.memory.backend());
        lmdb.stage_open(id).unwrap();
        memory.stage_open(id).unwrap();
        lmdb.stage_write(id, &batch).unwrap();
        memory.stage_write(id, &batch).unwrap();
        assert!(lmdb.stage_install(id).is_err(), "it is not sealed");
        assert!(memory.stage_install(id).is_err(), "it is not sealed");
        if seal {
            lmdb.stage_seal(id).unwrap();
            memory.stage_seal(id).unwrap();
        } else {
            lmdb.stage_drop(id).unwrap();
            memory.stage_drop(id).unwrap();
        }
    }

    fn check(&self) {
        let lmdb = self.lmdb().backend();
        let memory = self.memory.backend();
        check(&lmdb.snapshot().unwrap(), &self.model);
        check(&memory.snapshot().unwrap(), &self.model);
        assert_eq!(lmdb.sealed().unwrap(), memory.sealed().unwrap());
        for (lmdb, memory, model) in &self.held {
            check(lmdb, model);
            check(memory, model);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Goal: LMDB, memory and the model never differ, nor do snapshots from their moment. Method:
    /// random acts, everything compared after each.
    #[test]
    fn backends_agree(acts in vec(act(), 1..40)) {
        let mut pair = Pair::new();
        for act in &acts {
            pair.run(act);
            pair.check();
        }
    }
}
