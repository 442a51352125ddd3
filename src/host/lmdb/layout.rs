//! Names, scans, renames and removals in the directory of a store. A rename or removal is durable
//! when the directory is synced; the callers order these.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

#[cfg(test)]
use super::order::{Call, note};
use crate::kernel::{DiskError, DiskErrorKind, SnapshotId};

/// The file in which LMDB keeps everything.
pub const DATA_FILE: &str = "data.mdb";
/// By how much a file that is to be removed is shortened at a time.
const SHORTEN_BYTES: u64 = 8 * 1024 * 1024;

/// The directory given to `Lmdb::open`.
#[derive(Debug)]
pub struct Layout {
    dir: PathBuf,
}

/// What was found in it.
#[derive(Default, Debug)]
pub struct Scan {
    /// The live store.
    pub generation: Option<u64>,
    /// The sealed image.
    pub sealed: Option<SnapshotId>,
    /// Directories of staged and sealed images.
    pub images: Vec<PathBuf>,
    /// What a start throws away: older stores and everything unfinished.
    pub rubbish: Vec<PathBuf>,
}

impl Layout {
    /// Makes the directory, and those above it, when they are not there.
    pub fn open(dir: &Path) -> Result<Self, DiskError> {
        let absent: Vec<&Path> = dir.ancestors().take_while(|at| !at.exists()).collect();
        for path in absent
            .into_iter()
            .rev()
            .filter(|at| !at.as_os_str().is_empty())
        {
            create_dir(path)?;
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            sync_path(parent.unwrap_or(Path::new(".")))?;
        }
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn store(&self, generation: u64) -> PathBuf {
        self.dir.join(format!("store-{generation:016}"))
    }

    pub fn stage(&self, id: SnapshotId) -> PathBuf {
        self.dir.join(format!("stage-{id}"))
    }

    pub fn sealed(&self, id: SnapshotId) -> PathBuf {
        self.dir.join(format!("sealed-{id}"))
    }

    pub fn fresh(&self) -> PathBuf {
        self.dir.join("fresh")
    }

    /// Reads the directory. Names that are not ours are left alone.
    pub fn scan(&self) -> Result<Scan, DiskError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|error| io_error(&self.dir, &error))? {
            let entry = entry.map_err(|error| io_error(&self.dir, &error))?;
            names.push(entry.file_name());
        }
        names.sort();
        let mut scan = Scan::default();
        for name in names {
            self.classify(&name, &mut scan);
        }
        Ok(scan)
    }

    fn classify(&self, name: &OsStr, scan: &mut Scan) {
        let path = self.dir.join(name);
        let name = name.to_string_lossy();
        let suffix = |prefix: &str| name.strip_prefix(prefix)?.parse::<u64>().ok();
        let store = suffix("store-").filter(|generation| self.store(*generation) == path);
        if name == "fresh" {
            scan.rubbish.push(path);
        } else if let Some(generation) = store {
            let newer = scan.generation.max(Some(generation));
            let older = scan.generation.min(Some(generation));
            scan.generation = newer;
            scan.rubbish.extend(older.map(|older| self.store(older)));
        } else if suffix("stage-").is_some() {
            scan.images.push(path.clone());
            scan.rubbish.push(path);
        } else if let Some(id) = suffix("sealed-") {
            scan.sealed = Some(SnapshotId::new(id));
            scan.images.push(path);
        }
    }

    /// Removes a directory of ours, durably; nothing happens when it is not there.
    pub fn discard(&self, path: &Path) -> Result<(), DiskError> {
        assert!(path.starts_with(&self.dir), "a removal elsewhere");
        #[cfg(test)]
        note(Call::Remove(path.to_owned()));
        match fs::remove_dir_all(path) {
            Ok(()) => self.sync(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error(path, &error)),
        }
    }

    /// Removes several directories of ours, durably.
    pub fn discard_all(&self, paths: &[PathBuf]) -> Result<(), DiskError> {
        paths.iter().try_for_each(|path| self.discard(path))
    }

    /// Renames, durably.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.rename_unsynced(from, to)?;
        self.sync()
    }

    /// Renames; durable with the next `sync`.
    pub fn rename_unsynced(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        #[cfg(test)]
        note(Call::Rename(from.to_owned(), to.to_owned()));
        fs::rename(from, to).map_err(|error| io_error(from, &error))
    }

    /// Makes renames and removals durable.
    pub fn sync(&self) -> Result<(), DiskError> {
        sync_path(&self.dir)
    }
}

/// Makes a directory that must not be there yet.
pub fn create_dir(path: &Path) -> Result<(), DiskError> {
    #[cfg(test)]
    note(Call::Create(path.to_owned()));
    fs::create_dir(path).map_err(|error| io_error(path, &error))
}

/// Empties a file that is to be removed, a slice at a time: a file system gives a slice back within
/// one change of its journal, and nobody who waits for the journal waits for the whole file.
///
/// A file that has another name too is left to those who gave it that.
pub fn shorten(path: &Path) -> Result<(), DiskError> {
    #[cfg(test)]
    note(Call::Remove(path.parent().unwrap_or(path).to_owned()));
    let in_slices = || {
        let file = File::options().write(true).open(path)?;
        let about = file.metadata()?;
        if about.nlink() > 1 {
            return Ok(());
        }
        let slices = about.len() / SHORTEN_BYTES;
        (0..=slices)
            .rev()
            .try_for_each(|left| file.set_len(left * SHORTEN_BYTES))
    };
    in_slices().map_err(|error| io_error(path, &error))
}

/// Makes the file of a closed store, and its name, durable.
pub fn sync_store(dir: &Path) -> Result<(), DiskError> {
    sync_path(&dir.join(DATA_FILE))?;
    sync_path(dir)
}

fn sync_path(path: &Path) -> Result<(), DiskError> {
    #[cfg(test)]
    note(Call::Sync(path.to_owned()));
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| io_error(path, &error))
}

/// The system's words with the path they are about.
pub fn io_error(path: &Path, error: &io::Error) -> DiskError {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            DiskErrorKind::Full
        }
        io::ErrorKind::NotFound => DiskErrorKind::Missing,
        _ => DiskErrorKind::Io,
    };
    let advice = match kind {
        DiskErrorKind::Full => "; free space on this file system or raise its quota",
        DiskErrorKind::Io | DiskErrorKind::Corrupt | DiskErrorKind::Missing => "",
    };
    DiskError::new(kind, format!("{}: {error}{advice}", path.display()))
}
