//! Holds the file that was looked at open for as long as SQLite has it open.
//!
//! On Unix, closing *any* handle of a file drops all locks that the process
//! has on it, also those of SQLite's own handle. Looking at the first bytes of
//! a database that is already open in this process, and closing the file
//! again, would so let another process believe that nobody uses it. One handle
//! per file is therefore shared by all who look, and closed only after the last
//! database that it belongs to.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::DatabaseError;
use super::key::SALT;

/// The shared handle of one database file.
#[derive(Clone, Debug)]
pub(super) struct Sentry(Arc<Mutex<File>>);

/// What tells two names of one file from two files.
type Identity = (u64, u64);

struct Posted {
    identity: Identity,
    file: Weak<Mutex<File>>,
}

static POSTED: Mutex<Vec<Posted>> = Mutex::new(Vec::new());

impl Sentry {
    /// Opens `path`, or joins those who have it open. `None` if there is no
    /// such file and `create` is not set; a new file is the owner's alone.
    pub(super) fn post(path: &Path, create: bool) -> Result<Option<Self>, DatabaseError> {
        let mut posted = POSTED.lock().unwrap_or_else(PoisonError::into_inner);
        posted.retain(|entry| entry.file.strong_count() > 0);
        let failed = |error| DatabaseError::io("open", path, error);
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.is_file() => {
                return Err(DatabaseError::Argument {
                    what: "the path of a database names a regular file, and no link to one",
                });
            }
            Ok(metadata) => {
                if let Some(file) = find(&posted, identity(&metadata)) {
                    return Ok(Some(Self(file)));
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound && create => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
        let file = match open(path, create) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            // A file that may be read and not written, most often.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(DatabaseError::ReadOnly);
            }
            Err(error) => return Err(failed(error)),
        };
        let metadata = file.metadata().map_err(failed)?;
        let identity = identity(&metadata);
        if let Some(known) = find(&posted, identity) {
            // The name changed hands between the two looks. Closing this
            // handle would drop locks; it stays until the process ends.
            std::mem::forget(file);
            return Ok(Some(Self(known)));
        }
        let file = Arc::new(Mutex::new(file));
        posted.push(Posted {
            identity,
            file: Arc::downgrade(&file),
        });
        Ok(Some(Self(file)))
    }

    /// The first bytes of the file; fewer if it is shorter.
    pub(super) fn head(&self, path: &Path) -> Result<Vec<u8>, DatabaseError> {
        let mut head = Vec::with_capacity(SALT);
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(0))
            .and_then(|_| {
                Read::by_ref(&mut *file)
                    .take(SALT as u64)
                    .read_to_end(&mut head)
            })
            .map_err(|error| DatabaseError::io("read", path, error))?;
        Ok(head)
    }

    /// Bytes in the file.
    pub(super) fn length(&self, path: &Path) -> Result<u64, DatabaseError> {
        let file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let metadata = file.metadata();
        Ok(metadata
            .map_err(|error| DatabaseError::io("look at", path, error))?
            .len())
    }

    /// Fills `part` with what is in the file at `offset`.
    pub(super) fn read_at(
        &self,
        path: &Path,
        offset: u64,
        part: &mut [u8],
    ) -> Result<(), DatabaseError> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(part))
            .map_err(|error| DatabaseError::io("read", path, error))
    }

    /// Writes the whole file to `copy`.
    pub(super) fn copy_to(&self, path: &Path, copy: &mut File) -> Result<(), DatabaseError> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(0))
            .and_then(|_| std::io::copy(&mut *file, copy))
            .map(drop)
            .map_err(|error| DatabaseError::io("copy", path, error))
    }

    /// Whether somebody else in this process has the file open.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Takes group and others their rights to the file.
    #[cfg(unix)]
    pub(super) fn make_private(&self, path: &Path) -> Result<(), DatabaseError> {
        use std::os::unix::fs::PermissionsExt;
        let change = |error| DatabaseError::io("make private", path, error);
        let file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mode = file.metadata().map_err(change)?.permissions().mode();
        if mode & 0o077 != 0 {
            let private = std::fs::Permissions::from_mode(mode & 0o700);
            file.set_permissions(private).map_err(change)?;
        }
        Ok(())
    }

    /// Files in a user's profile are private by inheritance.
    #[cfg(not(unix))]
    pub(super) fn make_private(&self, _: &Path) -> Result<(), DatabaseError> {
        Ok(())
    }
}

fn find(posted: &[Posted], identity: Identity) -> Option<Arc<Mutex<File>>> {
    // Elsewhere closing a handle drops no lock, and nothing need be shared.
    if cfg!(not(unix)) {
        return None;
    }
    let known = posted.iter().find(|entry| entry.identity == identity)?;
    known.file.upgrade()
}

#[cfg(unix)]
fn identity(metadata: &std::fs::Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn identity(_: &std::fs::Metadata) -> Identity {
    (0, 0)
}

fn open(path: &Path, create: bool) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    if create {
        options.write(true).create(true).truncate(false);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        // The flags fit: every platform numbers them below 2^31.
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        options.mode(0o600).custom_flags(flags);
    }
    options.open(path)
}

/// Creates `path`, which must not exist, readable by its owner alone.
pub(super) fn create_new(path: &Path) -> Result<(), DatabaseError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(path)
        .map(drop)
        .map_err(|error| DatabaseError::io("create", path, error))
}
