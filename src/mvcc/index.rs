//! All keys with their histories, in key order.
//!
//! The map is hidden here, so that a tree that counts ranges without walking them can take its
//! place. Memory per key with one put and at most 22 key bytes: 48 bytes, divided by the fill of
//! the tree's nodes.

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
};

#[cfg(test)]
use super::key_index::Dump;
use super::{
    key::{Key, KeyRange},
    key_index::{KeyIndex, KeyMeta, Restored},
    revision::{RecordKey, Revision},
};

/// Entries a compaction slice may look at for each record it may remove: looking is cheap.
const VISITS_PER_REMOVAL: usize = 16;

/// The index.
#[derive(Clone, Default, Debug)]
pub(super) struct Index {
    keys: BTreeMap<Key, KeyIndex>,
}

impl Index {
    /// A key as of a main revision.
    pub fn at(&self, key: &[u8], main: i64) -> Option<KeyMeta> {
        self.keys.get(key)?.at(main)
    }

    /// A key now.
    pub fn latest(&self, key: &[u8]) -> Option<KeyMeta> {
        self.keys.get(key)?.latest()
    }

    /// Visits keys of a range that exist as of a main revision, in key order.
    pub fn visit<'i>(
        &'i self,
        range: KeyRange<'_>,
        main: i64,
        mut visit: impl FnMut(&'i [u8], KeyMeta) -> ControlFlow<()>,
    ) {
        let (from, to) = match range {
            KeyRange::One(key) => {
                if let Some((key, entry)) = self.keys.get_key_value(key)
                    && let Some(meta) = entry.at(main)
                {
                    let _ = visit(key.as_slice(), meta);
                }
                return;
            }
            KeyRange::Span { from, to } => (from, to),
        };
        // The map panics on a range that ends before it begins; to us it is an empty one.
        if to.is_some_and(|to| to <= from) {
            return;
        }
        let upper = to.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, entry) in self.keys.range::<[u8], _>((Bound::Included(from), upper)) {
            if let Some(meta) = entry.at(main)
                && visit(key.as_slice(), meta).is_break()
            {
                return;
            }
        }
    }

    /// How many keys of a range exist as of a main revision.
    pub fn count(&self, range: KeyRange<'_>, main: i64) -> u64 {
        let mut count = 0;
        self.visit(range, main, |_, _| {
            count += 1;
            ControlFlow::Continue(())
        });
        count
    }

    /// Adds a put and says what the key is now.
    pub fn put(&mut self, key: &[u8], at: Revision) -> KeyMeta {
        if let Some(entry) = self.keys.get_mut(key) {
            return entry.put(at);
        }
        let entry = KeyIndex::created(at);
        let meta = entry.latest().expect("a key that was just put exists");
        let old = self.keys.insert(Key::from(key), entry);
        assert!(old.is_none(), "a key that was not found is not replaced");
        meta
    }

    /// Adds a tombstone. The key must exist.
    pub fn delete(&mut self, key: &[u8], at: Revision) {
        self.keys
            .get_mut(key)
            .expect("only keys the index has shown are deleted")
            .delete(at);
    }

    /// Adds a stored record; records come in revision order. `None` is a tombstone. False when the
    /// record contradicts earlier ones of its key.
    pub fn restore(&mut self, key: &[u8], at: Revision, put: Option<Restored>) -> bool {
        if let Some(entry) = self.keys.get_mut(key) {
            return entry.restore(at, put);
        }
        self.keys
            .insert(Key::from(key), KeyIndex::restored(at, put));
        true
    }

    /// One slice of a compaction at `target`: goes on after `cursor`, moves it, and removes at most
    /// `records_max` records. Whether keys are left to visit.
    pub fn compact(
        &mut self,
        cursor: &mut Option<Key>,
        target: i64,
        records_max: usize,
        mut remove: impl FnMut(RecordKey),
    ) -> bool {
        assert!(records_max > 0, "a slice that may do nothing never ends");
        let mut budget = records_max;
        let mut visits = records_max.saturating_mul(VISITS_PER_REMOVAL);
        let mut emptied = Vec::new();
        let mut more = false;
        let mut last = None;
        let lower = cursor.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        for (key, entry) in self.keys.range_mut::<Key, _>((lower, Bound::Unbounded)) {
            if visits == 0 || !entry.compact(target, &mut budget, &mut remove) {
                more = true;
                break;
            }
            visits -= 1;
            last = Some(key);
            if entry.is_empty() {
                emptied.push(key.clone());
            }
        }
        if let Some(last) = last.cloned() {
            *cursor = Some(last);
        }
        for key in emptied {
            self.keys.remove(&key);
        }
        more
    }

    /// Whether a compaction at `target` keeps a record. A record the index does not know is gone.
    pub fn keeps(&self, key: &[u8], at: Revision, target: i64) -> bool {
        self.keys
            .get(key)
            .is_some_and(|entry| entry.keeps(at, target))
    }

    /// How many keys have a history, existing or not.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Every key with its marks, for tests.
    #[cfg(test)]
    pub fn dump(&self) -> Vec<(Key, Dump)> {
        self.keys
            .iter()
            .map(|(key, entry)| (key.clone(), entry.dump()))
            .collect()
    }
}
