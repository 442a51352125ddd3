//! The store as the state machine sees it: one committed snapshot, batches on their way to disk,
//! and the open batch, newest first.
//!
//! Invariant: `base` holds every batch that is no longer in `flying`. It may already hold some that
//! still are; reading those twice changes nothing, because every batch after them is in the
//! overlay.

use std::{collections::VecDeque, iter::Peekable, ops::ControlFlow, sync::Arc};

use bytes::Bytes;

use super::{Backend, Bucket, ReadSnapshot, Visit, WriteBatch};
use crate::{
    kernel::{DiskError, EntryId, Writes, writes},
    mutant,
};

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

    /// The value of a key where it lies, without a copy.
    pub fn find(&self, bucket: Bucket, key: &[u8]) -> Result<Option<&[u8]>, DiskError> {
        for batch in self.layers() {
            if let Some(answer) = batch.get(bucket, key) {
                return Ok(answer.map(|value| &value[..]));
            }
        }
        self.base.find(bucket, key)
    }

    /// Visits keys from `from` on, up to but without `to`, in byte order.
    pub fn range<'s>(
        &'s self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
        visit: Visit<'_, 's>,
    ) -> Result<(), DiskError> {
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        let mut overlay = Overlay::new(self.layers(), bucket, from, to);
        if overlay.layers.is_empty() {
            return self.base.range(bucket, from, to, visit);
        }
        let mut stopped = false;
        self.base.range(bucket, from, to, &mut |key, value| {
            let mut replaced = false;
            while let Some((ahead, write)) = overlay.next(Some(key)) {
                replaced = ahead[..] == *key;
                if let Some(value) = write
                    && visit(ahead, value).is_break()
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
            }
            if replaced {
                return ControlFlow::Continue(());
            }
            let flow = visit(key, value);
            stopped = flow.is_break();
            flow
        })?;
        while !stopped && let Some((key, write)) = overlay.next(None) {
            stopped = write
                .as_ref()
                .is_some_and(|value| visit(key, value).is_break());
        }
        Ok(())
    }

    /// Sets a key, which must not be empty.
    pub fn put(&mut self, bucket: Bucket, key: Bytes, value: Bytes) {
        assert!(!key.is_empty(), "a write to the empty key");
        self.open.put(bucket, key, value);
    }

    /// Removes a key, which must not be empty.
    pub fn delete(&mut self, bucket: Bucket, key: Bytes) {
        assert!(!key.is_empty(), "a removal of the empty key");
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
        let mut batch = std::mem::take(&mut self.open);
        if mutant!("applied-index-apart") {
            self.keep_last_write(&mut batch);
        }
        let batch = Arc::new(batch);
        self.flying.push_back(Arc::clone(&batch));
        Some(batch)
    }

    /// The oldest batch on its way is durable: reads go to a fresh snapshot, its overlay is
    /// dropped.
    pub fn committed(&mut self) -> Result<(), DiskError> {
        assert!(
            !self.flying.is_empty(),
            "a commit completed that nobody submitted"
        );
        self.base = self.backend.snapshot()?;
        self.flying.pop_front();
        Ok(())
    }

    /// Reads go to a fresh snapshot; overlays stay. Called after a defragmentation, so that the old
    /// file is not held any longer.
    pub fn refresh(&mut self) -> Result<(), DiskError> {
        self.base = self.backend.snapshot()?;
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

    /// A planted bug: the index of the last entry is committed before the last of its writes.
    fn keep_last_write(&mut self, batch: &mut WriteBatch) {
        let keys = batch.writes.get_mut(&Bucket::Key);
        if let Some((key, write)) = keys.and_then(Writes::pop_last) {
            let open = self.open.writes.entry(Bucket::Key).or_default();
            open.insert(key, write);
            self.open.consistent = batch.consistent;
            self.open.state_hash = batch.state_hash;
        }
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
}

/// Uncommitted writes of one range, merged while they are read. There are few layers, so the least
/// head is found by looking at each.
///
/// Invariant: no layer is exhausted; newer layers come first.
struct Overlay<'a> {
    layers: Vec<Peekable<writes::Iter<'a>>>,
}

impl<'a> Overlay<'a> {
    fn new(
        batches: impl Iterator<Item = &'a WriteBatch>,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Self {
        let layers = batches
            .filter_map(|batch| batch.writes.get(&bucket))
            .map(|writes| writes.range(from, to).peekable())
            .filter_map(|mut layer| layer.peek().is_some().then_some(layer))
            .collect();
        Self { layers }
    }

    /// The newest write of the least key, if that is at most `limit`.
    fn next(&mut self, limit: Option<&[u8]>) -> Option<(&'a Bytes, &'a Option<Bytes>)> {
        let mut least: Option<(&'a Bytes, &'a Option<Bytes>)> = None;
        for layer in &mut self.layers {
            let head = *layer.peek().expect("no layer is exhausted");
            if least.is_none_or(|(key, _)| head.0 < key) {
                least = Some(head);
            }
        }
        let (key, write) = least?;
        if limit.is_some_and(|limit| key[..] > *limit) {
            return None;
        }
        self.layers.retain_mut(|layer| {
            layer.next_if(|(head, _)| *head == key);
            layer.peek().is_some()
        });
        Some((key, write))
    }
}
