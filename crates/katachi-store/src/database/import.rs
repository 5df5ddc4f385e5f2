//! Taking over a database that another program made.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use katachi_crypto::SecretString;
use rusqlite::limits::Limit;
use zeroize::Zeroizing;

use super::backup::Partial;
use super::connection::{Guarded, Role, Settings};
use super::preflight::{self, side_file};
use super::{Database, DatabaseError, DatabaseKey, Options};

/// What opens the database to import.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ImportFrom<'k> {
    /// Nothing: it is a plain SQLite database.
    Plain,
    /// The raw key of a database that SQLCipher 4 made with its defaults; see
    /// [`DatabaseKey::from_sqlcipher_hex`].
    Key(&'k DatabaseKey),
    /// The passphrase of a database that SQLCipher 4 made with its defaults.
    Passphrase(&'k SecretString),
}

/// How far an import has come.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct ImportProgress {
    /// Bytes written so far.
    pub written: u64,
    /// Bytes of the database that is imported; about as many will be written.
    pub total: u64,
}

impl Database {
    /// Makes an encrypted database at `path` with everything that is in the
    /// plain SQLite database `source`, and opens it; see [`Database::import`].
    ///
    /// # Errors
    ///
    /// As for [`Database::import`].
    pub fn import_plain(
        source: impl AsRef<Path>,
        path: impl AsRef<Path>,
        key: &DatabaseKey,
        options: Options,
    ) -> Result<Self, DatabaseError> {
        Self::import(source, ImportFrom::Plain, path, key, options, |_| {})
    }

    /// Makes an encrypted database at `path` with everything that is in the
    /// database `source`, and opens it: tables, indexes, views, triggers,
    /// full-text tables and the schema version. Calls `progress` several times
    /// a second.
    ///
    /// The new file appears complete or not at all. The old one is left
    /// alone; removing it, and what the disk still remembers of it, is up to
    /// the caller.
    ///
    /// # Errors
    ///
    /// Returns [`DatabaseError::Argument`] if `source` is not of the kind that
    /// is said or something is at `path` already, [`DatabaseError::WrongKey`]
    /// if it does not open, and otherwise what [`Database::open`] returns.
    pub fn import(
        source: impl AsRef<Path>,
        from: ImportFrom<'_>,
        path: impl AsRef<Path>,
        key: &DatabaseKey,
        options: Options,
        mut progress: impl FnMut(ImportProgress),
    ) -> Result<Self, DatabaseError> {
        let source = preflight::resolve(source.as_ref())?;
        let is_plain = matches!(from, ImportFrom::Plain);
        check_kind(&source, is_plain)?;
        let path = preflight::resolve(path.as_ref())?;
        if path.symlink_metadata().is_ok() {
            return Err(DatabaseError::Argument {
                what: "an import goes to a path where nothing is yet",
            });
        }
        let partial = Partial::beside(&path)?;
        let settings = Settings {
            path: partial.path().to_owned(),
            spec: key.spec(options.profile),
            options,
            anchored: false,
        };
        let target = settings.connect(Role::Writer)?;
        let place = source.to_str().ok_or(DatabaseError::Argument {
            what: "the path of a database to import is UTF-8",
        })?;
        let secret = secret(from)?;
        let total = size(&source) + size(&side_file(&source, "-wal"));
        let outcome = std::thread::scope(|scope| {
            let copying = scope.spawn(|| copy(target, place, &secret));
            while !copying.is_finished() {
                std::thread::sleep(Duration::from_millis(20));
                let log = side_file(partial.path(), "-wal");
                let written = size(partial.path()).max(size(&log));
                progress(ImportProgress { written, total });
            }
            copying.join()
        });
        match outcome {
            Ok(Err(DatabaseError::Corrupt { .. })) if !is_plain => {
                return Err(DatabaseError::WrongKey { path: source });
            }
            Ok(copied) => copied?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        let written = size(partial.path());
        progress(ImportProgress { written, total });
        partial.publish(&path)?;
        Self::open(path, key, options)
    }
}

/// What SQLCipher is given for the source: nothing, a raw key or a passphrase.
fn secret(from: ImportFrom<'_>) -> Result<Zeroizing<String>, DatabaseError> {
    Ok(match from {
        ImportFrom::Plain => Zeroizing::default(),
        ImportFrom::Key(key) => Zeroizing::new(format!("x'{}'", &*key.expose_sqlcipher_hex())),
        // Such a text would be taken for a raw key.
        ImportFrom::Passphrase(passphrase) if passphrase.expose_secret().is_empty() => {
            return Err(DatabaseError::Argument {
                what: "a passphrase is not empty",
            });
        }
        ImportFrom::Passphrase(passphrase) => Zeroizing::new(passphrase.expose_secret().to_owned()),
    })
}

/// Copies everything, and leaves it in one file without a log.
fn copy(target: Guarded, source: &str, secret: &str) -> Result<(), DatabaseError> {
    let connection = &target.connection;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1)?;
    let mode: String = target.guard.as_owner(|| {
        // Bound, so that the secret is in no SQL text.
        connection.execute("ATTACH ?1 AS source KEY ?2", [source, secret])?;
        let number = |pragma: &str| -> rusqlite::Result<i64> {
            connection.query_row(&format!("PRAGMA source.{pragma}"), [], |row| row.get(0))
        };
        let (version, application) = (number("user_version")?, number("application_id")?);
        connection.query_row("SELECT sqlcipher_export('main', 'source')", [], |_| Ok(()))?;
        connection.execute_batch(&format!(
            "PRAGMA main.user_version = {version};
             PRAGMA main.application_id = {application};
             DETACH source;"
        ))?;
        connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0))
    })?;
    if mode == "delete" {
        Ok(())
    } else {
        Err(DatabaseError::Busy)
    }
}

fn size(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |data| data.len())
}

fn check_kind(source: &Path, plain: bool) -> Result<(), DatabaseError> {
    let mut head = Vec::new();
    std::fs::File::open(source)
        .and_then(|file| {
            file.take(preflight::PLAIN.len() as u64)
                .read_to_end(&mut head)
        })
        .map_err(|error| DatabaseError::io("read", source, error))?;
    match (head == preflight::PLAIN, plain) {
        (true, true) | (false, false) => Ok(()),
        (false, true) => Err(DatabaseError::Argument {
            what: "the database to import is a plain SQLite database",
        }),
        (true, false) => Err(DatabaseError::Argument {
            what: "the database to import is encrypted",
        }),
    }
}
