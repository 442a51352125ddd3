//! The backend on LMDB, the same in production and in simulation.
//!
//! ```text
//! dir/store-0000000000000007/  the live image: the store of the highest generation
//! dir/stage-3/                 an image that arrives; thrown away by the next start
//! dir/sealed-3/                a complete, durable image that waits for its installation
//! dir/fresh/                   a new or a defragmented image; thrown away by the next start
//! ```
//!
//! One rename of a durable directory makes it the live one; whatever a crash leaves beside the
//! highest generation is rubbish, except a sealed image. Each commit is fully synced. A bucket is
//! one LMDB database; consistent index and state hash are one record of a further database, written
//! in the same transaction.
//!
//! Invariants: a `store-` directory is complete when it gets its name; one process opens a
//! directory (whoever owns the data directory keeps others out); after a failed commit or switch
//! nobody knows what is durable, so every later write fails with the same error; a store that was
//! replaced stays open, and keeps its files, until no snapshot reads it: closing it and giving its
//! space back take long, and who lets go of the last snapshot must not wait for that.

mod ahead;
mod layout;
mod longkey;
mod map;
#[cfg(test)]
mod order;
mod order_of_bytes;
mod pages;
mod repack;
mod rewrite;
mod state;
mod store;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use heed::{Env, EnvFlags, EnvOpenOptions, WithoutTls};

use crate::{
    backend::{Backend, WriteBatch},
    host::failpoint,
    kernel::{BackendSize, DiskError, DiskErrorKind, EntryId, SnapshotId},
};
use layout::Layout;
use rewrite::Rewriting;
pub use store::LmdbSnapshot;
use store::Store;

/// Address space reserved for the map, and with it the largest a store can become. It costs neither
/// memory nor disk: the file grows with its data.
const MAP_BYTES: usize = 1 << 38;
/// Where the address space of the process is limited, less is tried, down to this.
const MAP_BYTES_MIN: usize = 1 << 30;
/// Snapshots open at one time, over all threads.
const READERS_MAX: u32 = 512;
/// Bytes of one part of a defragmentation that nobody waits beside.
const DEFRAGMENT_BYTES: usize = 16 * 1024 * 1024;
/// Room for every bucket and the internal database.
const DATABASES_MAX: u32 = 16;

/// A store in a directory.
#[derive(Clone)]
pub struct Lmdb {
    shared: Arc<Shared>,
}

struct Shared {
    layout: Layout,
    live: Mutex<Live>,
    staged: Mutex<Option<(SnapshotId, Store)>>,
    /// A defragmentation under way, or why it cannot go on.
    rewriting: Mutex<Option<Result<Rewriting, DiskError>>>,
    /// Stores in whose place others have come.
    replaced: Mutex<Vec<Live>>,
    failed: Mutex<Option<DiskError>>,
    #[cfg(test)]
    stops: tests::Stops,
}

#[derive(Clone)]
struct Live {
    generation: u64,
    store: Arc<Store>,
}

/// Whether commits of an environment are synced one by one, or all together by `Store::seal`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Durability {
    EachCommit,
    WhenSealed,
}

impl Lmdb {
    /// Opens the store in `dir`, or makes an empty one; finishes or undoes what a crash
    /// interrupted.
    pub fn open(dir: &Path) -> Result<Self, DiskError> {
        let layout = Layout::open(dir)?;
        let scan = layout.scan()?;
        let (generation, store) = match scan.generation {
            // Opening comes first: it fails when this process has the store open already, and then
            // the image that looks abandoned is not.
            Some(generation) => {
                let store = open_store(&layout.store(generation))?;
                // A crash may have come before the name of this generation was durable; only then
                // may the one before it go.
                layout.sync()?;
                layout.discard_all(&scan.rubbish)?;
                (generation, store)
            }
            None => {
                layout.discard_all(&scan.rubbish)?;
                seal_store(&layout, create_store(layout.fresh())?)?;
                layout.rename(&layout.fresh(), &layout.store(1))?;
                (1, open_store(&layout.store(1))?)
            }
        };
        let store = Arc::new(store);
        let shared = Shared {
            layout,
            live: Mutex::new(Live { generation, store }),
            staged: Mutex::new(None),
            rewriting: Mutex::new(None),
            replaced: Mutex::default(),
            failed: Mutex::new(None),
            #[cfg(test)]
            stops: tests::Stops::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The directory given to `open`.
    pub fn dir(&self) -> &Path {
        self.shared.layout.dir()
    }

    /// Gives free pages back to the file system, in one go: for who starts, and for tests.
    pub fn defragment(&self) -> Result<BackendSize, DiskError> {
        let size = loop {
            if let Some(size) = self.defragment_part(DEFRAGMENT_BYTES)? {
                break size;
            }
        };
        self.remove_replaced()?;
        Ok(size)
    }

    /// Gives the memory back that reading the store has taken: for who has just read all of it.
    pub fn give_back_map(&self) {
        self.live().store.give_back_map(0);
    }

    fn live(&self) -> Live {
        lock(&self.shared.live).clone()
    }

    /// Refuses to write once a write has failed.
    fn check(&self) -> Result<(), DiskError> {
        lock(&self.shared.failed).clone().map_or(Ok(()), Err)
    }

    /// Remembers a failure after which nobody knows what is durable.
    fn fatal<T>(&self, result: Result<T, DiskError>) -> Result<T, DiskError> {
        if let Err(error) = &result {
            lock(&self.shared.failed).get_or_insert_with(|| error.clone());
        }
        result
    }

    /// Makes a sealed directory the live store.
    fn switch(&self, from: &Path) -> Result<BackendSize, DiskError> {
        let layout = &self.shared.layout;
        let before = self.live();
        let generation = before.generation + 1;
        let path = layout.store(generation);
        pages::check_length(&from.join(layout::DATA_FILE))?;
        self.step("switch: before the rename")?;
        layout.rename_unsynced(from, &path)?;
        self.step("switch: before the rename is durable")?;
        layout.sync()?;
        self.step("switch: before the new store is open")?;
        let store = Arc::new(open_store(&path)?);
        let size = store.size()?;
        *lock(&self.shared.live) = Live { generation, store };
        lock(&self.shared.replaced).push(before);
        Ok(size)
    }

    /// Copies a part of the live store. True when all of it is copied and durable.
    fn copy_part(&self, bytes_max: usize) -> Result<bool, DiskError> {
        let layout = &self.shared.layout;
        let mut under_way = lock(&self.shared.rewriting);
        let live = self.live().store;
        let mut rewriting = match under_way.take() {
            Some(begun) => {
                rewrite::check_room(self.dir(), 0)?;
                begun?
            }
            None => {
                layout.discard(&layout.fresh())?;
                rewrite::check_room(self.dir(), live.size()?.used_bytes)?;
                self.step("copy: before the directory")?;
                Rewriting::new(create_store(layout.fresh())?)
            }
        };
        self.step("copy: before the data")?;
        if !rewriting.copy(&live, bytes_max)? {
            *under_way = Some(Ok(rewriting));
            return Ok(false);
        }
        drop(under_way);
        self.step("copy: before the seal")?;
        seal_store(layout, rewriting.into_store())?;
        Ok(true)
    }

    /// Ends a defragmentation before its end.
    fn forget_copy(&self) -> Result<(), DiskError> {
        *lock(&self.shared.rewriting) = None;
        self.shared.layout.discard(&self.shared.layout.fresh())
    }

    /// A point where a test may stop everything, as a crash would.
    fn step(&self, name: &'static str) -> Result<(), DiskError> {
        #[cfg(test)]
        self.shared.stops.pass(name)?;
        #[cfg(not(test))]
        let _ = name;
        Ok(())
    }
}

impl Backend for Lmdb {
    type Snapshot = LmdbSnapshot;

    fn snapshot(&self) -> Result<LmdbSnapshot, DiskError> {
        self.live().store.snapshot()
    }

    fn commit(&self, batch: &WriteBatch) -> Result<BackendSize, DiskError> {
        self.check()?;
        let size = self.fatal(self.live().store.write(batch))?;
        let mut under_way = lock(&self.shared.rewriting);
        if let Some(Ok(rewriting)) = &mut *under_way
            && let Err(error) = rewriting.follow(batch)
        {
            // The copy is worth nothing any more, the store is what it should be.
            *under_way = Some(Err(error));
        }
        Ok(size)
    }

    /// When copying fails, for want of space most likely, the live store stays what it was and may
    /// be used on.
    fn defragment_part(&self, bytes_max: usize) -> Result<Option<BackendSize>, DiskError> {
        self.check()?;
        match self.copy_part(bytes_max) {
            Ok(false) => Ok(None),
            Ok(true) => {
                failpoint::hit("defragBeforeRename");
                let fresh = self.shared.layout.fresh();
                self.fatal(self.switch(&fresh)).map(Some)
            }
            Err(error) => {
                self.step("copy: before its remains are removed")?;
                self.forget_copy()?;
                Err(error)
            }
        }
    }

    fn remove_replaced(&self) -> Result<(), DiskError> {
        let unread =
            |live: &mut Live| live.store.is_unread() && Arc::strong_count(&live.store) == 1;
        let gone: Vec<Live> = lock(&self.shared.replaced).extract_if(.., unread).collect();
        for Live { generation, store } in gone {
            self.step("replaced: before the old store is removed")?;
            let layout = &self.shared.layout;
            let dir = layout.store(generation);
            let store =
                Arc::into_inner(store).expect("it was the only one, and nobody can find it");
            if store.close() {
                layout::shorten(&dir.join(layout::DATA_FILE))?;
            }
            self.step("replaced: before its directory is removed")?;
            layout.discard(&dir)?;
        }
        Ok(())
    }

    fn size(&self) -> Result<BackendSize, DiskError> {
        self.live().store.size()
    }

    fn stage_open(&self, id: SnapshotId) -> Result<(), DiskError> {
        let layout = &self.shared.layout;
        let mut staged = lock(&self.shared.staged);
        *staged = None;
        layout.discard_all(&layout.scan()?.images)?;
        self.step("stage: before the directory")?;
        *staged = Some((id, create_store(layout.stage(id))?));
        Ok(())
    }

    fn stage_write(&self, id: SnapshotId, batch: &WriteBatch) -> Result<(), DiskError> {
        self.step("stage: before a write")?;
        match &*lock(&self.shared.staged) {
            Some((staged, store)) if *staged == id => store.write(batch).map(drop),
            Some(_) | None => Err(missing(&self.shared.layout.stage(id))),
        }
    }

    fn stage_seal(&self, id: SnapshotId) -> Result<(), DiskError> {
        let layout = &self.shared.layout;
        let (_, store) = lock(&self.shared.staged)
            .take_if(|(staged, _)| *staged == id)
            .ok_or_else(|| missing(&layout.stage(id)))?;
        self.step("seal: before the data is durable")?;
        seal_store(layout, store)?;
        self.step("seal: before the rename")?;
        layout.rename_unsynced(&layout.stage(id), &layout.sealed(id))?;
        self.step("seal: before the rename is durable")?;
        layout.sync()
    }

    fn sealed(&self) -> Result<Option<(SnapshotId, EntryId)>, DiskError> {
        let Some(id) = self.shared.layout.scan()?.sealed else {
            return Ok(None);
        };
        let store = open_store(&self.shared.layout.sealed(id))?;
        let consistent = store.consistent()?;
        Ok(Some((id, consistent)))
    }

    fn stage_install(&self, id: SnapshotId) -> Result<BackendSize, DiskError> {
        self.check()?;
        let from = self.shared.layout.sealed(id);
        if self.shared.layout.scan()?.sealed != Some(id) {
            return Err(missing(&from));
        }
        self.forget_copy()?;
        self.fatal(self.switch(&from))
    }

    fn stage_drop(&self, id: SnapshotId) -> Result<(), DiskError> {
        let layout = &self.shared.layout;
        lock(&self.shared.staged).take_if(|(staged, _)| *staged == id);
        if layout.scan()?.sealed == Some(id) {
            // Under the name of an unsealed image a half-removed one cannot be taken for complete.
            layout.rename(&layout.sealed(id), &layout.stage(id))?;
        }
        self.step("drop: before the removal")?;
        layout.discard(&layout.stage(id))
    }
}

impl fmt::Debug for Lmdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lmdb").field("dir", &self.dir()).finish()
    }
}

/// Opens a store that must be there and whole.
fn open_store(dir: &Path) -> Result<Store, DiskError> {
    pages::check_length(&dir.join(layout::DATA_FILE))?;
    Store::new(open_env(dir, Durability::EachCommit)?, dir.to_owned())
}

/// Makes an empty store in a new directory.
fn create_store(dir: PathBuf) -> Result<Store, DiskError> {
    layout::create_dir(&dir)?;
    Store::new(open_env(&dir, Durability::WhenSealed)?, dir)
}

/// Makes a store durable and closes it.
fn seal_store(layout: &Layout, store: Store) -> Result<(), DiskError> {
    let dir = store.dir().to_owned();
    store.sync()?;
    store.close();
    layout::sync_store(&dir)?;
    layout.sync()
}

fn open_env(dir: &Path, durability: Durability) -> Result<Env<WithoutTls>, DiskError> {
    let mut map_bytes = MAP_BYTES;
    loop {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options
            .map_size(map_bytes)
            .max_readers(READERS_MAX)
            .max_dbs(DATABASES_MAX);
        if durability == Durability::WhenSealed {
            // SAFETY: without syncs a crash may leave a torn image; one that was not sealed is
            // never opened again.
            unsafe { options.flags(EnvFlags::NO_SYNC) };
        }
        // SAFETY: nobody else writes to the mapped file: the directory belongs to this process,
        // heed refuses a path that is already open in it, and the file's length was checked.
        match unsafe { options.open(dir) } {
            Ok(env) => return Ok(env),
            Err(heed::Error::Io(error)) if cannot_map(&error) && map_bytes > MAP_BYTES_MIN => {
                map_bytes /= 2;
            }
            Err(error) => return Err(store::error(dir, error)),
        }
    }
}

/// Whether the process may not map so much: the system's limit, or that of a tool it runs under.
fn cannot_map(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidInput, OutOfMemory};
    [OutOfMemory, InvalidInput].contains(&error.kind())
}

fn missing(path: &Path) -> DiskError {
    DiskError::new(
        DiskErrorKind::Missing,
        format!("{}: no such image", path.display()),
    )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of the lock panics")
}
