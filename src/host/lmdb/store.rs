//! One LMDB environment: its databases, writes in one transaction, reads of one snapshot.
//!
//! The internal database holds one record under `state`:
//!
//! ```text
//! version u32 | term u64 | index u64 | state hash u64 | surplus u64 | crc32 u32   (big-endian)
//! ```
//!
//! `surplus` is by how many the records outnumber the entries of the buckets, because a long-key
//! entry may hold several (see `longkey`).

use std::{
    fmt,
    ops::{Bound, ControlFlow},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::{BufMut, Bytes};
use heed::{CommitOrAbort, Database, Env, PutFlags, RoTxn, RwTxn, WithoutTls, types};

use super::{
    layout::{DATA_FILE, io_error},
    longkey::{self, PREFIX_BYTES},
    repack::{self, Sweep},
};
use crate::{
    backend::{Bucket, Extent, ReadSnapshot, Visit, WriteBatch},
    kernel::{BackendSize, DiskError, DiskErrorKind, EntryId, LogIndex, Term},
};

/// One database of the environment.
pub type Table = Database<'static, types::Bytes, types::Bytes>;
/// What a batch writes to a table.
pub type Writes = std::collections::BTreeMap<Bytes, Option<Bytes>>;

const INTERNAL_NAME: &str = "internal";
const STATE_KEY: &[u8] = b"state";
const STATE_VERSION: u32 = 1;
const STATE_BYTES: usize = 40;
/// Pages of the two meta records.
const META_PAGES: usize = 2;

/// An open environment and its databases.
pub struct Store {
    env: Env<WithoutTls>,
    tables: Tables,
    dir: PathBuf,
    /// The sweep of the keys, the one table that loses many records.
    sweep: Mutex<Sweep>,
    /// Held by every snapshot.
    readers: Arc<()>,
}

#[derive(Clone, Copy)]
struct Tables {
    buckets: [Table; Bucket::ALL.len()],
    internal: Table,
}

/// What is stored beside the buckets.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct State {
    consistent: EntryId,
    state_hash: u64,
    surplus: u64,
}

impl Store {
    /// Opens the databases, and makes those that are missing.
    pub fn new(env: Env<WithoutTls>, dir: PathBuf) -> Result<Self, DiskError> {
        let tables = open_tables(&env).map_err(|failure| error(&dir, failure))?;
        Ok(Self {
            env,
            tables,
            dir,
            sweep: Mutex::default(),
            readers: Arc::default(),
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Applies a batch in one transaction, and packs pages that earlier ones have emptied.
    pub fn write(&self, batch: &WriteBatch) -> Result<BackendSize, DiskError> {
        let page_bytes = self.env.unnamed_database_stat().page_size as usize;
        let sparse = self.sparse(page_bytes, batch.writes.get(&Bucket::Key));
        let sparse = sparse.map_err(|failure| failure.at(&self.dir))?;
        let used_bytes = self.transact(|txn| {
            let mut state = self.tables.state(txn)?;
            for (bucket, writes) in &batch.writes {
                let surplus = write_table(txn, self.tables.bucket(*bucket), writes.iter())?;
                let counted = state.surplus.checked_add_signed(surplus);
                state.surplus = counted.ok_or(Failure::Damaged("its state record"))?;
            }
            for range in &sparse {
                repack::rewrite(txn, self.tables.bucket(Bucket::Key), range, page_bytes)?;
            }
            if batch.consistent != EntryId::ZERO {
                assert!(
                    batch.consistent.index >= state.consistent.index,
                    "the consistent index went back"
                );
                state.consistent = batch.consistent;
                state.state_hash = batch.state_hash;
            }
            self.tables.internal.put(txn, STATE_KEY, &state.encode())?;
            Ok(self.tables.used_bytes(&self.env, txn)?)
        })?;
        if let Some(writes) = batch.writes.get(&Bucket::Key) {
            let removals = writes.values().filter(|value| value.is_none()).count();
            self.lock_sweep().pay(removals);
        }
        Ok(BackendSize {
            file_bytes: self.file_bytes()?,
            used_bytes,
        })
    }

    /// Records whose pages are too empty, or will be after these writes.
    fn sparse(
        &self,
        page_bytes: usize,
        writes: Option<&Writes>,
    ) -> Result<Vec<repack::Range>, Failure> {
        let txn = self.env.read_txn()?;
        let table = self.tables.bucket(Bucket::Key);
        self.lock_sweep().look(&txn, table, page_bytes, writes)
    }

    fn lock_sweep(&self) -> MutexGuard<'_, Sweep> {
        self.sweep.lock().expect("no holder of the lock panics")
    }

    /// One unchanging state.
    pub fn snapshot(&self) -> Result<LmdbSnapshot, DiskError> {
        let txn = self.env.clone().static_read_txn();
        let txn = txn.map_err(|failure| error(&self.dir, failure))?;
        let state = self.tables.state(&txn);
        Ok(LmdbSnapshot {
            state: state.map_err(|failure| failure.at(&self.dir))?,
            used_bytes: self
                .tables
                .used_bytes(&self.env, &txn)
                .map_err(|failure| error(&self.dir, failure))?,
            txn,
            tables: self.tables,
            dir: self.dir.clone(),
            _reader: Arc::clone(&self.readers),
        })
    }

    pub fn consistent(&self) -> Result<EntryId, DiskError> {
        Ok(self.snapshot()?.state.consistent)
    }

    pub fn size(&self) -> Result<BackendSize, DiskError> {
        Ok(BackendSize {
            file_bytes: self.file_bytes()?,
            used_bytes: self.snapshot()?.used_bytes,
        })
    }

    /// Whether no snapshot of it is left.
    pub fn is_unread(&self) -> bool {
        Arc::strong_count(&self.readers) == 1
    }

    /// All tables; that of the state record is the last.
    pub fn tables(&self) -> impl Iterator<Item = Table> {
        self.tables.all()
    }

    pub fn bucket(&self, bucket: Bucket) -> Table {
        self.tables.bucket(bucket)
    }

    /// Makes every commit so far durable.
    pub fn sync(&self) -> Result<(), DiskError> {
        self.env
            .force_sync()
            .map_err(|failure| error(&self.dir, failure))
    }

    /// Runs a write transaction; it leaves no trace when it fails.
    pub fn transact<T>(
        &self,
        body: impl FnOnce(&mut RwTxn<'_>) -> Result<T, Failure>,
    ) -> Result<T, DiskError> {
        let run = || {
            let mut txn = self.env.write_txn()?;
            let answer = body(&mut txn)?;
            txn.commit()?;
            Ok::<T, Failure>(answer)
        };
        run().map_err(|failure| failure.at(&self.dir))
    }

    fn file_bytes(&self) -> Result<u64, DiskError> {
        self.env
            .real_disk_size()
            .map_err(|failure| error(&self.dir, failure))
    }
}

impl Tables {
    fn bucket(&self, bucket: Bucket) -> Table {
        self.buckets[usize::from(bucket.number())]
    }

    fn all(&self) -> impl Iterator<Item = Table> {
        self.buckets.into_iter().chain([self.internal])
    }

    fn state(&self, txn: &RoTxn<'_>) -> Result<State, Failure> {
        match self.internal.get(txn, STATE_KEY)? {
            None => Ok(State::default()),
            Some(record) => State::decode(record).ok_or(Failure::Damaged("its state record")),
        }
    }

    /// Pages of all trees, without free ones.
    fn used_bytes(&self, env: &Env<WithoutTls>, txn: &RoTxn<'_>) -> Result<u64, heed::Error> {
        let main = env.unnamed_database_stat();
        let mut pages = META_PAGES + main.branch_pages + main.leaf_pages + main.overflow_pages;
        for table in self.all() {
            let stat = table.stat(txn)?;
            pages += stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
        }
        Ok(pages as u64 * u64::from(main.page_size))
    }
}

impl State {
    fn encode(&self) -> Vec<u8> {
        let mut record = Vec::with_capacity(STATE_BYTES);
        record.put_u32(STATE_VERSION);
        record.put_u64(self.consistent.term.get());
        record.put_u64(self.consistent.index.get());
        record.put_u64(self.state_hash);
        record.put_u64(self.surplus);
        record.put_u32(crc32fast::hash(&record));
        assert_eq!(
            record.len(),
            STATE_BYTES,
            "the state record changed its size"
        );
        record
    }

    fn decode(record: &[u8]) -> Option<Self> {
        let (body, crc) = record.split_last_chunk::<4>()?;
        let (version, body_rest) = body.split_first_chunk::<4>()?;
        let known = record.len() == STATE_BYTES
            && crc32fast::hash(body) == u32::from_be_bytes(*crc)
            && u32::from_be_bytes(*version) == STATE_VERSION;
        if !known {
            return None;
        }
        let mut words = body_rest
            .chunks_exact(8)
            .map(|word| u64::from_be_bytes(word.try_into().expect("chunks of eight")));
        let (term, index) = (Term::new(words.next()?), LogIndex::new(words.next()?));
        Some(Self {
            consistent: EntryId::new(term, index),
            state_hash: words.next()?,
            surplus: words.next()?,
        })
    }
}

/// A snapshot of an LMDB store; keeps the environment open for as long as it lives.
pub struct LmdbSnapshot {
    txn: RoTxn<'static, WithoutTls>,
    tables: Tables,
    state: State,
    used_bytes: u64,
    dir: PathBuf,
    /// Goes after the transaction: who counts readers must not miss one.
    _reader: Arc<()>,
}

impl LmdbSnapshot {
    /// What a table holds from a bound on, as it is stored.
    pub fn entries(
        &self,
        table: Table,
        from: Bound<&[u8]>,
    ) -> Result<heed::RoRange<'_, types::Bytes, types::Bytes>, heed::Error> {
        table.range(&self.txn, &(from, Bound::Unbounded))
    }

    fn walk(
        &self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), Failure> {
        let start = &from[..from.len().min(PREFIX_BYTES)];
        let lower = if start.is_empty() {
            Bound::Unbounded
        } else {
            Bound::Included(start)
        };
        let bounds = (lower, Bound::Unbounded);
        for entry in self.tables.bucket(bucket).range(&self.txn, &bounds)? {
            let (key, value) = entry?;
            if to.is_some_and(|to| key >= to) {
                return Ok(());
            }
            if key.len() < PREFIX_BYTES {
                if visit(key, value).is_break() {
                    return Ok(());
                }
                continue;
            }
            let mut flow = ControlFlow::Continue(());
            for record in longkey::records(value) {
                let (suffix, value) = record.ok_or(Failure::Damaged("a long key"))?;
                let whole = [key, suffix].concat();
                if to.is_some_and(|to| whole[..] >= *to) {
                    return Ok(());
                }
                if whole[..] >= *from {
                    flow = visit(&whole, value);
                }
                if flow.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The value of a key, where it lies in the map.
    fn find(&self, bucket: Bucket, key: &[u8]) -> Result<Option<&[u8]>, Failure> {
        let table = self.tables.bucket(bucket);
        Ok(match key.split_at_checked(PREFIX_BYTES) {
            None if key.is_empty() => None,
            None => table.get(&self.txn, key)?,
            Some((prefix, suffix)) => match table.get(&self.txn, prefix)? {
                None => None,
                Some(bin) => longkey::find(bin, suffix).ok_or(Failure::Damaged("a long key"))?,
            },
        })
    }
}

impl ReadSnapshot for LmdbSnapshot {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, DiskError> {
        let found = self.find(bucket, key);
        let found = found.map_err(|failure| failure.at(&self.dir))?;
        Ok(found.map(Bytes::copy_from_slice))
    }

    fn look(
        &self,
        bucket: Bucket,
        key: &[u8],
        look: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, DiskError> {
        let found = self.find(bucket, key);
        let found = found.map_err(|failure| failure.at(&self.dir))?;
        found.into_iter().for_each(look);
        Ok(found.is_some())
    }

    fn range(
        &self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), DiskError> {
        self.walk(bucket, from, to, visit)
            .map_err(|failure| failure.at(&self.dir))
    }

    fn consistent(&self) -> Result<EntryId, DiskError> {
        Ok(self.state.consistent)
    }

    fn state_hash(&self) -> Result<u64, DiskError> {
        Ok(self.state.state_hash)
    }

    fn extent(&self) -> Result<Extent, DiskError> {
        let mut records = self.state.surplus;
        for table in self.tables.buckets {
            let entries = table.len(&self.txn);
            records += entries.map_err(|failure| error(&self.dir, failure))?;
        }
        Ok(Extent {
            records,
            bytes: self.used_bytes,
        })
    }
}

impl fmt::Debug for LmdbSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LmdbSnapshot")
            .field("dir", &self.dir)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// What can go wrong inside a transaction, before its path is known.
pub enum Failure {
    Lmdb(heed::Error),
    Damaged(&'static str),
}

impl Failure {
    fn at(self, dir: &Path) -> DiskError {
        match self {
            Self::Lmdb(failure) => error(dir, failure),
            Self::Damaged(what) => DiskError::new(
                DiskErrorKind::Corrupt,
                format!("{}: {what} is damaged", dir.join(DATA_FILE).display()),
            ),
        }
    }
}

impl From<heed::Error> for Failure {
    fn from(failure: heed::Error) -> Self {
        Self::Lmdb(failure)
    }
}

fn open_tables(env: &Env<WithoutTls>) -> Result<Tables, heed::Error> {
    let txn = env.write_txn()?;
    let opened = env.create_databases_and_commit(txn, |opener, txn| {
        let mut buckets = Vec::with_capacity(Bucket::ALL.len());
        for bucket in Bucket::ALL {
            buckets.push(opener.create_database(txn, Some(bucket.name()))?);
        }
        let buckets: [_; Bucket::ALL.len()] = buckets
            .try_into()
            .unwrap_or_else(|_| unreachable!("one database was opened for each bucket"));
        let internal = opener.create_database(txn, Some(INTERNAL_NAME))?;
        Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit((buckets, internal)))
    })?;
    let (buckets, internal) = opened
        .commit()
        .expect("the closure above never answers with an abort");
    Ok(Tables { buckets, internal })
}

/// Writes in key order; past the old end of the table in append mode, which fills pages to the
/// brim. Answers by how many the surplus of records over entries grew.
pub fn write_table<'a>(
    txn: &mut RwTxn<'_>,
    table: Table,
    writes: impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>,
) -> Result<i64, Failure> {
    let end = table.last(txn)?.map(|(key, _)| key.to_vec());
    let mut surplus = 0;
    let mut appending = end.is_none();
    for (key, value) in writes {
        assert!(!key.is_empty(), "a write to the empty key");
        appending = appending || end.as_ref().is_some_and(|end| key[..] > end[..]);
        match value {
            _ if key.len() >= PREFIX_BYTES => {
                surplus += write_long(txn, table, key, value.as_ref())?;
            }
            None => {
                table.delete(txn, key)?;
            }
            Some(value) if appending => {
                table.put_with_flags(txn, PutFlags::APPEND, key, value)?;
            }
            Some(value) => table.put(txn, key, value)?,
        }
    }
    Ok(surplus)
}

/// Changes the entry that a long key shares with others of the same prefix.
fn write_long(
    txn: &mut RwTxn<'_>,
    table: Table,
    key: &[u8],
    value: Option<&Bytes>,
) -> Result<i64, Failure> {
    let (prefix, suffix) = key.split_at(PREFIX_BYTES);
    let before = table.get(txn, prefix)?.unwrap_or_default();
    let value = value.map(|value| &value[..]);
    let edit = longkey::edit(before, suffix, value).ok_or(Failure::Damaged("a long key"))?;
    if edit.records_after == 0 {
        table.delete(txn, prefix)?;
    } else {
        table.put(txn, prefix, &edit.bin)?;
    }
    let surplus = |records: usize| records.saturating_sub(1) as i64;
    Ok(surplus(edit.records_after) - surplus(edit.records_before))
}

/// LMDB's words with the path they are about, and what to do where the words do not say it.
pub fn error(dir: &Path, failure: heed::Error) -> DiskError {
    let path = dir.join(DATA_FILE);
    let kind = match &failure {
        heed::Error::Io(error) => return io_error(&path, error),
        heed::Error::Mdb(heed::MdbError::MapFull) => {
            let text = format!(
                "{}: the store has come to the largest size its address space allows; \
                 compact the history and defragment, or raise the address space limit (ulimit -v) \
                 of the process",
                path.display()
            );
            return DiskError::new(DiskErrorKind::Full, text);
        }
        heed::Error::Mdb(
            heed::MdbError::PageNotFound
            | heed::MdbError::Corrupted
            | heed::MdbError::Invalid
            | heed::MdbError::VersionMismatch,
        ) => DiskErrorKind::Corrupt,
        heed::Error::Mdb(_)
        | heed::Error::Encoding(_)
        | heed::Error::Decoding(_)
        | heed::Error::EnvAlreadyOpened => DiskErrorKind::Io,
    };
    DiskError::new(kind, format!("{}: {failure}", path.display()))
}
