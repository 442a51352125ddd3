//! The state of the multi-version store and how it comes back after a restart.

use std::{collections::BTreeMap, ops::ControlFlow};

use bytes::Bytes;

use super::{
    compact::{FINISHED_KEY, Pass, SCHEDULED_KEY},
    index::Index,
    key_index::{KeyMeta, Restored},
    record::{self, Sheet},
    revision::{RecordKey, Revision, corrupt},
};
use crate::{
    backend::{Backend, Bucket, View},
    kernel::DiskError,
    mutant,
};

/// Shown as compact revision until something was compacted.
pub(super) const NEVER_COMPACTED: i64 = -1;

/// The multi-version store. Everything in it is derived from the backend; see the module's
/// invariants.
#[derive(Debug)]
pub struct Store {
    pub(super) index: Index,
    /// Main revision of the last transaction that changed something.
    pub(super) revision: i64,
    /// Invariant: finished <= compacted <= revision.
    pub(super) compacted: i64,
    /// Last compaction whose records are all gone.
    pub(super) finished: i64,
    /// Invariant: present exactly while finished < compacted.
    pub(super) pass: Option<Pass>,
    /// A transaction has changed something and is not finished.
    pub(super) writing: bool,
    /// Records that compactions removed since the store was loaded.
    pub(super) removed: u64,
    pub(super) sheet: Sheet,
}

impl Store {
    /// The store as the view holds it. An interrupted compaction runs again from its beginning.
    pub fn load<B: Backend>(view: &View<B>) -> Result<Self, DiskError> {
        Ok(Self::load_with_leases(view)?.0)
    }

    /// The same, with the lease of every existing key that has one: what the lessor must know.
    pub fn load_with_leases<B: Backend>(
        view: &View<B>,
    ) -> Result<(Self, BTreeMap<Bytes, i64>), DiskError> {
        let scheduled = read_mark(view, SCHEDULED_KEY)?;
        let finished = read_mark(view, FINISHED_KEY)?;
        let mut loader = Loader::default();
        let mut failed = None;
        view.range(
            Bucket::Key,
            b"",
            None,
            &mut |key, value| match loader.add(key, value) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            },
        )?;
        if let Some(error) = failed {
            return Err(error);
        }
        // The marks count too: were the newest records ever removed before a crash, the revision
        // must still not go back (etcd bug 17780).
        let mut compacted = scheduled.max(finished);
        if mutant!("revision-falls-to-the-last-record") {
            compacted = compacted.min(loader.last.max(1));
        }
        let mut store = Self {
            index: loader.index,
            revision: loader.last.max(compacted).max(1),
            compacted,
            finished: match mutant!("interrupted-compaction-never-ends") {
                true => compacted,
                false => finished.min(compacted),
            },
            pass: None,
            writing: false,
            removed: 0,
            sheet: Sheet::default(),
        };
        store.start_pass();
        store.check();
        Ok((store, loader.leases))
    }

    /// The current revision; 1 on an empty store.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The oldest readable revision; -1 while nothing was ever compacted, as etcd has it.
    pub fn compact_revision(&self) -> i64 {
        self.compacted
    }

    /// What the index knows of a key now; nothing when it does not exist.
    pub fn meta(&self, key: &[u8]) -> Option<KeyMeta> {
        self.index.latest(key)
    }

    /// Keys the index holds, deleted ones that are not compacted yet included.
    pub fn keys_indexed(&self) -> usize {
        self.index.len()
    }

    /// Records that compactions removed since the store was loaded.
    pub fn records_removed(&self) -> u64 {
        self.removed
    }

    /// Asserts what must hold between calls.
    pub fn check(&self) {
        assert!(self.revision >= 1, "the revision starts at one");
        assert!(
            self.compacted <= self.revision,
            "the future cannot be compacted"
        );
        assert!(
            self.finished <= self.compacted,
            "a compaction is recorded before it is carried out"
        );
        assert_eq!(
            self.pass.is_some(),
            self.finished < self.compacted,
            "a recorded compaction runs until it is finished"
        );
        assert!(!self.writing, "a write transaction was not finished");
    }
}

/// A compaction mark: a revision in the form of a record key.
fn read_mark<B: Backend>(view: &View<B>, key: &[u8]) -> Result<i64, DiskError> {
    match view.get(Bucket::Meta, key)? {
        Some(bytes) => Ok(RecordKey::decode(&bytes)?.revision.main),
        None => Ok(NEVER_COMPACTED),
    }
}

#[derive(Default)]
struct Loader {
    index: Index,
    last: i64,
    leases: BTreeMap<Bytes, i64>,
}

impl Loader {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), DiskError> {
        let RecordKey {
            revision,
            tombstone,
        } = RecordKey::decode(key)?;
        let header = record::header(value)?;
        let sound = if tombstone {
            !header.key.is_empty()
        } else {
            !header.key.is_empty()
                && header.modified == revision.main
                && (1..=revision.main).contains(&header.created)
                && header.version >= 1
        };
        if !sound {
            return Err(corrupt(format!(
                "record of {revision:?} does not fit its revision"
            )));
        }
        let put = (!tombstone).then_some(Restored {
            created: header.created,
            version: header.version,
        });
        if !self.index.restore(header.key, revision, put) {
            return Err(corrupt(format!(
                "record of {revision:?} contradicts earlier records of \"{}\"",
                header.key.escape_ascii()
            )));
        }
        self.last = revision.main;
        self.note_lease(header.key, header.lease);
        Ok(())
    }

    fn note_lease(&mut self, key: &[u8], lease: i64) {
        if lease == 0 {
            self.leases.remove(key);
        } else {
            self.leases.insert(Bytes::copy_from_slice(key), lease);
        }
    }
}

/// The first record key after a revision.
pub(super) fn after(revision: Revision) -> Revision {
    match revision.sub.checked_add(1) {
        Some(sub) => Revision::new(revision.main, sub),
        None => Revision::new(revision.main + 1, 0),
    }
}
