//! A backend in memory: the model that LMDB is held to, and the backend of most simulated seeds.
//! It is "durable" in that its handle outlives the node that used it.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, RwLock},
};

use bytes::Bytes;

use super::{Backend, Bucket, ReadSnapshot, Visit, WriteBatch};
use crate::kernel::{BackendSize, DiskError, DiskErrorKind, EntryId, SnapshotId};

type Table = Arc<BTreeMap<Bytes, Bytes>>;

/// One state of the store; tables are shared until they are written.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Image {
    tables: BTreeMap<Bucket, Table>,
    consistent: EntryId,
    state_hash: u64,
}

#[derive(Default, Debug)]
struct Shared {
    live: Image,
    staged: Option<(SnapshotId, Image, bool)>,
}

/// The in-memory backend.
#[derive(Clone, Default, Debug)]
pub struct Memory {
    shared: Arc<RwLock<Shared>>,
}

impl Memory {
    /// A store that starts from an image, as after a restart.
    pub fn from_image(image: Image) -> Self {
        let shared = Shared {
            live: image,
            staged: None,
        };
        Self {
            shared: Arc::new(RwLock::new(shared)),
        }
    }

    /// The committed state.
    pub fn image(&self) -> Image {
        self.shared
            .read()
            .expect("no holder of the lock panics")
            .live
            .clone()
    }
}

impl Image {
    fn apply(&mut self, batch: &WriteBatch) {
        for (bucket, writes) in &batch.writes {
            let table = Arc::make_mut(self.tables.entry(*bucket).or_default());
            for (key, value) in writes {
                match value {
                    Some(value) => table.insert(key.clone(), value.clone()),
                    None => table.remove(key),
                };
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

    fn size(&self) -> BackendSize {
        let bytes: usize = self
            .tables
            .values()
            .flat_map(|table| table.iter())
            .map(|(key, value)| key.len() + value.len() + 16)
            .sum();
        BackendSize {
            file_bytes: bytes as u64,
            used_bytes: bytes as u64,
        }
    }
}

fn missing(id: SnapshotId) -> DiskError {
    DiskError::new(DiskErrorKind::Missing, format!("no staged image {id}"))
}

impl Backend for Memory {
    type Snapshot = Image;

    fn snapshot(&self) -> Result<Image, DiskError> {
        Ok(self.image())
    }

    fn commit(&self, batch: &WriteBatch) -> Result<BackendSize, DiskError> {
        let mut shared = self.shared.write().expect("no holder of the lock panics");
        shared.live.apply(batch);
        Ok(BackendSize::default())
    }

    fn defragment(&self) -> Result<BackendSize, DiskError> {
        self.size()
    }

    fn size(&self) -> Result<BackendSize, DiskError> {
        Ok(self.image().size())
    }

    fn stage_open(&self, id: SnapshotId) -> Result<(), DiskError> {
        let mut shared = self.shared.write().expect("no holder of the lock panics");
        shared.staged = Some((id, Image::default(), false));
        Ok(())
    }

    fn stage_write(&self, id: SnapshotId, batch: &WriteBatch) -> Result<(), DiskError> {
        let mut shared = self.shared.write().expect("no holder of the lock panics");
        match &mut shared.staged {
            Some((staged, image, false)) if *staged == id => image.apply(batch),
            _ => return Err(missing(id)),
        }
        Ok(())
    }

    fn stage_seal(&self, id: SnapshotId) -> Result<(), DiskError> {
        let mut shared = self.shared.write().expect("no holder of the lock panics");
        match &mut shared.staged {
            Some((staged, _, sealed)) if *staged == id => *sealed = true,
            _ => return Err(missing(id)),
        }
        Ok(())
    }

    fn stage_install(&self, id: SnapshotId) -> Result<BackendSize, DiskError> {
        let mut shared = self.shared.write().expect("no holder of the lock panics");
        match shared.staged.take() {
            Some((staged, image, true)) if staged == id => shared.live = image,
            other => {
                shared.staged = other;
                return Err(missing(id));
            }
        }
        Ok(shared.live.size())
    }

    fn stage_drop(&self, id: SnapshotId) -> Result<(), DiskError> {
        let mut shared = self.shared.write().expect("no holder of the lock panics");
        if shared
            .staged
            .as_ref()
            .is_some_and(|(staged, _, _)| *staged == id)
        {
            shared.staged = None;
        }
        Ok(())
    }
}

impl ReadSnapshot for Image {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, DiskError> {
        Ok(self
            .tables
            .get(&bucket)
            .and_then(|table| table.get(key))
            .cloned())
    }

    fn range(
        &self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), DiskError> {
        let Some(table) = self.tables.get(&bucket) else {
            return Ok(());
        };
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        let upper = to.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, value) in table.range::<[u8], _>((Bound::Included(from), upper)) {
            if visit(key, value).is_break() {
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
}
