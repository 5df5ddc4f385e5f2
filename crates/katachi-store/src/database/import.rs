//! Taking over a database that was not encrypted.

use std::io::Read;
use std::path::Path;

use rusqlite::limits::Limit;

use super::backup::Partial;
use super::connection::{Role, Settings};
use super::preflight::{self, Found};
use super::{Database, DatabaseError, DatabaseKey, Options};

impl Database {
    /// Makes an encrypted database at `path` with everything that is in the
    /// plain SQLite database `source`, and opens it: tables, indexes, views,
    /// triggers, full-text tables and the schema version.
    ///
    /// The new file appears complete or not at all. The plain one is left
    /// alone; removing it, and what the disk still remembers of it, is up to
    /// the caller.
    ///
    /// # Errors
    ///
    /// Returns [`DatabaseError::Argument`] if `source` is no plain SQLite
    /// database or something is at `path` already, and otherwise what
    /// [`Database::open`] returns.
    pub fn import_plain(
        source: impl AsRef<Path>,
        path: impl AsRef<Path>,
        key: &DatabaseKey,
        options: Options,
    ) -> Result<Self, DatabaseError> {
        let source = preflight::resolve(source.as_ref())?;
        check_plain(&source)?;
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
        let connection = &target.connection;
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1)?;
        let from = source.to_str().ok_or(DatabaseError::Argument {
            what: "the path of a database to import is UTF-8",
        })?;
        target.guard.as_owner(|| {
            connection.execute("ATTACH ?1 AS plain KEY ''", [from])?;
            let number = |pragma: &str| -> rusqlite::Result<i64> {
                connection.query_row(&format!("PRAGMA plain.{pragma}"), [], |row| row.get(0))
            };
            let (version, application) = (number("user_version")?, number("application_id")?);
            connection.query_row("SELECT sqlcipher_export('main', 'plain')", [], |_| Ok(()))?;
            connection.execute_batch(&format!(
                "PRAGMA main.user_version = {version};
                 PRAGMA main.application_id = {application};
                 DETACH plain;"
            ))
        })?;
        // Everything from the log into the one file that gets the name.
        let mode: String = target.guard.as_owner(|| {
            connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0))
        })?;
        if mode != "delete" {
            return Err(DatabaseError::Busy);
        }
        drop(target);
        partial.publish(&path)?;
        debug_assert_eq!(
            preflight::inspect(&path, key, options.profile, false)
                .map(|(found, _)| found)
                .ok(),
            Some(Found::Database)
        );
        Self::open(path, key, options)
    }
}

fn check_plain(source: &Path) -> Result<(), DatabaseError> {
    let mut head = Vec::new();
    std::fs::File::open(source)
        .and_then(|file| {
            file.take(preflight::PLAIN.len() as u64)
                .read_to_end(&mut head)
        })
        .map_err(|error| DatabaseError::io("read", source, error))?;
    if head == preflight::PLAIN {
        Ok(())
    } else {
        Err(DatabaseError::Argument {
            what: "the database to import is a plain SQLite database",
        })
    }
}
