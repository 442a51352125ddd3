//! The backends against a naive model and against each other; the view against a model; images from
//! one store into another.

use std::{collections::BTreeMap, ops::ControlFlow, path::Path, sync::Arc};

use bytes::Bytes;
use fated::{
    backend::{Backend, Bucket, Memory, ReadSnapshot, View, WriteBatch},
    host::{lanes::Lanes, lmdb::Lmdb},
    kernel::{
        DiskError, DiskErrorKind, DiskOp, DiskOutcome, EntryId, Lane, LogIndex, SegmentId,
        SnapshotId, Term,
    },
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
    Defragment,
    Transfer(Vec<Write>, usize),
    Abandon(Vec<Write>, bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => writes().prop_map(Act::Commit),
        2 => Just(Act::Hold),
        1 => any::<Index>().prop_map(Act::Release),
        6 => (bucket(), key(), proptest::option::of(key())).prop_map(|(b, f, t)| Act::Read(b, f, t)),
        1 => Just(Act::Reopen),
        1 => Just(Act::Defragment),
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
            Act::Defragment => {
                self.lmdb().execute(&DiskOp::Defragment).unwrap();
                self.memory.execute(&DiskOp::Defragment).unwrap();
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

/// One act on a view; `Finish` lets the lane complete its oldest commit, `Learn` tells the view.
#[derive(Clone, Debug)]
enum Step {
    Write(Write),
    Cut,
    Finish,
    Learn,
    Refresh,
    Read(Bucket, Bytes, Option<Bytes>, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let value = proptest::option::weighted(0.7, vec(any::<u8>(), 0..4).prop_map(Bytes::from));
    prop_oneof![
        12 => (bucket(), key(), value).prop_map(Step::Write),
        2 => Just(Step::Cut),
        2 => Just(Step::Finish),
        2 => Just(Step::Learn),
        1 => Just(Step::Refresh),
        6 => (bucket(), key(), proptest::option::of(key()), 0..6_usize)
            .prop_map(|(bucket, from, to, limit)| Step::Read(bucket, from, to, limit)),
    ]
}

fn run_view<B: Backend>(backend: B, steps: &[Step]) {
    let mut view = View::new(backend.clone()).unwrap();
    let mut model = Model::default();
    let mut submitted = std::collections::VecDeque::new();
    let mut unlearned = 0;
    for step in steps {
        match step.clone() {
            Step::Write((bucket, key, value)) => {
                model.step(&[(bucket, key.clone(), value.clone())]);
                match value {
                    Some(value) => view.put(bucket, key, value),
                    None => view.delete(bucket, key),
                }
                view.advance(
                    EntryId::new(Term::new(1), LogIndex::new(model.index)),
                    model.index,
                );
            }
            Step::Cut => submitted.extend(view.cut()),
            Step::Finish => {
                if let Some(batch) = submitted.pop_front() {
                    backend.commit(&batch).unwrap();
                    unlearned += 1;
                }
            }
            Step::Learn => {
                if unlearned > 0 {
                    unlearned -= 1;
                    view.committed().unwrap();
                }
            }
            Step::Refresh => view.refresh().unwrap(),
            Step::Read(bucket, from, to, limit) => {
                let mut expected = model.range(bucket, &from, to.as_deref());
                expected.truncate(limit + 1);
                assert_eq!(
                    visit_some(&view, bucket, &from, to.as_deref(), limit),
                    expected
                );
                let value = model.pairs.get(&(bucket, from.clone()));
                assert_eq!(view.get(bucket, &from).unwrap().as_ref(), value);
            }
        }
        assert_eq!(view.flying(), submitted.len() + unlearned);
    }
    for bucket in Bucket::ALL {
        let all = visit_some(&view, bucket, &[], None, usize::MAX);
        assert_eq!(all, model.range(bucket, &[], None));
    }
}

/// Reads up to `limit` keys, and the one at which the visitor says stop.
fn visit_some<B: Backend>(
    view: &View<B>,
    bucket: Bucket,
    from: &[u8],
    to: Option<&[u8]>,
    limit: usize,
) -> Vec<(Bytes, Bytes)> {
    let mut found = Vec::new();
    view.range(bucket, from, to, &mut |key, value| {
        assert!(found.len() <= limit, "visited after the break");
        found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        if found.len() > limit {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })
    .unwrap();
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Goal: the view shows every write at once, wherever its batch is. Method: random writes, cuts
    /// and completions, with early stops of ranges.
    #[test]
    fn view_agrees(steps in vec(step(), 1..120)) {
        run_view(Memory::default(), &steps);
    }

    /// The same over LMDB.
    #[test]
    fn view_agrees_on_lmdb(steps in vec(step(), 1..60)) {
        let dir = directory();
        run_view(Lmdb::open(dir.path()).unwrap(), &steps);
    }

    /// Goal: the forked tables of the memory backend hold many keys in order, and forks are
    /// independent. Method: enough keys to split leaves, in ascending and in random order.
    #[test]
    fn large_images(seeds in vec(any::<u16>(), 1..2_000), ascending in any::<bool>()) {
        let memory = Memory::default();
        let mut model = Model::default();
        for (at, part) in seeds.chunks(300).enumerate() {
            let before = (memory.image(), model.clone());
            let writes: Vec<Write> = part
                .iter()
                .enumerate()
                .map(|(nth, seed)| {
                    let number = if ascending { (at * 300 + nth) as u16 } else { *seed };
                    let key = Bytes::copy_from_slice(&number.to_be_bytes());
                    (Bucket::Key, key, (seed % 5 > 0).then(|| Bytes::from(vec![1; nth % 7])))
                })
                .collect();
            memory.commit(&model.step(&writes)).unwrap();
            check(&before.0, &before.1);
            check(&memory.image(), &model);
        }
        let bytes: usize = model.pairs.iter().map(|((_, key), value)| key.len() + value.len()).sum();
        prop_assert_eq!(memory.image().extent().unwrap().bytes, bytes as u64);
    }
}

fn numbered(bucket: Bucket, key: u64, value: &[u8]) -> Write {
    let key = Bytes::copy_from_slice(&key.to_be_bytes());
    (bucket, key, Some(Bytes::copy_from_slice(value)))
}

/// Goal: a new store is small.
#[test]
fn empty_store_is_small() {
    let dir = directory();
    let lmdb = Lmdb::open(dir.path()).unwrap();
    let size = lmdb.size().unwrap();
    assert!(size.file_bytes < 128 * 1024, "{size:?}");
    assert!(size.used_bytes <= size.file_bytes, "{size:?}");
}

/// Goal: free pages are used again while snapshots come and go. Method: overwrite the same keys for
/// many commits through a view, which takes a snapshot at each.
#[test]
fn churn_stays_bounded() {
    let dir = directory();
    let lmdb = Lmdb::open(dir.path()).unwrap();
    let mut view = View::new(lmdb.clone()).unwrap();
    let mut early = 0;
    for round in 0..400_u64 {
        for key in 0..100_u64 {
            let value = Bytes::from(vec![round as u8; 300 + (key * 37 % 4000) as usize]);
            view.put(
                Bucket::Key,
                Bytes::copy_from_slice(&key.to_be_bytes()),
                value,
            );
        }
        let batch = view.cut().unwrap();
        let size = lmdb.commit(&batch).unwrap();
        view.committed().unwrap();
        if round == 40 {
            early = size.file_bytes;
        }
        assert!(size.used_bytes <= size.file_bytes);
    }
    let late = lmdb.size().unwrap().file_bytes;
    assert!(late <= early + early / 2, "from {early} to {late} bytes");
}

/// Goal: keys that ascend fill their pages, and a defragmentation gives the space of deleted ones
/// back while a snapshot from before still reads.
#[test]
fn defragmentation_gives_space_back() {
    let dir = directory();
    let lmdb = Lmdb::open(dir.path()).unwrap();
    let mut model = Model::default();
    for part in 0..20_u64 {
        let keys = part * 500..(part + 1) * 500;
        let writes: Vec<Write> = keys
            .map(|key| numbered(Bucket::Key, key, &[7; 100]))
            .collect();
        lmdb.commit(&model.step(&writes)).unwrap();
    }
    let full = lmdb.size().unwrap();
    let content = 10_000 * (8 + 100);
    assert!(
        full.used_bytes < content * 5 / 4,
        "{full:?}, content {content}"
    );
    let (before, before_model) = (lmdb.snapshot().unwrap(), model.clone());
    let deletes: Vec<Write> = (0..9_900_u64)
        .map(|key| {
            (
                Bucket::Key,
                Bytes::copy_from_slice(&key.to_be_bytes()),
                None,
            )
        })
        .collect();
    let size = lmdb.commit(&model.step(&deletes)).unwrap();
    assert!(size.file_bytes >= full.file_bytes);
    assert!(size.used_bytes < full.used_bytes / 4, "{size:?}");
    let size = lmdb.defragment().unwrap();
    assert!(size.file_bytes < full.file_bytes / 10, "{size:?}");
    assert_eq!(size, lmdb.size().unwrap());
    check(&before, &before_model);
    check(&lmdb.snapshot().unwrap(), &model);
    lmdb.commit(&model.step(&[numbered(Bucket::Key, 1, b"back")]))
        .unwrap();
    check(&lmdb.snapshot().unwrap(), &model);
}

/// Goal: a damaged or incomplete image is never installed, whatever is sent afterwards.
#[test]
fn damaged_image_is_refused() {
    let source = Lanes::new(Memory::default());
    let writes: Vec<Write> = (0..500)
        .map(|key| numbered(Bucket::Key, key, b"value"))
        .collect();
    source
        .backend()
        .commit(&Model::default().step(&writes))
        .unwrap();
    let id = SnapshotId::new(3);
    let chunks = read_all(&source, id, 2_000);
    let dir = directory();
    let target = Lanes::new(Lmdb::open(dir.path()).unwrap());
    for lost in 0..chunks.len() {
        target.execute(&DiskOp::StageOpen { id }).unwrap();
        for (at, chunk) in chunks.iter().enumerate() {
            let data = chunk.clone();
            if at != lost {
                // The refusal may come here already, and must then last.
                let _ = target.execute(&DiskOp::StageWrite { id, data });
            }
        }
        let error = target.execute(&DiskOp::StageSeal { id }).unwrap_err();
        assert_eq!(error.kind, DiskErrorKind::Corrupt, "{error}");
        let error = target.execute(&DiskOp::StageInstall { id }).unwrap_err();
        assert_eq!(error.kind, DiskErrorKind::Missing, "{error}");
    }
    check(&target.backend().snapshot().unwrap(), &Model::default());
    transfer(&source, &target, id, 1_000).unwrap();
    let installed = target.backend().snapshot().unwrap();
    assert_eq!(installed.extent().unwrap().records, 500);
}

/// Goal: a pinned image is read on one thread while another commits.
#[test]
fn lanes_work_side_by_side() {
    let dir = directory();
    let lanes = Lanes::new(Lmdb::open(dir.path()).unwrap());
    let mut model = Model::default();
    let writes: Vec<Write> = (0..2_000)
        .map(|key| numbered(Bucket::Key, key, &[1; 50]))
        .collect();
    lanes.backend().commit(&model.step(&writes)).unwrap();
    let pinned = model.clone();
    let id = SnapshotId::new(1);
    lanes.execute(&DiskOp::SnapshotOpen { id }).unwrap();
    let reader = lanes.clone();
    let reading = std::thread::spawn(move || {
        let copy = Lanes::new(Memory::default());
        copy.execute(&DiskOp::StageOpen { id }).unwrap();
        let mut cursor = None;
        loop {
            let read = DiskOp::SnapshotRead {
                id,
                cursor,
                bytes_max: 500,
            };
            let DiskOutcome::SnapshotChunk { data, next } = reader.execute(&read).unwrap() else {
                panic!("a read brought no chunk");
            };
            copy.execute(&DiskOp::StageWrite { id, data }).unwrap();
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        copy.execute(&DiskOp::StageSeal { id }).unwrap();
        copy.execute(&DiskOp::StageInstall { id }).unwrap();
        copy.backend().image()
    });
    for round in 0..50_u64 {
        let batch = Arc::new(model.step(&[numbered(Bucket::Key, round * 7, b"changed")]));
        lanes.execute(&DiskOp::Commit { batch }).unwrap();
    }
    lanes.execute(&DiskOp::Defragment).unwrap();
    check(&reading.join().unwrap(), &pinned);
    check(&lanes.backend().snapshot().unwrap(), &model);
}

/// Goal: operations of the log's lanes are refused by name.
#[test]
fn log_operations_are_refused() {
    let lanes = Lanes::new(Memory::default());
    let op = DiskOp::WalRemove {
        before: SegmentId::new(1),
    };
    assert_eq!(op.lane(), Lane::Keep);
    let error = lanes.execute(&op).unwrap_err();
    assert!(error.detail.contains("Keep"), "{error}");
}

/// Goal: what a crash leaves of the memory backend is its commits and a sealed image, and the dead
/// node's lanes reach it no more.
#[test]
fn memory_after_crash() {
    let memory = Memory::default();
    let mut model = Model::default();
    memory
        .commit(&model.step(&[numbered(Bucket::Key, 1, b"a")]))
        .unwrap();
    let id = SnapshotId::new(9);
    memory.stage_open(id).unwrap();
    memory.stage_write(id, &model.clone().step(&[])).unwrap();
    let unsealed = memory.after_crash();
    memory.stage_seal(id).unwrap();
    let sealed = memory.after_crash();
    let image = memory.image();
    memory
        .commit(&model.clone().step(&[numbered(Bucket::Key, 2, b"b")]))
        .unwrap();
    assert_eq!(unsealed.sealed().unwrap(), None);
    assert_eq!(sealed.sealed().unwrap().map(|(id, _)| id), Some(id));
    for store in [&unsealed, &sealed] {
        check(&store.image(), &model);
        assert_eq!(store.image(), image);
        assert_ne!(store.image(), memory.image());
    }
    assert!(unsealed.stage_install(id).is_err());
    sealed.stage_install(id).unwrap();
    assert_eq!(sealed.image().extent().unwrap().records, 0);
}
