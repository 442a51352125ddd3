//! The order of what makes data and names durable, held against what a power cut may take.
//!
//! A killed process leaves the page cache behind, so neither a test that stops a store nor the
//! simulator, which copies the files of a member that dies, sees a sync that is missing. Here the
//! calls are recorded, and the record shows whether a name was given to what might be lost.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{Lmdb, layout::DATA_FILE, tests::batch};
use crate::{backend::Backend, kernel::SnapshotId};

/// What a power cut must not find in another order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// A directory was made, and the files of a store in it.
    Create(PathBuf),
    /// A transaction was committed to the store in a directory.
    Write(PathBuf),
    /// A file or a directory was made durable.
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    /// A directory was removed, or a file in it shortened.
    Remove(PathBuf),
}

thread_local! {
    static CALLS: RefCell<Vec<Call>> = const { RefCell::new(Vec::new()) };
}

/// Adds to the record of this thread.
pub fn note(call: Call) {
    CALLS.with_borrow_mut(|calls| calls.push(call));
}

/// What was recorded on this thread so far.
fn take() -> Vec<Call> {
    CALLS.take()
}

fn is_store(dir: &Path) -> bool {
    let name = dir.file_name().expect("a directory of ours");
    name.to_string_lossy().starts_with("store-")
}

/// Says what of a record a power cut could turn into a loss.
fn check(home: &Path, calls: &[Call]) -> Result<(), String> {
    let mut unsynced_data = BTreeSet::new();
    let mut unsynced_files = BTreeSet::new();
    let mut unsynced_name = None;
    for call in calls {
        match call {
            Call::Create(dir) => {
                unsynced_data.insert(dir.clone());
                unsynced_files.insert(dir.clone());
            }
            Call::Write(dir) => {
                if unsynced_name.as_ref() == Some(dir) {
                    return Err(format!("{dir:?} is written to before its name is durable"));
                }
                // The commits of a live store are synced one by one.
                if !is_store(dir) {
                    unsynced_data.insert(dir.clone());
                }
            }
            Call::Sync(path) if path == home => unsynced_name = None,
            Call::Sync(path) if path.ends_with(DATA_FILE) => {
                unsynced_data.remove(path.parent().expect("a file in a directory"));
            }
            Call::Sync(path) => {
                unsynced_files.remove(path);
            }
            Call::Rename(from, to) => {
                if unsynced_data.contains(from) {
                    return Err(format!("{from:?} is renamed before its data are durable"));
                }
                if unsynced_files.contains(from) {
                    return Err(format!("{from:?} is renamed before its files are durable"));
                }
                unsynced_name = Some(to.clone());
            }
            Call::Remove(dir) => {
                if is_store(dir) && unsynced_name.is_some() {
                    return Err(format!(
                        "{dir:?} is removed before its heir's name is durable"
                    ));
                }
                unsynced_data.remove(dir);
                unsynced_files.remove(dir);
            }
        }
    }
    match unsynced_name {
        Some(name) => Err(format!("{name:?} is left without its name being durable")),
        None => Ok(()),
    }
}

/// Goal: no name is given to what a power cut could take, and nothing goes before its heir stays.
/// Method: check the record of a life with rewritings and an image; then leave out of it all syncs
/// of one kind, as a bug would, and see that each is missed.
#[test]
fn what_gets_a_name_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    take();
    let lmdb = Lmdb::open(home).unwrap();
    lmdb.commit(&batch(1)).unwrap();
    for index in 2.. {
        let is_done = lmdb.defragment_part(300).unwrap().is_some();
        lmdb.commit(&batch(index)).unwrap();
        if is_done {
            break;
        }
    }
    lmdb.remove_replaced().unwrap();
    let id = SnapshotId::new(3);
    lmdb.stage_open(id).unwrap();
    lmdb.stage_write(id, &batch(90)).unwrap();
    lmdb.stage_seal(id).unwrap();
    lmdb.stage_install(id).unwrap();
    lmdb.remove_replaced().unwrap();
    lmdb.defragment().unwrap();
    let calls = take();
    assert_eq!(check(home, &calls), Ok(()));
    let renames = |call: &&Call| matches!(call, Call::Rename(..));
    assert_eq!(calls.iter().filter(renames).count(), 5);
    let copy = home.join("fresh");
    let image = home.join("stage-3");
    let data = |dir: &Path| dir.join(DATA_FILE);
    for forgotten in [data(&copy), data(&image), copy, image, home.to_owned()] {
        let mut fewer = calls.clone();
        fewer.retain(|call| *call != Call::Sync(forgotten.clone()));
        assert!(fewer.len() < calls.len(), "{forgotten:?} is synced");
        assert!(check(home, &fewer).is_err(), "{forgotten:?} must be");
    }
}

/// Goal: a sync that comes too late is no better than none. Method: let a rename change places with
/// the last sync of the copy.
#[test]
fn a_switch_before_the_sync_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let lmdb = Lmdb::open(dir.path()).unwrap();
    take();
    lmdb.commit(&batch(1)).unwrap();
    lmdb.defragment().unwrap();
    let mut calls = take();
    let copy = Call::Sync(dir.path().join("fresh").join(DATA_FILE));
    calls.dedup_by(|one, other| *one == copy && one == other);
    assert_eq!(check(dir.path(), &calls), Ok(()));
    let sync = calls.iter().rposition(|call| *call == copy);
    let rename = calls
        .iter()
        .rposition(|call| matches!(call, Call::Rename(..)));
    let (sync, rename) = (sync.expect("it is synced"), rename.expect("it gets a name"));
    assert!(sync < rename);
    calls.swap(sync, rename);
    assert!(check(dir.path(), &calls).is_err());
}
