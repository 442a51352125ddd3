//! The backend of a simulated member: the memory backend, and on a share of the seeds LMDB beside
//! it, on real files.
//!
//! With LMDB every operation runs on both, every read is answered from LMDB and compared with
//! memory, and sizes are those of memory. So a plan lives the same life with and without LMDB, and
//! any difference between the two backends ends the run.
//!
//! A crash leaves the last committed state. For LMDB that is a copy of its files as they are
//! between two commits: the dead life may still hold its own files open.

use std::{
    fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use fated::{
    backend::{Backend, Bucket, Extent, Image, Memory, ReadSnapshot, Visit, WriteBatch},
    host::lmdb::{Lmdb, LmdbSnapshot},
    kernel::{BackendSize, DiskError, EntryId, SnapshotId},
};

/// Runs of this process, so that no two share a directory.
static RUNS: AtomicU64 = AtomicU64::new(0);

/// The directory of one run, for all its members.
#[derive(Debug)]
pub struct Home(PathBuf);

impl Home {
    /// Makes a directory that nobody else uses; in memory where the system has such a place.
    pub fn create() -> Self {
        let shared = Path::new("/dev/shm");
        let base = match shared.is_dir() {
            true => shared.to_owned(),
            false => std::env::temp_dir(),
        };
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let home = base.join(format!("fated-sim-{}-{number}", std::process::id()));
        fs::create_dir_all(&home).expect("a temporary directory can be made");
        Self(home)
    }

    /// Removes everything. Called at the end of a run, also of one that panicked.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// One member's backend.
#[derive(Clone, Debug, Default)]
pub struct Store {
    memory: Memory,
    twin: Option<Twin>,
}

/// LMDB in a directory of its own for each life.
#[derive(Clone, Debug)]
struct Twin {
    lmdb: Lmdb,
    home: PathBuf,
    life: u64,
}

impl Twin {
    fn open(home: PathBuf, life: u64) -> Self {
        let lmdb = Lmdb::open(&home.join(life.to_string()));
        let lmdb = lmdb.expect("what memory can hold, LMDB can open");
        Self { lmdb, home, life }
    }

    fn after_crash(&self) -> Self {
        let life = self.life + 1;
        let copied = copy_tree(self.lmdb.dir(), &self.home.join(life.to_string()));
        copied.expect("a temporary directory can be copied");
        fs::remove_dir_all(self.lmdb.dir()).expect("a temporary directory can be removed");
        Self::open(self.home.clone(), life)
    }
}

impl Store {
    /// An empty store; with LMDB when there is a home for its files.
    pub fn new(home: Option<&Home>, member: usize) -> Self {
        let twin = home.map(|home| Twin::open(home.0.join(format!("m{member}")), 0));
        Self {
            memory: Memory::default(),
            twin,
        }
    }

    /// The committed state.
    pub fn image(&self) -> Image {
        self.memory.image()
    }

    /// What a crash leaves, independent of this store.
    pub fn after_crash(&self) -> Self {
        Self {
            memory: self.memory.after_crash(),
            twin: self.twin.as_ref().map(Twin::after_crash),
        }
    }

    /// An empty store in the place of this one, as after the loss of its directory.
    pub fn after_loss(&self) -> Self {
        let twin = self.twin.as_ref();
        let twin = twin.map(|twin| Twin::open(twin.home.clone(), twin.life + 1));
        Self {
            memory: Memory::default(),
            twin,
        }
    }

    /// Runs an operation on both, and answers what memory answers.
    fn both<T>(
        &self,
        what: &str,
        on_memory: impl FnOnce(&Memory) -> Result<T, DiskError>,
        on_lmdb: impl FnOnce(&Lmdb) -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        let answer = on_memory(&self.memory);
        if let Some(twin) = &self.twin {
            let other = on_lmdb(&twin.lmdb);
            let kinds = [&answer, &other].map(|answer| answer.as_ref().err().map(|no| no.kind));
            assert_eq!(kinds[0], kinds[1], "memory and LMDB differ in {what}");
        }
        answer
    }
}

impl Backend for Store {
    type Snapshot = Snapshot;

    fn snapshot(&self) -> Result<Snapshot, DiskError> {
        let lmdb = self.twin.as_ref().map(|twin| twin.lmdb.snapshot());
        Ok(Snapshot {
            memory: self.memory.snapshot()?,
            lmdb: lmdb.transpose()?,
        })
    }

    fn commit(&self, batch: &WriteBatch) -> Result<BackendSize, DiskError> {
        self.both("a commit", |one| one.commit(batch), |two| two.commit(batch))
    }

    /// Memory says how many parts there are; LMDB may be done earlier, and goes on to its end with
    /// the last one.
    fn defragment_part(&self, bytes_max: usize) -> Result<Option<BackendSize>, DiskError> {
        let answer = self.memory.defragment_part(bytes_max)?;
        if let Some(twin) = &self.twin {
            while twin.lmdb.defragment_part(bytes_max)?.is_none() && answer.is_some() {}
        }
        Ok(answer)
    }

    fn remove_replaced(&self) -> Result<(), DiskError> {
        self.both(
            "removing files",
            Memory::remove_replaced,
            Lmdb::remove_replaced,
        )
    }

    fn size(&self) -> Result<BackendSize, DiskError> {
        self.memory.size()
    }

    fn stage_open(&self, id: SnapshotId) -> Result<(), DiskError> {
        self.both(
            "staging",
            |one| one.stage_open(id),
            |two| two.stage_open(id),
        )
    }

    fn stage_write(&self, id: SnapshotId, batch: &WriteBatch) -> Result<(), DiskError> {
        self.both(
            "a staged write",
            |one| one.stage_write(id, batch),
            |two| two.stage_write(id, batch),
        )
    }

    fn stage_seal(&self, id: SnapshotId) -> Result<(), DiskError> {
        self.both(
            "sealing",
            |one| one.stage_seal(id),
            |two| two.stage_seal(id),
        )
    }

    fn sealed(&self) -> Result<Option<(SnapshotId, EntryId)>, DiskError> {
        let sealed = self.memory.sealed()?;
        if let Some(twin) = &self.twin {
            assert_eq!(twin.lmdb.sealed()?, sealed, "LMDB has another sealed image");
        }
        Ok(sealed)
    }

    fn stage_install(&self, id: SnapshotId) -> Result<BackendSize, DiskError> {
        self.both(
            "an installation",
            |one| one.stage_install(id),
            |two| two.stage_install(id),
        )
    }

    fn stage_drop(&self, id: SnapshotId) -> Result<(), DiskError> {
        self.both(
            "dropping an image",
            |one| one.stage_drop(id),
            |two| two.stage_drop(id),
        )
    }
}

/// One state of both.
pub struct Snapshot {
    memory: Image,
    lmdb: Option<LmdbSnapshot>,
}

impl Snapshot {
    /// Compares an answer of LMDB with that of memory.
    fn same<T: PartialEq + std::fmt::Debug>(
        &self,
        what: &str,
        memory: T,
        ask: impl FnOnce(&LmdbSnapshot) -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        if let Some(lmdb) = &self.lmdb {
            assert_eq!(ask(lmdb)?, memory, "LMDB reads another {what} than memory");
        }
        Ok(memory)
    }
}

impl ReadSnapshot for Snapshot {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, DiskError> {
        let memory = self.memory.get(bucket, key)?;
        self.same("value", memory, |lmdb| lmdb.get(bucket, key))
    }

    fn find(&self, bucket: Bucket, key: &[u8]) -> Result<Option<&[u8]>, DiskError> {
        let memory = self.memory.find(bucket, key)?;
        let Some(lmdb) = &self.lmdb else {
            return Ok(memory);
        };
        let found = lmdb.find(bucket, key)?;
        assert_eq!(found, memory, "LMDB shows another value than memory");
        Ok(found)
    }

    fn range<'s>(
        &'s self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
        visit: Visit<'_, 's>,
    ) -> Result<(), DiskError> {
        let Some(lmdb) = &self.lmdb else {
            return self.memory.range(bucket, from, to, visit);
        };
        let mut seen: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut ended = false;
        lmdb.range(bucket, from, to, &mut |key, value| {
            seen.push((key.to_vec(), value.to_vec()));
            let flow = visit(key, value);
            ended = flow.is_break();
            flow
        })?;
        let mut seen = seen.iter();
        self.memory.range(bucket, from, to, &mut |key, value| {
            if ended && seen.len() == 0 {
                return ControlFlow::Break(());
            }
            let other = seen.next().map(|(key, value)| (&key[..], &value[..]));
            assert_eq!(other, Some((key, value)), "LMDB reads another range");
            ControlFlow::Continue(())
        })?;
        assert_eq!(seen.len(), 0, "LMDB reads more than memory holds");
        Ok(())
    }

    fn consistent(&self) -> Result<EntryId, DiskError> {
        let memory = self.memory.consistent()?;
        self.same("consistent index", memory, LmdbSnapshot::consistent)
    }

    fn state_hash(&self) -> Result<u64, DiskError> {
        let memory = self.memory.state_hash()?;
        self.same("state hash", memory, LmdbSnapshot::state_hash)
    }

    fn extent(&self) -> Result<Extent, DiskError> {
        let memory = self.memory.extent()?;
        let records = |lmdb: &LmdbSnapshot| lmdb.extent().map(|extent| extent.records);
        self.same("count", memory.records, records)?;
        Ok(memory)
    }
}

/// Copies a store's files; those that only coordinate processes are made anew.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if entry.file_name() != "lock.mdb" {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fated::kernel::{LogIndex, Term};

    fn batch(index: u64) -> WriteBatch {
        let mut batch = WriteBatch::default();
        let key = Bytes::from(format!("key {}", index % 5));
        if index.is_multiple_of(3) {
            batch.delete(Bucket::Key, key);
        } else {
            batch.put(Bucket::Key, key, Bytes::from(vec![7; 900]));
        }
        batch.consistent = EntryId::new(Term::new(2), LogIndex::new(index));
        batch.state_hash = index;
        batch
    }

    /// Goal: a life after a crash has what was committed and the sealed image, and the dead one
    /// cannot write into it; at the end no file is left.
    #[test]
    fn lives_are_separate_and_leave_nothing() {
        let home = Home::create();
        let first = Store::new(Some(&home), 3);
        for index in 1..20 {
            first.commit(&batch(index)).unwrap();
        }
        let id = SnapshotId::new(4);
        first.stage_open(id).unwrap();
        first.stage_write(id, &batch(50)).unwrap();
        first.stage_seal(id).unwrap();
        let held = first.snapshot().unwrap();
        let second = first.after_crash();
        first.commit(&batch(20)).unwrap();
        assert_eq!(held.consistent().unwrap().index, LogIndex::new(19));
        let seen = second.snapshot().unwrap();
        assert_eq!(seen.consistent().unwrap().index, LogIndex::new(19));
        let mut keys = 0;
        let mut count = |_: &[u8], _: &[u8]| {
            keys += 1;
            ControlFlow::Continue(())
        };
        seen.range(Bucket::Key, &[], None, &mut count).unwrap();
        assert!(keys > 0);
        let sealed = second.sealed().unwrap().expect("a sealed image survives");
        second.stage_install(sealed.0).unwrap();
        let installed = second.snapshot().unwrap().consistent().unwrap();
        assert_eq!(installed.index, LogIndex::new(50));
        assert!(home.0.exists());
        home.remove();
        assert!(!home.0.exists());
    }

    /// Goal: a difference is seen. Method: write behind the back of one of them.
    #[test]
    #[should_panic(expected = "LMDB reads another")]
    fn a_difference_ends_the_run() {
        let home = Home::create();
        let store = Store::new(Some(&home), 0);
        store.commit(&batch(1)).unwrap();
        store.memory.commit(&batch(2)).unwrap();
        let snapshot = store.snapshot().unwrap();
        home.remove();
        snapshot.consistent().unwrap();
    }
}
