//! Where records lie, and what a transaction can ask there. One SQL for both
//! places: placeholders are written as SQLite has them, `?1`.
//!
//! The embedded database is encrypted as a whole. In PostgreSQL whoever reads
//! a table, a dump or a disk sees each column, so that a column that can tell
//! something about a person is put under a [`Cover`] there: sealed with the
//! account's key, bound to its cell.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use katachi_auth::clock::{Clock as _, SystemClock, Timestamp};
use katachi_store::column::{Cell, ColumnCipher};
use katachi_store::database::{self, Database, FromSql, params_from_iter};

use super::RecordsError;
use super::postgres::{Mode, Postgres, Session, WAKE};

/// Where records lie. Clones are handles to the same place.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    Embedded(Database),
    Postgres(Arc<Postgres>),
}

impl Store {
    /// Reads one consistent state.
    pub(crate) fn read<T>(
        &self,
        work: impl FnOnce(&ReadTx<'_>) -> Result<T, RecordsError>,
    ) -> Result<T, RecordsError> {
        match self {
            Self::Embedded(database) => database.read(|tx| work(&ReadTx::Embedded(tx))),
            Self::Postgres(postgres) => {
                let session = postgres.begin(Mode::Read)?;
                let outcome = work(&ReadTx::Postgres(&session))?;
                session.commit()?;
                Ok(outcome)
            }
        }
    }

    /// Writes everything that `work` writes, or nothing.
    ///
    /// In the embedded database one writer runs at a time. In PostgreSQL
    /// several do, and what counts rows before it adds one takes
    /// [`Tx::lock`] first.
    pub(crate) fn write<T>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, RecordsError>,
    ) -> Result<T, RecordsError> {
        match self {
            Self::Embedded(database) => database.write(|tx| {
                work(&Tx {
                    read: ReadTx::Embedded(tx),
                    writer: Writer::Embedded(tx),
                })
            }),
            Self::Postgres(postgres) => {
                let session = postgres.begin(Mode::Write)?;
                let outcome = work(&Tx {
                    read: ReadTx::Postgres(&session),
                    writer: Writer::Postgres(&session),
                })?;
                session.commit()?;
                Ok(outcome)
            }
        }
    }
}

/// A transaction that reads.
pub(crate) enum ReadTx<'a> {
    Embedded(&'a database::ReadTx<'a>),
    Postgres(&'a Session<'a>),
}

impl ReadTx<'_> {
    /// Every row, read through `read`.
    pub(crate) fn query<T>(
        &self,
        sql: &str,
        values: &[Value],
        mut read: impl FnMut(&Row<'_>) -> Result<T, RecordsError>,
    ) -> Result<Vec<T>, RecordsError> {
        match self {
            Self::Embedded(tx) => {
                let mut all = Vec::new();
                tx.for_each(sql, embedded(values), |row| {
                    all.push(read(&Row::Embedded(row))?);
                    Ok::<_, RecordsError>(())
                })?;
                Ok(all)
            }
            Self::Postgres(session) => {
                let rows = session.query(sql, values)?;
                rows.iter().map(|row| read(&Row::Postgres(row))).collect()
            }
        }
    }

    /// The first row, if there is any.
    pub(crate) fn query_one<T>(
        &self,
        sql: &str,
        values: &[Value],
        read: impl FnMut(&Row<'_>) -> Result<T, RecordsError>,
    ) -> Result<Option<T>, RecordsError> {
        Ok(self.query(sql, values, read)?.into_iter().next())
    }

    /// The time: the server's where several relays may count by it, which nobody's
    /// own clock can set forward or back.
    pub(crate) fn now(&self) -> Result<Timestamp, RecordsError> {
        match self {
            Self::Embedded(_) => Ok(SystemClock.now()),
            Self::Postgres(_) => {
                let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
                let millis = self.query_one(sql, values![], |row| row.uint(0))?;
                Ok(Timestamp::from_unix_millis(millis.unwrap_or_default()))
            }
        }
    }

    /// The end of a query for a row that nobody may take with [`Tx::hold_alone`] until
    /// this transaction ends. Where a transaction sees one state, or is the only one
    /// that writes, that is so by itself.
    pub(crate) fn hold(&self) -> &'static str {
        match self {
            Self::Postgres(session) if session.writes() => " FOR KEY SHARE",
            Self::Embedded(_) | Self::Postgres(_) => "",
        }
    }

    /// Whether private columns are covered here.
    pub(super) fn covers(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// What covers the columns of an account, whose wrapped key this is.
    pub(crate) fn cover(&self, user_id: &str, wrapped: &[u8]) -> Result<Cover, RecordsError> {
        Ok(Cover(match self {
            Self::Embedded(_) => None,
            Self::Postgres(session) => {
                Some(Arc::new(session.postgres().open_key(user_id, wrapped)?))
            }
        }))
    }

    /// What covers the columns that are of no account yet.
    pub(crate) fn service_cover(&self) -> Cover {
        Cover(match self {
            Self::Embedded(_) => None,
            Self::Postgres(session) => Some(Arc::clone(session.postgres().cipher())),
        })
    }

    /// What stands in a column that is searched for `text`: the text itself,
    /// or a keyed tag of it.
    pub(crate) fn tag(&self, table: &str, column: &str, text: &str) -> Result<Value, RecordsError> {
        Ok(match self {
            Self::Embedded(_) => text.into(),
            Self::Postgres(session) => {
                let index = session.postgres().cipher().index(table, column);
                index.tag(text.as_bytes(), TAG_BITS)?.into()
            }
        })
    }
}

/// Bits of a tag: no two addresses share one.
const TAG_BITS: u8 = 128;

/// A transaction that writes.
pub(crate) struct Tx<'a> {
    read: ReadTx<'a>,
    writer: Writer<'a>,
}

enum Writer<'a> {
    Embedded(&'a database::Tx<'a>),
    Postgres(&'a Session<'a>),
}

impl<'a> Deref for Tx<'a> {
    type Target = ReadTx<'a>;

    fn deref(&self) -> &ReadTx<'a> {
        &self.read
    }
}

impl Tx<'_> {
    /// Runs one statement; says how many rows it changed.
    pub(crate) fn execute(&self, sql: &str, values: &[Value]) -> Result<usize, RecordsError> {
        match &self.writer {
            Writer::Embedded(tx) => Ok(tx.execute(sql, embedded(values))?),
            Writer::Postgres(session) => session.execute(sql, values),
        }
    }

    /// Makes the other nodes look at what this changes, once it is committed. Only
    /// a hint: they look by themselves as well.
    pub(crate) fn wake_nodes(&self) -> Result<(), RecordsError> {
        match &self.writer {
            Writer::Postgres(session) if session.postgres().is_shared() => {
                let sql = "SELECT 1 FROM pg_notify(?1, '')";
                session.query(sql, &[WAKE.into()]).map(drop)
            }
            Writer::Embedded(_) | Writer::Postgres(_) => Ok(()),
        }
    }

    /// Counts that sessions have ended, for the other nodes.
    pub(crate) fn sessions_ended(&self) -> Result<(), RecordsError> {
        match &self.writer {
            Writer::Postgres(session) if session.postgres().is_shared() => {
                session.execute("UPDATE service SET endings = endings + 1", &[])?;
                self.wake_nodes()
            }
            Writer::Embedded(_) | Writer::Postgres(_) => Ok(()),
        }
    }

    /// The end of a query for a row that this transaction alone shall have, once those
    /// that [hold](ReadTx::hold) it have ended.
    pub(super) fn hold_alone(&self) -> &'static str {
        match &self.writer {
            Writer::Embedded(_) => "",
            Writer::Postgres(_) => " FOR UPDATE",
        }
    }

    /// Fails from here on rather than wait for `patience`, so that whoever is waited for
    /// never waits for long in turn, and asks only at the end whether rows that belong
    /// together agree.
    pub(super) fn give_way(&self, patience: Duration) -> Result<(), RecordsError> {
        let Writer::Postgres(session) = &self.writer else {
            return Ok(());
        };
        let millis = patience.as_millis().to_string();
        let sql = "SELECT set_config('lock_timeout', ?1, true)";
        session.query(sql, &[millis.into()])?;
        session.execute("SET CONSTRAINTS ALL DEFERRED", &[])?;
        Ok(())
    }

    /// Waits until no other writer has `what`, and keeps it to the end.
    pub(crate) fn lock(&self, what: &str) -> Result<(), RecordsError> {
        match &self.writer {
            Writer::Embedded(_) => Ok(()),
            Writer::Postgres(session) => session.lock(what),
        }
    }
}

/// Hides text from whoever reads PostgreSQL.
pub(crate) struct Cover(Option<Arc<ColumnCipher>>);

impl Cover {
    pub(crate) fn seal(&self, cell: &Cell<'_>, text: &str) -> Result<Value, RecordsError> {
        Ok(match &self.0 {
            None => text.into(),
            Some(cipher) => cipher.seal(cell, text.as_bytes())?.into(),
        })
    }

    pub(crate) fn open(
        &self,
        cell: &Cell<'_>,
        row: &Row<'_>,
        at: usize,
    ) -> Result<String, RecordsError> {
        let Some(cipher) = &self.0 else {
            return row.get(at);
        };
        let opened = cipher.open(cell, &row.get::<Vec<u8>>(at)?)?;
        let text = std::str::from_utf8(opened.expose_secret());
        text.map(str::to_owned).map_err(|_| RecordsError::NotText)
    }
}

/// A cell of a table whose covered values have no versions.
pub(crate) fn cell<'a>(table: &'a str, column: &'a str, row: &'a str) -> Cell<'a> {
    Cell {
        table,
        column,
        row: row.as_bytes(),
        version: 1,
    }
}

/// A row of a result.
pub(crate) enum Row<'a> {
    Embedded(&'a database::Row<'a>),
    Postgres(&'a tokio_postgres::Row),
}

impl Row<'_> {
    /// The column at this place.
    pub(crate) fn get<T: Column>(&self, at: usize) -> Result<T, RecordsError> {
        match self {
            Self::Embedded(row) => Ok(row.get(at).map_err(database::DatabaseError::from)?),
            Self::Postgres(row) => Ok(row.try_get(at)?),
        }
    }

    /// A number out of a column in which only [`int`]s are written.
    pub(crate) fn uint(&self, at: usize) -> Result<u64, RecordsError> {
        Ok(u64::try_from(self.get::<i64>(at)?).unwrap_or_default())
    }
}

/// What can be read from a column of either place.
pub(crate) trait Column: FromSql + for<'a> tokio_postgres::types::FromSql<'a> {}

impl<T: FromSql + for<'a> tokio_postgres::types::FromSql<'a>> Column for T {}

/// A number for a column; the integers of both places end at 2^63.
pub(crate) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What a statement is given.
#[derive(Clone)]
pub(crate) enum Value {
    Absent,
    Bool(bool),
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
}

fn embedded(values: &[Value]) -> impl database::Params {
    params_from_iter(values.iter().map(database::Value::from))
}

/// The values of a statement, in order.
macro_rules! values {
    ($($value:expr),* $(,)?) => {
        &[$($crate::records::store::Value::from($value)),*]
    };
}
pub(crate) use values;

impl std::fmt::Debug for Value {
    /// Shows nothing: the PostgreSQL driver writes what it binds to its log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Value { .. }")
    }
}

impl From<&Value> for database::Value {
    fn from(value: &Value) -> Self {
        match value {
            Value::Absent => Self::Null,
            Value::Bool(value) => Self::Integer(i64::from(*value)),
            Value::Int(value) => Self::Integer(*value),
            Value::Text(value) => Self::Text(value.clone()),
            Value::Bytes(value) => Self::Blob(value.clone()),
        }
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Absent, Into::into)
    }
}

macro_rules! value_from {
    ($($from:ty => $make:expr),* $(,)?) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Self {
                $make(value)
            }
        })*
    };
}

value_from! {
    bool => Self::Bool,
    i64 => Self::Int,
    u32 => |value| Self::Int(i64::from(value)),
    &str => |value: &str| Self::Text(value.to_owned()),
    &String => |value: &String| Self::Text(value.clone()),
    String => Self::Text,
    &[u8] => |value: &[u8]| Self::Bytes(value.to_vec()),
    &Vec<u8> => |value: &Vec<u8>| Self::Bytes(value.clone()),
    Vec<u8> => Self::Bytes,
}
