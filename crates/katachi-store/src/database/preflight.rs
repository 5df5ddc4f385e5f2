//! Looks at the files before SQLite does.
//!
//! SQLite rolls back a hot journal and checkpoints a log as soon as it reads a
//! database, whatever the key. So everything that can be refused is refused
//! from the first 16 bytes: a plain database begins with a well-known text, an
//! encrypted one with its salt, and our salts are derived from the key.

use std::path::{Path, PathBuf};

use super::key::SALT;
use super::sentry::Sentry;
use super::{DatabaseError, DatabaseKey, Profile};

pub(super) const PLAIN: &[u8; SALT] = b"SQLite format 3\0";

/// What is at the path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Found {
    /// Nothing, or an empty file: SQLite will create a database here.
    Nothing,
    /// A database to which the key's salt belongs.
    Database,
}

/// Makes `path` absolute with every link in its directory resolved, so that
/// the last component alone remains to be checked for being a link.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, DatabaseError> {
    let name = path.file_name().ok_or(DatabaseError::Argument {
        what: "the path of a database ends in a file name",
    })?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = parent
        .canonicalize()
        .map_err(|error| DatabaseError::io("resolve the directory", parent, error))?;
    Ok(parent.join(name))
}

/// Refuses whatever `key` cannot open, without changing anything but, where
/// `create` allows it, making an empty file.
pub(super) fn inspect(
    path: &Path,
    key: &DatabaseKey,
    profile: Profile,
    create: bool,
) -> Result<(Found, Sentry), DatabaseError> {
    if !path.exists() {
        refuse_orphaned_log(path)?;
    }
    let Some(sentry) = Sentry::post(path, create)? else {
        return Err(DatabaseError::NotFound {
            path: path.to_owned(),
        });
    };
    let head = sentry.head(path)?;
    if head.is_empty() {
        refuse_orphaned_log(path)?;
        return Ok((Found::Nothing, sentry));
    }
    if head == PLAIN {
        return Err(DatabaseError::NotEncrypted {
            path: path.to_owned(),
        });
    }
    if head.len() < SALT {
        return Err(DatabaseError::corrupt(
            "the file is shorter than its header",
        ));
    }
    let opens = |profile| key.spec(profile).salt()[..] == head[..];
    if opens(profile) {
        return Ok((Found::Database, sentry));
    }
    for other in [Profile::Compat, Profile::Fast] {
        if key.salt_proves_key() && opens(other) {
            return Err(DatabaseError::WrongProfile {
                path: path.to_owned(),
                found: other,
            });
        }
    }
    Err(DatabaseError::WrongKey {
        path: path.to_owned(),
    })
}

/// A log without its database would be thrown away by SQLite on creation.
fn refuse_orphaned_log(path: &Path) -> Result<(), DatabaseError> {
    match std::fs::metadata(side_file(path, "-wal")) {
        Ok(log) if log.len() > 0 => Err(DatabaseError::corrupt(
            "the database file is gone or empty, but its write-ahead log is not",
        )),
        _ => Ok(()),
    }
}

/// The journal, log or index that SQLite keeps beside a database.
pub(super) fn side_file(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
