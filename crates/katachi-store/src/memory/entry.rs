//! Entries: setting, reading, finding, removing.

use super::{Memory, MemoryError};
use crate::database::{DatabaseError, ReadTx, Row, RowResult, TextQuery, Tx, params};

/// Longest namespace, key or tag, in bytes.
const MAX_NAME: usize = 256;

/// How much is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Longest text of an entry, in bytes.
    pub entry_bytes: usize,
    /// Most tags of an entry.
    pub tags: usize,
    /// Most entries of a namespace.
    pub namespace_entries: u64,
    /// Most text of a namespace, in bytes, keys included.
    pub namespace_bytes: u64,
}

impl Default for Limits {
    /// 64 KiB and 32 tags an entry; 10,000 entries and 16 MiB a namespace.
    fn default() -> Self {
        Self {
            entry_bytes: 64 * 1024,
            tags: 32,
            namespace_entries: 10_000,
            namespace_bytes: 16 * 1024 * 1024,
        }
    }
}

/// Something remembered.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Entry {
    /// Its namespace.
    pub namespace: String,
    /// Its key, unique in the namespace.
    pub key: String,
    /// The text.
    pub value: String,
    /// Its tags, sorted.
    pub tags: Vec<String>,
    /// When it was first set, in milliseconds since 1970.
    pub created_ms: i64,
    /// When it was last set, in milliseconds since 1970.
    pub updated_ms: i64,
}

/// How full a namespace is.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct NamespaceUse {
    /// The namespace.
    pub namespace: String,
    /// Its entries.
    pub entries: u64,
    /// Its text, in bytes, keys included.
    pub bytes: u64,
}

/// How much was remembered on one day.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct MemoryActivity {
    /// The namespace.
    pub namespace: String,
    /// Days since 1970-01-01, in UTC.
    pub day: i64,
    /// Entries that were last set on that day.
    pub entries: u64,
}

const ENTRY: &str = "
    SELECT e.namespace, e.key, e.value,
           (SELECT group_concat(t.tag, char(31) ORDER BY t.tag) FROM memory_tag t WHERE t.entry_id = e.id),
           e.created_ms, e.updated_ms
    FROM memory_entry e";

fn read_entry(row: &Row<'_>) -> RowResult<Entry> {
    let tags: Option<String> = row.get(3)?;
    Ok(Entry {
        namespace: row.get(0)?,
        key: row.get(1)?,
        value: row.get(2)?,
        // Tags have no control character, so this one can part them.
        tags: tags.map_or_else(Vec::new, |tags| {
            tags.split('\u{1f}').map(str::to_owned).collect()
        }),
        created_ms: row.get(4)?,
        updated_ms: row.get(5)?,
    })
}

impl Memory {
    /// Remembers `value` under `key`, replacing what was there.
    ///
    /// # Errors
    ///
    /// Returns [`MemoryError::Name`], [`MemoryError::EntryTooLarge`],
    /// [`MemoryError::TooManyTags`] or [`MemoryError::NamespaceFull`]; what
    /// was there stays.
    pub fn set(
        &self,
        namespace: &str,
        key: &str,
        value: &str,
        tags: &[&str],
    ) -> Result<(), MemoryError> {
        check_name("namespace", namespace)?;
        check_name("key", key)?;
        for tag in tags {
            check_name("tag", tag)?;
        }
        if tags.len() > self.limits.tags {
            return Err(MemoryError::TooManyTags {
                limit: self.limits.tags,
            });
        }
        if value.len() > self.limits.entry_bytes {
            return Err(MemoryError::EntryTooLarge {
                limit: self.limits.entry_bytes,
            });
        }
        let now = self.now();
        self.db.write(|tx| {
            let id = put(tx, namespace, key, value, &tags.join(" "), now)?;
            tx.execute("DELETE FROM memory_tag WHERE entry_id = ?1", [id])?;
            for tag in tags {
                tx.execute(
                    "INSERT OR IGNORE INTO memory_tag VALUES (?1, ?2)",
                    params![tag, id],
                )?;
            }
            // After the fact, so that replacing a large entry by a small one
            // always works; an error undoes it.
            self.check_space(tx, namespace)
        })
    }

    /// Reads one entry.
    ///
    /// # Errors
    ///
    /// Returns [`MemoryError::Database`] if the database cannot be read.
    pub fn get(&self, namespace: &str, key: &str) -> Result<Option<Entry>, MemoryError> {
        let sql = format!("{ENTRY} WHERE e.namespace = ?1 AND e.key = ?2");
        Ok(self
            .db
            .read(|tx| tx.query_one(&sql, [namespace, key], read_entry))?)
    }

    /// Lists the entries of a namespace by key, all or those with `tag`: at
    /// most `limit`, after skipping `offset`.
    ///
    /// # Errors
    ///
    /// Returns [`MemoryError::Database`] if the database cannot be read.
    pub fn list(
        &self,
        namespace: &str,
        tag: Option<&str>,
        limit: u32,
        offset: u32,
    ) -> Result<Vec<Entry>, MemoryError> {
        let sql = format!(
            "{ENTRY} WHERE e.namespace = ?1
             AND (?2 IS NULL OR EXISTS
                  (SELECT 1 FROM memory_tag t WHERE t.tag = ?2 AND t.entry_id = e.id))
             ORDER BY e.key LIMIT ?3 OFFSET ?4"
        );
        let values = params![namespace, tag, limit, offset];
        Ok(self.db.read(|tx| tx.query(&sql, values, read_entry))?)
    }

    /// Finds the `limit` entries that fit `text` best, in one namespace or in
    /// all. A word in the key counts most, then one in a tag. Any text is a
    /// valid query; see [`TextQuery`].
    ///
    /// # Errors
    ///
    /// Returns [`MemoryError::Database`] if the database cannot be read.
    pub fn search(
        &self,
        namespace: Option<&str>,
        text: &str,
        limit: u32,
    ) -> Result<Vec<Entry>, MemoryError> {
        let Some(query) = TextQuery::parse(text) else {
            return Ok(Vec::new());
        };
        let sql = format!(
            "{ENTRY} CROSS JOIN memory_fts f
             WHERE f.rowid = e.id AND memory_fts MATCH ?1
             AND (?2 IS NULL OR e.namespace = ?2)
             ORDER BY bm25(memory_fts, 8.0, 1.0, 4.0) LIMIT ?3"
        );
        let values = params![query.as_str(), namespace, limit];
        Ok(self.db.read(|tx| tx.query(&sql, values, read_entry))?)
    }

    /// Lists the namespaces and how full they are.
    ///
    /// # Errors
    ///
    /// Returns [`MemoryError::Database`] if the database cannot be read.
    pub fn namespaces(&self) -> Result<Vec<NamespaceUse>, MemoryError> {
        let sql = "SELECT namespace, count(*), sum(bytes) FROM memory_entry
                   GROUP BY namespace ORDER BY namespace";
        let read = |row: &Row<'_>| {
            Ok(NamespaceUse {
                namespace: row.get(0)?,
                entries: row.get::<_, i64>(1)?.unsigned_abs(),
                bytes: row.get::<_, i64>(2)?.unsigned_abs(),
            })
        };
        Ok(self.db.read(|tx| tx.query(sql, [], read))?)
    }

    /// Counts, for each namespace, the entries that were last set on each day
    /// from `since_ms` (milliseconds since 1970) on, oldest day first; days
    /// without any are left out.
    ///
    /// # Errors
    ///
    /// Returns [`MemoryError::Database`] if the database cannot be read.
    pub fn activity(&self, since_ms: i64) -> Result<Vec<MemoryActivity>, MemoryError> {
        let sql = "SELECT namespace, updated_ms / 86400000, count(*) FROM memory_entry
                   WHERE updated_ms >= ?1 GROUP BY 1, 2 ORDER BY 1, 2";
        let read = |row: &Row<'_>| {
            Ok(MemoryActivity {
                namespace: row.get(0)?,
                day: row.get(1)?,
                entries: row.get::<_, i64>(2)?.unsigned_abs(),
            })
        };
        Ok(self.db.read(|tx| tx.query(sql, [since_ms.max(0)], read))?)
    }

    /// Forgets one entry, beyond recovery, and tells whether it was there.
    ///
    /// # Errors
    ///
    /// Returns [`MemoryError::Database`] if the database refuses.
    pub fn remove(&self, namespace: &str, key: &str) -> Result<bool, MemoryError> {
        let sql = "DELETE FROM memory_entry WHERE namespace = ?1 AND key = ?2";
        let removed = self.db.write(|tx| tx.execute(sql, [namespace, key]))?;
        self.forget_removed(removed)?;
        Ok(removed > 0)
    }

    /// Forgets a whole namespace, beyond recovery, and returns how many
    /// entries it had.
    ///
    /// # Errors
    ///
    /// Returns [`MemoryError::Database`] if the database refuses.
    pub fn remove_namespace(&self, namespace: &str) -> Result<u64, MemoryError> {
        let sql = "DELETE FROM memory_entry WHERE namespace = ?1";
        let removed = self.db.write(|tx| tx.execute(sql, [namespace]))?;
        self.forget_removed(removed)?;
        Ok(removed as u64)
    }

    /// Empties the log, which still has the pages as they were before.
    fn forget_removed(&self, removed: usize) -> Result<(), MemoryError> {
        if removed == 0 {
            return Ok(());
        }
        match self.db.checkpoint() {
            // A reader still looks at the state before.
            Err(DatabaseError::Busy) => Ok(()),
            other => Ok(other?),
        }
    }

    fn check_space(&self, tx: &ReadTx<'_>, namespace: &str) -> Result<(), MemoryError> {
        let sql = "SELECT count(*), coalesce(sum(bytes), 0) FROM memory_entry WHERE namespace = ?1";
        let used = tx.query_one(sql, [namespace], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })?;
        let (entries, bytes) = used.unwrap_or_default();
        if entries.unsigned_abs() > self.limits.namespace_entries {
            return Err(MemoryError::NamespaceFull {
                limit: self.limits.namespace_entries,
                unit: "entries",
            });
        }
        if bytes.unsigned_abs() > self.limits.namespace_bytes {
            return Err(MemoryError::NamespaceFull {
                limit: self.limits.namespace_bytes,
                unit: "bytes",
            });
        }
        Ok(())
    }
}

fn put(
    tx: &Tx<'_>,
    namespace: &str,
    key: &str,
    value: &str,
    tags: &str,
    now: i64,
) -> Result<i64, DatabaseError> {
    let bytes = i64::try_from(key.len() + value.len() + tags.len()).unwrap_or(i64::MAX);
    let sql =
        "INSERT INTO memory_entry (namespace, key, value, tags, bytes, created_ms, updated_ms)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
               ON CONFLICT (namespace, key) DO UPDATE SET
                   value = excluded.value, tags = excluded.tags,
                   bytes = excluded.bytes, updated_ms = excluded.updated_ms
               RETURNING id";
    let values = params![namespace, key, value, tags, bytes, now];
    let id = tx.query_one(sql, values, |row| row.get(0))?;
    id.ok_or_else(|| DatabaseError::corrupt("an insert returned no row"))
}

fn check_name(what: &'static str, name: &str) -> Result<(), MemoryError> {
    let fits = (1..=MAX_NAME).contains(&name.len());
    if !fits || name.chars().any(char::is_control) {
        return Err(MemoryError::Name {
            what,
            limit: MAX_NAME,
        });
    }
    Ok(())
}
