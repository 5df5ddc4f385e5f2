//! Where sealed values are, and what holds them to their keys.

use tokio_postgres::GenericClient;

use super::PostgresError;
use crate::column::{Cell, ColumnCipher, ColumnError};

/// Ends the name of every foreign key that is made here.
pub(super) const CONSTRAINT: &str = "_katachi_key";

/// The type of a table's primary key, and with it the bytes that
/// [`Cell::row`] has for a row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RowKey {
    /// `bigint`: eight bytes, big-endian ([`i64::to_be_bytes`]).
    BigInt,
    /// `uuid`: its sixteen bytes.
    Uuid,
    /// `text`: its UTF-8.
    Text,
    /// `bytea`: itself.
    Bytes,
}

impl RowKey {
    pub(super) const fn sql_type(self) -> &'static str {
        match self {
            Self::BigInt => "bigint",
            Self::Uuid => "uuid",
            Self::Text => "text",
            Self::Bytes => "bytea",
        }
    }

    /// SQL for the bytes of `column`.
    pub(super) fn to_bytes(self, column: &str) -> String {
        match self {
            Self::BigInt => format!("int8send({column})"),
            Self::Uuid => format!("uuid_send({column})"),
            Self::Text => format!("textsend({column})"),
            Self::Bytes => column.to_owned(),
        }
    }
}

/// A column of sealed values: `bytea`, in a table with a column for the tenant and a
/// primary key of one column (beside the tenant).
#[derive(Clone, Debug)]
pub struct SealedColumn {
    pub(super) table: String,
    pub(super) column: String,
    pub(super) tenant: String,
    pub(super) row: String,
    pub(super) row_key: RowKey,
    pub(super) version: u64,
    pub(super) index: Option<(String, u8)>,
}

impl SealedColumn {
    /// `column` of `table` (or `schema.table`), whose tenant is in `tenant` (`text`),
    /// whose key is `id` (`bigint`), and whose cells have version 1. The names as
    /// given here are those in [`Cell`].
    #[must_use]
    pub fn new(table: &str, column: &str) -> Self {
        Self {
            table: table.to_owned(),
            column: column.to_owned(),
            tenant: "tenant".to_owned(),
            row: "id".to_owned(),
            row_key: RowKey::BigInt,
            version: 1,
            index: None,
        }
    }

    /// Names the column that has the tenant.
    #[must_use]
    pub fn tenant_column(mut self, column: &str) -> Self {
        column.clone_into(&mut self.tenant);
        self
    }

    /// Names the primary key and its type.
    #[must_use]
    pub fn row_key(mut self, column: &str, key: RowKey) -> Self {
        column.clone_into(&mut self.row);
        self.row_key = key;
        self
    }

    /// Sets the version of the cells.
    #[must_use]
    pub fn version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    /// Names the column (`bytea`) that has the blind index, with tags of `bits`.
    #[must_use]
    pub fn blind_index(mut self, column: &str, bits: u8) -> Self {
        self.index = Some((column.to_owned(), bits));
        self
    }

    /// The cell of this column in the row with this key; see [`RowKey`] for its bytes.
    #[must_use]
    pub fn cell<'a>(&'a self, row: &'a [u8]) -> Cell<'a> {
        Cell {
            table: &self.table,
            column: &self.column,
            row,
            version: self.version,
        }
    }

    /// The tag for the blind index of a new value; `None` without an index.
    ///
    /// # Errors
    ///
    /// Returns [`ColumnError::Crypto`] unless the index has 8 to 128 bits.
    pub fn tag(&self, cipher: &ColumnCipher, value: &[u8]) -> Result<Option<Vec<u8>>, ColumnError> {
        let Some((_, bits)) = self.index else {
            return Ok(None);
        };
        let index = cipher.index(&self.table, &self.column);
        index
            .tag(value, bits)
            .map(Some)
            .map_err(ColumnError::Crypto)
    }

    /// The tags to search for `value` by, with `= ANY`; none without an index.
    ///
    /// # Errors
    ///
    /// Returns [`ColumnError::Crypto`] unless the index has 8 to 128 bits.
    pub fn tags(&self, cipher: &ColumnCipher, value: &[u8]) -> Result<Vec<Vec<u8>>, ColumnError> {
        match self.index {
            Some((_, bits)) => cipher.tags(&self.table, &self.column, value, bits),
            None => Ok(Vec::new()),
        }
    }

    /// The statements that tie the column to `katachi_tenant_keys`: a generated column
    /// with the key that a value names, a foreign key, and an index for both. On a
    /// table that has rows they lock it while PostgreSQL writes it anew.
    #[must_use]
    pub fn ddl(&self) -> String {
        let Self {
            column,
            tenant,
            row,
            ..
        } = self;
        let table = self.sql_table();
        let (key, constraint) = (quote(&self.key_column()), quote(&self.constraint()));
        let (column, tenant, row) = (quote(column), quote(tenant), quote(row));
        format!(
            "ALTER TABLE {table} ADD COLUMN {key} bytea\n    \
                 GENERATED ALWAYS AS (substring({column} from 9 for 8)) STORED;\n\
             ALTER TABLE {table} ADD CONSTRAINT {constraint}\n    \
                 FOREIGN KEY ({tenant}, {key}) REFERENCES katachi_tenant_keys (tenant, key_id);\n\
             CREATE INDEX ON {table} ({tenant}, {key}, {row});\n"
        )
    }

    /// Runs [`ddl`](Self::ddl), unless that was done before.
    ///
    /// # Errors
    ///
    /// Returns [`PostgresError`] if the server refuses, for instance because a value
    /// in the column names a key that is not in `katachi_tenant_keys`.
    pub async fn install(&self, client: &impl GenericClient) -> Result<(), PostgresError> {
        if self.is_installed(client).await? {
            return Ok(());
        }
        let all_or_nothing = format!("BEGIN; {} COMMIT;", self.ddl());
        if let Err(error) = client.batch_execute(&all_or_nothing).await {
            client.batch_execute("ROLLBACK").await?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Whether the foreign key is there and in force.
    pub(super) async fn is_installed(
        &self,
        client: &impl GenericClient,
    ) -> Result<bool, PostgresError> {
        let found = client
            .query_opt(
                "SELECT FROM pg_constraint c
                 WHERE c.conrelid = $1::text::regclass AND c.conname = $2 AND c.contype = 'f'
                   AND c.confrelid = 'katachi_tenant_keys'::regclass AND c.convalidated
                   AND c.conkey = (
                     SELECT array_agg(a.attnum ORDER BY n.place)
                     FROM unnest($3::text[]) WITH ORDINALITY AS n (name, place)
                     JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attname = n.name)",
                &[
                    &self.sql_table(),
                    &self.constraint(),
                    &vec![self.tenant.clone(), self.key_column()],
                ],
            )
            .await?;
        Ok(found.is_some())
    }

    /// The generated column that has the key of each value.
    pub(super) fn key_column(&self) -> String {
        format!("{}_key_id", self.column)
    }

    fn constraint(&self) -> String {
        format!("{}{CONSTRAINT}", self.column)
    }

    /// The table as SQL names it.
    pub(super) fn sql_table(&self) -> String {
        match self.table.split_once('.') {
            Some((schema, table)) => format!("{}.{}", quote(schema), quote(table)),
            None => quote(&self.table),
        }
    }
}

/// An SQL identifier.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::{SealedColumn, quote};

    #[test]
    fn a_name_cannot_end_its_quotes() {
        assert_eq!(
            quote("a\"; DROP TABLE t; --"),
            "\"a\"\"; DROP TABLE t; --\""
        );
        assert!(
            SealedColumn::new("s.t", "c")
                .ddl()
                .starts_with("ALTER TABLE \"s\".\"t\" ADD COLUMN \"c_key_id\"")
        );
    }
}
