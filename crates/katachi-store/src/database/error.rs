//! What can go wrong, sorted by whose fault it is.

use std::path::{Path, PathBuf};

use rusqlite::ffi::ErrorCode;

/// Why the database refused.
///
/// No variant ever holds a key, a bound value or the text of a statement:
/// SQLite's own message is kept only where it names schema objects.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    // The file is not what was asked for.
    /// There is no database at this path and the options forbid to create one.
    #[error("no database at {path}: create it first or check the path")]
    NotFound {
        /// The path that was tried.
        path: PathBuf,
    },
    /// The file is a plain, unencrypted SQLite database.
    #[error(
        "{path} is a plain SQLite database, not an encrypted one: import it into a new database"
    )]
    NotEncrypted {
        /// The path of the file.
        path: PathBuf,
    },
    /// The key does not belong to this file. Nothing was changed.
    #[error(
        "this key does not open {path}, which belongs to another vault, machine or file: open it with the vault it was made with; nothing was changed"
    )]
    WrongKey {
        /// The path of the file.
        path: PathBuf,
    },
    /// The key is right, but the file was made with another profile.
    #[error("{path} was created with the profile {found:?}: open it with that one")]
    WrongProfile {
        /// The path of the file.
        path: PathBuf,
        /// The profile the file was created with.
        found: super::Profile,
    },
    /// The file is damaged, or was changed by someone without the key.
    #[error("the database is damaged ({detail}): `verify` names the pages; restore a backup")]
    Corrupt {
        /// The first damaged page, counted from 1, if known.
        page: Option<u64>,
        /// What was found.
        detail: String,
    },
    /// The file was written by a newer version of this program.
    #[error("the database has schema {found}, this program knows {known}: use a newer program")]
    SchemaNewer {
        /// Schema version in the file.
        found: u32,
        /// Newest version this program knows.
        known: u32,
    },

    /// An older copy of the database was put in its place. It was left as it is.
    #[error(
        "the database is an older copy (generation {found}, the vault knows {recorded}): bring the newer one back, or accept this one as restored on purpose"
    )]
    RolledBack {
        /// The generation of the file; zero if there is none.
        found: u64,
        /// The generation that the vault recorded.
        recorded: u64,
    },
    /// The database is newer than its vault knows, so an older copy of the
    /// vault was put in place. The database was left as it is.
    #[error(
        "the vault is an older copy (it knows generation {recorded}, the database is at {found}): bring the newer vault back, or accept the database as it is"
    )]
    VaultRolledBack {
        /// The generation of the file.
        found: u64,
        /// The generation that the vault recorded.
        recorded: u64,
    },
    /// The database has an anchor, and was to be opened without.
    #[error(
        "{path} is anchored in a vault: open it with its anchor, or ignore that to look into a backup"
    )]
    Anchored {
        /// The path of the file.
        path: PathBuf,
    },

    // Another process, or the machine.
    /// Another connection kept the database locked for too long. Try again.
    #[error("the database is in use by another process: try again")]
    Busy,
    /// The file or its file system cannot be written.
    #[error(
        "the database cannot be written: check the permissions and that the disk is not read-only"
    )]
    ReadOnly,
    /// The disk or the quota is full. The last transaction was rolled back.
    #[error("the disk is full: free some space and try again; nothing was half written")]
    DiskFull,
    /// The operating system refused an operation on the file.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The path it was attempted on.
        path: PathBuf,
        /// The reason the system gave.
        source: std::io::Error,
    },
    /// SQLite met an error of the operating system.
    #[error("the database file cannot be read or written (SQLite code {code})")]
    SqliteIo {
        /// SQLite's extended result code.
        code: i32,
    },

    // The caller.
    /// The statement could carry plaintext out of the database, or change how
    /// it is protected.
    #[error("refused: {what} could carry plaintext out of this database or weaken it")]
    Forbidden {
        /// The class of statement.
        what: String,
    },
    /// A write was attempted in a read transaction.
    #[error("a read transaction cannot write: use `Database::write`")]
    WriteInRead,
    /// `write` was called inside `write` on the same thread.
    #[error(
        "a write transaction is already open on this thread: pass the transaction along instead"
    )]
    Nested,
    /// A statement ended the transaction behind its owner's back.
    #[error(
        "a statement ended the transaction (for instance by ON CONFLICT ROLLBACK); it was rolled back"
    )]
    TransactionEnded,
    /// A constraint of the schema refused the row.
    #[error("a constraint refused the change: {detail}")]
    Constraint {
        /// Which one, by table and column.
        detail: String,
    },
    /// The statement is not valid for this schema.
    #[error("invalid SQL: {detail}")]
    Sql {
        /// SQLite's message.
        detail: String,
    },
    /// A column was read as a type that it is not.
    #[error("a column could not be read: {detail}")]
    Column {
        /// Which one and why.
        detail: String,
    },
    /// A migration failed; it was rolled back as a whole.
    #[error("migration to schema {version} failed and was rolled back")]
    Migration {
        /// The version the migration leads to.
        version: u32,
        /// Why.
        source: Box<DatabaseError>,
    },
    /// An argument is outside its limits.
    #[error("{what}")]
    Argument {
        /// Which argument and what is expected.
        what: &'static str,
    },

    // The build.
    /// The program is linked against an SQLite library without encryption.
    #[error(
        "this program is linked against an SQLite library that cannot encrypt: build with the `sqlcipher` feature and no other SQLite crate"
    )]
    PlainLibrary,
    /// The vault that the database is anchored in cannot be asked.
    #[error("the vault that the database is anchored in cannot be used")]
    Vault(#[source] Box<crate::vault::VaultError>),
    /// The record of pages that lies beside the database cannot be used.
    #[error("the record of the database's pages cannot be read or written")]
    Record(#[source] Box<crate::file::SealedFileError>),
    /// The key could not be derived.
    #[error(transparent)]
    Crypto(#[from] katachi_crypto::Error),
}

impl DatabaseError {
    /// Tells whether the same call may succeed a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Busy)
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::DiskFull,
            std::io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            _ => Self::Io {
                action,
                path: path.to_owned(),
                source,
            },
        }
    }

    /// What is wrong with the disk rather than with one file on it.
    fn machine(error: crate::durable::FileError) -> Result<Self, crate::durable::FileError> {
        use crate::durable::FileError;
        match error {
            FileError::DiskFull { .. } => Ok(Self::DiskFull),
            FileError::ReadOnly { .. } => Ok(Self::ReadOnly),
            FileError::Busy { .. } => Ok(Self::Busy),
            other => Err(other),
        }
    }

    pub(crate) fn corrupt(detail: impl Into<String>) -> Self {
        Self::Corrupt {
            page: None,
            detail: detail.into(),
        }
    }
}

impl From<crate::vault::VaultError> for DatabaseError {
    fn from(error: crate::vault::VaultError) -> Self {
        match error {
            crate::vault::VaultError::File(file) => Self::machine(file)
                .unwrap_or_else(|file| Self::Vault(Box::new(crate::vault::VaultError::File(file)))),
            other => Self::Vault(Box::new(other)),
        }
    }
}

impl From<crate::file::SealedFileError> for DatabaseError {
    fn from(error: crate::file::SealedFileError) -> Self {
        use crate::file::SealedFileError;
        match error {
            SealedFileError::File(file) => Self::machine(file)
                .unwrap_or_else(|file| Self::Record(Box::new(SealedFileError::File(file)))),
            other => Self::Record(Box::new(other)),
        }
    }
}

impl From<rusqlite::Error> for DatabaseError {
    /// Sorts an error of the driver, leaving out statement text and values.
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as Driver;
        match error {
            Driver::SqliteFailure(failure, message) => from_code(failure, message),
            Driver::SqlInputError { error, msg, .. } => from_code(error, Some(msg)),
            // Not the column's name: that of an expression is its text.
            Driver::InvalidColumnType(index, _, found) => Self::Column {
                detail: format!("column {index} holds {found}"),
            },
            Driver::FromSqlConversionFailure(index, found, _) => Self::Column {
                detail: format!("column {index} holds {found} that does not convert"),
            },
            Driver::IntegralValueOutOfRange(index, _) => Self::Column {
                detail: format!("column {index} is out of the type's range"),
            },
            Driver::InvalidColumnIndex(index) => Self::Column {
                detail: format!("there is no column {index}"),
            },
            Driver::InvalidColumnName(name) => Self::Column {
                detail: format!("there is no column {name}"),
            },
            Driver::Utf8Error(index, _) => Self::Column {
                detail: format!("column {index} is not UTF-8"),
            },
            Driver::QueryReturnedNoRows => Self::Sql {
                detail: "the query returned no row".into(),
            },
            Driver::QueryReturnedMoreThanOneRow => Self::Sql {
                detail: "the query returned more than one row".into(),
            },
            Driver::InvalidParameterCount(given, wanted) => Self::Sql {
                detail: format!("{given} parameters for {wanted} placeholders"),
            },
            Driver::InvalidParameterName(name) => Self::Sql {
                detail: format!("no placeholder is called {name}"),
            },
            Driver::MultipleStatement => Self::Sql {
                detail: "more than one statement: use `execute_batch`".into(),
            },
            Driver::ExecuteReturnedResults => Self::Sql {
                detail: "the statement returns rows: use `query`".into(),
            },
            Driver::ToSqlConversionFailure(_) => Self::Sql {
                detail: "a parameter does not convert to a database value".into(),
            },
            _ => Self::Sql {
                detail: "the statement cannot be run".into(),
            },
        }
    }
}

fn from_code(failure: rusqlite::ffi::Error, message: Option<String>) -> DatabaseError {
    let detail = message.unwrap_or_else(|| format!("SQLite code {}", failure.extended_code));
    match failure.code {
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::FileLockingProtocolFailed => DatabaseError::Busy,
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => DatabaseError::ReadOnly,
        ErrorCode::DiskFull => DatabaseError::DiskFull,
        // The index of the log cannot grow.
        ErrorCode::SystemIoFailure
            if failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE =>
        {
            DatabaseError::DiskFull
        }
        ErrorCode::DatabaseCorrupt => DatabaseError::corrupt(detail),
        ErrorCode::NotADatabase => DatabaseError::corrupt("a page does not authenticate"),
        ErrorCode::SystemIoFailure | ErrorCode::CannotOpen => DatabaseError::SqliteIo {
            code: failure.extended_code,
        },
        ErrorCode::ConstraintViolation => DatabaseError::Constraint { detail },
        ErrorCode::AuthorizationForStatementDenied => DatabaseError::Forbidden {
            what: "this statement".into(),
        },
        // A refused function is reported as an ordinary error.
        _ if detail.starts_with("not authorized") => DatabaseError::Forbidden {
            what: "this function".into(),
        },
        _ => DatabaseError::Sql { detail },
    }
}
