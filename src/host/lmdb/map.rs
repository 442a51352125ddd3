//! Gives the memory map of a data file back to the system, a slice at a time.
//!
//! A page that was read once stays in the page table of the process until the map is closed. Taking
//! hundreds of megabytes out of it in one call locks the address space for as long, and whoever
//! maps memory meanwhile waits. Here each slice is a call of its own, and others go in between.
//!
//! LMDB does not tell where its map is; the kernel does, by the number of the file.
//!
//! Invariants: only maps that are shared with a file are touched, so nothing is lost: what is read
//! again is fetched again from the file; nobody depends on it having worked.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use rustix::mm::{Advice, madvise};

/// Where Linux tells what is mapped; elsewhere there is no such file and nothing is given back.
const MAPS: &str = "/proc/self/maps";
/// Small enough that who waits for one slice does not notice it.
const SLICE_BYTES: u64 = 2 * 1024 * 1024;

/// Gives back what this process has mapped of a file from a place in it on. The map stays where it
/// is and may be read.
///
/// Where memory is locked the system refuses, and then all of it stays.
pub fn give_back(path: &Path, from: u64) {
    let (Ok(maps), Ok(file)) = (fs::read_to_string(MAPS), fs::metadata(path)) else {
        return;
    };
    for (begin, end) in shared_maps(&maps, file.ino()) {
        let place = |offset| begin.saturating_add(usize::try_from(offset).unwrap_or(usize::MAX));
        // Behind the end of the file nothing can have been read.
        let end = end.min(place(file.len()));
        for at in (place(from / SLICE_BYTES * SLICE_BYTES)..end).step_by(SLICE_BYTES as usize) {
            let length = (end - at).min(SLICE_BYTES as usize);
            // SAFETY: the kernel has just said that a file is mapped here and shared, and the
            // caller keeps the store open, so it still is. Of such a map this drops what can be
            // read again; it changes no byte of it.
            if unsafe { madvise(at as *mut _, length, Advice::LinuxDontNeed) }.is_err() {
                return;
            }
        }
    }
}

/// Begin and end of what is mapped of the file with this number and shared with it.
///
/// ```text
/// line := begin '-' end ' ' rights ' ' offset ' ' device ' ' number ' '* name
/// ```
///
/// The rights end in `s` where the map is shared. The device is not compared: some file systems
/// show another one here, and what is mapped of another file with this number would come to no
/// harm.
fn shared_maps(maps: &str, number: u64) -> Vec<(usize, usize)> {
    let shared = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (begin, end) = words.next()?.split_once('-')?;
        let is_shared = words.next()?.ends_with('s');
        // Offset and device come before it.
        let is_ours = words.nth(2)?.parse() == Ok(number);
        let address = |hex| usize::from_str_radix(hex, 16).ok();
        (is_shared && is_ours).then_some((address(begin)?, address(end)?))
    };
    maps.lines().filter_map(shared).collect()
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use bytes::Bytes;

    use super::*;
    use crate::{
        backend::{Backend, Bucket, ReadSnapshot, WriteBatch},
        host::lmdb::{Lmdb, layout::DATA_FILE},
    };

    /// Goal: only what is shared with the file is found. Method: lines as the kernel writes them.
    #[test]
    fn only_shared_maps_of_the_file() {
        let maps = "\
55d0c8a00000-55d0c8a21000 r--p 00000000 08:02 173521      /usr/bin/dbus-daemon
7f0000000000-7f4000000000 r--s 00000000 00:19 4711        /dev/shm/a name/data.mdb
7f5000000000-7f5000001000 rw-s 00000000 00:19 4712        /dev/shm/a name/lock.mdb
7f5000002000-7f5000003000 rw-p 00000000 00:19 4711        /dev/shm/a name/data.mdb
7f5000004000-7f5000005000 rw-p 00000000 00:00 0
7ffe1f2f9000-7ffe1f31a000 rw-p 00000000 00:00 0           [stack]
no line of a kernel
";
        let expected = vec![(0x7f00_0000_0000, 0x7f40_0000_0000)];
        assert_eq!(shared_maps(maps, 4711), expected);
        assert_eq!(shared_maps(maps, 173_521), []);
    }

    /// What this process has of a file in memory, by the kernel's own account.
    fn resident_bytes(path: &Path) -> u64 {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let path = fs::canonicalize(path).unwrap();
        let mut lines = maps.lines();
        lines.find(|line| line.ends_with(path.to_str().unwrap()));
        let resident = lines.find_map(|line| line.strip_prefix("Rss:"));
        let kilobytes = resident.unwrap().trim().strip_suffix(" kB").unwrap();
        kilobytes.parse::<u64>().unwrap() * 1024
    }

    /// Goal: what a store has read is given back while it is open, and it can be read again.
    #[test]
    fn a_store_that_was_read_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let lmdb = Lmdb::open(dir.path()).unwrap();
        let mut batch = WriteBatch::default();
        for key in 0..2_000_u64 {
            let key = Bytes::copy_from_slice(&key.to_be_bytes());
            batch.put(Bucket::Key, key, vec![7; 3_000].into());
        }
        lmdb.commit(&batch).unwrap();
        let snapshot = lmdb.snapshot().unwrap();
        let read = || {
            let mut bytes = 0;
            let mut add = |_: &[u8], value: &[u8]| {
                assert!(value.iter().all(|byte| *byte == 7));
                bytes += value.len() as u64;
                ControlFlow::Continue(())
            };
            snapshot.range(Bucket::Key, &[], None, &mut add).unwrap();
            bytes
        };
        let path = dir.path().join("store-0000000000000001").join(DATA_FILE);
        for _ in 0..2 {
            assert_eq!(read(), 6_000_000);
            assert!(resident_bytes(&path) >= 6_000_000);
            lmdb.give_back_map();
            assert_eq!(resident_bytes(&path), 0);
        }
    }
}
