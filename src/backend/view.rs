//! The store as the state machine sees it: one committed snapshot, batches on their way to disk, and
//! the open batch, newest first.
//!
//! Invariant: `base` is the state after every batch that is no longer in `flying`.

use std::{collections::VecDeque, ops::ControlFlow, sync::Arc};

use bytes::Bytes;

use super::{Backend, Bucket, ReadSnapshot, Visit, WriteBatch};
use crate::kernel::{DiskError, EntryId};

/// Reads see every write at once; writes reach the disk batch by batch.
#[derive(Debug)]
pub struct View<B: Backend> {
    backend: B,
    base: B::Snapshot,
    flying: VecDeque<Arc<WriteBatch>>,
    open: WriteBatch,
}

impl<B: Backend> View<B> {
    /// A view of the committed state.
    pub fn new(backend: B) -> Result<Self, DiskError> {
        let base = backend.snapshot()?;
        Ok(Self {
            backend,
            base,
            flying: VecDeque::new(),
            open: WriteBatch::default(),
        })
    }

    /// The value of a key.
    pub fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, DiskError> {
        for batch in self.layers() {
            if let Some(answer) = batch.get(bucket, key) {
                return Ok(answer.cloned());
            }
        }
        self.base.get(bucket, key)
    }

    /// Visits keys from `from` on, up to but without `to`, in byte order.
    pub fn range(
        &self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), DiskError> {
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        let overlay = self.overlay(bucket, from, to);
        let mut pending = overlay.into_iter().peekable();
        let mut stopped = false;
        self.base.range(bucket, from, to, &mut |key, value| {
            while let Some((ahead, write)) = pending.next_if(|(ahead, _)| ahead[..] <= *key) {
                let same = ahead[..] == *key;
                if let Some(value) = write
                    && visit(&ahead, &value).is_break()
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
                if same {
                    return ControlFlow::Continue(());
                }
            }
            let flow = visit(key, value);
            stopped = flow.is_break();
            flow
        })?;
        if stopped {
            return Ok(());
        }
        for (key, write) in pending {
            if let Some(value) = write
                && visit(&key, &value).is_break()
            {
                break;
            }
        }
        Ok(())
    }

    /// Sets a key.
    pub fn put(&mut self, bucket: Bucket, key: Bytes, value: Bytes) {
        self.open.put(bucket, key, value);
    }

    /// Removes a key.
    pub fn delete(&mut self, bucket: Bucket, key: Bytes) {
        self.open.delete(bucket, key);
    }

    /// Records which entry the open batch has come to, and the state hash after it.
    pub fn advance(&mut self, consistent: EntryId, state_hash: u64) {
        assert!(
            consistent.index >= self.consistent_open().index,
            "the consistent index went back"
        );
        self.open.consistent = consistent;
        self.open.state_hash = state_hash;
    }

    /// Operations and bytes waiting in the open batch.
    pub fn open_size(&self) -> (usize, usize) {
        (self.open.operations, self.open.bytes)
    }

    /// Bytes held in memory because they are not committed yet.
    pub fn overlay_bytes(&self) -> usize {
        self.layers().map(|batch| batch.bytes).sum()
    }

    /// Closes the open batch for its way to disk; `None` when there is nothing to commit.
    pub fn cut(&mut self) -> Option<Arc<WriteBatch>> {
        if self.open.is_empty() {
            return None;
        }
        let batch = Arc::new(std::mem::take(&mut self.open));
        self.flying.push_back(Arc::clone(&batch));
        Some(batch)
    }

    /// The oldest batch on its way is durable: reads go to a fresh snapshot, its overlay is dropped.
    pub fn committed(&mut self) -> Result<(), DiskError> {
        assert!(
            !self.flying.is_empty(),
            "a commit completed that nobody submitted"
        );
        self.base = self.backend.snapshot()?;
        self.flying.pop_front();
        Ok(())
    }

    /// Batches on their way to disk.
    pub fn flying(&self) -> usize {
        self.flying.len()
    }

    /// Starts over from the backend, after another image was installed under it.
    pub fn reload(&mut self) -> Result<(), DiskError> {
        assert!(
            self.flying.is_empty(),
            "an image was installed while commits were on their way"
        );
        self.open = WriteBatch::default();
        self.base = self.backend.snapshot()?;
        Ok(())
    }

    /// The snapshot of the last commit.
    pub fn base(&self) -> &B::Snapshot {
        &self.base
    }

    /// The backend under the view.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The entry of the last completed commit.
    pub fn consistent_durable(&self) -> Result<EntryId, DiskError> {
        self.base.consistent()
    }

    fn consistent_open(&self) -> EntryId {
        self.layers()
            .map(|batch| batch.consistent)
            .find(|id| *id != EntryId::ZERO)
            .unwrap_or(EntryId::ZERO)
    }

    /// Uncommitted batches, newest first.
    fn layers(&self) -> impl Iterator<Item = &WriteBatch> {
        std::iter::once(&self.open).chain(self.flying.iter().rev().map(|batch| &**batch))
    }

    fn overlay(
        &self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> std::collections::BTreeMap<Bytes, Option<Bytes>> {
        let upper = to.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut merged = std::collections::BTreeMap::new();
        for batch in self.layers() {
            let Some(writes) = batch.writes.get(&bucket) else {
                continue;
            };
            for (key, value) in writes.range::<[u8], _>((std::ops::Bound::Included(from), upper)) {
                merged.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        merged
    }
}
