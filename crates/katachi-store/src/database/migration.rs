//! Brings a schema up to date, one transaction per step.

use super::handle::Database;
use super::{DatabaseError, Tx};

/// One step from a schema version to the next. The position in the list gives
/// the version it leads to, counted from 1; released steps never change.
#[derive(Clone, Copy, Debug)]
pub struct Migration(Step);

#[derive(Clone, Copy, Debug)]
enum Step {
    Sql(&'static str),
    Run(fn(&Tx<'_>) -> Result<(), DatabaseError>),
}

impl Migration {
    /// Runs these statements.
    #[must_use]
    pub const fn sql(sql: &'static str) -> Self {
        Self(Step::Sql(sql))
    }

    /// Calls this function.
    #[must_use]
    pub const fn run(step: fn(&Tx<'_>) -> Result<(), DatabaseError>) -> Self {
        Self(Step::Run(step))
    }

    fn apply(&self, tx: &Tx<'_>) -> Result<(), DatabaseError> {
        match self.0 {
            Step::Sql(sql) => tx.execute_batch(sql),
            Step::Run(step) => step(tx),
        }
    }
}

/// Where the version of a schema is remembered.
trait Version {
    /// As far as it can be told without a transaction.
    const PEEK: &str;
    fn name(&self) -> &str;
    fn get(&self, tx: &Tx<'_>) -> Result<u32, DatabaseError>;
    fn set(&self, tx: &Tx<'_>, version: u32) -> Result<(), DatabaseError>;
}

/// The whole file's: SQLite's `user_version`.
struct WholeFile;

impl Version for WholeFile {
    const PEEK: &str = "SELECT user_version FROM pragma_user_version WHERE ?1 = ''";

    fn name(&self) -> &str {
        ""
    }

    fn get(&self, tx: &Tx<'_>) -> Result<u32, DatabaseError> {
        Ok(tx
            .query_one("PRAGMA user_version", [], |row| row.get(0))?
            .unwrap_or_default())
    }

    fn set(&self, tx: &Tx<'_>, version: u32) -> Result<(), DatabaseError> {
        tx.set_user_version(version)
    }
}

const COMPONENT_VERSION: &str = "SELECT version FROM katachi_component WHERE name = ?1";

/// One component's among several in a file.
struct Component(&'static str);

impl Version for Component {
    const PEEK: &str = COMPONENT_VERSION;

    fn name(&self) -> &str {
        self.0
    }

    fn get(&self, tx: &Tx<'_>) -> Result<u32, DatabaseError> {
        tx.execute_batch(
            "CREATE TABLE IF NOT EXISTS katachi_component (
                name TEXT PRIMARY KEY, version INTEGER NOT NULL
             ) STRICT, WITHOUT ROWID",
        )?;
        Ok(tx
            .query_one(COMPONENT_VERSION, [self.0], |row| row.get(0))?
            .unwrap_or_default())
    }

    fn set(&self, tx: &Tx<'_>, version: u32) -> Result<(), DatabaseError> {
        tx.execute(
            "INSERT INTO katachi_component VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET version = excluded.version",
            rusqlite::params![self.0, version],
        )?;
        Ok(())
    }
}

impl Database {
    /// Brings the tables of one component up to date, independently of the
    /// file's own schema. So that several libraries can share one file.
    ///
    /// # Errors
    ///
    /// Returns [`DatabaseError::SchemaNewer`] if a newer program was here, and
    /// [`DatabaseError::Migration`] if a step fails; that step is rolled back.
    pub fn migrate_component(
        &self,
        name: &'static str,
        steps: &[Migration],
    ) -> Result<(), DatabaseError> {
        self.run_steps(&Component(name), steps)
    }

    pub(super) fn migrate_file(&self, steps: &[Migration]) -> Result<(), DatabaseError> {
        self.run_steps(&WholeFile, steps)
    }

    fn peek(&self, sql: &str, name: &str) -> Result<Option<u32>, DatabaseError> {
        let writer = self.writer()?;
        let peeked = writer.guard.as_owner(|| {
            let connection = &writer.connection;
            connection.query_row(sql, [name], |row| row.get(0))
        });
        // Whatever is wrong, the transaction says it better.
        Ok(peeked.ok())
    }

    fn run_steps<V: Version>(&self, version: &V, steps: &[Migration]) -> Result<(), DatabaseError> {
        let known = u32::try_from(steps.len()).map_err(|_| DatabaseError::Argument {
            what: "a schema has at most 2^32 migrations",
        })?;
        // Most often there is nothing to do, and no reason to wait for others
        // that write.
        if self.peek(V::PEEK, version.name())? == Some(known) {
            return Ok(());
        }
        loop {
            // Asked inside the transaction: another process may migrate too.
            let done = self.write(|tx| {
                let found = version.get(tx)?;
                if found > known {
                    return Err(DatabaseError::SchemaNewer { found, known });
                }
                let Some(step) = steps.get(found as usize) else {
                    return Ok(true);
                };
                let next = found + 1;
                step.apply(tx).map_err(|source| DatabaseError::Migration {
                    version: next,
                    source: Box::new(source),
                })?;
                version.set(tx, next)?;
                Ok(false)
            })?;
            if done {
                return Ok(());
            }
        }
    }
}
