//! One process per data directory.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path,
};

use super::wal::disk_error;
use crate::kernel::Fault;

/// Held as long as the process uses its data directory; the system lets go of it at the latest when
/// the process ends, however it ends.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the lock, or says who is in the way.
    pub fn take(directory: &Path) -> Result<Self, Fault> {
        let path = directory.join("LOCK");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| Fault::Disk(disk_error(&path, &error)))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Fault::State(format!(
                "another process already uses the data directory {}; \
                 stop it first, or choose another --data-dir",
                directory.display()
            ))),
            Err(TryLockError::Error(error)) => Err(Fault::Disk(disk_error(&path, &error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::DirLock;

    #[test]
    fn a_second_holder_is_refused_until_the_first_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let first = DirLock::take(home.path()).unwrap();
        let refused = DirLock::take(home.path()).unwrap_err().to_string();
        assert!(refused.contains("another process"), "{refused}");
        drop(first);
        DirLock::take(home.path()).unwrap();
    }
}
