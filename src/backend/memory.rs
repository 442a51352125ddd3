//! A backend in memory: the model that LMDB is held to, and the backend of most simulated seeds.
//! It is "durable" in that its handle outlives the node that used it: every commit is a point that
//! `image` shows and `from_image` or `after_crash` goes back to.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;

use super::{Backend, Bucket, Extent, ReadSnapshot, Visit, WriteBatch, table::Table};
use crate::kernel::{BackendSize, DiskError, DiskErrorKind, EntryId, SnapshotId};

/// Bytes a record takes besides its key and value, in the sizes this backend reports.
const RECORD_OVERHEAD_BYTES: u64 = 16;

/// One state of the store; tables are shared until they are written.
#[derive(Clone, Default, Debug)]
pub struct Image {
    tables: BTreeMap<Bucket, Arc<Table>>,
    consistent: EntryId,
    state_hash: u64,
}

/// The in-memory backend.
#[derive(Clone, Default, Debug)]
pub struct Memory {
    shared: Arc<RwLock<Shared>>,
}

#[derive(Clone, Default, Debug)]
struct Shared {
    live: Image,
    staged: Option<Staged>,
    /// What the file of this store would be: as large as the store ever was since it was rewritten.
    file_bytes: u64,
    /// Bytes that a rewriting has yet to copy.
    rewriting: Option<u64>,
}

#[derive(Clone, Debug)]
struct Staged {
    id: SnapshotId,
    image: Image,
    sealed: bool,
}

impl Memory {
    /// A store that starts from an image, as after a restart.
    pub fn from_image(image: Image) -> Self {
        Self::from_shared(Shared {
            file_bytes: image.bytes(),
            live: image,
            staged: None,
            rewriting: None,
        })
    }

    /// The committed state.
    pub fn image(&self) -> Image {
        self.read().live.clone()
    }

    /// What a crash leaves: the last commit and a sealed image. The new store is independent of
    /// this one, so that a lane of the dead node cannot write into it.
    pub fn after_crash(&self) -> Self {
        let mut shared = self.read().clone();
        shared.staged = shared.staged.filter(|staged| staged.sealed);
        shared.rewriting = None;
        Self::from_shared(shared)
    }

    fn from_shared(shared: Shared) -> Self {
        Self {
            shared: Arc::new(RwLock::new(shared)),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Shared> {
        self.shared.read().expect("no holder of the lock panics")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Shared> {
        self.shared.write().expect("no holder of the lock panics")
    }
}

impl Shared {
    fn size(&self) -> BackendSize {
        BackendSize {
            file_bytes: self.file_bytes,
            used_bytes: self.live.bytes(),
            packed_bytes: self.live.bytes(),
        }
    }
}

impl Backend for Memory {
    type Snapshot = Image;

    fn snapshot(&self) -> Result<Image, DiskError> {
        Ok(self.image())
    }

    fn commit(&self, batch: &WriteBatch) -> Result<BackendSize, DiskError> {
        let mut shared = self.write();
        shared.live.apply(batch);
        shared.file_bytes = shared.file_bytes.max(shared.live.bytes());
        Ok(shared.size())
    }

    /// Nothing is copied; it takes as many parts as copying would.
    fn defragment_part(&self, bytes_max: usize) -> Result<Option<BackendSize>, DiskError> {
        let mut shared = self.write();
        let left = shared.rewriting.unwrap_or(shared.live.bytes());
        let left = left.saturating_sub(bytes_max as u64);
        if left > 0 {
            shared.rewriting = Some(left);
            return Ok(None);
        }
        shared.rewriting = None;
        shared.file_bytes = shared.live.bytes();
        Ok(Some(shared.size()))
    }

    fn remove_replaced(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn size(&self) -> Result<BackendSize, DiskError> {
        Ok(self.read().size())
    }

    fn stage_open(&self, id: SnapshotId) -> Result<(), DiskError> {
        self.write().staged = Some(Staged {
            id,
            image: Image::default(),
            sealed: false,
        });
        Ok(())
    }

    fn stage_write(&self, id: SnapshotId, batch: &WriteBatch) -> Result<(), DiskError> {
        match &mut self.write().staged {
            Some(staged) if staged.id == id && !staged.sealed => staged.image.apply(batch),
            Some(_) | None => return Err(missing(id)),
        }
        Ok(())
    }

    fn stage_seal(&self, id: SnapshotId) -> Result<(), DiskError> {
        match &mut self.write().staged {
            Some(staged) if staged.id == id && !staged.sealed => staged.sealed = true,
            Some(_) | None => return Err(missing(id)),
        }
        Ok(())
    }

    fn sealed(&self) -> Result<Option<(SnapshotId, EntryId)>, DiskError> {
        let shared = self.read();
        let sealed = shared.staged.as_ref().filter(|staged| staged.sealed);
        Ok(sealed.map(|staged| (staged.id, staged.image.consistent)))
    }

    fn stage_install(&self, id: SnapshotId) -> Result<BackendSize, DiskError> {
        let mut shared = self.write();
        let ready = shared
            .staged
            .take_if(|staged| staged.id == id && staged.sealed);
        shared.live = ready.ok_or_else(|| missing(id))?.image;
        shared.file_bytes = shared.live.bytes();
        shared.rewriting = None;
        Ok(shared.size())
    }

    fn stage_drop(&self, id: SnapshotId) -> Result<(), DiskError> {
        self.write().staged.take_if(|staged| staged.id == id);
        Ok(())
    }
}

impl Image {
    fn apply(&mut self, batch: &WriteBatch) {
        for (bucket, writes) in &batch.writes {
            let table = Arc::make_mut(self.tables.entry(*bucket).or_default());
            for (key, value) in writes {
                assert!(!key.is_empty(), "an empty key in {}", bucket.name());
                match value {
                    Some(value) => table.insert(key.clone(), value.clone()),
                    None => table.remove(key),
                }
            }
        }
        if batch.consistent != EntryId::ZERO {
            assert!(
                batch.consistent.index >= self.consistent.index,
                "the consistent index went back"
            );
            self.consistent = batch.consistent;
            self.state_hash = batch.state_hash;
        }
    }

    fn bytes(&self) -> u64 {
        let extent = self.sum();
        extent.bytes + extent.records * RECORD_OVERHEAD_BYTES
    }

    fn sum(&self) -> Extent {
        let mut extent = Extent::default();
        for table in self.tables.values() {
            extent.records += table.records();
            extent.bytes += table.bytes();
        }
        extent
    }
}

/// Equal content; a bucket that was never written equals one that was emptied.
impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        let filled = |image: &Self| {
            let tables = image.tables.clone().into_iter();
            tables
                .filter(|(_, table)| table.records() > 0)
                .collect::<BTreeMap<_, _>>()
        };
        self.consistent == other.consistent
            && self.state_hash == other.state_hash
            && filled(self) == filled(other)
    }
}

impl Eq for Image {}

impl ReadSnapshot for Image {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, DiskError> {
        let table = self.tables.get(&bucket);
        Ok(table.and_then(|table| table.get(key)).cloned())
    }

    fn find(&self, bucket: Bucket, key: &[u8]) -> Result<Option<&[u8]>, DiskError> {
        let table = self.tables.get(&bucket);
        Ok(table
            .and_then(|table| table.get(key))
            .map(|value| &value[..]))
    }

    fn range<'s>(
        &'s self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
        visit: Visit<'_, 's>,
    ) -> Result<(), DiskError> {
        let Some(table) = self.tables.get(&bucket) else {
            return Ok(());
        };
        for (key, value) in table.from(from) {
            if to.is_some_and(|to| key[..] >= *to) || visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn consistent(&self) -> Result<EntryId, DiskError> {
        Ok(self.consistent)
    }

    fn state_hash(&self) -> Result<u64, DiskError> {
        Ok(self.state_hash)
    }

    fn extent(&self) -> Result<Extent, DiskError> {
        Ok(self.sum())
    }
}

fn missing(id: SnapshotId) -> DiskError {
    DiskError::new(DiskErrorKind::Missing, format!("no staged image {id}"))
}
