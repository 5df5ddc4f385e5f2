//! Changing the key of a database.
//!
//! A copy under the new key is made beside the file, checked, flushed, and
//! renamed over it. Whatever happens on the way, the path holds one whole
//! database under one of the two keys, and the salt at its beginning tells
//! which: [`Database::open_any`] opens it.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::anchor;
use super::backup::{Partial, copy_pages};
use super::connection::{Role, Settings};
use super::preflight::{self, Found};
use super::verify::{Report, authenticate};
use super::{Database, DatabaseError, DatabaseKey, Options};

/// Whether the caller keeps an anchor's record of pages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Anchorage {
    None,
    Kept,
}

impl Database {
    /// Opens the database with whichever of `keys` belongs to it, and tells
    /// which one that was. So a program that was stopped while changing the
    /// key gives both, the new one first.
    ///
    /// # Errors
    ///
    /// As for [`Database::open`]; [`DatabaseError::WrongKey`] if none belongs
    /// to the file.
    pub fn open_any(
        path: impl AsRef<Path>,
        keys: &[&DatabaseKey],
        options: Options,
    ) -> Result<(Self, usize), DatabaseError> {
        let path = path.as_ref();
        for (index, key) in keys.iter().enumerate() {
            match Self::open(path, key, options) {
                Err(DatabaseError::WrongKey { .. }) => {}
                outcome => return outcome.map(|database| (database, index)),
            }
        }
        Err(DatabaseError::WrongKey {
            path: path.to_owned(),
        })
    }

    /// Encrypts the database at `path`, which `from` opens, anew under `to`.
    ///
    /// Nobody may have it open meanwhile, this process included, and there
    /// must be room for a second copy. Keep both keys until this returns `Ok`;
    /// if it does not return, [`Database::open_any`] finds out which one
    /// holds, and calling this again with the old key finishes the work.
    ///
    /// # Errors
    ///
    /// Returns [`DatabaseError::Busy`] if the database is open elsewhere,
    /// [`DatabaseError::WrongKey`] if `from` does not open it,
    /// [`DatabaseError::Corrupt`] if it is damaged, and
    /// [`DatabaseError::DiskFull`]; the file is then as it was.
    pub fn rekey(
        path: impl AsRef<Path>,
        from: &DatabaseKey,
        to: &DatabaseKey,
        options: Options,
    ) -> Result<(), DatabaseError> {
        Self::rekey_file(path.as_ref(), from, to, options, Anchorage::None)
    }

    pub(super) fn rekey_file(
        path: &Path,
        from: &DatabaseKey,
        to: &DatabaseKey,
        options: Options,
        anchorage: Anchorage,
    ) -> Result<(), DatabaseError> {
        let path = preflight::resolve(path)?;
        let (found, _sentry) = preflight::inspect(&path, from, options.profile, false)?;
        if found == Found::Nothing {
            return Err(DatabaseError::NotFound { path });
        }
        let failed = |error| DatabaseError::io("open", &path, error);
        // Closed after the connection: closing it drops the locks.
        let mut superseded = File::options().write(true).open(&path).map_err(failed)?;
        let old = Settings {
            path: path.clone(),
            spec: from.spec(options.profile),
            options,
            anchored: false,
        };
        if !from.salt_proves_key() {
            old.probe()?;
        }
        let source = old.connect(Role::Writer)?;
        if anchorage == Anchorage::None && !options.ignore_anchor {
            anchor::refuse_anchored(&old, &source)?;
        }
        // Leaving the log asks for the file alone, and puts all of it there.
        let mode: String = source.guard.as_owner(|| {
            let leave = "PRAGMA journal_mode = DELETE";
            source.connection.query_row(leave, [], |row| row.get(0))
        })?;
        if mode != "delete" {
            return Err(DatabaseError::Busy);
        }
        // The lock outlives the transaction that takes it: pages are not copied
        // out of a connection that is writing.
        source.run_as_owner("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT;")?;
        source.run_as_owner("BEGIN; SELECT count(*) FROM sqlite_schema;")?;

        let partial = Partial::create_over_stale(preflight::side_file(&path, "-rekey"))?;
        let new = Settings {
            path: partial.path().to_owned(),
            spec: to.spec(options.profile),
            options,
            anchored: false,
        };
        let mut copy = new.open_other(partial.path())?;
        copy_pages(&source.connection, &mut copy, options.busy_timeout)?;
        copy.close().map_err(|(_, error)| error)?;
        let mut report = Report::default();
        authenticate(&new.open_other(partial.path())?, &mut report)?;
        if let Some(problem) = report.problems.into_iter().next() {
            return Err(DatabaseError::Corrupt {
                page: problem.page,
                detail: problem.detail,
            });
        }
        partial.replace(&path)?;
        // Whoever opened the old file in the meantime, and waits for it, must
        // not go on in a file that has no name any more.
        let _ = superseded.write_all(&[0xff; 8192]);
        drop(source);
        Ok(())
    }
}
