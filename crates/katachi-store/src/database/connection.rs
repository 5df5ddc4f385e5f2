//! Opens one keyed, guarded connection.

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};

use super::anchor;
use super::guard::Guard;
use super::key::KeySpec;
use super::{DatabaseError, Durability, Options, Profile};

/// Bytes in a page of [`Profile::Fast`].
pub(super) const FAST_PAGE: u32 = 4096;

/// What all connections of one database share.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) path: PathBuf,
    pub(super) options: Options,
    pub(super) spec: KeySpec,
    /// The log is copied to the file by [`super::anchor`] alone.
    pub(super) anchored: bool,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    Writer,
    Reader,
}

/// A connection and the door its owner may open.
#[derive(Debug)]
pub(super) struct Guarded {
    pub(super) connection: Connection,
    pub(super) guard: Guard,
}

impl Settings {
    /// Opens a connection, trying again while another process is in the middle
    /// of creating or recovering the file.
    pub(super) fn connect(&self, role: Role) -> Result<Guarded, DatabaseError> {
        let deadline = Instant::now() + self.options.busy_timeout;
        loop {
            match self.try_connect(role) {
                Err(DatabaseError::Busy) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                outcome => return outcome,
            }
        }
    }

    fn try_connect(&self, role: Role) -> Result<Guarded, DatabaseError> {
        let mut connection = open_keyed(&self.path, OpenFlags::empty(), self)?;
        connection.busy_timeout(self.options.busy_timeout)?;
        read_schema(&connection).map_err(|error| self.explain(error))?;
        configure(&connection, role, &self.options)?;
        harden(&connection)?;
        if self.anchored {
            silent(&connection, "PRAGMA wal_autocheckpoint = 0")?;
            silent(&connection, "PRAGMA journal_size_limit = 0")?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        }
        let guard = Guard::install(&mut connection)?;
        Ok(Guarded { connection, guard })
    }

    /// SQLite says of a log in a format that it does not know, as of a file
    /// that is not there, that it cannot be opened.
    fn explain(&self, error: DatabaseError) -> DatabaseError {
        match error {
            DatabaseError::SqliteIo {
                code: ffi::SQLITE_CANTOPEN,
            } if anchor::is_foreign_log(&self.path) => {
                DatabaseError::corrupt("the write-ahead log is of an unknown version")
            }
            other => other,
        }
    }

    /// Authenticates the first page without looking at the journal or the log.
    pub(super) fn probe(&self) -> Result<(), DatabaseError> {
        let address = immutable_uri(&self.path)?;
        let flags = OpenFlags::SQLITE_OPEN_URI;
        let connection = open_keyed(Path::new(&address), flags, self)?;
        read_schema(&connection).map_err(|error| match error {
            DatabaseError::Corrupt { .. } => DatabaseError::WrongKey {
                path: self.path.clone(),
            },
            other => other,
        })
    }

    /// Opens a keyed file that is not this database, such as a copy being made.
    pub(super) fn open_other(&self, path: &Path) -> Result<Connection, DatabaseError> {
        let connection = open_keyed(path, OpenFlags::empty(), self)?;
        // The copy is synchronised once, when it is complete.
        connection.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")?;
        Ok(connection)
    }
}

impl Guarded {
    /// Runs statements that are refused to the database's users. Never through
    /// the statement cache, where a user's SQL could find them.
    pub(super) fn run_as_owner(&self, sql: &str) -> Result<(), DatabaseError> {
        self.guard.as_owner(|| self.connection.execute_batch(sql))?;
        Ok(())
    }
}

/// SQLite calls itself initialised before SQLCipher is: of several threads
/// that open their first database at once, the second could find no cipher.
fn initialise() {
    static DONE: Once = Once::new();
    // What goes wrong here goes wrong again, and is reported, when opening.
    DONE.call_once(|| drop(Connection::open_in_memory()));
}

fn open_keyed(
    path: &Path,
    extra: OpenFlags,
    settings: &Settings,
) -> Result<Connection, DatabaseError> {
    let flags = extra
        | OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE;
    initialise();
    let connection = Connection::open_with_flags(path, flags)?;
    // Asked before the key is given: a library without encryption would ignore
    // the key and go on in plaintext.
    let version: Option<String> = connection
        .query_row("PRAGMA cipher_version", [], |row| row.get(0))
        .ok();
    if version.is_none() {
        return Err(DatabaseError::PlainLibrary);
    }
    // Its messages would otherwise go to standard error.
    silent(&connection, "PRAGMA cipher_log_level = NONE")?;
    connection.key(None::<&str>, settings.spec.as_bytes(), false)?;
    // All of it is stated: defaults are process-wide and others may change them.
    silent(&connection, "PRAGMA cipher_compatibility = 4")?;
    if settings.options.profile == Profile::Fast {
        silent(
            &connection,
            &format!("PRAGMA cipher_page_size = {FAST_PAGE}"),
        )?;
        silent(&connection, "PRAGMA cipher_hmac_algorithm = HMAC_SHA256")?;
    }
    Ok(connection)
}

/// Runs a pragma, dropping the line of text that some of them answer.
fn silent(connection: &Connection, pragma: &str) -> Result<(), DatabaseError> {
    let mut statement = connection.prepare(pragma)?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

fn read_schema(connection: &Connection) -> Result<(), DatabaseError> {
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(())
}

fn configure(connection: &Connection, role: Role, options: &Options) -> Result<(), DatabaseError> {
    silent(connection, "PRAGMA temp_store = MEMORY")?;
    silent(
        connection,
        &format!("PRAGMA cache_size = -{}", options.cache_kib),
    )?;
    silent(connection, "PRAGMA foreign_keys = ON")?;
    silent(connection, "PRAGMA trusted_schema = OFF")?;
    match role {
        Role::Reader => silent(connection, "PRAGMA query_only = ON")?,
        Role::Writer => {
            let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
            if !mode.eq_ignore_ascii_case("wal") {
                silent(connection, "PRAGMA journal_mode = WAL")?;
            }
            silent(connection, "PRAGMA secure_delete = ON")?;
            silent(connection, "PRAGMA journal_size_limit = 16777216")?;
            let synchronous = match options.durability {
                Durability::Normal => "PRAGMA synchronous = NORMAL",
                Durability::Full => "PRAGMA synchronous = FULL",
            };
            silent(connection, synchronous)?;
        }
    }
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn harden(connection: &Connection) -> Result<(), DatabaseError> {
    for (setting, value) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
    ] {
        connection.set_db_config(setting, value)?;
    }
    Ok(())
}

/// `file:` address that makes SQLite ignore journal and log, and write nothing.
fn immutable_uri(path: &Path) -> Result<String, DatabaseError> {
    let text = path.to_str().ok_or(DatabaseError::Argument {
        what: "the path of a database with a foreign key is UTF-8",
    })?;
    let mut address = String::from("file:");
    for character in text.chars() {
        match character {
            '%' => address.push_str("%25"),
            '?' => address.push_str("%3f"),
            '#' => address.push_str("%23"),
            other => address.push(other),
        }
    }
    address.push_str("?immutable=1");
    Ok(address)
}
