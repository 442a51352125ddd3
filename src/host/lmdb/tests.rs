//! Crashes between every two steps of what changes names and files; damaged files.

use std::{
    cell::Cell,
    fs,
    ops::ControlFlow,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;

use super::{Lmdb, layout::DATA_FILE, pages, store};
use crate::{
    backend::{Backend, Bucket, ReadSnapshot, WriteBatch},
    kernel::{DiskError, DiskErrorKind, EntryId, LogIndex, SnapshotId, Term},
};

/// Stops everything after a number of steps, as a crash would, or fails one step.
#[derive(Debug)]
pub struct Stops {
    left: AtomicU64,
    once: AtomicBool,
}

impl Default for Stops {
    fn default() -> Self {
        Self {
            left: AtomicU64::new(u64::MAX),
            once: AtomicBool::new(false),
        }
    }
}

impl Stops {
    /// Lets this many steps pass and refuses all later ones.
    pub fn after(&self, steps: u64) {
        self.left.store(steps, Ordering::SeqCst);
    }

    /// Fails the step after this many, and none after it.
    pub fn fail_one(&self, steps: u64) {
        self.after(steps);
        self.once.store(true, Ordering::SeqCst);
    }

    pub fn pass(&self, name: &'static str) -> Result<(), DiskError> {
        let left = self.left.load(Ordering::SeqCst);
        if left == 0 {
            if self.once.load(Ordering::SeqCst) {
                self.after(u64::MAX);
            }
            return Err(DiskError::new(DiskErrorKind::Io, name));
        }
        self.left.store(left - 1, Ordering::SeqCst);
        Ok(())
    }
}

/// A store and a batch that tells one state from another.
pub fn batch(state: u64) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for key in 0..50_u64 {
        let key = Bytes::copy_from_slice(&key.to_be_bytes());
        batch.put(Bucket::Key, key, Bytes::from(format!("state {state}")));
    }
    let index = LogIndex::new(state);
    batch.consistent = EntryId::new(Term::new(1), index);
    batch.state_hash = state;
    batch
}

fn state(lmdb: &Lmdb) -> u64 {
    let snapshot = lmdb.snapshot().unwrap();
    let state = snapshot.state_hash().unwrap();
    let mut keys = 0;
    snapshot
        .range(Bucket::Key, &[], None, &mut |_, value| {
            assert_eq!(value, format!("state {state}").as_bytes());
            keys += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(keys, if state == 0 { 0 } else { 50 });
    assert_eq!(snapshot.consistent().unwrap().index.get(), state);
    state
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Runs `act` on a store in state 1, stopped after each number of steps in turn, and hands what the
/// next start finds to `check`. Answers how many steps there are.
fn crash_everywhere(
    act: impl Fn(&Lmdb) -> Result<(), DiskError>,
    check: impl Fn(&Lmdb, u64),
) -> u64 {
    for steps in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let lmdb = Lmdb::open(dir.path()).unwrap();
        lmdb.commit(&batch(1)).unwrap();
        lmdb.shared.stops.after(steps);
        let done = act(&lmdb).is_ok();
        drop(lmdb);
        let lmdb = Lmdb::open(dir.path()).unwrap();
        let rubbish = names(dir.path())
            .into_iter()
            .filter(|name| !name.starts_with("sealed-"))
            .count();
        assert_eq!(rubbish, 1, "one store after {steps} steps");
        check(&lmdb, steps);
        lmdb.commit(&batch(900)).unwrap();
        assert_eq!(state(&lmdb), 900);
        if done {
            return steps;
        }
    }
    unreachable!("the steps of an operation are few")
}

fn stage(lmdb: &Lmdb, id: SnapshotId) -> Result<(), DiskError> {
    lmdb.stage_open(id)?;
    lmdb.stage_write(id, &batch(2))?;
    lmdb.stage_seal(id)
}

/// Goal: a defragmentation that is interrupted changes nothing. Method: stop before each step.
#[test]
fn interrupted_defragmentation() {
    let steps = crash_everywhere(
        |lmdb| lmdb.defragment().map(drop),
        |lmdb, _| {
            assert_eq!(state(lmdb), 1);
            assert_eq!(lmdb.sealed().unwrap(), None);
        },
    );
    assert_eq!(steps, 8);
}

/// Goal: a rewriting in parts with commits between them loses none, wherever it is stopped, and an
/// unfinished copy is rubbish. Method: stop before each step; the last commit must be there.
#[test]
fn interrupted_between_parts() {
    let last = Cell::new(1);
    let steps = crash_everywhere(
        |lmdb| {
            last.set(1);
            for index in 2.. {
                if let Some(size) = lmdb.defragment_part(300)? {
                    assert_eq!(size, lmdb.size()?);
                    return lmdb.remove_replaced();
                }
                lmdb.commit(&batch(index))?;
                last.set(index);
            }
            unreachable!("each part copies more than was committed")
        },
        |lmdb, _| assert_eq!(state(lmdb), last.get()),
    );
    assert_eq!(steps, 9, "a part more than in one go");
}

/// Goal: a store that was replaced keeps its files while somebody reads it, and no longer.
#[test]
fn replaced_stores_go_with_their_last_reader() {
    let dir = tempfile::tempdir().unwrap();
    let lmdb = Lmdb::open(dir.path()).unwrap();
    lmdb.commit(&batch(1)).unwrap();
    let reader = lmdb.snapshot().unwrap();
    lmdb.defragment().unwrap();
    let both = ["store-0000000000000001", "store-0000000000000002"];
    assert_eq!(names(dir.path()), both);
    lmdb.commit(&batch(2)).unwrap();
    assert_eq!(reader.state_hash().unwrap(), 1);
    lmdb.remove_replaced().unwrap();
    assert_eq!(names(dir.path()), both);
    drop(reader);
    lmdb.remove_replaced().unwrap();
    assert_eq!(names(dir.path()), both[1..]);
    assert_eq!(state(&lmdb), 2);
}

/// Goal: an image ends a rewriting that is under way, and nothing of the copy comes back.
#[test]
fn what_entries_take_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let lmdb = Lmdb::open(dir.path()).unwrap();
    let check = |lmdb: &Lmdb| {
        let snapshot = lmdb.snapshot().unwrap();
        let (counted, walked) = snapshot.filled(lmdb.live().store.page_bytes());
        assert_eq!(counted, Some(walked));
    };
    for round in 0..40_u64 {
        let mut batch = WriteBatch::default();
        for number in 0..60 {
            let seed = round * 31 + number * 7;
            let long = if seed % 11 == 0 { 600 } else { 4 };
            let mut key = vec![b'k'; long];
            key.extend((seed % 97).to_be_bytes());
            if seed % 3 == 0 {
                batch.delete(Bucket::Key, key.into());
            } else {
                let value = vec![0; (seed * 53 % 5000) as usize];
                batch.put(Bucket::Key, key.into(), value.into());
            }
        }
        lmdb.commit(&batch).unwrap();
        check(&lmdb);
        if round % 7 < 6 {
            lmdb.defragment_part(20_000).unwrap();
        }
        check(&lmdb);
    }
}

#[test]
fn an_image_ends_a_rewriting() {
    let dir = tempfile::tempdir().unwrap();
    let lmdb = Lmdb::open(dir.path()).unwrap();
    lmdb.commit(&batch(1)).unwrap();
    assert_eq!(lmdb.defragment_part(1).unwrap(), None);
    let id = SnapshotId::new(3);
    stage(&lmdb, id).unwrap();
    lmdb.stage_install(id).unwrap();
    lmdb.commit(&batch(3)).unwrap();
    lmdb.remove_replaced().unwrap();
    assert_eq!(names(dir.path()), ["store-0000000000000002"]);
    lmdb.defragment().unwrap();
    assert_eq!(state(&lmdb), 3);
}

/// Goal: an image that arrives is there after the seal or not at all, and can then be installed.
#[test]
fn interrupted_stage() {
    let id = SnapshotId::new(4);
    let sealed = Cell::new(0);
    let steps = crash_everywhere(
        |lmdb| stage(lmdb, id),
        |lmdb, _| {
            assert_eq!(state(lmdb), 1);
            let Some(found) = lmdb.sealed().unwrap() else {
                assert!(lmdb.stage_install(id).is_err());
                return;
            };
            assert_eq!(found, (id, batch(2).consistent));
            lmdb.stage_install(id).unwrap();
            assert_eq!(state(lmdb), 2);
            sealed.set(sealed.get() + 1);
        },
    );
    assert_eq!(steps, 5);
    assert_eq!(
        sealed.get(),
        2,
        "before and after the rename was made durable"
    );
}

/// Goal: an interrupted install is finished or waits to be; never lost, never half.
#[test]
fn interrupted_install() {
    let id = SnapshotId::new(7);
    let states = std::cell::RefCell::new(Vec::new());
    let steps = crash_everywhere(
        |lmdb| {
            let left = lmdb.shared.stops.left.swap(u64::MAX, Ordering::SeqCst);
            stage(lmdb, id).unwrap();
            lmdb.shared.stops.after(left);
            lmdb.stage_install(id).map(drop)
        },
        |lmdb, _| {
            let waits = lmdb.sealed().unwrap();
            assert_eq!(waits.is_some(), state(lmdb) == 1);
            states.borrow_mut().push(state(lmdb));
            if let Some((id, _)) = waits {
                lmdb.stage_install(id).unwrap();
            }
            assert_eq!(state(lmdb), 2);
        },
    );
    assert_eq!(steps, 3);
    assert_eq!(*states.borrow(), [1, 2, 2, 2]);
}

/// Goal: a dropped image is there or gone, and never found half-removed.
#[test]
fn interrupted_drop() {
    let id = SnapshotId::new(7);
    let steps = crash_everywhere(
        |lmdb| {
            let left = lmdb.shared.stops.left.swap(u64::MAX, Ordering::SeqCst);
            stage(lmdb, id).unwrap();
            lmdb.shared.stops.after(left);
            lmdb.stage_drop(id)
        },
        |lmdb, _| {
            assert_eq!(state(lmdb), 1);
            assert_eq!(lmdb.sealed().unwrap(), None);
        },
    );
    assert_eq!(steps, 1);
}

/// Goal: a start that was itself interrupted leaves nothing that stops the next one.
#[test]
fn interrupted_creation() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/store");
    fs::create_dir_all(path.join("fresh")).unwrap();
    fs::write(path.join("fresh").join(DATA_FILE), b"half").unwrap();
    fs::create_dir(path.join("stage-1")).unwrap();
    fs::write(path.join("notes.txt"), b"not ours").unwrap();
    let lmdb = Lmdb::open(&path).unwrap();
    assert_eq!(state(&lmdb), 0);
    assert_eq!(names(&path), ["notes.txt", "store-0000000000000001"]);
}

/// Goal: after a failed switch no write is taken any more.
#[test]
fn failure_is_final() {
    let dir = tempfile::tempdir().unwrap();
    let lmdb = Lmdb::open(dir.path()).unwrap();
    lmdb.shared.stops.after(5);
    let failure = lmdb.defragment().unwrap_err();
    lmdb.shared.stops.after(u64::MAX);
    assert_eq!(lmdb.commit(&batch(1)).unwrap_err(), failure);
    assert_eq!(lmdb.defragment().unwrap_err(), failure);
}

/// Goal: a failed copy leaves a store that works, and no remains. Method: fail each step of it.
#[test]
fn failed_copy_is_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let lmdb = Lmdb::open(dir.path()).unwrap();
    for steps in 0..3 {
        lmdb.commit(&batch(1 + steps)).unwrap();
        lmdb.shared.stops.fail_one(steps);
        let failure = lmdb.defragment().unwrap_err();
        assert!(failure.detail.starts_with("copy"), "{failure}");
        assert_eq!(names(dir.path()), ["store-0000000000000001"]);
    }
    lmdb.commit(&batch(4)).unwrap();
    assert_eq!(state(&lmdb), 4);
    lmdb.defragment().unwrap();
    assert_eq!(names(dir.path()), ["store-0000000000000002"]);
}

/// Goal: a file that was cut is refused with words, where mapping it would kill the process.
/// Method: cut at every page.
#[test]
fn truncated_file() {
    let dir = tempfile::tempdir().unwrap();
    let lmdb = Lmdb::open(dir.path()).unwrap();
    let mut large = batch(1);
    let value = Bytes::from(vec![7; 20_000]);
    large.put(Bucket::Cluster, Bytes::from_static(b"large"), value);
    lmdb.commit(&large).unwrap();
    lmdb.defragment().unwrap();
    drop(lmdb);
    let file = dir.path().join("store-0000000000000002").join(DATA_FILE);
    let whole = fs::read(&file).unwrap();
    pages::check_length(&file).unwrap();
    let mut refused = 0;
    for length in (0..whole.len()).step_by(4096) {
        fs::write(&file, &whole[..length]).unwrap();
        let error = match Lmdb::open(dir.path()) {
            Err(error) => error,
            // The pages at the end may be free.
            Ok(lmdb) => {
                assert_eq!(state(&lmdb), 1);
                continue;
            }
        };
        assert_eq!(error.kind, DiskErrorKind::Corrupt, "{error}");
        refused += 1;
    }
    assert!(refused >= 10, "only {refused} cuts were refused");
    fs::remove_file(&file).unwrap();
    assert!(Lmdb::open(dir.path()).is_err());
}

/// Goal: a file that ends before pages that are free is taken. Method: both metas claim more pages
/// than there are, which sends the check through the trees.
#[test]
fn short_file_with_whole_trees() {
    let dir = tempfile::tempdir().unwrap();
    let lmdb = Lmdb::open(dir.path()).unwrap();
    let mut many = WriteBatch::default();
    for key in 0..5_000_u64 {
        let key = Bytes::copy_from_slice(&key.to_be_bytes());
        many.put(Bucket::Key, key, Bytes::from_static(&[1; 100]));
    }
    many.put(Bucket::Auth, Bytes::from_static(b"a"), vec![1; 9000].into());
    lmdb.commit(&many).unwrap();
    let file = lmdb.live().store.dir().join(DATA_FILE);
    drop(lmdb);
    let mut bytes = fs::read(&file).unwrap();
    for meta in [0, 4096] {
        let claimed = (bytes.len() / 4096 + 100) as u64;
        bytes[meta + 136..meta + 144].copy_from_slice(&claimed.to_ne_bytes());
    }
    fs::write(&file, &bytes).unwrap();
    pages::check_length(&file).unwrap();
    let half = bytes.len() / 2 / 4096 * 4096;
    fs::write(&file, &bytes[..half]).unwrap();
    assert!(pages::check_length(&file).is_err());
}

/// Goal: a value whose last page is missing is noticed. Method: free pages take the tree, so that
/// the large value comes last in the file.
#[test]
fn cut_value() {
    let dir = tempfile::tempdir().unwrap();
    let lmdb = Lmdb::open(dir.path()).unwrap();
    for state in 1..20 {
        lmdb.commit(&batch(state)).unwrap();
    }
    let mut large = WriteBatch::default();
    large.put(
        Bucket::Key,
        Bytes::from_static(b"a"),
        vec![1; 90_000].into(),
    );
    let size = lmdb.commit(&large).unwrap();
    let file = lmdb.live().store.dir().join(DATA_FILE);
    drop(lmdb);
    pages::check_length(&file).unwrap();
    let bytes = fs::read(&file).unwrap();
    assert_eq!(bytes.len() as u64, size.file_bytes);
    assert_eq!(
        bytes.last(),
        Some(&0),
        "the value does not fill its last page"
    );
    assert_eq!(bytes[bytes.len() - 4096], 1, "the value comes last");
    fs::write(&file, &bytes[..bytes.len() - 4096]).unwrap();
    let error = pages::check_length(&file).unwrap_err();
    assert_eq!(error.kind, DiskErrorKind::Corrupt);
    assert!(error.detail.contains("cut short"), "{error}");
}

/// Goal: garbage is refused. Method: another file's bytes in place of the store.
#[test]
fn garbage_file() {
    let dir = tempfile::tempdir().unwrap();
    drop(Lmdb::open(dir.path()).unwrap());
    let file = dir.path().join("store-0000000000000001").join(DATA_FILE);
    fs::write(&file, vec![0x5a; 100_000]).unwrap();
    let error = Lmdb::open(dir.path()).unwrap_err();
    assert_eq!(error.kind, DiskErrorKind::Corrupt);
    assert!(error.detail.contains("data.mdb"), "{error}");
}

/// Goal: a full disk and a full map are told apart from a broken one, with advice.
#[test]
fn full_is_recognised() {
    let path = Path::new("/data");
    let no_space = heed::Error::Io(std::io::Error::from_raw_os_error(28));
    let full = store::error(path, no_space);
    assert_eq!(full.kind, DiskErrorKind::Full);
    assert!(full.detail.contains("free space"), "{full}");
    let full = store::error(path, heed::Error::Mdb(heed::MdbError::MapFull));
    assert_eq!(full.kind, DiskErrorKind::Full);
    assert!(full.detail.contains("defragment"), "{full}");
    let broken = heed::Error::Io(std::io::Error::from_raw_os_error(5));
    assert_eq!(store::error(path, broken).kind, DiskErrorKind::Io);
}

/// Goal: one process does not open a store twice.
#[test]
fn opened_once() {
    let dir = tempfile::tempdir().unwrap();
    let lmdb = Lmdb::open(dir.path()).unwrap();
    let id = SnapshotId::new(1);
    lmdb.stage_open(id).unwrap();
    assert!(Lmdb::open(dir.path()).is_err());
    lmdb.stage_write(id, &batch(2)).unwrap();
    lmdb.stage_seal(id).unwrap();
    drop(lmdb);
    Lmdb::open(dir.path()).unwrap();
}
