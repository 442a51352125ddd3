//! Whether a data file is long enough for the tree in it. LMDB reads through a map, and reading
//! past the end of the file kills the process, so this is looked at before the file is opened.
//!
//! A file may rightly end before the last page that was ever allocated, when the pages at the end
//! are free. Only then each page of the tree is visited, by reading and not by mapping.
//!
//! ```text
//! page := number u64 | pad u16 | flags u16 | lower u16 | upper u16 | offsets u16* ... nodes
//! meta := magic u32 | version u32 | address u64 | map size u64 | free tree | main tree
//!         | last page u64 | transaction u64                         (behind a page header)
//! tree := pad u32 (of the free tree: page size) | flags u16 | depth u16 | branches u64
//!         | leaves u64 | overflows u64 | entries u64 | root u64
//! node := number u32 (value length, or low part of a child's page) | flags u16 (its high part)
//!         | key length u16 | key | data
//! ```
//!
//! Numbers are in the machine's order.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use super::layout::io_error;
use crate::kernel::{DiskError, DiskErrorKind};

const MAGIC: u32 = 0xBEEF_C0DE;
const HEADER_BYTES: usize = 16;
const META_BYTES: usize = 152;
const TREE_BYTES: usize = 48;
const META_TREES: usize = HEADER_BYTES + 24;
const ROOT_OFFSET: usize = 40;
const PAGE_BYTES_MAX: u64 = 65536;
const NO_PAGE: u64 = u64::MAX;
const FLAG_BRANCH: u16 = 0x01;
const FLAG_LEAF: u16 = 0x02;
const NODE_BIG: u16 = 0x01;
const NODE_TREE: u16 = 0x02;
const NODE_BYTES: usize = 8;

/// Refuses a file that is missing, no LMDB file, or too short for what it holds.
pub fn check_length(path: &Path) -> Result<(), DiskError> {
    let file = File::open(path).map_err(|error| io_error(path, &error))?;
    let bytes = file
        .metadata()
        .map_err(|error| io_error(path, &error))?
        .len();
    let reader = Reader { file, path, bytes };
    let meta = reader.newest_meta()?;
    let needed = meta
        .last_page
        .checked_add(1)
        .and_then(|pages| pages.checked_mul(meta.page_bytes));
    if needed.is_some_and(|needed| needed <= bytes) {
        return Ok(());
    }
    reader.check_trees(&meta)
}

struct Reader<'a> {
    file: File,
    path: &'a Path,
    bytes: u64,
}

struct Meta {
    page_bytes: u64,
    last_page: u64,
    transaction: u64,
    roots: [u64; 2],
}

impl Reader<'_> {
    fn newest_meta(&self) -> Result<Meta, DiskError> {
        let first = self.meta(0)?;
        let second = self.meta(first.page_bytes)?;
        if second.transaction > first.transaction {
            Ok(second)
        } else {
            Ok(first)
        }
    }

    fn meta(&self, offset: u64) -> Result<Meta, DiskError> {
        let page = self.read(offset, META_BYTES)?;
        let meta = Meta {
            page_bytes: u64::from(word(&page, META_TREES)),
            last_page: long(&page, META_TREES + 2 * TREE_BYTES),
            transaction: long(&page, META_TREES + 2 * TREE_BYTES + 8),
            roots: [0, 1].map(|tree| long(&page, META_TREES + tree * TREE_BYTES + ROOT_OFFSET)),
        };
        let sane = word(&page, HEADER_BYTES) == MAGIC
            && meta.page_bytes.is_power_of_two()
            && meta.page_bytes <= PAGE_BYTES_MAX
            && meta.page_bytes as usize >= META_BYTES;
        if sane {
            Ok(meta)
        } else {
            Err(self.corrupt("is no LMDB file"))
        }
    }

    /// Visits every page that can be reached.
    fn check_trees(&self, meta: &Meta) -> Result<(), DiskError> {
        let mut pending: Vec<u64> = meta.roots.to_vec();
        let mut visited = 0;
        while let Some(number) = pending.pop() {
            if number == NO_PAGE {
                continue;
            }
            visited += 1;
            if visited > meta.last_page {
                return Err(self.corrupt("has a page that is reached twice"));
            }
            let offset = number.checked_mul(meta.page_bytes);
            let offset = offset.ok_or_else(|| self.corrupt("names an impossible page"))?;
            let page = self.read(offset, meta.page_bytes as usize)?;
            self.check_page(&page, meta, &mut pending)?;
        }
        Ok(())
    }

    fn check_page(
        &self,
        page: &[u8],
        meta: &Meta,
        pending: &mut Vec<u64>,
    ) -> Result<(), DiskError> {
        let damaged = || self.corrupt("has a damaged page");
        let flags = short(page, 10).ok_or_else(damaged)?;
        let lower = usize::from(short(page, 12).ok_or_else(damaged)?);
        if flags & (FLAG_BRANCH | FLAG_LEAF) == 0 || lower < HEADER_BYTES {
            return Err(damaged());
        }
        for slot in (HEADER_BYTES..lower).step_by(2) {
            let at = usize::from(short(page, slot).ok_or_else(damaged)?);
            let node = page.get(at..).ok_or_else(damaged)?;
            if node.len() < NODE_BYTES {
                return Err(damaged());
            }
            if flags & FLAG_BRANCH != 0 {
                let top = u64::from(short(node, 4).ok_or_else(damaged)?);
                let low = node_number(node).ok_or_else(damaged)?;
                pending.push(top << 32 | low);
            } else {
                self.check_leaf(node, meta, pending).ok_or_else(damaged)??;
            }
        }
        Ok(())
    }

    /// Follows what a leaf's node points to; `None` when the node is malformed.
    fn check_leaf(
        &self,
        node: &[u8],
        meta: &Meta,
        pending: &mut Vec<u64>,
    ) -> Option<Result<(), DiskError>> {
        let flags = short(node, 4)?;
        let data = node.get(NODE_BYTES + usize::from(short(node, 6)?)..)?;
        if flags & NODE_TREE != 0 {
            let root = data.get(ROOT_OFFSET..ROOT_OFFSET + 8)?;
            pending.push(long(root, 0));
        } else if flags & NODE_BIG != 0 {
            let value_bytes = node_number(node)?;
            let first = long(data.get(..8)?, 0);
            let pages = (HEADER_BYTES as u64 + value_bytes).div_ceil(meta.page_bytes);
            let end = first.checked_add(pages)?.checked_mul(meta.page_bytes)?;
            if end > self.bytes {
                return Some(Err(self.truncated()));
            }
        }
        Some(Ok(()))
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        if offset.saturating_add(length as u64) > self.bytes {
            return Err(self.truncated());
        }
        let mut bytes = vec![0; length];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|error| io_error(self.path, &error))?;
        Ok(bytes)
    }

    fn truncated(&self) -> DiskError {
        self.corrupt("was cut short; restore it from another member")
    }

    fn corrupt(&self, what: &str) -> DiskError {
        let detail = format!("{} {what} ({} bytes)", self.path.display(), self.bytes);
        DiskError::new(DiskErrorKind::Corrupt, detail)
    }
}

/// The four bytes in front of a node, which are aligned to two.
fn node_number(node: &[u8]) -> Option<u64> {
    let bytes = node.first_chunk::<4>()?;
    Some(u64::from(u32::from_ne_bytes(*bytes)))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_ne_bytes(*bytes))
}

/// The number at an offset whose presence the caller has checked.
fn word(bytes: &[u8], at: usize) -> u32 {
    let word = bytes[at..]
        .first_chunk::<4>()
        .expect("the caller checked the length");
    u32::from_ne_bytes(*word)
}

/// The number at an offset whose presence the caller has checked.
fn long(bytes: &[u8], at: usize) -> u64 {
    let word = bytes[at..]
        .first_chunk::<8>()
        .expect("the caller checked the length");
    u64::from_ne_bytes(*word)
}
