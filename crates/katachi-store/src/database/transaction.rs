//! Where SQL runs: inside a transaction that its owner ends.

use std::ops::Deref;

use rusqlite::{Params, Row};

use super::connection::{Guarded, Role};
use super::{DatabaseError, RowResult};

/// A transaction that reads one consistent state of the database.
#[derive(Debug)]
pub struct ReadTx<'c> {
    guarded: &'c Guarded,
    role: Role,
}

impl<'c> ReadTx<'c> {
    pub(super) fn new(guarded: &'c Guarded, role: Role) -> Self {
        Self { guarded, role }
    }

    /// Runs one query and reads every row through `read`.
    ///
    /// The statement is kept prepared, so use placeholders rather than
    /// building SQL from values.
    ///
    /// # Errors
    ///
    /// Returns what SQLite refused, or [`DatabaseError::Column`] if `read`
    /// asks for a type that a column does not have.
    pub fn query<T>(
        &self,
        sql: &str,
        params: impl Params,
        mut read: impl FnMut(&Row<'_>) -> RowResult<T>,
    ) -> Result<Vec<T>, DatabaseError> {
        let mut all = Vec::new();
        self.for_each(sql, params, |row| {
            all.push(read(row)?);
            Ok::<_, DatabaseError>(())
        })?;
        Ok(all)
    }

    /// Runs one query and reads its first row, if it has any.
    ///
    /// # Errors
    ///
    /// As for [`ReadTx::query`].
    pub fn query_one<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> RowResult<T>,
    ) -> Result<Option<T>, DatabaseError> {
        self.check_open()?;
        let sort = |error| self.sort(error);
        let mut statement = self.guarded.connection.prepare_cached(sql).map_err(sort)?;
        let mut rows = statement.query(params).map_err(sort)?;
        match rows.next().map_err(sort)? {
            Some(row) => Ok(Some(read(row)?)),
            None => Ok(None),
        }
    }

    /// Runs one query and hands each row to `visit` without keeping any.
    ///
    /// # Errors
    ///
    /// As for [`ReadTx::query`], and whatever `visit` returns, which ends the
    /// query.
    pub fn for_each<E: From<DatabaseError>>(
        &self,
        sql: &str,
        params: impl Params,
        mut visit: impl FnMut(&Row<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.check_open()?;
        let sort = |error| self.sort(error);
        let mut statement = self.guarded.connection.prepare_cached(sql).map_err(sort)?;
        let mut rows = statement.query(params).map_err(sort)?;
        while let Some(row) = rows.next().map_err(sort)? {
            visit(row)?;
        }
        Ok(())
    }

    /// A statement such as `INSERT OR ROLLBACK` may have ended the transaction;
    /// whatever ran after it would be committed by itself.
    pub(super) fn check_open(&self) -> Result<(), DatabaseError> {
        if self.guarded.connection.is_autocommit() {
            Err(DatabaseError::TransactionEnded)
        } else {
            Ok(())
        }
    }

    /// On a reader, SQLite's "read-only" means that the statement writes.
    fn sort(&self, error: rusqlite::Error) -> DatabaseError {
        match (DatabaseError::from(error), self.role) {
            (DatabaseError::ReadOnly, Role::Reader) => DatabaseError::WriteInRead,
            (DatabaseError::Forbidden { .. }, _) => DatabaseError::Forbidden {
                what: self.guarded.guard.refused(),
            },
            (error, _) => error,
        }
    }
}

/// A transaction that may write. Committed if the closure given to
/// [`Database::write`](super::Database::write) returns `Ok`.
#[derive(Debug)]
pub struct Tx<'c> {
    read: ReadTx<'c>,
}

impl<'c> Deref for Tx<'c> {
    type Target = ReadTx<'c>;

    fn deref(&self) -> &ReadTx<'c> {
        &self.read
    }
}

impl<'c> Tx<'c> {
    pub(super) fn new(guarded: &'c Guarded) -> Self {
        Self {
            read: ReadTx::new(guarded, Role::Writer),
        }
    }

    /// Runs one statement and returns how many rows it changed.
    ///
    /// # Errors
    ///
    /// Returns what SQLite refused; [`DatabaseError::Forbidden`] for
    /// statements that could carry plaintext away.
    pub fn execute(&self, sql: &str, params: impl Params) -> Result<usize, DatabaseError> {
        self.check_open()?;
        let connection = &self.read.guarded.connection;
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(params))
            .map_err(|error| self.sort(error))
    }

    /// Runs one `INSERT` and returns the new row's id.
    ///
    /// # Errors
    ///
    /// As for [`Tx::execute`].
    pub fn insert(&self, sql: &str, params: impl Params) -> Result<i64, DatabaseError> {
        self.execute(sql, params)?;
        Ok(self.read.guarded.connection.last_insert_rowid())
    }

    /// Runs several statements without parameters, as migrations do.
    ///
    /// # Errors
    ///
    /// As for [`Tx::execute`]; statements before the failing one are undone
    /// with the transaction.
    pub fn execute_batch(&self, sql: &str) -> Result<(), DatabaseError> {
        self.check_open()?;
        let connection = &self.read.guarded.connection;
        connection
            .execute_batch(sql)
            .map_err(|error| self.sort(error))
    }

    /// Sets the version of the file's schema, which callers may only read.
    pub(super) fn set_user_version(&self, version: u32) -> Result<(), DatabaseError> {
        let sql = format!("PRAGMA user_version = {version}");
        self.read.guarded.run_as_owner(&sql)
    }
}
