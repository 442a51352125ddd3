//! All keys with their histories, in key order.
//!
//! Memory per key with one put and at most 22 key bytes: 48 bytes, divided by the fill of the
//! tree's nodes. Keys that come in order fill them.

use std::ops::ControlFlow;

#[cfg(test)]
use super::key_index::Dump;
use super::{
    key::{Key, KeyRange},
    key_index::{KeyIndex, KeyMeta, Restored, Walk},
    revision::{RecordKey, Revision},
    tree::{Span, Tree},
};

/// Entries a compaction slice may look at for each record it may remove: looking is cheap.
const VISITS_PER_REMOVAL: usize = 16;

/// How far a slice of a compaction came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visited {
    /// Keys that are done with.
    pub keys: usize,
    /// Whether keys are left to visit.
    pub more: bool,
}

/// The index.
#[derive(Clone, Default, Debug)]
pub(super) struct Index {
    keys: Tree,
}

impl Index {
    /// A key as of a main revision.
    pub fn at(&self, key: &[u8], main: i64) -> Option<KeyMeta> {
        self.keys.get(key)?.1.at(main)
    }

    /// A key now.
    pub fn latest(&self, key: &[u8]) -> Option<KeyMeta> {
        self.keys.get(key)?.1.latest()
    }

    /// Visits keys of a range that exist as of a main revision, in key order.
    pub fn visit<'i>(
        &'i self,
        range: KeyRange<'_>,
        main: i64,
        mut visit: impl FnMut(&'i [u8], KeyMeta) -> ControlFlow<()>,
    ) {
        let span = match range {
            KeyRange::One(key) => {
                if let Some((key, entry)) = self.keys.get(key)
                    && let Some(meta) = entry.at(main)
                {
                    let _ = visit(key.as_slice(), meta);
                }
                return;
            }
            KeyRange::Span { from, to } => Span {
                from: Some(from),
                to,
            },
        };
        self.keys.visit(span, |key, entry| match entry.at(main) {
            Some(meta) => visit(key.as_slice(), meta),
            None => ControlFlow::Continue(()),
        });
    }

    /// How many keys of a range exist as of a main revision.
    pub fn count(&self, range: KeyRange<'_>, main: i64) -> u64 {
        match range {
            KeyRange::One(key) => u64::from(self.at(key, main).is_some()),
            // A range that ends before it begins is an empty one.
            KeyRange::Span { from, to } if to.is_some_and(|to| to <= from) => 0,
            KeyRange::Span { from, to } => {
                let from = Some(from);
                self.keys.count(Span { from, to }, main)
            }
        }
    }

    /// Adds a put and says what the key is now.
    pub fn put(&mut self, key: &[u8], at: Revision) -> KeyMeta {
        let again = |entry: &mut KeyIndex| entry.put(at);
        let first = || KeyIndex::created(at);
        let meta = self.keys.enter(key, at.main, again, first);
        meta.unwrap_or_else(|| {
            let meta = first().latest();
            meta.expect("a key that was just put exists")
        })
    }

    /// Adds a tombstone. The key must exist.
    pub fn delete(&mut self, key: &[u8], at: Revision) {
        let deleted = self.keys.change(key, at.main, |entry| entry.delete(at));
        deleted.expect("only keys the index has shown are deleted");
    }

    /// Adds a stored record; records come in revision order. `None` is a tombstone. False when the
    /// record contradicts earlier ones of its key.
    pub fn restore(&mut self, key: &[u8], at: Revision, put: Option<Restored>) -> bool {
        let again = |entry: &mut KeyIndex| entry.restore(at, put);
        let first = || KeyIndex::restored(at, put);
        self.keys.enter(key, at.main, again, first).unwrap_or(true)
    }

    /// One slice of a walk of a compaction: goes on after `cursor`, moves it, and removes at most
    /// `records_max` records.
    pub fn compact(
        &mut self,
        cursor: &mut Option<Key>,
        walk: Walk,
        records_max: usize,
        mut remove: impl FnMut(RecordKey),
    ) -> Visited {
        assert!(records_max > 0, "a slice that may do nothing never ends");
        let mut budget = records_max;
        let visits = records_max.saturating_mul(VISITS_PER_REMOVAL);
        let mut keys = 0;
        let mut emptied = Vec::new();
        let mut more = false;
        let mut last = None;
        self.keys.visit_mut(cursor.as_ref(), |key, entry| {
            if keys == visits || !entry.compact(walk, &mut budget, &mut remove) {
                more = true;
                return ControlFlow::Break(());
            }
            keys += 1;
            last = Some(key.clone());
            if entry.is_empty() {
                emptied.push(key.clone());
            }
            ControlFlow::Continue(())
        });
        if last.is_some() {
            *cursor = last;
        }
        for key in emptied {
            self.keys.remove(key.as_slice());
        }
        Visited { keys, more }
    }

    /// Whether a compaction at `target` keeps a record. A record the index does not know is gone.
    pub fn keeps(&self, key: &[u8], at: Revision, target: i64) -> bool {
        self.keys
            .get(key)
            .is_some_and(|(_, entry)| entry.keeps(at, target))
    }

    /// How many keys have a history, existing or not.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Every key with its marks, for tests.
    #[cfg(test)]
    pub fn dump(&self) -> Vec<(Key, Dump)> {
        let mut all = Vec::new();
        let everything = Span {
            from: None,
            to: None,
        };
        self.keys.visit(everything, |key, entry| {
            all.push((key.clone(), entry.dump()));
            ControlFlow::Continue(())
        });
        all
    }
}
