//! The files of the write-ahead log: creating, writing and removing segments.
//!
//! Invariants: a segment appears under its name only after all of its blocks were written and
//! synced, so a later write into it moves no metadata; `sync` writes are durable before they
//! complete; a failed sync is reported once and never retried here. Writes go past the system's
//! cache where that is possible (`direct`), unless they are never synced.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Instant,
};

use super::{
    direct::{Output, Way},
    lanes::LaneWork,
    meter::Meter,
};
use crate::{
    host::failpoint,
    kernel::{DiskError, DiskErrorKind, DiskOp, DiskOutcome, SegmentId},
};

/// Segments the WAL lane keeps open: the one in use and the one after it.
const SEGMENTS_OPEN_MAX: usize = 2;
/// Ends the name of a segment that is not finished yet.
const TEMPORARY: &str = ".tmp";
/// The file on which it is tried how the log can be written; it is removed like an unfinished
/// segment if a crash leaves it.
const TRIAL: &str = "trial.tmp";

/// The directory of the log.
#[derive(Clone, Debug)]
pub struct WalDir {
    path: PathBuf,
    fsync: bool,
    way: Way,
}

impl WalDir {
    /// Creates the directory if it is missing and clears away segments that were never finished.
    /// The names that stay are durable: a process killed between renaming a segment and syncing
    /// the directory leaves one that everybody sees and a loss of power takes away.
    pub fn open(path: &Path, fsync: bool) -> Result<Self, DiskError> {
        create_private(path)?;
        for name in names(path)? {
            if name.ends_with(TEMPORARY) {
                let file = path.join(&name);
                fs::remove_file(&file).map_err(|error| disk_error(&file, &error))?;
            }
        }
        let way = match fsync {
            true => way_of(path)?,
            // Nobody waits for the disk then.
            false => Way::Cached,
        };
        let path = path.to_owned();
        let dir = Self { path, fsync, way };
        dir.sync_directory()?;
        Ok(dir)
    }

    /// Whether writes are synced; only a test of speed turns that off.
    pub fn syncs(&self) -> bool {
        self.fsync
    }

    /// Where the log lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file of a segment.
    pub fn file(&self, segment: SegmentId) -> PathBuf {
        self.path.join(segment_name(segment))
    }

    /// The segments that exist, oldest first.
    pub fn segments(&self) -> Result<Vec<SegmentId>, DiskError> {
        let mut found: Vec<SegmentId> = names(&self.path)?
            .iter()
            .filter_map(|name| parse_segment_name(name))
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    /// The whole content of one segment.
    pub fn read(&self, segment: SegmentId) -> Result<Vec<u8>, DiskError> {
        let file = self.file(segment);
        let content = self.way.read(&file);
        content.map_err(|error| disk_error(&file, &error))
    }

    /// Whether the first sector of a segment holds anything.
    pub fn is_begun(&self, segment: SegmentId) -> Result<bool, DiskError> {
        let file = self.file(segment);
        let start = self.way.read_start(&file);
        let start = start.map_err(|error| disk_error(&file, &error))?;
        Ok(start.iter().any(|byte| *byte != 0))
    }

    /// The whole content of one segment that was synced before: only a life that did without syncs
    /// leaves something to do.
    pub fn read_synced(&self, segment: SegmentId) -> Result<Vec<u8>, DiskError> {
        if self.fsync {
            let path = self.file(segment);
            let sync = || File::open(&path)?.sync_data();
            sync().map_err(|error| disk_error(&path, &error))?;
        }
        self.read(segment)
    }

    /// The whole content of one segment, made durable: written once more and synced. A sync alone
    /// is not enough: after one that failed, the system shows what it could not write and takes it
    /// for clean.
    pub fn read_durable(&self, segment: SegmentId) -> Result<Vec<u8>, DiskError> {
        let content = self.read(segment)?;
        if self.fsync {
            let path = self.file(segment);
            let rewrite = || -> io::Result<()> {
                let mut output = self.way.open_for(&path, content.len())?;
                output.write_all_at(&content, 0)?;
                output.sync_all()
            };
            rewrite().map_err(|error| disk_error(&path, &error))?;
        }
        Ok(content)
    }

    fn prepare(&self, segment: SegmentId, bytes: u64) -> Result<(), DiskError> {
        let target = self.file(segment);
        let mut temporary = target.clone().into_os_string();
        temporary.push(TEMPORARY);
        let temporary = PathBuf::from(temporary);
        let write = || -> io::Result<()> {
            let mut output = self.way.create(&temporary)?;
            output.write_zeros(bytes)?;
            if self.fsync {
                output.sync_all()?;
            }
            fs::rename(&temporary, &target)
        };
        write().map_err(|error| disk_error(&target, &error))?;
        self.sync_directory()
    }

    fn remove(&self, before: SegmentId) -> Result<(), DiskError> {
        for segment in self.segments()? {
            if segment < before {
                let file = self.file(segment);
                fs::remove_file(&file).map_err(|error| disk_error(&file, &error))?;
            }
        }
        self.sync_directory()
    }

    fn sync_directory(&self) -> Result<(), DiskError> {
        if !self.fsync {
            return Ok(());
        }
        sync_directory(&self.path)
    }
}

/// The work of the WAL lane: appends.
#[derive(Debug)]
pub struct WalWriter {
    dir: WalDir,
    open: BTreeMap<SegmentId, Output>,
    meter: Meter,
}

impl WalWriter {
    /// A writer into the directory.
    pub fn new(dir: WalDir, meter: Meter) -> Self {
        Self {
            dir,
            open: BTreeMap::new(),
            meter,
        }
    }

    fn write(
        &mut self,
        segment: SegmentId,
        offset: u64,
        bytes: &[u8],
        sync: bool,
    ) -> Result<(), DiskError> {
        let path = self.dir.file(segment);
        let failed = |error: io::Error| disk_error(&path, &error);
        let output = match self.open.entry(segment) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(self.dir.way.open(&path).map_err(failed)?),
        };
        let began = Instant::now();
        output.write_all_at(bytes, offset).map_err(failed)?;
        let written = Instant::now();
        self.meter.on_write(bytes.len(), written - began);
        if sync && self.dir.fsync {
            failpoint::hit("walBeforeSync");
            output.sync_data().map_err(failed)?;
            self.meter.on_fsync(written.elapsed());
            failpoint::hit("walAfterSync");
        }
        // The log moves forward, so the oldest is the one that is not written again.
        while self.open.len() > SEGMENTS_OPEN_MAX {
            self.open.pop_first();
        }
        Ok(())
    }
}

impl LaneWork for WalWriter {
    fn run(&mut self, op: DiskOp) -> Result<DiskOutcome, DiskError> {
        match op {
            DiskOp::WalWrite {
                segment,
                offset,
                bytes,
                sync,
            } => self.write(segment, offset, &bytes, sync)?,
            other => return Err(foreign("WAL", &other)),
        }
        Ok(DiskOutcome::Done)
    }
}

/// The work of the Keep lane: making segments ready and removing old ones.
#[derive(Debug)]
pub struct WalKeeper {
    dir: WalDir,
}

impl WalKeeper {
    /// A keeper of the directory.
    pub fn new(dir: WalDir) -> Self {
        Self { dir }
    }
}

impl LaneWork for WalKeeper {
    fn run(&mut self, op: DiskOp) -> Result<DiskOutcome, DiskError> {
        match op {
            DiskOp::WalPrepare { segment, bytes } => self.dir.prepare(segment, bytes)?,
            DiskOp::WalRemove { before } => self.dir.remove(before)?,
            other => return Err(foreign("Keep", &other)),
        }
        Ok(DiskOutcome::Done)
    }
}

/// The name of a segment's file.
pub fn segment_name(segment: SegmentId) -> String {
    format!("{:016x}.wal", segment.get())
}

/// The segment of a file name, if it is one.
pub fn parse_segment_name(name: &str) -> Option<SegmentId> {
    let digits = name.strip_suffix(".wal")?;
    let id = SegmentId::new(u64::from_str_radix(digits, 16).ok()?);
    (segment_name(id) == name).then_some(id)
}

/// Creates a directory that only its owner may enter, and its parents.
pub fn create_private(path: &Path) -> Result<(), DiskError> {
    let missing = path.ancestors().take_while(|path| !path.exists());
    let missing: Vec<&Path> = missing.filter(|path| path.file_name().is_some()).collect();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| disk_error(path, &error))?;
    // A directory is an entry of the one above it, and is durable with that one's entries.
    for made in missing {
        match made.parent() {
            Some(above) if above.as_os_str().is_empty() => sync_directory(Path::new("."))?,
            Some(above) => sync_directory(above)?,
            None => {}
        }
    }
    Ok(())
}

/// How files in the directory can be written.
fn way_of(directory: &Path) -> Result<Way, DiskError> {
    let trial = directory.join(TRIAL);
    let way = Way::of(&trial);
    match fs::remove_file(&trial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk_error(&trial, &error)),
        Ok(()) | Err(_) => Ok(way),
    }
}

/// Makes the entries of a directory durable.
pub fn sync_directory(path: &Path) -> Result<(), DiskError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| disk_error(path, &error))
}

/// The system's answer about a file, in our terms.
pub fn disk_error(path: &Path, error: &io::Error) -> DiskError {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => DiskErrorKind::Missing,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskErrorKind::Full,
        _ => DiskErrorKind::Io,
    };
    DiskError::new(kind, format!("{}: {error}", path.display()))
}

/// The answer to an operation that came down the wrong lane: our bug, told without bringing the
/// process down from a thread nobody watches.
pub(super) fn foreign(lane: &str, op: &DiskOp) -> DiskError {
    let detail = format!(
        "an operation of the {:?} lane reached the {lane} lane",
        op.lane()
    );
    DiskError::new(DiskErrorKind::Io, detail)
}

fn names(path: &Path) -> Result<Vec<String>, DiskError> {
    let failed = |error: io::Error| disk_error(path, &error);
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn write(segment: u64, offset: u64, bytes: &'static [u8]) -> DiskOp {
        DiskOp::WalWrite {
            segment: SegmentId::new(segment),
            offset,
            bytes: Bytes::from_static(bytes),
            sync: true,
        }
    }

    fn prepare(segment: u64) -> DiskOp {
        DiskOp::WalPrepare {
            segment: SegmentId::new(segment),
            bytes: 512 * 600,
        }
    }

    #[test]
    fn segments_are_prepared_written_and_removed() {
        let home = tempfile::tempdir().unwrap();
        let dir = WalDir::open(&home.path().join("member/wal"), true).unwrap();
        let mut keeper = WalKeeper::new(dir.clone());
        let mut writer = WalWriter::new(dir.clone(), Meter::default());
        let missing = writer.run(write(1, 0, &[1; 512])).unwrap_err();
        assert_eq!(missing.kind, DiskErrorKind::Missing);
        for segment in 1..=4 {
            keeper.run(prepare(segment)).unwrap();
            writer.run(write(segment, 1024, &[7; 512])).unwrap();
        }
        let content = dir.read_durable(SegmentId::new(3)).unwrap();
        assert_eq!(content, dir.read(SegmentId::new(3)).unwrap());
        let mut expected = vec![0; 512 * 600];
        expected[1024..1536].fill(7);
        assert_eq!(content, expected);
        let third = SegmentId::new(3);
        assert_eq!(content, dir.read_synced(third).unwrap());
        assert!(!dir.is_begun(third).unwrap(), "its first sector is blank");
        writer.run(write(3, 0, &[7; 512])).unwrap();
        assert!(dir.is_begun(third).unwrap());
        let before = SegmentId::new(3);
        keeper.run(DiskOp::WalRemove { before }).unwrap();
        let left: Vec<u64> = dir.segments().unwrap().iter().map(|id| id.get()).collect();
        assert_eq!(left, [3, 4]);
        assert!(writer.run(prepare(9)).is_err(), "a wrong lane is refused");
    }

    #[test]
    fn unfinished_segments_are_cleared_away_and_foreign_files_are_left() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("0000000000000001.wal.tmp"), b"half").unwrap();
        fs::write(home.path().join("README"), b"mine").unwrap();
        fs::write(home.path().join("1.wal"), b"not ours").unwrap();
        let dir = WalDir::open(home.path(), true).unwrap();
        assert!(dir.segments().unwrap().is_empty());
        let mut left = names(home.path()).unwrap();
        left.sort();
        assert_eq!(left, ["1.wal", "README"]);
    }

    #[test]
    fn names_come_back() {
        for raw in [0, 1, 0xabc, u64::MAX] {
            let id = SegmentId::new(raw);
            assert_eq!(parse_segment_name(&segment_name(id)), Some(id));
        }
        for name in ["", "1.wal", "000000000000000G.wal", "0000000000000001.WAL"] {
            assert_eq!(parse_segment_name(name), None);
        }
    }
}
