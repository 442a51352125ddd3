//! Asks the memory for what a long walk is going to read.
//!
//! LMDB fills a leaf from its end, so a walk meets the records of a page at falling addresses, and
//! a processor may not guess those: then it waits for the memory at every record. Leaves that were
//! filled in order follow each other in the file, and their records have about one size. So at the
//! place of this record in the page behind lies one that the walk reaches a page later, and by then
//! it has come. Where that is wrong, some lines were asked for in vain.

/// Records of a walk before it counts as long.
const RECORDS_MIN: usize = 16;
/// A larger record comes quickly enough by itself, or does not lie in a leaf.
const RECORD_BYTES_MAX: usize = 1024;
/// What LMDB writes in front of a key.
const HEAD_BYTES: usize = 8;
/// What the memory gives at a time.
const LINE_BYTES: usize = 64;

/// A page of a store, on most machines.
const PAGE_BYTES: usize = 4096;

/// One walk.
#[derive(Default)]
pub struct Ahead {
    records: usize,
}

impl Ahead {
    /// The walk has come to this record.
    #[inline]
    pub fn on_record(&mut self, key: &[u8], value: &[u8]) {
        self.records += 1;
        let bytes = HEAD_BYTES + key.len() + value.len();
        if self.records < RECORDS_MIN || bytes > RECORD_BYTES_MAX {
            return;
        }
        let behind = key.as_ptr().wrapping_add(PAGE_BYTES);
        let behind = behind.wrapping_sub(HEAD_BYTES);
        for at in (0..bytes + LINE_BYTES - 1).step_by(LINE_BYTES) {
            ask_for(behind.wrapping_add(at));
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn ask_for(line: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch is a hint. It gives nothing to the program, and an address that is not
    // mapped is none to it.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
}

#[cfg(not(target_arch = "x86_64"))]
fn ask_for(_line: *const u8) {}
