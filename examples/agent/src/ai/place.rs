//! Directories for sockets, each held by a lock, so that the next agent knows those that
//! a killed one left behind and removes them.

use std::fs::{File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

/// Where they lie. A path to a socket has at most 107 bytes: no name that somebody else
/// chose is part of it.
pub(super) const BASE: &str = "/tmp";
const PREFIX: &str = "katachi-mcp-";
/// How often another is made, where one was taken for left behind before it was locked.
const ATTEMPTS: usize = 8;

/// A directory for sockets; it goes with this.
#[derive(Debug)]
pub(super) struct Place {
    directory: TempDir,
    /// Locked for as long as somebody needs the directory.
    _lock: File,
}

impl Place {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// Returns an error if none can be made.
    pub(super) fn new() -> anyhow::Result<Self> {
        for _ in 0..ATTEMPTS {
            let directory = tempfile::Builder::new()
                .prefix(PREFIX)
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(BASE)
                .context("no directory for sockets can be made")?;
            if let Some(lock) = locked(directory.path())
                && is_at(&lock, directory.path())
            {
                return Ok(Self {
                    directory,
                    _lock: lock,
                });
            }
        }
        bail!("no directory for sockets can be kept in {BASE}")
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Removes what agents of this user left that were killed.
pub(crate) fn remove_left() {
    remove_left_in(Path::new(BASE));
}

fn remove_left_in(base: &Path) {
    let user = rustix::process::getuid().as_raw();
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            // Of a link this is the link's.
            && entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == user);
        if !is_ours {
            continue;
        }
        // Nobody holds it while this does.
        let Some(_lock) = locked(&entry.path()) else {
            continue;
        };
        if let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::warn!("{} is left behind: {error}", entry.path().display());
        }
    }
}

/// The directory at `path`, locked, unless somebody holds it or it is none.
fn locked(path: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory: OwnedFd = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let directory = File::from(directory);
    directory.try_lock().ok().map(|()| directory)
}

/// Whether `path` is still the directory that was opened.
fn is_at(opened: &File, path: &Path) -> bool {
    let (Ok(opened), Ok(found)) = (opened.metadata(), path.symlink_metadata()) else {
        return false;
    };
    (opened.dev(), opened.ino()) == (found.dev(), found.ino())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_nobody_holds_is_removed_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = base.path().join(name);
            std::fs::create_dir(&path).unwrap();
            let _ = UnixListener::bind(path.join("0")).unwrap();
            path
        };
        let [left, held, other] = ["katachi-mcp-left", "katachi-mcp-held", "somebody"].map(make);
        let elsewhere = tempfile::tempdir().unwrap();
        let link = base.path().join("katachi-mcp-link");
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        let lock = locked(&held).unwrap();
        remove_left_in(base.path());
        assert!(!left.exists());
        assert!(held.join("0").exists() && other.join("0").exists());
        assert!(link.exists() && elsewhere.path().exists());
        drop(lock);
        remove_left_in(base.path());
        assert!(!held.exists());
    }

    #[test]
    fn one_that_is_used_stays() {
        let place = Place::new().unwrap();
        let longest = place.path().join("15");
        assert!(longest.as_os_str().len() < 100, "{}", longest.display());
        remove_left();
        assert!(place.path().exists());
    }
}
