//! Runs what the core asks of the backend, for production threads and for the simulated disk alike.
//!
//! Clones share their tables: one works on the thread of the backend lane, one on that of the
//! snapshot lane. A long read of a pinned image holds only that image, so the lanes do not wait for
//! each other.
//!
//! Invariant: `stage` is the decoder of the staged image, from its `StageOpen` until it is sealed,
//! dropped or has failed; what was refused once cannot be sealed.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;

use crate::{
    backend::{
        Backend,
        stream::{self, Decoder},
    },
    kernel::{DiskError, DiskErrorKind, DiskOp, DiskOutcome, SnapshotId, StoreCursor},
};

/// The executor of the Backend and the Snapshot lane.
#[derive(Clone)]
pub struct Lanes<B: Backend> {
    backend: B,
    open: Arc<Mutex<BTreeMap<SnapshotId, Pinned<B>>>>,
    stage: Arc<Mutex<Option<(SnapshotId, Decoder)>>>,
}

type Pinned<B> = Arc<Mutex<<B as Backend>::Snapshot>>;

impl<B: Backend> Lanes<B> {
    /// An executor with no image pinned or staged.
    pub fn new(backend: B) -> Self {
        Self {
            backend,
            open: Arc::default(),
            stage: Arc::default(),
        }
    }

    /// The backend under the lanes.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Runs one operation to its end. Within a lane the caller keeps the order of submission.
    pub fn execute(&self, op: &DiskOp) -> Result<DiskOutcome, DiskError> {
        match op {
            DiskOp::WalPrepare { .. } | DiskOp::WalWrite { .. } | DiskOp::WalRemove { .. } => {
                Err(DiskError::new(
                    DiskErrorKind::Io,
                    format!("an operation of lane {:?} came to the backend", op.lane()),
                ))
            }
            DiskOp::Commit { batch } => self.backend.commit(batch).map(DiskOutcome::Backend),
            DiskOp::Defragment { bytes_max } => {
                let done = self.backend.defragment_part(*bytes_max)?;
                Ok(done.map_or(DiskOutcome::Rewriting, DiskOutcome::Backend))
            }
            DiskOp::RemoveReplaced => self.remove_replaced(),
            DiskOp::SnapshotOpen { id } => self.snapshot_open(*id),
            DiskOp::SnapshotRead {
                id,
                cursor,
                bytes_max,
            } => self.snapshot_read(*id, cursor.as_ref(), *bytes_max),
            DiskOp::SnapshotClose { id } => {
                lock(&self.open).remove(id);
                // This may have been the last reader of a file that was replaced.
                self.remove_replaced()
            }
            DiskOp::StageOpen { id } => self.stage_open(*id),
            DiskOp::StageWrite { id, data } => self.stage_write(*id, data),
            DiskOp::StageSeal { id } => self.stage_seal(*id),
            DiskOp::StageInstall { id } => {
                self.backend.stage_install(*id).map(DiskOutcome::Backend)
            }
            DiskOp::StageDrop { id } => {
                lock(&self.stage).take_if(|(staged, _)| staged == id);
                self.backend.stage_drop(*id).map(|()| DiskOutcome::Done)
            }
        }
    }

    fn remove_replaced(&self) -> Result<DiskOutcome, DiskError> {
        self.backend.remove_replaced().map(|()| DiskOutcome::Done)
    }

    fn snapshot_open(&self, id: SnapshotId) -> Result<DiskOutcome, DiskError> {
        let snapshot = self.backend.snapshot()?;
        let bytes_estimate = stream::bytes_estimate(&snapshot)?;
        let before = lock(&self.open).insert(id, Arc::new(Mutex::new(snapshot)));
        assert!(before.is_none(), "snapshot {id} was opened twice");
        Ok(DiskOutcome::SnapshotOpened { bytes_estimate })
    }

    fn snapshot_read(
        &self,
        id: SnapshotId,
        cursor: Option<&StoreCursor>,
        bytes_max: usize,
    ) -> Result<DiskOutcome, DiskError> {
        let pinned = lock(&self.open).get(&id).cloned();
        let pinned = pinned.ok_or_else(|| missing("pinned", id))?;
        let (data, next) = stream::read_chunk(&*lock(&pinned), cursor, bytes_max)?;
        Ok(DiskOutcome::SnapshotChunk { data, next })
    }

    fn stage_open(&self, id: SnapshotId) -> Result<DiskOutcome, DiskError> {
        let mut stage = lock(&self.stage);
        *stage = None;
        self.backend.stage_open(id)?;
        *stage = Some((id, Decoder::new()));
        Ok(DiskOutcome::Done)
    }

    fn stage_write(&self, id: SnapshotId, data: &Bytes) -> Result<DiskOutcome, DiskError> {
        let mut stage = lock(&self.stage);
        let decoder = match &mut *stage {
            Some((staged, decoder)) if *staged == id => decoder,
            Some(_) | None => return Err(missing("staged", id)),
        };
        decoder.push(data)?;
        let batch = decoder.take();
        let written = if batch.is_empty() {
            Ok(())
        } else {
            self.backend.stage_write(id, &batch)
        };
        if written.is_err() {
            // Part of the image is missing now, whatever the trailer will say.
            *stage = None;
        }
        written.map(|()| DiskOutcome::Done)
    }

    fn stage_seal(&self, id: SnapshotId) -> Result<DiskOutcome, DiskError> {
        let (_, decoder) = lock(&self.stage)
            .take_if(|(staged, _)| *staged == id)
            .ok_or_else(|| missing("staged", id))?;
        decoder.finish()?;
        self.backend.stage_seal(id)?;
        Ok(DiskOutcome::Done)
    }
}

impl<B: Backend> fmt::Debug for Lanes<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open: Vec<SnapshotId> = lock(&self.open).keys().copied().collect();
        f.debug_struct("Lanes")
            .field("open", &open)
            .finish_non_exhaustive()
    }
}

fn missing(what: &str, id: SnapshotId) -> DiskError {
    DiskError::new(DiskErrorKind::Missing, format!("no image {id} is {what}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of the lock panics")
}
