//! Where the server meets the log reader, the backend and the node: each a few lines, in one place.

use std::path::Path;

use crate::{
    backend::Backend,
    host::{
        lanes::Lanes,
        lmdb::Lmdb,
        tokio::{
            lanes::{LaneSet, LaneWork},
            meter::Meter,
            wal::{WalDir, WalKeeper, WalWriter},
        },
    },
    kernel::{DiskError, DiskOp, DiskOutcome, Fault},
    node::boot::settle_image,
    wal::{Recovered, Recovery, first_unsettled},
};

/// The backend of the server.
pub(super) type Store = Lmdb;

/// Opens the backend.
pub(super) fn open_store(directory: &Path) -> Result<Store, Fault> {
    Ok(Lmdb::open(directory)?)
}

/// Reads the log, if there is one, and fits the backend to it.
pub(super) fn recover(dir: &WalDir, store: &Store) -> Result<Option<Recovered>, Fault> {
    let mut recovery = Recovery::new();
    let mut segments = Vec::new();
    for segment in dir.segments()? {
        segments.push((segment, dir.is_begun(segment)?));
    }
    let unsettled = first_unsettled(&segments);
    for (segment, _) in segments {
        // What a killed process wrote last may lie in the page cache only, yet whatever is read
        // back counts as durable from here on.
        let content = match Some(segment) < unsettled {
            true => dir.read_synced(segment)?,
            false => dir.read_durable(segment)?,
        };
        recovery.feed(segment, &content).map_err(Fault::from)?;
    }
    let applied = settle_image(store, recovery.mark())?;
    recovery.finish(applied).map_err(Fault::from)
}

/// The lanes over the log and the backend.
pub(super) fn lanes(wal: &WalDir, store: &Store, meter: &Meter) -> LaneSet {
    let lanes = Lanes::new(store.clone());
    LaneSet {
        wal: Box::new(WalWriter::new(wal.clone(), meter.clone())),
        keep: Box::new(WalKeeper::new(wal.clone())),
        backend: Box::new(StoreLane(lanes.clone())),
        snapshot: Box::new(StoreLane(lanes)),
    }
}

struct StoreLane<B: Backend>(Lanes<B>);

impl<B: Backend> LaneWork for StoreLane<B>
where
    Lanes<B>: Send,
{
    fn run(&mut self, op: DiskOp) -> Result<DiskOutcome, DiskError> {
        self.0.execute(&op)
    }
}
