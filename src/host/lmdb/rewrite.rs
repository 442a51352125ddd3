//! A store that is rewritten part by part while commits go on.
//!
//! Records are copied in the order of tables and keys into an empty store beside the live one, each
//! part from the state of the last commit. What stands behind the cursor was copied: a commit
//! writes it to both stores. What stands ahead of it is left to the parts that come. A part also
//! copies as much as was committed since the one before it, so the copy gets to the end whatever is
//! written meanwhile. Each part is made durable, so that no sync has much to write, neither the one
//! that seals the copy nor one of the log beside it.
//!
//! Invariants: behind the cursor both stores hold the same records between two calls; the state
//! record is copied last, in the part that ends the copy, so it is that of the last commit.

use std::{ops::Bound, path::Path};

use heed::RwTxn;

use super::{
    longkey::PREFIX_BYTES,
    repack,
    store::{Failure, LmdbSnapshot, Store, Table, write_table},
};
use crate::{
    backend::WriteBatch,
    kernel::{DiskError, DiskErrorKind},
    mutant,
};

/// What stays free on the file system while a copy is made: room for the log and for commits.
const SPARE_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of the copy that may be mapped before they are given back, so that closing it is short:
/// each write reads the pages beside it.
const MAPPED_BYTES: u64 = 16 * 1024 * 1024;

/// A copy in the making.
pub struct Rewriting {
    fresh: Store,
    /// Which table is being copied, by its place among all.
    table: usize,
    /// The last key of it that was copied.
    last: Option<Vec<u8>>,
    /// Bytes committed since the last part.
    committed: usize,
    /// Bytes of leaves that the entries of the copy take.
    filled: u64,
    /// Up to where the map of the copy was given back.
    given_back: u64,
}

impl Rewriting {
    /// Begins at the first key, into an empty store.
    pub fn new(fresh: Store) -> Self {
        Self {
            fresh,
            table: 0,
            last: None,
            committed: 0,
            filled: 0,
            given_back: 0,
        }
    }

    /// Copies about so many bytes, durably, and what commits have added since the last time. True
    /// when everything is copied; then no commit may come before the switch.
    pub fn copy(&mut self, live: &Store, bytes_max: usize) -> Result<bool, DiskError> {
        let mut left = bytes_max.saturating_add(std::mem::take(&mut self.committed));
        let source = live.snapshot()?;
        let tables: Vec<(Table, Table)> = live.buckets().zip(self.fresh.buckets()).collect();
        while left > 0
            && let Some((from, to)) = tables.get(self.table)
        {
            let last = self.last.take();
            let page_bytes = self.fresh.page_bytes();
            let part = self
                .fresh
                .transact(|txn| copy_some(&source, *from, txn, *to, &last, left, page_bytes))?;
            left = left.saturating_sub(part.bytes);
            self.filled += part.filled;
            self.last = part.last;
            if self.last.is_none() {
                self.table += 1;
            }
        }
        let is_complete = self.table == tables.len();
        if is_complete {
            self.fresh.put_state(&source, self.filled)?;
        }
        self.fresh.sync()?;
        let bytes = self.fresh.file_bytes()?;
        if bytes >= self.given_back + MAPPED_BYTES {
            self.fresh.give_back_map(self.given_back);
            self.given_back = bytes;
        }
        Ok(is_complete)
    }

    /// Writes what a commit changed behind the cursor.
    pub fn follow(&mut self, batch: &WriteBatch) -> Result<(), DiskError> {
        self.committed = self.committed.saturating_add(batch.bytes);
        if mutant!("rewriting-forgets-commits") {
            return Ok(());
        }
        let Self {
            fresh, table, last, ..
        } = self;
        let page_bytes = fresh.page_bytes();
        let filled = fresh.transact(|txn| {
            let mut filled = 0;
            for (bucket, writes) in &batch.writes {
                let place = usize::from(bucket.number());
                // A long key stands in the entry of its beginning.
                let is_behind = |key: &[u8]| match place.cmp(table) {
                    std::cmp::Ordering::Less => true,
                    std::cmp::Ordering::Equal => last
                        .as_ref()
                        .is_some_and(|last| key[..key.len().min(PREFIX_BYTES)] <= last[..]),
                    std::cmp::Ordering::Greater => false,
                };
                let behind = writes.iter().take_while(|(key, _)| is_behind(key));
                let table = fresh.bucket(*bucket);
                filled += write_table(txn, table, behind, page_bytes)?.filled;
            }
            Ok(filled)
        })?;
        let filled = self.filled.checked_add_signed(filled);
        self.filled = filled.expect("what is taken away was copied before");
        Ok(())
    }

    /// The copy, when it is complete.
    pub fn into_store(self) -> Store {
        self.fresh
    }
}

/// What one transaction copied: its bytes, and the last key while there is more in the table.
struct Part {
    bytes: usize,
    /// Of leaves.
    filled: u64,
    last: Option<Vec<u8>>,
}

/// Appends the entries after `last`, up to a bound.
fn copy_some(
    source: &LmdbSnapshot,
    from: Table,
    txn: &mut RwTxn<'_>,
    to: Table,
    last: &Option<Vec<u8>>,
    bytes_max: usize,
    page_bytes: usize,
) -> Result<Part, Failure> {
    let lower = match last {
        Some(last) => Bound::Excluded(&last[..]),
        None => Bound::Unbounded,
    };
    let (mut bytes, mut filled) = (0, 0);
    for entry in source.entries(from, lower)? {
        let (key, value) = entry?;
        to.put_with_flags(txn, heed::PutFlags::APPEND, key, value)?;
        bytes += key.len() + value.len();
        filled += repack::record_bytes(key.len(), value.len(), page_bytes);
        if bytes >= bytes_max {
            let last = Some(key.to_vec());
            return Ok(Part {
                bytes,
                filled,
                last,
            });
        }
    }
    Ok(Part {
        bytes,
        filled,
        last: None,
    })
}

/// Refuses to go on when the file system could not take so many bytes more without becoming short
/// of space for everything else: a log that finds no space stops the member.
pub fn check_room(dir: &Path, bytes: u64) -> Result<(), DiskError> {
    let of =
        rustix::fs::statvfs(dir).map_err(|error| super::layout::io_error(dir, &error.into()))?;
    let free = of.f_bavail.saturating_mul(of.f_frsize);
    if free >= bytes.saturating_add(SPARE_BYTES) {
        return Ok(());
    }
    let detail = format!(
        "{}: a copy of {bytes} bytes and {SPARE_BYTES} to spare do not fit into {free}; free space \
         on this file system",
        dir.display()
    );
    Err(DiskError::new(DiskErrorKind::Full, detail))
}
