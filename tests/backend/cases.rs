//! Single cases: sizes, space given back, damaged images, lanes side by side, crashes of the memory
//! backend.

use fated::{
    backend::View,
    kernel::{Lane, SegmentId},
};

use super::*;

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
    lanes.backend().defragment().unwrap();
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
    assert!(unsealed.stage_seal(id).is_err());
    assert!(unsealed.stage_install(id).is_err());
    sealed.stage_install(id).unwrap();
    assert_eq!(sealed.image().extent().unwrap().records, 0);
}
