//! The synced watches, found by the key of an event.
//!
//! Invariant: holds exactly the watches whose position is `Synced`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::interval::Intervals;
use super::watcher::{Span, WatchKey};

/// Single keys in an ordered map, ranges in an interval tree.
#[derive(Debug, Default)]
pub(super) struct Group {
    keys: BTreeMap<Bytes, BTreeSet<WatchKey>>,
    ranges: Intervals,
}

impl Group {
    /// Adds a watch, which must not be inside.
    pub fn insert(&mut self, span: &Span, watch: WatchKey) {
        match span {
            Span::Key(key) => {
                let added = self.keys.entry(key.clone()).or_default().insert(watch);
                assert!(added, "a watch is added once");
            }
            Span::Range { start, end } => self.ranges.insert(start, end, watch),
        }
    }

    /// Removes a watch, which must be inside.
    pub fn remove(&mut self, span: &Span, watch: WatchKey) {
        match span {
            Span::Key(key) => {
                let watches = self
                    .keys
                    .get_mut(key)
                    .expect("a synced watch is in the group");
                assert!(watches.remove(&watch), "a watch is removed once");
                if watches.is_empty() {
                    self.keys.remove(key);
                }
            }
            Span::Range { start, end } => self.ranges.remove(start, end, watch),
        }
    }

    /// Tells every watch that watches the key, each once.
    pub fn visit(&self, key: &[u8], told: &mut dyn FnMut(WatchKey)) {
        if let Some(watches) = self.keys.get(key) {
            watches.iter().for_each(|watch| told(*watch));
        }
        self.ranges.visit(key, told);
    }

    /// Asserts the structure; returns how many watches are inside.
    pub fn check(&self) -> usize {
        assert!(self.keys.values().all(|watches| !watches.is_empty()));
        self.keys.values().map(BTreeSet::len).sum::<usize>() + self.ranges.check()
    }
}
