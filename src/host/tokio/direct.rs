//! Files written past the system's cache of pages.
//!
//! The log is synced write by write and read only at the next start, so its pages in the cache are
//! nothing but cost: each segment asks for fresh memory, a write of a sector dirties a page of
//! eight, and the sync has to find and send that page. A file system need not allow writing past
//! the cache, or only in larger units, so this is tried before it is relied upon.
//!
//! Invariant: a direct file sees only whole sectors, from memory that is aligned to a page.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::OFlags;

use crate::kernel::limits;

/// What a direct write begins at and ends at.
const SECTOR_BYTES: usize = 512;
/// What systems ask of the memory at most.
const PAGE_BYTES: usize = 4096;

/// Bytes of one read past the cache: enough that the device has several requests to work on.
const READ_BYTES: usize = 2 * 1024 * 1024;

/// How a file is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Past the cache.
    Direct,
    /// Through the cache, any bytes at any place.
    Cached,
}

/// A file that is open for writing.
#[derive(Debug)]
pub(super) struct Output {
    file: File,
    way: Way,
    /// Where direct writes come from; it stays, for memory that is new each time costs more than
    /// the copy.
    memory: Vec<u8>,
}

impl Way {
    /// Direct, if single sectors can be written so to `path`, a file that is made for the trial
    /// and is the caller's to remove.
    pub(super) fn of(path: &Path) -> Self {
        let trial = || -> io::Result<()> {
            let mut output = Self::Direct.create(path)?;
            output.write_all_at(&[0; SECTOR_BYTES], 0)?;
            // The second sector of a page, so that a larger unit shows.
            output.write_all_at(&[0; SECTOR_BYTES], SECTOR_BYTES as u64)
        };
        match trial() {
            Ok(()) => Self::Direct,
            // What stands in the way of any write shows again, where it is told.
            Err(_) => Self::Cached,
        }
    }

    /// The whole content of a file; past the cache it is what the disk holds, and costs no memory
    /// of the cache. A file that does not end with a sector is read through it.
    pub(super) fn read(self, path: &Path) -> io::Result<Vec<u8>> {
        let bytes = fs::metadata(path)?.len();
        if self == Self::Cached || !bytes.is_multiple_of(SECTOR_BYTES as u64) {
            return fs::read(path);
        }
        let file = self.open_to_read(path)?;
        let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
        let mut memory = Vec::new();
        let room = room(&mut memory, READ_BYTES);
        loop {
            match file.read_at(room, content.len() as u64) {
                Ok(0) => return Ok(content),
                Ok(read) => content.extend_from_slice(&room[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The first sector of a file, or what there is of it.
    pub(super) fn read_start(self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open_to_read(path)?;
        let mut memory = Vec::new();
        let room = room(&mut memory, SECTOR_BYTES);
        let read = file.read_at(room, 0)?;
        Ok(room[..read].to_vec())
    }

    /// Makes a file, or empties it.
    pub(super) fn create(self, path: &Path) -> io::Result<Output> {
        self.output(OpenOptions::new().create(true).truncate(true), path)
    }

    /// Opens a file that exists.
    pub(super) fn open(self, path: &Path) -> io::Result<Output> {
        self.output(&mut OpenOptions::new(), path)
    }

    /// Opens a file that exists to write so many bytes from its beginning on.
    pub(super) fn open_for(self, path: &Path, bytes: usize) -> io::Result<Output> {
        match bytes.is_multiple_of(SECTOR_BYTES) {
            true => self.open(path),
            false => Self::Cached.open(path),
        }
    }

    fn open_to_read(self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(self.flags()).open(path)
    }

    fn flags(self) -> i32 {
        match self {
            Self::Direct => OFlags::DIRECT.bits().cast_signed(),
            Self::Cached => 0,
        }
    }

    fn output(self, options: &mut OpenOptions, path: &Path) -> io::Result<Output> {
        Ok(Output {
            file: options.write(true).custom_flags(self.flags()).open(path)?,
            way: self,
            memory: Vec::new(),
        })
    }
}

impl Output {
    /// Writes all bytes, whole sectors if the file is direct.
    pub(super) fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.way == Way::Cached {
            return self.file.write_all_at(bytes, offset);
        }
        let sector = SECTOR_BYTES as u64;
        let whole = bytes.len().is_multiple_of(SECTOR_BYTES) && offset.is_multiple_of(sector);
        assert!(whole, "a direct write of a part of a sector");
        let mut at = offset;
        for piece in bytes.chunks(limits::WAL_PIECE_BYTES_MAX) {
            let room = room(&mut self.memory, piece.len());
            room.copy_from_slice(piece);
            self.file.write_all_at(room, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Writes so many zeros from the beginning on.
    pub(super) fn write_zeros(&mut self, bytes: u64) -> io::Result<()> {
        let mut memory = Vec::new();
        let mut at = 0;
        while at < bytes {
            let left = usize::try_from(bytes - at).unwrap_or(usize::MAX);
            let zeros = room(&mut memory, left.min(limits::WAL_PIECE_BYTES_MAX));
            self.file.write_all_at(zeros, at)?;
            at += zeros.len() as u64;
        }
        Ok(())
    }

    /// Makes the content durable.
    pub(super) fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Makes the content and what is known about the file durable.
    pub(super) fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// So many bytes of the memory, zeros when it is new, from the beginning of a page on.
fn room(memory: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    let wanted = bytes + PAGE_BYTES;
    if memory.len() < wanted {
        *memory = vec![0; wanted];
    }
    let start = memory.as_ptr().align_offset(PAGE_BYTES);
    &mut memory[start..start + bytes]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what was handed in stands in the file, wherever the memory it came from lies. Method:
    /// writes of one sector to beyond a piece, from all kinds of addresses, beside a plain copy.
    #[test]
    fn what_was_written_directly_is_read() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("direct");
        let way = Way::of(&path);
        let mut output = way.create(&path).unwrap();
        let source: Vec<u8> = (0..limits::WAL_PIECE_BYTES_MAX * 2)
            .map(|at| (at % 251) as u8)
            .collect();
        let mut expected = Vec::new();
        for (shift, sectors) in [(0, 1), (1, 3), (511, 512), (7, 513), (64, 1)] {
            let bytes = &source[shift..shift + sectors * SECTOR_BYTES];
            output.write_all_at(bytes, expected.len() as u64).unwrap();
            expected.extend_from_slice(bytes);
        }
        assert_eq!(fs::read(&path).unwrap(), expected);
        assert_eq!(way.read(&path).unwrap(), expected);
        fs::write(home.path().join("odd"), &source[..700]).unwrap();
        assert_eq!(way.read(&home.path().join("odd")).unwrap(), &source[..700]);
        for (name, bytes) in [("odd", SECTOR_BYTES), ("small", 300), ("empty", 0)] {
            let path = home.path().join(name);
            if bytes < SECTOR_BYTES {
                fs::write(&path, &source[..bytes]).unwrap();
            }
            assert_eq!(way.read_start(&path).unwrap(), &source[..bytes]);
        }
        output.write_zeros(600 * SECTOR_BYTES as u64).unwrap();
        expected[..600 * SECTOR_BYTES].fill(0);
        assert_eq!(fs::read(&path).unwrap(), expected);
    }

    #[test]
    fn where_nothing_can_be_written_nothing_is_direct() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Way::of(&home.path().join("none/direct")), Way::Cached);
    }
}
