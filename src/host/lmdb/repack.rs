//! Keeps the pages of a table full while it is used, so that the file needs no defragmentation.
//!
//! Compaction removes records all over a table, and LMDB joins pages only when three quarters of
//! one are empty. So after removals a sweep goes on through the table: it looks at a window of
//! leaves at a time, counts how many pages its records would fill if they were packed, and has
//! windows that waste too much written anew, in the transaction of the next commit. Records that
//! are written one behind the other fill their pages.
//!
//! How far a sweep goes is paid for by removals, so its cost is a share of theirs, and a table from
//! which nothing is removed is never looked at. What a commit writes anew is bounded by a share of
//! the table, because every page that is written needs a free one.
//!
//! Invariants: a sweep changes where records are and never what they are; which page a record is on
//! is read from committed pages only, which lie in the map one page behind the other.

use std::{collections::VecDeque, iter::Peekable, ops::Bound};

use heed::{RoTxn, RwTxn};

use super::store::{Failure, Table};
use crate::kernel::Writes;

/// Leaves of one window.
const WINDOW_PAGES: usize = 16;
/// Leaves that one removal pays for.
const PAGES_PER_REMOVAL: usize = 4;
/// The most leaves that are looked at for one commit.
const LOOK_PAGES_MAX: usize = 1024;
/// Removals pay ahead for so many sweeps through the whole table.
const SWEEPS_AHEAD: usize = 2;
/// The most and the least leaves that are written anew in one commit.
const WRITE_PAGES_MAX: usize = 512;
const WRITE_PAGES_MIN: usize = 16;
/// Otherwise this share of the table is written anew: one page in so many.
const WRITE_SHARE: usize = 96;
/// A window is written anew when it would shrink by one page in so many.
const WASTE_SHARE: usize = 6;
/// A window with more value bytes than so many times its leaves holds large values, which have
/// pages of their own; its leaves are not worth copying them.
const LARGE_SHARE: usize = 4;

/// Bytes of a page's head, of a record's head, and of its place in the page's list.
const PAGE_HEAD: usize = 16;
const RECORD_HEAD: usize = 8;
const SLOT: usize = 2;
/// A page of which more than one byte in so many is taken is not joined with another.
const JOIN_SHARE: usize = 3;
/// Records from behind a range take at most one byte of a page in so many.
const PULL_SHARE: usize = 2;
/// What stands in the leaf for a value that has pages of its own.
const LARGE_POINTER: usize = 8;

/// Leaves under one branch, about.
const BRANCH_SHARE: u64 = 100;

/// Where the sweep of a table is, and how far it may go.
#[derive(Default, Debug)]
pub struct Sweep {
    /// Leaves that are paid for.
    credit: usize,
    /// The last key that was looked at; none at the beginning of the table.
    cursor: Option<Vec<u8>>,
}

/// Records that are to be written anew: first and last key.
pub type Range = (Vec<u8>, Vec<u8>);

/// A key and its value.
type Record = (Vec<u8>, Vec<u8>);

impl Sweep {
    /// So many records were removed.
    pub fn pay(&mut self, removals: usize) {
        self.credit = self.credit.saturating_add(removals * PAGES_PER_REMOVAL);
    }

    /// Goes on and answers what is to be written anew with a batch, behind its writes.
    pub fn look(
        &mut self,
        txn: &RoTxn<'_>,
        table: Table,
        page_bytes: usize,
        writes: Option<&Writes>,
    ) -> Result<Vec<Range>, Failure> {
        let mut ranges = match writes {
            Some(writes) => around_removals(txn, table, page_bytes, writes)?,
            None => Vec::new(),
        };
        if self.credit == 0 {
            return Ok(ranges);
        }
        let leaves = table.stat(txn)?.leaf_pages;
        // A table that was looked at all over since the last removal has no more to show.
        self.credit = self.credit.min(leaves.max(1) * SWEEPS_AHEAD);
        let write_max = (leaves / WRITE_SHARE).clamp(WRITE_PAGES_MIN, WRITE_PAGES_MAX);
        let look_max = self.credit.min(LOOK_PAGES_MAX).min(leaves.max(1));
        let (mut looked, mut written) = (0, 0);
        let mut goes_on = false;
        while looked < look_max && written < write_max {
            let after = self.cursor.as_deref();
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let nothing = &mut std::iter::empty().peekable();
            let window = Window::read(txn, table, from, page_bytes, nothing)?;
            looked += window.pages.max(1);
            self.cursor = window.more.then_some(window.last.clone());
            written += window.add_to(&mut ranges, &mut goes_on);
        }
        self.credit = self.credit.saturating_sub(looked);
        Ok(ranges)
    }
}

/// The windows from which a batch removes: their pages change with it anyway, so now is the time to
/// pack what it leaves.
fn around_removals(
    txn: &RoTxn<'_>,
    table: Table,
    page_bytes: usize,
    writes: &Writes,
) -> Result<Vec<Range>, Failure> {
    let mut ranges = Vec::new();
    let removed = writes.iter().filter(|(_, value)| value.is_none());
    let removed = removed.map(|(key, _)| &key[..]);
    let ends = removed.clone().next().zip(removed.clone().next_back());
    let Some((first, last)) = ends else {
        return Ok(ranges);
    };
    let removed = &mut removed.peekable();
    let mut window = Window::read(txn, table, Bound::Included(first), page_bytes, removed)?;
    let (mut looked, mut written) = (window.pages, 0);
    let mut goes_on = false;
    loop {
        let is_end = !window.more || window.last[..] >= *last;
        let behind = window.last.clone();
        written += window.add_to(&mut ranges, &mut goes_on);
        if is_end || looked >= LOOK_PAGES_MAX || written >= WRITE_PAGES_MAX {
            return Ok(ranges);
        }
        let from = Bound::Excluded(&behind[..]);
        window = Window::read(txn, table, from, page_bytes, removed)?;
        looked += window.pages;
    }
}

/// Writes the records of a range one behind the other, page after page.
pub fn rewrite(
    txn: &mut RwTxn<'_>,
    table: Table,
    range: &Range,
    page_bytes: usize,
) -> Result<(), Failure> {
    let bounds = (Bound::Included(&range.0[..]), Bound::Included(&range.1[..]));
    let mut records = VecDeque::new();
    for entry in table.range(txn, &bounds)? {
        let (key, value) = entry?;
        records.push_back((key.to_vec(), value.to_vec()));
    }
    table.delete_range(txn, &bounds)?;
    let mut packer = Packer::new(table, page_bytes);
    while let Some((key, value)) = records.pop_front() {
        packer.put(txn, &key, &value)?;
        if packer.may_pull() {
            let last = records.back().map_or(&key, |(last, _)| last);
            let behind = packer.pull(txn, last)?;
            records.extend(behind);
        }
    }
    packer.remove_marker(txn)
}

/// Fills leaves to the brim. When LMDB splits a page behind its last record, that record goes to
/// the new page together with the one that did not fit. So a marker is put behind the last record
/// that fits, and it is the marker that goes along. It is removed once the new page is full enough
/// not to be joined with the one before.
///
/// While a range is emptied LMDB fills its pages with records from beside it. Those from behind it
/// end in the page that is to be filled, and whatever is put before them splits that page in the
/// middle, again and again. So some are taken out and put again behind the range: at its beginning,
/// and where a page split although it had room; once the page is full enough for LMDB not to bring
/// others in their place. Nothing but the order of records decides how many, so that the same
/// history leaves the same file.
struct Packer {
    table: Table,
    page_bytes: usize,
    leaves: Option<usize>,
    /// Bytes in the leaf that is being filled, once its beginning was seen.
    filled: Option<usize>,
    /// Bytes put since the last split, while records from behind are in the way.
    crowded: Option<usize>,
    /// The last record: its key and its bytes.
    last: (Vec<u8>, usize),
    marker: Option<Vec<u8>>,
}

impl Packer {
    fn new(table: Table, page_bytes: usize) -> Self {
        Self {
            table,
            page_bytes,
            leaves: None,
            filled: None,
            crowded: Some(0),
            last: (Vec::new(), 0),
            marker: None,
        }
    }

    fn put(&mut self, txn: &mut RwTxn<'_>, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        let room = self.page_bytes - PAGE_HEAD;
        let bytes = leaf_bytes(key.len(), value.len(), room);
        let spare = marker_bytes(key.len());
        let is_full = self
            .filled
            .is_some_and(|filled| filled + bytes + spare > room);
        if is_full {
            self.remove_marker(txn)?;
            let marker = [&self.last.0[..], &[0]].concat();
            if marker < key.to_vec() {
                self.table.put(txn, &marker, &[])?;
                self.marker = Some(marker);
            }
        }
        self.table.put(txn, key, value)?;
        let leaves = self.table.stat(txn)?.leaf_pages;
        let has_split = self.leaves.is_some_and(|before| leaves > before);
        let is_early = has_split && !is_full && self.filled.is_some();
        self.filled = match (has_split, is_full) {
            (true, true) => Some(bytes),
            (true, false) => Some(self.last.1 + bytes),
            (false, _) => self.filled.map(|filled| filled + bytes),
        };
        self.crowded = match has_split {
            true => is_early.then_some(0),
            false => self.crowded.map(|fresh| fresh + bytes),
        };
        self.leaves = Some(leaves);
        self.last = (key.to_vec(), bytes);
        if self.filled.is_some_and(|filled| filled > room / JOIN_SHARE) {
            self.remove_marker(txn)?;
        }
        Ok(())
    }

    /// Whether it is time to take records from behind the range.
    fn may_pull(&mut self) -> bool {
        let enough = self.page_bytes / JOIN_SHARE;
        self.crowded.take_if(|put| *put > enough).is_some()
    }

    /// Takes the records behind `last` that may be on the page that is being filled.
    fn pull(&mut self, txn: &mut RwTxn<'_>, last: &[u8]) -> Result<Vec<Record>, Failure> {
        let mut pulled: Vec<Record> = Vec::new();
        let mut bytes = 0;
        let bounds = (Bound::Excluded(last), Bound::Unbounded);
        for entry in self.table.range(txn, &bounds)? {
            let (key, value) = entry?;
            bytes += leaf_bytes(key.len(), value.len(), self.page_bytes - PAGE_HEAD);
            if bytes > self.page_bytes / PULL_SHARE {
                break;
            }
            pulled.push((key.to_vec(), value.to_vec()));
        }
        for (key, _) in &pulled {
            self.table.delete(txn, key)?;
        }
        self.leaves = Some(self.table.stat(txn)?.leaf_pages);
        Ok(pulled)
    }

    fn remove_marker(&mut self, txn: &mut RwTxn<'_>) -> Result<(), Failure> {
        if let Some(marker) = self.marker.take() {
            self.table.delete(txn, &marker)?;
            self.leaves = Some(self.table.stat(txn)?.leaf_pages);
        }
        Ok(())
    }
}

/// What a record takes of a leaf of this many bytes, and what pages that are full would take.
pub fn record_bytes(key: usize, value: usize, page_bytes: usize) -> u64 {
    leaf_bytes(key, value, page_bytes - PAGE_HEAD) as u64
}

/// Pages that records of so many bytes would fill, with the branches above them. The end of a page
/// stays empty where the next record does not fit: half a record of each.
pub fn packed_pages(records: u64, bytes: u64, page_bytes: usize) -> u64 {
    let room = (page_bytes - PAGE_HEAD) as u64;
    let mean = bytes / records.max(1);
    let leaves = bytes.div_ceil(room - (mean / 2).min(room / 2));
    leaves + leaves / BRANCH_SHARE
}

/// What a record takes of a leaf. LMDB gives a value pages of its own when two such records would
/// not fit into one leaf.
fn leaf_bytes(key: usize, value: usize, room: usize) -> usize {
    let inline_max = ((room / 2) & !1) - SLOT;
    let whole = RECORD_HEAD + key + value;
    let inline = match whole > inline_max {
        true => RECORD_HEAD + key + LARGE_POINTER,
        false => whole,
    };
    inline.next_multiple_of(2) + SLOT
}

/// What a marker behind a key of this length takes.
fn marker_bytes(key: usize) -> usize {
    (RECORD_HEAD + key + 2).next_multiple_of(2) + SLOT
}

/// Some leaves in a row, as they will be without what a batch removes.
#[derive(Default)]
struct Window {
    first: Vec<u8>,
    last: Vec<u8>,
    pages: usize,
    /// Pages from which the batch removes.
    touched: usize,
    /// Pages that the records would fill if they were packed.
    packed: usize,
    value_bytes: usize,
    page_bytes: usize,
    /// Whether the table goes on behind the window.
    more: bool,
}

impl Window {
    /// Reads on from a key; what will be removed comes in order, and none of it is before that key
    /// but what earlier windows have passed.
    fn read<'w>(
        txn: &RoTxn<'_>,
        table: Table,
        from: Bound<&[u8]>,
        page_bytes: usize,
        removed: &mut Peekable<impl Iterator<Item = &'w [u8]>>,
    ) -> Result<Self, Failure> {
        let mut window = Self {
            page_bytes,
            ..Self::default()
        };
        let room = page_bytes - PAGE_HEAD;
        let mut page = None;
        let mut touched = None;
        let mut filled = room;
        let mut ends: Option<(&[u8], &[u8])> = None;
        for entry in table.range(txn, &(from, Bound::Unbounded))? {
            let (key, value) = entry?;
            let on = key.as_ptr() as usize / page_bytes;
            if page != Some(on) {
                if window.pages == WINDOW_PAGES {
                    window.more = true;
                    break;
                }
                window.pages += 1;
                page = Some(on);
            }
            while removed.next_if(|removed| *removed < key).is_some() {}
            if removed.peek().is_some_and(|removed| *removed == key) {
                window.touched += usize::from(touched != page);
                touched = page;
            } else {
                let bytes = leaf_bytes(key.len(), value.len(), room);
                filled += bytes;
                if filled + marker_bytes(key.len()) > room {
                    window.packed += 1;
                    filled = bytes;
                }
                window.value_bytes += value.len();
            }
            ends = Some((ends.map_or(key, |(first, _)| first), key));
        }
        if let Some((first, last)) = ends {
            window.first = first.to_vec();
            window.last = last.to_vec();
        }
        Ok(window)
    }

    /// Has the window written anew if it wastes too much; together with the one before it if that
    /// is too, so that no page is left half full between them. How many pages that changes.
    fn add_to(self, ranges: &mut Vec<Range>, goes_on: &mut bool) -> usize {
        let follows = std::mem::replace(goes_on, self.wastes());
        if !*goes_on {
            return 0;
        }
        let pages = self.pages;
        match ranges.last_mut().filter(|_| follows) {
            Some((_, end)) => *end = self.last,
            None => ranges.push((self.first, self.last)),
        }
        pages
    }

    fn wastes(&self) -> bool {
        let spare = self.pages.saturating_sub(self.packed);
        let large = self.value_bytes > LARGE_SHARE * self.pages * self.page_bytes;
        // Pages that change anyway cost little.
        let mostly_touched = self.touched * 2 > self.pages;
        let wastes = spare * WASTE_SHARE > self.pages || (mostly_touched && spare > 0);
        // The end of the table is still being filled.
        self.more && !large && wastes
    }
}
