//! Every version of every key, so that the past can be asked.

use std::collections::BTreeMap;

use super::KeyRange;
use crate::history::*;

/// The log of all changes, by revision and by key.
#[derive(Clone, Debug)]
pub struct Archive {
    /// The first revision of it; nothing is known about older ones.
    first: i64,
    /// What each revision after the first changed, in order.
    log: Vec<Vec<WatchEvent>>,
    /// The versions of each key: since when, and what; nothing for "deleted".
    keys: BTreeMap<Text, Vec<(i64, Option<KeyValue>)>>,
}

impl Archive {
    pub(super) fn new(meta: &Meta) -> Archive {
        let mut keys: BTreeMap<Text, Vec<_>> = BTreeMap::new();
        for kv in &meta.kvs {
            keys.insert(kv.key.clone(), vec![(meta.revision, Some(kv.clone()))]);
        }
        Archive {
            first: meta.revision,
            log: Vec::new(),
            keys,
        }
    }

    pub(super) fn push(&mut self, revision: i64, events: Vec<WatchEvent>) {
        assert_eq!(revision, self.last() + 1, "revisions come one by one");
        for event in &events {
            let after = match event.kind {
                EventKind::Put => Some(event.kv.clone()),
                EventKind::Delete => None,
            };
            let versions = self.keys.entry(event.kv.key.clone()).or_default();
            versions.push((revision, after));
        }
        self.log.push(events);
    }

    /// The first revision whose state is known.
    pub fn first(&self) -> i64 {
        self.first
    }

    /// The last revision.
    pub fn last(&self) -> i64 {
        self.first + self.log.len() as i64
    }

    /// What a revision changed; nothing for one outside of the log.
    pub fn events_at(&self, revision: i64) -> &[WatchEvent] {
        let at = usize::try_from(revision - self.first - 1);
        at.ok()
            .and_then(|at| self.log.get(at))
            .map_or(&[], Vec::as_slice)
    }

    /// A key as it was at a revision.
    pub fn key_at(&self, key: &Text, revision: i64) -> Option<&KeyValue> {
        let versions = self.keys.get(key)?;
        let until = versions.partition_point(|(since, _)| *since <= revision);
        versions.get(until.checked_sub(1)?)?.1.as_ref()
    }

    /// The keys that were ever attached to a lease.
    pub fn keys_ever_of(&self, lease: i64) -> Vec<Text> {
        let had = |versions: &[(i64, Option<KeyValue>)]| {
            let mut kvs = versions.iter().filter_map(|(_, kv)| kv.as_ref());
            kvs.any(|kv| kv.lease == lease)
        };
        let keys = self.keys.iter().filter(|(_, versions)| had(versions));
        keys.map(|(key, _)| key.clone()).collect()
    }

    /// The pairs of a range as they were at a revision.
    pub fn range_at(&self, range: &KeyRange, revision: i64) -> Vec<KeyValue> {
        let keys = range.of(&self.keys);
        keys.filter_map(|(key, _)| self.key_at(key, revision).cloned())
            .collect()
    }

    /// The first revision from `from` on that changed a key of the range in a wanted way.
    pub fn next_change(
        &self,
        range: &KeyRange,
        from: i64,
        wanted: impl Fn(EventKind) -> bool,
    ) -> Option<i64> {
        let keys = range.of(&self.keys).filter_map(|(_, versions)| {
            let start = versions.partition_point(|(since, _)| *since < from);
            let hit = versions[start..].iter().find(|(since, after)| {
                let kind = if after.is_some() {
                    EventKind::Put
                } else {
                    EventKind::Delete
                };
                *since > self.first && wanted(kind)
            });
            hit.map(|(since, _)| *since)
        });
        keys.min()
    }
}
