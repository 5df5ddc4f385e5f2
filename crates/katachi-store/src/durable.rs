//! Files that are either the old one or the new one, never half of each.
//!
//! A save writes a temporary file beside the target, flushes it to the disk,
//! renames it over the target and flushes the directory:
//!
//! ```text
//! create .NAME.RANDOM.tmp (0600)  write  fsync   rename to NAME   fsync directory
//!            |                      |      |          |                 |
//!            '------ old file still in place ---------'---- new file in place
//! ```
//!
//! A crash between any two steps leaves at worst a temporary file, which the
//! next holder of the lock removes. On Unix everything happens relative to an
//! open directory, no symbolic link is followed in the last component, and
//! nothing is ever wider than 0600 (files) or 0700 (directories), not even for
//! a moment. On Windows the files inherit the access list of the profile
//! directory they are in.
//!
//! What this does not do: protect against a disk that lies about flushing.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

#[cfg(unix)]
mod unix;
#[cfg(unix)]
use unix as platform;

#[cfg(not(unix))]
mod portable;
#[cfg(not(unix))]
use portable as platform;

/// How long a writer waits for another process before it gives up.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Why a file could not be read or saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// There is no such file or directory.
    #[error("{} does not exist", path.display())]
    NotFound {
        /// What was looked for.
        path: PathBuf,
    },
    /// Somebody else may read or write it.
    #[error("{} is open to other users (mode {mode:04o}); run `chmod {} {}`", path.display(), if *directory { "700" } else { "600" }, path.display())]
    Permissions {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Whether it is a directory.
        directory: bool,
    },
    /// It belongs to another user.
    #[error("{} belongs to another user (id {owner}); run as that user or `chown` it", path.display())]
    OtherOwner {
        /// The file or directory.
        path: PathBuf,
        /// The user identifier of its owner.
        owner: u32,
    },
    /// It is a symbolic link, which could lead anywhere.
    #[error("{} is a symbolic link; name the real place instead", path.display())]
    SymlinkRefused {
        /// The link.
        path: PathBuf,
    },
    /// It is a directory, a pipe or a device where a file should be, or the
    /// other way round.
    #[error("{} is not a {expected}", path.display())]
    WrongType {
        /// What was found in the way.
        path: PathBuf,
        /// What should be there.
        expected: &'static str,
    },
    /// It is larger than anything this crate writes.
    #[error("{} is larger than {limit} bytes and was not read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that would have been read, in bytes.
        limit: usize,
    },
    /// Another process held the lock for too long.
    #[error("another process is still changing {}; try again", path.display())]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// The disk or the quota is full. What was there is as it was.
    #[error("the disk is full, so {} was not saved; free some space and try again", path.display())]
    DiskFull {
        /// What should have been written.
        path: PathBuf,
    },
    /// The file system cannot be written.
    #[error("{} is on a read-only file system; make that writable, or name another place", path.display())]
    ReadOnly {
        /// What should have been written.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl FileError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound {
                path: path.to_owned(),
            },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull {
                path: path.to_owned(),
            },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly {
                path: path.to_owned(),
            },
            _ => Self::Io {
                action,
                path: path.to_owned(),
                source,
            },
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// Who may enter a directory that we write to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Privacy {
    /// Ours alone: created 0700, and refused if it is wider.
    Private,
    /// Somebody else's choice; only the file itself is ours.
    Shared,
}

/// Tells whether a file was replaced: its number, size and times.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Stamp([u64; 5]);

/// An open directory, through which its files are reached.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    handle: platform::Handle,
}

impl Directory {
    /// Opens `path`.
    pub(crate) fn open(path: &Path, privacy: Privacy) -> Result<Self, FileError> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let handle = platform::open_directory(path, privacy)?;
        Ok(Self {
            path: path.to_owned(),
            handle,
        })
    }

    /// Opens `path`, making it and what is missing above it, all 0700.
    pub(crate) fn create(path: &Path, privacy: Privacy) -> Result<Self, FileError> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        platform::create_directories(path)?;
        Self::open(path, privacy)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a whole file of ours.
    pub(crate) fn read(&self, name: &str, limit: usize) -> Result<Zeroizing<Vec<u8>>, FileError> {
        let path = self.path.join(name);
        let (mut file, length) = platform::open_for_reading(&self.handle, &path, name)?;
        if length > limit as u64 {
            return Err(FileError::TooLarge { path, limit });
        }
        // Room for everything at once: growing would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
        io::Read::by_ref(&mut file)
            .take(limit as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| FileError::io("read", &path, error))?;
        if bytes.len() > limit {
            return Err(FileError::TooLarge { path, limit });
        }
        Ok(bytes)
    }

    pub(crate) fn contains(&self, name: &str) -> Result<bool, FileError> {
        platform::exists(&self.handle, &self.path.join(name), name)
    }

    /// What changes whenever the file is replaced.
    pub(crate) fn stamp(&self, name: &str) -> Result<Stamp, FileError> {
        platform::stamp(&self.handle, &self.path.join(name), name)
    }

    /// Replaces a file, or makes it, in one step that survives a crash.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let temporary = temporary_name(name)?;
        let path = self.path.join(name);
        let written = self
            .write_temporary(&temporary, &path, bytes)
            .and_then(|()| {
                step("rename").map_err(|error| FileError::io("replace", &path, error))?;
                platform::rename(&self.handle, &self.path, &temporary, name)
                    .map_err(|error| FileError::io("replace", &path, error))
            });
        if let Err(error) = written {
            // The first error is the one to report; the leftover is harmless.
            let _ = platform::remove(&self.handle, &self.path, &temporary);
            return Err(error);
        }
        step("sync directory").map_err(|error| FileError::io("flush", &self.path, error))?;
        platform::sync_directory(&self.handle)
            .map_err(|error| FileError::io("flush", &self.path, error))?;
        step("saved").map_err(|error| FileError::io("flush", &self.path, error))
    }

    fn write_temporary(
        &self,
        temporary: &str,
        target: &Path,
        bytes: &[u8],
    ) -> Result<(), FileError> {
        let wrap = |action| move |error| FileError::io(action, target, error);
        step("create").map_err(wrap("create"))?;
        let mut file =
            platform::create_new(&self.handle, &self.path, temporary).map_err(wrap("create"))?;
        step("write").map_err(wrap("write"))?;
        let (first, second) = bytes.split_at(bytes.len() / 2);
        io::Write::write_all(&mut file, first).map_err(wrap("write"))?;
        step("write more").map_err(wrap("write"))?;
        io::Write::write_all(&mut file, second).map_err(wrap("write"))?;
        step("sync file").map_err(wrap("flush"))?;
        platform::sync_file(&file).map_err(wrap("flush"))
    }

    /// Removes a file. One that is not there is no error.
    pub(crate) fn remove(&self, name: &str) -> Result<(), FileError> {
        let path = self.path.join(name);
        let wrap = |action| {
            let path = path.clone();
            move |error| FileError::io(action, &path, error)
        };
        step("remove").map_err(wrap("remove"))?;
        match platform::remove(&self.handle, &self.path, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(wrap("remove"))?,
        }
        platform::sync_directory(&self.handle).map_err(wrap("flush"))
    }

    /// Waits for the lock that writers of `name` take.
    ///
    /// The lock file stays: removing it would let two processes hold two
    /// different files of the same name.
    pub(crate) fn lock(&self, name: &str) -> Result<Lock, FileError> {
        let lock_name = format!(".{name}.lock");
        let path = self.path.join(&lock_name);
        let file = platform::open_lock(&self.handle, &path, &lock_name)?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(std::fs::TryLockError::WouldBlock) if started.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(std::fs::TryLockError::WouldBlock) => return Err(FileError::Busy { path }),
                Err(std::fs::TryLockError::Error(error)) => {
                    return Err(FileError::io("lock", &path, error));
                }
            }
        }
    }

    /// Removes what interrupted saves of `name` left behind.
    ///
    /// The caller holds the lock of `name`, so no live save is disturbed.
    pub(crate) fn clean_leftovers(&self, _lock: &Lock, name: &str) -> Result<(), FileError> {
        let prefix = format!(".{name}.");
        for found in self.names()? {
            let is_leftover = found
                .strip_prefix(&prefix)
                .and_then(|rest| rest.strip_suffix(".tmp"))
                .is_some_and(|random| {
                    random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit())
                });
            if is_leftover {
                self.remove(&found)?;
            }
        }
        Ok(())
    }

    /// Names of the entries, those that are not text left out.
    pub(crate) fn names(&self) -> Result<Vec<String>, FileError> {
        platform::names(&self.handle, &self.path)
            .map_err(|error| FileError::io("list", &self.path, error))
    }
}

/// Held by the one process that may save; released when dropped or on exit.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

use std::io::Read as _;

fn temporary_name(name: &str) -> Result<String, FileError> {
    let random = katachi_crypto::random::bytes::<8>().map_err(|error| {
        FileError::io(
            "name a temporary file for",
            Path::new(name),
            io::Error::other(error),
        )
    })?;
    Ok(format!(".{name}.{:016x}.tmp", u64::from_be_bytes(random)))
}

/// A place where tests can stop the process or make the system refuse.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn step(name: &'static str) -> io::Result<()> {
    crate::testing::fault::reach(name)
}

#[cfg(not(any(test, feature = "testing")))]
#[inline(always)]
#[allow(clippy::unnecessary_wraps, reason = "the twin for tests can fail")]
pub(crate) fn step(_name: &'static str) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
