//! Putting a backup in the place of a database.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::backup::Partial;
use super::connection::Settings;
use super::preflight::{self, Found, side_file};
use super::sentry::Sentry;
use super::verify::{Report, authenticate};
use super::{Database, DatabaseError, DatabaseKey, Options};

impl Database {
    /// Puts the backup at `backup` in the place of the database at `path`,
    /// which may be damaged, of another key, or not there at all.
    ///
    /// Every page of the copy is authenticated first; then it takes the name
    /// in one step. Nobody may have the old one open. An anchored database is
    /// then older than its vault knows: open it with
    /// [`Anchor::accept_restore`](super::Anchor::accept_restore) once.
    ///
    /// # Errors
    ///
    /// Returns [`DatabaseError::WrongKey`] if `key` does not open the backup,
    /// [`DatabaseError::Corrupt`] if it is damaged, [`DatabaseError::Busy`] if
    /// the database at `path` is open, and [`DatabaseError::DiskFull`] and
    /// others from the machine. What was at `path` is then as it was.
    pub fn restore(
        backup: impl AsRef<Path>,
        path: impl AsRef<Path>,
        key: &DatabaseKey,
        options: Options,
    ) -> Result<(), DatabaseError> {
        let backup = preflight::resolve(backup.as_ref())?;
        let path = preflight::resolve(path.as_ref())?;
        let (found, source) = preflight::inspect(&backup, key, options.profile, false)?;
        if found == Found::Nothing {
            return Err(DatabaseError::NotFound { path: backup });
        }
        let log = std::fs::metadata(side_file(&backup, "-wal"));
        if log.is_ok_and(|log| log.len() > 0) {
            return Err(DatabaseError::Argument {
                what: "a backup is one whole file: this one has a log beside it, so open and close it first",
            });
        }
        // Held to the end, so that nobody opens what is about to go.
        let replaced = Sentry::post(&path, false)?;
        let mut superseded = match &replaced {
            Some(replaced) if replaced.is_shared() => return Err(DatabaseError::Busy),
            Some(_) => Some(lock_alone(&path)?),
            None => None,
        };
        let partial = Partial::create_over_stale(side_file(&path, "-restore"))?;
        let failed = |error| DatabaseError::io("restore", &path, error);
        let mut copy = File::options()
            .write(true)
            .open(partial.path())
            .map_err(failed)?;
        source.copy_to(&backup, &mut copy)?;
        drop(copy);
        let settings = Settings {
            path: partial.path().to_owned(),
            spec: key.spec(options.profile),
            options,
            anchored: false,
        };
        settings.probe()?;
        let mut report = Report::default();
        authenticate(&settings.open_other(partial.path())?, &mut report)?;
        if let Some(problem) = report.problems.into_iter().next() {
            return Err(DatabaseError::Corrupt {
                page: problem.page,
                detail: problem.detail,
            });
        }
        // SQLite would take an old log for the new file's.
        for suffix in ["-wal", "-shm", "-journal"] {
            let file = side_file(&path, suffix);
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(DatabaseError::io("remove", &file, error));
                }
                _ => {}
            }
        }
        // Whoever opened the old file meanwhile, and waits for it, must not go
        // on in a file that has no name any more.
        partial.replace(&path)?;
        if let Some(superseded) = &mut superseded {
            let _ = superseded.write_all(&[0xff; 8192]);
        }
        Ok(())
    }
}

/// Opens a file and keeps every SQLite of another process from it: each has a
/// shared lock on a part of what it has open.
fn lock_alone(path: &Path) -> Result<File, DatabaseError> {
    let open = File::options().read(true).write(true).open(path);
    let file = open.map_err(|error| DatabaseError::io("open", path, error))?;
    #[cfg(unix)]
    {
        let operation = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::fcntl_lock(&file, operation).map_err(|_| DatabaseError::Busy)?;
    }
    Ok(file)
}
