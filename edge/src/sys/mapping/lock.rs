//! The directory of a store, which one process at a time may use.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// A directory that this process alone uses, until this is dropped.
#[derive(Debug)]
pub struct LockedDirectory {
    pub(super) path: PathBuf,
    pub(super) lock: File,
    /// The directory itself, for a lock file may be taken for a left-over and removed. `None`: it cannot be locked there.
    directory: Option<File>,
    with: Option<Box<LockedDirectory>>,
}

impl LockedDirectory {
    /// Takes `path` and the lock file `lock` in it. `Ok(None)`: somebody else has it.
    pub fn lock(path: &Path) -> io::Result<Option<Self>> {
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(path.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut locked = LockedDirectory::new(path.to_path_buf(), lock);
        let directory = File::open(path)?;
        match directory.try_lock() {
            Ok(()) => locked.directory = Some(directory),
            Err(TryLockError::WouldBlock) => return Ok(None),
            // Not all network file systems do.
            Err(TryLockError::Error(_)) => {}
        }
        Ok(Some(locked))
    }

    pub(super) fn new(path: PathBuf, lock: File) -> Self {
        LockedDirectory { path, lock, directory: None, with: None }
    }

    /// Takes another one along.
    pub fn with(mut self, other: LockedDirectory) -> Self {
        self.with = Some(Box::new(other));
        self
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LockedDirectory {
    fn drop(&mut self) {
        // Said outright: a child process between fork and exec still has the file open. Cannot fail for a lock we have,
        // and closing the file would be the next best.
        let _ = self.lock.unlock();
        if let Some(directory) = &self.directory {
            let _ = directory.unlock();
        }
    }
}
