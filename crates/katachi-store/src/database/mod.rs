//! An SQLCipher database that cannot leak plaintext.
//!
//! [`Database`] is a handle to clone and share between threads: one connection
//! writes, a few read, all inside transactions. SQL runs through [`Tx`] and
//! [`ReadTx`], never through a bare connection, so that no statement and no
//! call can write the content somewhere unencrypted or change how it is
//! protected:
//!
//! - the raw key goes in through the C interface and is in no SQL text;
//! - attaching files, exporting, loading extensions and all pragmas but a
//!   short list are refused ([`DatabaseError::Forbidden`]);
//! - temporary tables, sorts and index builds stay in memory;
//! - deleted rows are overwritten, and files are private from the first byte;
//! - a wrong key is found out before SQLite touches the file or its journal;
//! - an old copy of the file, or an old page in it, is noticed where the
//!   database has an [`Anchor`].
//!
//! ```
//! use katachi_store::database::{Database, DatabaseError, DatabaseKey, Migration, Options};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("notes.db");
//! const SCHEMA: &[Migration] = &[Migration::sql("CREATE TABLE note (text TEXT NOT NULL) STRICT")];
//!
//! let key = DatabaseKey::generate()?;
//! let db = Database::open(&path, &key, Options::new().migrations(SCHEMA))?;
//!
//! db.write(|tx| tx.execute("INSERT INTO note VALUES (?1)", ["buy plums"]))?;
//! let notes: Vec<String> = db.read(|tx| tx.query("SELECT text FROM note", [], |row| row.get(0)))?;
//! assert_eq!(notes, ["buy plums"]);
//!
//! let refused = db.write(|tx| tx.execute("ATTACH 'copy.db' AS copy KEY ''", []));
//! assert!(matches!(refused, Err(DatabaseError::Forbidden { .. })));
//! # Ok(())
//! # }
//! ```
//!
//! # In asynchronous programs
//!
//! Every call may wait for the disk or for another writer. Clone the handle
//! into `spawn_blocking` (or the like of your runtime); a clone costs one
//! reference count. Writers queue in the threads made for blocking, readers
//! run beside them, and the tasks go on meanwhile.
//!
//! ```
//! use katachi_store::database::{Database, DatabaseError, DatabaseKey, Options};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let db = Database::open(dir.path().join("a.db"), &DatabaseKey::generate()?, Options::new())?;
//! # db.write(|tx| tx.execute_batch("CREATE TABLE note (text TEXT) STRICT"))?;
//! async fn add(db: &Database, text: String) -> Result<usize, DatabaseError> {
//!     let db = db.clone();
//!     let insert = move || db.write(|tx| tx.execute("INSERT INTO note VALUES (?1)", [text]));
//!     tokio::task::spawn_blocking(insert).await.expect("the closure does not panic")
//! }
//! # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
//! # assert_eq!(runtime.block_on(add(&db, "plums".to_owned()))?, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # What it does not do
//!
//! It does not hide the size of the database or when it is written. It does
//! not protect against a program of the same user that reads this process's
//! memory. Without an [`Anchor`], an old copy of the whole file put back in
//! place opens like the current one.

mod anchor;
mod backup;
mod connection;
mod error;
mod guard;
mod handle;
mod import;
mod key;
mod migration;
mod preflight;
mod rekey;
mod restore;
mod sentry;
mod text_query;
mod transaction;
mod verify;

use std::time::Duration;

pub use anchor::Anchor;
pub use error::DatabaseError;
pub use handle::Database;
pub use import::{ImportFrom, ImportProgress};
pub use key::DatabaseKey;
pub use migration::Migration;
pub use rusqlite::types::{FromSql, ToSql, Value, ValueRef};
pub use rusqlite::{Params, Row, named_params, params, params_from_iter};
pub use text_query::TextQuery;
pub use transaction::{ReadTx, Tx};
pub use verify::{Comparison, Problem, Report};

/// What a row-reading closure returns: `row.get(0)` gives it.
pub type RowResult<T> = rusqlite::Result<T>;

/// How pages are laid out and authenticated. Fixed when a file is created.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Profile {
    /// SQLCipher 4's defaults: any SQLCipher 4 tool opens the file with the
    /// text of [`DatabaseKey::expose_sqlcipher_hex`].
    #[default]
    Compat,
    /// Pages authenticated by HMAC-SHA256 under a key of their own, which
    /// modern processors compute several times faster than SQLCipher's default.
    Fast,
}

/// When a committed transaction is safe from a power cut.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Durability {
    /// Safe from a crash of the program at once, from a power cut after the
    /// next checkpoint; never damaged by either.
    #[default]
    Normal,
    /// Safe from both when the call returns, at one disk flush per commit.
    Full,
}

/// How to open a database.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    profile: Profile,
    durability: Durability,
    migrations: &'static [Migration],
    create: bool,
    busy_timeout: Duration,
    readers: usize,
    cache_kib: u32,
    ignore_anchor: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            profile: Profile::Compat,
            durability: Durability::Normal,
            migrations: &[],
            create: true,
            busy_timeout: Duration::from_secs(5),
            readers: 4,
            cache_kib: 16 * 1024,
            ignore_anchor: false,
        }
    }
}

impl Options {
    /// Starts from the defaults: [`Profile::Compat`], created if absent, five
    /// seconds of patience, four readers, 16 MiB of cache each.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses the layout of the file.
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// Chooses when a commit is safe from a power cut.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Brings the schema to the version after the last of `migrations`.
    #[must_use]
    pub fn migrations(mut self, migrations: &'static [Migration]) -> Self {
        self.migrations = migrations;
        self
    }

    /// Refuses with [`DatabaseError::NotFound`] where there is no file.
    #[must_use]
    pub fn must_exist(mut self) -> Self {
        self.create = false;
        self
    }

    /// Waits at most this long for another process before [`DatabaseError::Busy`].
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Opens at most this many connections for reading, at least one.
    #[must_use]
    pub fn readers(mut self, readers: usize) -> Self {
        self.readers = readers.max(1);
        self
    }

    /// Opens an anchored database without its [`Anchor`], to look into a
    /// backup. What is written this way, the next
    /// [`verify`](Database::verify) with the anchor reports as pages that
    /// somebody else put in place.
    #[must_use]
    pub fn ignore_anchor(mut self) -> Self {
        self.ignore_anchor = true;
        self
    }

    /// Keeps at most this many KiB of decrypted pages per connection in memory.
    #[must_use]
    pub fn cache_kib(mut self, kib: u32) -> Self {
        self.cache_kib = kib.max(64);
        self
    }
}
