//! Copies and compaction that stay encrypted.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::limits::Limit;

use super::connection::Role;
use super::{Database, DatabaseError};
use super::{preflight, sentry};

/// Pages copied between two looks at the source.
const PAGES_AT_ONCE: i32 = 1024;

impl Database {
    /// Copies the database as it is now into a new file at `path`, under the
    /// same key, while readers and writers go on.
    ///
    /// The copy appears complete or not at all: it is made beside `path`,
    /// flushed to the disk and renamed. It opens with the same key and profile.
    ///
    /// # Errors
    ///
    /// Returns [`DatabaseError::Argument`] if something is at `path` already,
    /// [`DatabaseError::DiskFull`] and [`DatabaseError::Io`] from the machine.
    pub fn backup(&self, path: impl AsRef<Path>) -> Result<(), DatabaseError> {
        let path = preflight::resolve(path.as_ref())?;
        if path.symlink_metadata().is_ok() {
            return Err(DatabaseError::Argument {
                what: "a backup goes to a path where nothing is yet",
            });
        }
        let partial = Partial::beside(&path)?;
        let source = self.0.settings.connect(Role::Reader)?;
        // Holds one state of the source for the whole copy.
        source.run_as_owner("BEGIN; SELECT count(*) FROM sqlite_schema;")?;
        let mut copy = self.0.settings.open_other(partial.path())?;
        copy_pages(
            &source.connection,
            &mut copy,
            self.0.settings.options.busy_timeout,
        )?;
        copy.close().map_err(|(_, error)| error)?;
        source.run_as_owner("COMMIT")?;
        partial.publish(&path)
    }

    /// Rewrites the file without the space that deleted rows left.
    ///
    /// Needs as much memory as the database is large: nothing is written to a
    /// temporary file.
    ///
    /// # Errors
    ///
    /// Returns [`DatabaseError::Busy`] while others read or write, and
    /// [`DatabaseError::DiskFull`] if the disk is full; the database is then
    /// as it was.
    pub fn vacuum(&self) -> Result<(), DatabaseError> {
        let writer = self.writer()?;
        // SQLite attaches the space it rebuilds in, in memory.
        writer
            .connection
            .set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1)?;
        let outcome = writer.run_as_owner("VACUUM");
        writer
            .connection
            .set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        outcome
    }

    /// Moves everything from the write-ahead log into the file and empties the
    /// log, so that nothing deleted remains in it. Where the database has an
    /// [`Anchor`](super::Anchor), no older state opens from then on.
    ///
    /// # Errors
    ///
    /// Returns [`DatabaseError::Busy`] while a reader needs the log, and
    /// [`DatabaseError::Vault`] or [`DatabaseError::Record`] if the anchor
    /// cannot be set; everything is still there then.
    pub fn checkpoint(&self) -> Result<(), DatabaseError> {
        let writer = self.writer()?;
        if let Some(anchored) = &self.0.anchored {
            return anchored.settle(&self.0.settings, &self.0.sentry, &writer);
        }
        let blocked: i64 = writer.guard.as_owner(|| {
            writer
                .connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        })?;
        if blocked == 0 {
            Ok(())
        } else {
            Err(DatabaseError::Busy)
        }
    }
}

/// Copies every page of `source`, encrypting it under the key of `copy`.
pub(super) fn copy_pages(
    source: &Connection,
    copy: &mut Connection,
    patience: Duration,
) -> Result<(), DatabaseError> {
    let backup = Backup::new(source, copy)?;
    let deadline = Instant::now() + patience;
    loop {
        match backup.step(PAGES_AT_ONCE)? {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            _ => return Err(DatabaseError::Busy),
        }
    }
}

/// A file in the making, removed unless it gets its name.
pub(super) struct Partial {
    path: PathBuf,
    published: bool,
}

impl Partial {
    /// Makes an empty file in the directory of `target`.
    pub(super) fn beside(target: &Path) -> Result<Self, DatabaseError> {
        let suffix: [u8; 8] = katachi_crypto::random::bytes()?;
        let suffix = u64::from_le_bytes(suffix);
        Self::create(preflight::side_file(
            target,
            &format!(".{suffix:016x}.partial"),
        ))
    }

    /// Makes an empty file at `path`, removing what a killed process left
    /// there. The caller holds a lock that keeps others from doing the same.
    pub(super) fn create_over_stale(path: PathBuf) -> Result<Self, DatabaseError> {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(DatabaseError::io("remove", &path, error))
            }
            _ => Self::create(path),
        }
    }

    fn create(path: PathBuf) -> Result<Self, DatabaseError> {
        sentry::create_new(&path)?;
        Ok(Self {
            path,
            published: false,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name, where nothing may be yet.
    pub(super) fn publish(mut self, target: &Path) -> Result<(), DatabaseError> {
        self.flush(target)?;
        // Unlike a rename, a hard link never replaces what appeared meanwhile.
        match std::fs::hard_link(&self.path, target) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(DatabaseError::io("finish the copy", target, error));
            }
            // Not every file system has hard links.
            Err(_) => self.rename(target)?,
        }
        flush_directory(target)
    }

    /// Gives the file the name of another one, which is then gone.
    pub(super) fn replace(mut self, target: &Path) -> Result<(), DatabaseError> {
        self.flush(target)?;
        self.rename(target)?;
        flush_directory(target)
    }

    fn flush(&self, target: &Path) -> Result<(), DatabaseError> {
        let open = File::options().read(true).write(true).open(&self.path);
        open.and_then(|file| file.sync_all())
            .map_err(|error| DatabaseError::io("finish the copy", target, error))
    }

    fn rename(&mut self, target: &Path) -> Result<(), DatabaseError> {
        std::fs::rename(&self.path, target)
            .map_err(|error| DatabaseError::io("finish the copy", target, error))?;
        self.published = true;
        Ok(())
    }
}

/// Makes a name in a directory last through a power cut.
fn flush_directory(target: &Path) -> Result<(), DatabaseError> {
    #[cfg(unix)]
    if let Some(directory) = target.parent() {
        let open = File::open(directory);
        open.and_then(|directory| directory.sync_all())
            .map_err(|error| DatabaseError::io("finish the copy", target, error))?;
    }
    #[cfg(not(unix))]
    let _ = target;
    Ok(())
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: what remains is encrypted and private.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
