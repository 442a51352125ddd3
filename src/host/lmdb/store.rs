//! One LMDB environment: its databases, writes in one transaction, reads of one snapshot.

use std::{
    fmt,
    ops::{Bound, ControlFlow},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use heed::{
    CommitOrAbort, Database, DatabaseOpener, Env, PutFlags, RoTxn, RwTxn, WithoutTls, types,
};

use super::{
    ahead::Ahead,
    layout::{DATA_FILE, io_error},
    longkey::{self, PREFIX_BYTES},
    map,
    order_of_bytes::ByteOrder,
    repack::{self, Sweep},
    state::{Change, State},
};
use crate::{
    backend::{Bucket, Extent, ReadSnapshot, Visit, WriteBatch},
    kernel::{BackendSize, DiskError, DiskErrorKind, EntryId, Writes, order::compare},
};

/// One database of the environment.
pub type Table = Database<'static, types::Bytes, types::Bytes, ByteOrder>;

const INTERNAL_NAME: &str = "internal";
const STATE_KEY: &[u8] = b"state";
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
        let page_bytes = self.page_bytes();
        let sparse = self.sparse(page_bytes, batch.writes.get(&Bucket::Key));
        let sparse = sparse.map_err(|failure| failure.at(&self.dir))?;
        let mut size = self.transact(|txn| {
            let mut state = self.tables.state(txn)?;
            for (bucket, writes) in &batch.writes {
                let table = self.tables.bucket(*bucket);
                let change = write_table(txn, table, writes.iter(), page_bytes)?;
                let changed = state.changed(change);
                state = changed.ok_or(Failure::Damaged("its state record"))?;
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
            Ok(self.tables.size(&self.env, txn, state)?)
        })?;
        if let Some(writes) = batch.writes.get(&Bucket::Key) {
            self.lock_sweep().pay(writes.removals());
        }
        size.file_bytes = self.file_bytes()?;
        Ok(size)
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
        let state = state.map_err(|failure| failure.at(&self.dir))?;
        Ok(LmdbSnapshot {
            state,
            size: self
                .tables
                .size(&self.env, &txn, state)
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
            ..self.snapshot()?.size
        })
    }

    pub fn page_bytes(&self) -> usize {
        self.env.unnamed_database_stat().page_size as usize
    }

    /// Writes the state record of another store that this one is a copy of, with what was counted
    /// while it was copied.
    pub fn put_state(&self, of: &LmdbSnapshot, filled: u64) -> Result<(), DiskError> {
        let state = State {
            filled: Some(filled),
            ..of.state
        };
        self.transact(|txn| Ok(self.tables.internal.put(txn, STATE_KEY, &state.encode())?))
    }

    /// Whether no snapshot of it is left.
    pub fn is_unread(&self) -> bool {
        Arc::strong_count(&self.readers) == 1
    }

    /// The tables of all buckets, in their order.
    pub fn buckets(&self) -> impl Iterator<Item = Table> {
        self.tables.buckets.into_iter()
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

    /// Gives the memory back that reading its map has taken, from a place in the file on. What is
    /// read again comes from the file.
    pub fn give_back_map(&self, from: u64) {
        map::give_back(&self.dir.join(DATA_FILE), from);
    }

    /// Closes the store. True when nobody else holds it open.
    pub fn close(self) -> bool {
        // Little is left to do then in the one call that takes the map away.
        self.give_back_map(0);
        let Self { env, .. } = self;
        let closing = env.clone().prepare_for_closing();
        drop(env);
        closing.wait_timeout(Duration::ZERO)
    }

    /// Runs a write transaction; it leaves no trace when it fails.
    pub fn transact<T>(
        &self,
        body: impl FnOnce(&mut RwTxn<'_>) -> Result<T, Failure>,
    ) -> Result<T, DiskError> {
        #[cfg(test)]
        super::order::note(super::order::Call::Write(self.dir.clone()));
        let run = || {
            let mut txn = self.env.write_txn()?;
            let answer = body(&mut txn)?;
            txn.commit()?;
            Ok::<T, Failure>(answer)
        };
        run().map_err(|failure| failure.at(&self.dir))
    }

    /// How long the file is.
    pub fn file_bytes(&self) -> Result<u64, DiskError> {
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

    /// Pages of all trees, without free ones: as they are, and as they would be if they were full.
    /// The file is the caller's to ask for.
    fn size(
        &self,
        env: &Env<WithoutTls>,
        txn: &RoTxn<'_>,
        state: State,
    ) -> Result<BackendSize, heed::Error> {
        let main = env.unnamed_database_stat();
        let page_bytes = main.page_size as usize;
        let mut used = META_PAGES + main.branch_pages + main.leaf_pages + main.overflow_pages;
        let mut packed = used;
        let mut records = 0;
        for table in self.all() {
            let stat = table.stat(txn)?;
            used += stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
            // The last leaf of each is not full.
            packed += stat.overflow_pages + usize::from(stat.leaf_pages > 0);
            records += stat.entries as u64;
        }
        let bytes = |pages: u64| pages * page_bytes as u64;
        let used_bytes = bytes(used as u64);
        let packed_bytes = state.filled.map_or(used_bytes, |filled| {
            bytes(packed as u64 + repack::packed_pages(records, filled, page_bytes))
        });
        Ok(BackendSize {
            file_bytes: 0,
            used_bytes,
            packed_bytes: packed_bytes.min(used_bytes),
        })
    }
}

/// A snapshot of an LMDB store; keeps the environment open for as long as it lives.
pub struct LmdbSnapshot {
    txn: RoTxn<'static, WithoutTls>,
    tables: Tables,
    state: State,
    size: BackendSize,
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
    ) -> Result<heed::RoRange<'_, types::Bytes, types::Bytes, ByteOrder>, heed::Error> {
        table.range(&self.txn, &(from, Bound::Unbounded))
    }

    /// Bytes of leaves that entries take: as they were counted, and as they are.
    #[cfg(test)]
    pub fn filled(&self, page_bytes: usize) -> (Option<u64>, u64) {
        let mut walked = 0;
        for table in self.tables.buckets {
            for entry in table.iter(&self.txn).expect("read") {
                let (key, value) = entry.expect("read");
                walked += repack::record_bytes(key.len(), value.len(), page_bytes);
            }
        }
        (self.state.filled, walked)
    }

    fn walk<'s>(
        &'s self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
        visit: Visit<'_, 's>,
    ) -> Result<(), Failure> {
        let start = &from[..from.len().min(PREFIX_BYTES)];
        let lower = if start.is_empty() {
            Bound::Unbounded
        } else {
            Bound::Included(start)
        };
        let bounds = (lower, Bound::Unbounded);
        let mut ahead = Ahead::default();
        for entry in self.tables.bucket(bucket).range(&self.txn, &bounds)? {
            let (key, value) = entry?;
            ahead.on_record(key, value);
            if to.is_some_and(|to| compare(key, to).is_ge()) {
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
    fn entry(&self, bucket: Bucket, key: &[u8]) -> Result<Option<&[u8]>, Failure> {
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
        Ok(self.find(bucket, key)?.map(Bytes::copy_from_slice))
    }

    fn find(&self, bucket: Bucket, key: &[u8]) -> Result<Option<&[u8]>, DiskError> {
        let found = self.entry(bucket, key);
        found.map_err(|failure| failure.at(&self.dir))
    }

    fn range<'s>(
        &'s self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
        visit: Visit<'_, 's>,
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
            bytes: self.size.used_bytes,
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
            buckets.push(open_table(opener, txn, bucket.name())?);
        }
        let buckets: [_; Bucket::ALL.len()] = buckets
            .try_into()
            .unwrap_or_else(|_| unreachable!("one database was opened for each bucket"));
        let internal = open_table(opener, txn, INTERNAL_NAME)?;
        Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit((buckets, internal)))
    })?;
    let (buckets, internal) = opened
        .commit()
        .expect("the closure above never answers with an abort");
    Ok(Tables { buckets, internal })
}

fn open_table<'e>(
    opener: &DatabaseOpener<'e, WithoutTls>,
    txn: &mut RwTxn<'_>,
    name: &str,
) -> Result<Database<'e, types::Bytes, types::Bytes, ByteOrder>, heed::Error> {
    let options = opener.database_options();
    let mut options = options.types().key_comparator::<ByteOrder>();
    options.name(name).create(txn)
}

/// Writes in key order; past the old end of the table in append mode, which fills pages to the
/// brim.
pub fn write_table<'a>(
    txn: &mut RwTxn<'_>,
    table: Table,
    writes: impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>,
    page_bytes: usize,
) -> Result<Change, Failure> {
    let end = table.last(txn)?.map(|(key, _)| key.to_vec());
    let mut change = Change::default();
    let mut appending = end.is_none();
    for (key, value) in writes {
        assert!(!key.is_empty(), "a write to the empty key");
        appending = appending || end.as_ref().is_some_and(|end| compare(key, end).is_gt());
        if key.len() >= PREFIX_BYTES {
            let long = write_long(txn, table, key, value.as_ref(), page_bytes)?;
            change.surplus += long.surplus;
            change.filled += long.filled;
            continue;
        }
        if !appending && let Some(before) = table.get(txn, key)? {
            change.filled -= entry_bytes(key, before, page_bytes);
        }
        match value {
            None => {
                table.delete(txn, key)?;
                continue;
            }
            Some(value) if appending => {
                table.put_with_flags(txn, PutFlags::APPEND, key, value)?;
            }
            Some(value) => table.put(txn, key, value)?,
        }
        change.filled += entry_bytes(key, value.as_deref().unwrap_or_default(), page_bytes);
    }
    Ok(change)
}

/// What an entry takes of a leaf.
pub fn entry_bytes(key: &[u8], value: &[u8], page_bytes: usize) -> i64 {
    repack::record_bytes(key.len(), value.len(), page_bytes) as i64
}

/// Changes the entry that a long key shares with others of the same prefix.
fn write_long(
    txn: &mut RwTxn<'_>,
    table: Table,
    key: &[u8],
    value: Option<&Bytes>,
    page_bytes: usize,
) -> Result<Change, Failure> {
    let (prefix, suffix) = key.split_at(PREFIX_BYTES);
    let before = table.get(txn, prefix)?;
    let mut filled = before.map_or(0, |bin| -entry_bytes(prefix, bin, page_bytes));
    let value = value.map(|value| &value[..]);
    let edit = longkey::edit(before.unwrap_or_default(), suffix, value);
    let edit = edit.ok_or(Failure::Damaged("a long key"))?;
    if edit.records_after == 0 {
        table.delete(txn, prefix)?;
    } else {
        table.put(txn, prefix, &edit.bin)?;
        filled += entry_bytes(prefix, &edit.bin, page_bytes);
    }
    let surplus = |records: usize| records.saturating_sub(1) as i64;
    Ok(Change {
        surplus: surplus(edit.records_after) - surplus(edit.records_before),
        filled,
    })
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
