//! Seals again, with a tenant's newest key, what its former keys sealed.

use std::time::{Duration, Instant};

use katachi_crypto::{KeyEncryptor, KeyId};
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::connect::{execute, query};
use super::table::quote;
use super::{Connector, KeyTable, PostgresError, SealedColumn};
use crate::column::{ColumnCipher, ColumnError};

/// Bytes of ciphertext that one batch reads, beyond its first row.
const BATCH_BYTES: i64 = 4 << 20;
/// Rows that are named in a report.
const NAMED: usize = 32;

/// How far a rotation has come.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Values under former keys when this run began.
    pub found: u64,
    /// Values sealed again.
    pub resealed: u64,
    /// Values that somebody else wrote between our reading and writing. Theirs stand.
    pub overtaken: u64,
    /// Values that do not open: damaged, or put there by somebody. They stay as they
    /// are, and keep their key from being retired.
    pub refused: u64,
    /// Table, column and row of the first 32 refused values.
    pub refused_rows: Vec<(String, String, String)>,
    /// Connections that broke and were made again.
    pub reconnects: u64,
}

/// The rotation worker. See the [module](super) for what it promises.
#[derive(Debug)]
pub struct Rotation<'a, E> {
    connector: &'a Connector,
    keys: &'a KeyTable<E>,
    columns: Vec<SealedColumn>,
    batch: u32,
    pause: Duration,
    deadline: Duration,
}

impl<'a, E: KeyEncryptor> Rotation<'a, E> {
    /// A worker that connects with `connector`.
    #[must_use]
    pub const fn new(connector: &'a Connector, keys: &'a KeyTable<E>) -> Self {
        Self {
            connector,
            keys,
            columns: Vec::new(),
            batch: 256,
            pause: Duration::ZERO,
            deadline: Duration::from_secs(3600),
        }
    }

    /// Adds a column.
    #[must_use]
    pub fn column(mut self, column: SealedColumn) -> Self {
        self.columns.push(column);
        self
    }

    /// Sets the most rows of one batch, 256 unless set. A batch is locked while it is
    /// written, and reads at most 4 MiB beyond its first row.
    #[must_use]
    pub const fn batch(mut self, rows: u32) -> Self {
        self.batch = if rows == 0 { 1 } else { rows };
        self
    }

    /// Rests after each batch, to leave the server to others.
    #[must_use]
    pub const fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Bounds the whole run; an hour unless set.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Seals everything of `tenant` that is under a former key again, and reports after
    /// each batch. Connections that break are made again until the time is up.
    ///
    /// May be run by several processes at once, and again at any time.
    ///
    /// # Errors
    ///
    /// Returns [`PostgresError::Unfinished`] when the time is up,
    /// [`PostgresError::NotInstalled`] if a column is not tied to its keys, and what
    /// [`KeyTable::cipher`] and the server return.
    pub async fn run(
        &self,
        tenant: &str,
        mut report: impl FnMut(&Progress),
    ) -> Result<Progress, PostgresError> {
        let mut progress = Progress::default();
        let whole = self.work(tenant, &mut progress, &mut report);
        match timeout(self.deadline, whole).await {
            Ok(outcome) => outcome.map(|()| progress),
            Err(_) => Err(PostgresError::Unfinished(self.deadline, progress)),
        }
    }

    async fn work(
        &self,
        tenant: &str,
        progress: &mut Progress,
        report: &mut impl FnMut(&Progress),
    ) -> Result<(), PostgresError> {
        let mut rest = Duration::from_millis(20);
        loop {
            let begun = Instant::now();
            match self.attempt(tenant, progress, report).await {
                Err(error) if error.is_passing() => {
                    // What lasted a while is not a server that refuses at once.
                    if begun.elapsed() > Duration::from_secs(5) {
                        rest = Duration::from_millis(20);
                    }
                    progress.reconnects += 1;
                    sleep(rest).await;
                    rest = (rest * 2).min(Duration::from_secs(2));
                }
                outcome => return outcome,
            }
        }
    }

    /// Works until everything is done or the connection breaks.
    async fn attempt(
        &self,
        tenant: &str,
        progress: &mut Progress,
        report: &mut impl FnMut(&Progress),
    ) -> Result<(), PostgresError> {
        let client = self.connector.connect().await?;
        for column in &self.columns {
            if !column.is_installed(&client).await? {
                let name = format!("{}.{}", column.table, column.column);
                return Err(PostgresError::NotInstalled(name));
            }
        }
        let first = progress.found == 0;
        (progress.refused, progress.refused_rows) = (0, Vec::new());
        loop {
            let cipher = self.keys.cipher(&client, tenant).await?;
            let former: Vec<KeyId> = cipher.key_ids().skip(1).collect();
            if first && progress.found == 0 {
                progress.found = self.count(&client, tenant, &former).await?;
            }
            let before = (progress.resealed, progress.overtaken);
            (progress.refused, progress.refused_rows) = (0, Vec::new());
            for column in &self.columns {
                for key in &former {
                    let mut pass = Pass::new(self, &client, column, *key, &cipher);
                    while pass.batch(tenant, progress).await? {
                        report(progress);
                        sleep(self.pause).await;
                    }
                }
            }
            // A writer may have written with a former key behind our back, so only a
            // pass that changed nothing is the last.
            if (progress.resealed, progress.overtaken) == before {
                return Ok(());
            }
        }
    }

    async fn count(
        &self,
        client: &Client,
        tenant: &str,
        former: &[KeyId],
    ) -> Result<u64, PostgresError> {
        let former: Vec<&[u8]> = former.iter().map(|id| id.as_bytes().as_slice()).collect();
        let mut found = 0;
        for column in &self.columns {
            let sql = format!(
                "SELECT count(*) FROM {} WHERE {} = $1 AND {} = ANY ($2)",
                column.sql_table(),
                quote(&column.tenant),
                quote(&column.key_column()),
            );
            let deadline = self.connector.statement_deadline();
            for row in query(client, deadline, &sql, &[&tenant, &former]).await? {
                found += u64::try_from(row.try_get::<_, i64>(0)?).unwrap_or_default();
            }
        }
        Ok(found)
    }
}

/// One walk over the values of one column under one former key.
struct Pass<'a> {
    client: &'a Client,
    column: &'a SealedColumn,
    key: KeyId,
    cipher: &'a ColumnCipher,
    rows: i64,
    deadline: Duration,
    /// The last row that was seen, as text.
    after: Option<String>,
    select: String,
    update: String,
}

impl<'a> Pass<'a> {
    fn new<E: KeyEncryptor>(
        rotation: &Rotation<'_, E>,
        client: &'a Client,
        column: &'a SealedColumn,
        key: KeyId,
        cipher: &'a ColumnCipher,
    ) -> Self {
        let (table, row, tenant) = (
            column.sql_table(),
            quote(&column.row),
            quote(&column.tenant),
        );
        let (value, key_column) = (quote(&column.column), quote(&column.key_column()));
        let (row_type, row_bytes) = (column.row_key.sql_type(), column.row_key.to_bytes("r"));
        // Sizes are known without reading the values, so the bytes of a batch are
        // bounded before any is read.
        let select = format!(
            "SELECT r::text, {row_bytes}, v FROM (
                 SELECT r, v, sum(octet_length(v)) OVER (ORDER BY r) - octet_length(v) AS before
                 FROM (SELECT {row} AS r, {value} AS v FROM {table}
                       WHERE {tenant} = $1 AND {key_column} = $2
                         AND ($3::text IS NULL OR {row} > $3::text::{row_type})
                       ORDER BY {row} LIMIT $4) AS page) AS sized
             WHERE before < $5 ORDER BY sized.r"
        );
        let set_index = match &column.index {
            Some((index, _)) => format!(", {} = n.tag", quote(index)),
            None => String::new(),
        };
        // Blocks until a concurrent writer of a row has finished, then compares with
        // what that one wrote: READ COMMITTED looks at the newest version again.
        let update = format!(
            "UPDATE {table} AS t SET {value} = n.new{set_index}
             FROM unnest($2::text[], $3::bytea[], $4::bytea[], $5::bytea[]) AS n (row, old, new, tag)
             WHERE t.{tenant} = $1 AND t.{row} = n.row::{row_type} AND t.{value} = n.old"
        );
        Self {
            client,
            column,
            key,
            cipher,
            rows: rotation.batch.into(),
            deadline: rotation.connector.statement_deadline(),
            after: None,
            select,
            update,
        }
    }

    /// Reads, seals and writes one batch. False when there was nothing left to read.
    async fn batch(
        &mut self,
        tenant: &str,
        progress: &mut Progress,
    ) -> Result<bool, PostgresError> {
        let key = self.key.as_bytes().as_slice();
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&tenant, &key, &self.after, &self.rows, &BATCH_BYTES];
        let rows = query(self.client, self.deadline, &self.select, &parameters).await?;
        let Some(last) = rows.last() else {
            return Ok(false);
        };
        self.after = Some(last.try_get(0)?);

        let mut batch = Batch::default();
        for row in &rows {
            let (name, bytes, old): (String, &[u8], &[u8]) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let cell = self.column.cell(bytes);
            let plain = match self.cipher.open(&cell, old) {
                Ok(plain) => plain,
                Err(ColumnError::Refused) => {
                    progress.refused += 1;
                    if progress.refused_rows.len() < NAMED {
                        let Self { column, .. } = self;
                        let place = (column.table.clone(), column.column.clone(), name);
                        progress.refused_rows.push(place);
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            batch
                .tags
                .push(self.column.tag(self.cipher, plain.expose_secret())?);
            batch
                .new
                .push(self.cipher.seal(&cell, plain.expose_secret())?);
            batch.old.push(old.to_vec());
            batch.rows.push(name);
        }
        let Batch {
            rows,
            old,
            new,
            tags,
        } = &batch;
        let parameters: [&(dyn ToSql + Sync); 5] = [&tenant, rows, old, new, tags];
        let written = execute(self.client, self.deadline, &self.update, &parameters).await?;
        progress.resealed += written;
        progress.overtaken += (rows.len() as u64).saturating_sub(written);
        Ok(true)
    }
}

/// Columns of a batch, as `unnest` takes them.
#[derive(Default)]
struct Batch {
    rows: Vec<String>,
    old: Vec<Vec<u8>>,
    new: Vec<Vec<u8>>,
    tags: Vec<Option<Vec<u8>>>,
}
