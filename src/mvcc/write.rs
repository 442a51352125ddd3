//! A write transaction: all its changes carry one main revision, numbered by sub-revision.
//!
//! Changes are in the index and the view at once, so that later operations of the transaction see
//! them. There is no way back: whatever can refuse a transaction is checked before its first
//! change. The store's revision moves at `finish`, and only if something changed.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{
    key::KeyRange,
    key_index::KeyMeta,
    read::{RangeQuery, RangeResult, ReadError, fetch},
    record,
    revision::{RecordKey, Revision},
    store::Store,
    walk::Walked,
};
use crate::{
    backend::{Backend, Bucket, View},
    kernel::DiskError,
    pb::mvccpb::{Event, KeyValue, event::EventType},
};

/// An open write transaction. Must be finished; the store refuses to go on otherwise.
#[must_use = "a transaction takes effect when it is finished"]
pub struct WriteTxn<'a, B: Backend> {
    store: &'a mut Store,
    view: &'a mut View<B>,
    events: Vec<Event>,
}

/// What a transaction did.
#[derive(Clone, PartialEq, Debug)]
pub struct Committed {
    /// The store's revision after it.
    pub revision: i64,
    /// Its changes in the order they were made: puts with their record, deletions with key and
    /// revision. Empty when nothing changed.
    pub events: Vec<Event>,
}

impl Store {
    /// Opens a write transaction.
    pub fn write<'a, B: Backend>(&'a mut self, view: &'a mut View<B>) -> WriteTxn<'a, B> {
        assert!(!self.writing, "a write transaction was not finished");
        WriteTxn {
            store: self,
            view,
            events: Vec::new(),
        }
    }
}

impl<B: Backend> WriteTxn<'_, B> {
    /// Sets a key. The key is not empty.
    pub fn put(&mut self, key: Bytes, value: Bytes, lease: i64) {
        assert!(
            !key.is_empty(),
            "an empty key is refused before it gets here"
        );
        let at = self.next();
        let meta = self.store.index.put(&key, at);
        let kv = KeyValue {
            key,
            create_revision: meta.create,
            mod_revision: meta.modified,
            version: meta.version,
            value,
            lease,
        };
        let (stored, record) = self.store.sheet.record(RecordKey::put(at), &kv);
        self.view.put(Bucket::Key, stored, record);
        self.events.push(event(EventType::Put, kv));
    }

    /// Deletes the keys of a range that exist now; returns them in key order.
    pub fn delete_range(&mut self, key: &[u8], range_end: &[u8]) -> Vec<Bytes> {
        let mut keys = Vec::new();
        let range = KeyRange::new(key, range_end);
        self.store.index.visit(range, i64::MAX, |key, _| {
            keys.push(Bytes::copy_from_slice(key));
            ControlFlow::Continue(())
        });
        for key in &keys {
            self.delete(key);
        }
        keys
    }

    /// Reads a range; sees the transaction's own changes.
    pub fn range(&self, query: &RangeQuery<'_>) -> Result<RangeResult, ReadError> {
        self.store
            .range_seen_at(self.view, query, self.revision_seen())
    }

    /// The same, with the records as they are stored.
    pub fn walked(&self, query: &RangeQuery<'_>) -> Result<Walked, ReadError> {
        self.store
            .walked_seen_at(self.view, query, self.revision_seen())
    }

    /// One key as it is now.
    pub fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, DiskError> {
        match self.meta(key) {
            Some(meta) => Ok(Some(fetch(self.view, key, meta)?)),
            None => Ok(None),
        }
    }

    /// What the index knows of a key now.
    pub fn meta(&self, key: &[u8]) -> Option<KeyMeta> {
        self.store.index.latest(key)
    }

    /// The revision of everything seen so far: the transaction's own once something changed.
    pub fn revision_seen(&self) -> i64 {
        self.store.revision + i64::from(!self.events.is_empty())
    }

    /// The changes so far.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Closes the transaction; the store's revision moves if something changed.
    pub fn finish(self) -> Committed {
        let revision = self.revision_seen();
        assert_eq!(
            self.store.writing,
            !self.events.is_empty(),
            "a change makes a transaction unfinished"
        );
        self.store.writing = false;
        self.store.revision = revision;
        Committed {
            revision,
            events: self.events,
        }
    }

    fn delete(&mut self, key: &Bytes) {
        let at = self.next();
        self.store.index.delete(key, at);
        let stored = RecordKey::tombstone(at).encode().to_bytes();
        self.view
            .put(Bucket::Key, stored, record::encode_tombstone(key));
        let kv = KeyValue {
            key: key.clone(),
            mod_revision: at.main,
            ..KeyValue::default()
        };
        self.events.push(event(EventType::Delete, kv));
    }

    /// The revision of the next change.
    fn next(&mut self) -> Revision {
        self.store.writing = true;
        let sub = u32::try_from(self.events.len()).expect("a transaction's changes fit in memory");
        Revision::new(self.store.revision + 1, sub)
    }
}

pub(super) fn event(kind: EventType, kv: KeyValue) -> Event {
    Event {
        r#type: kind.into(),
        kv: Some(kv),
        prev_kv: None,
    }
}
