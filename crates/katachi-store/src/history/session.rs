//! Workspaces and the sessions in them.

use std::fmt;

use super::{History, HistoryError};
use crate::database::{DatabaseError, FromSql, Row, RowResult, ToSql, Tx, params};

/// Names a workspace. Never used again for another, even after deletion.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct WorkspaceId(pub i64);

/// Names a session. Never used again for another, even after deletion.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionId(pub i64);

macro_rules! id_column {
    ($($id:ty),*) => {$(
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $id {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl ToSql for $id {
            fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
                self.0.to_sql()
            }
        }

        impl FromSql for $id {
            fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
                i64::column_result(value).map(Self)
            }
        }
    )*};
}

id_column!(WorkspaceId, SessionId, super::MessageId);

/// A workspace and how much is in it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Workspace {
    /// Its id.
    pub id: WorkspaceId,
    /// Its name, usually a directory.
    pub name: String,
    /// When it was first seen, in milliseconds since 1970.
    pub created_ms: i64,
    /// How many sessions it has.
    pub sessions: u64,
}

/// A session, without its messages.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The workspace it belongs to.
    pub workspace: WorkspaceId,
    /// Its title.
    pub title: String,
    /// When it began, in milliseconds since 1970.
    pub created_ms: i64,
    /// When its last message was written, in milliseconds since 1970.
    pub updated_ms: i64,
    /// How many messages it has.
    pub messages: u64,
    /// How many of them were cut off.
    pub interrupted: u64,
}

/// How much was written on one day.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Activity {
    /// The day, in whole days since 1970 in UTC.
    pub day: i64,
    /// Messages begun on that day.
    pub messages: u64,
    /// Tokens read and written by models in them, as far as known.
    pub tokens: u64,
}

/// Longest name of a workspace or title of a session, in bytes.
const MAX_NAME: usize = 4096;

const SESSION: &str = "
    SELECT s.id, s.workspace_id, s.title, s.created_ms, s.updated_ms,
           (SELECT count(*) FROM history_message m WHERE m.session_id = s.id),
           (SELECT count(*) FROM history_message m
            WHERE m.session_id = s.id AND m.state = 'interrupted')
    FROM history_session s";

fn read_session(row: &Row<'_>) -> RowResult<Session> {
    Ok(Session {
        id: row.get(0)?,
        workspace: row.get(1)?,
        title: row.get(2)?,
        created_ms: row.get(3)?,
        updated_ms: row.get(4)?,
        messages: row.get::<_, i64>(5)?.unsigned_abs(),
        interrupted: row.get::<_, i64>(6)?.unsigned_abs(),
    })
}

impl History {
    /// Finds the workspace called `name`, or makes it.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::TooLarge`] for a name over 4096 bytes.
    pub fn workspace(&self, name: &str) -> Result<WorkspaceId, HistoryError> {
        check_name("the name of a workspace", name)?;
        let find = "SELECT id FROM history_workspace WHERE name = ?1";
        let found = self
            .db
            .read(|tx| tx.query_one(find, [name], |row| row.get(0)))?;
        if let Some(id) = found {
            return Ok(id);
        }
        let now = self.now();
        self.db.write(|tx| make_workspace(tx, name, now))
    }

    /// Lists all workspaces by name.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::Database`] if the database cannot be read.
    pub fn workspaces(&self) -> Result<Vec<Workspace>, HistoryError> {
        let sql = "
            SELECT w.id, w.name, w.created_ms,
                   (SELECT count(*) FROM history_session s WHERE s.workspace_id = w.id)
            FROM history_workspace w ORDER BY w.name";
        let read = |row: &Row<'_>| {
            Ok(Workspace {
                id: row.get(0)?,
                name: row.get(1)?,
                created_ms: row.get(2)?,
                sessions: row.get::<_, i64>(3)?.unsigned_abs(),
            })
        };
        Ok(self.db.read(|tx| tx.query(sql, [], read))?)
    }

    /// Begins a session.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::NoSuchWorkspace`], or
    /// [`HistoryError::TooLarge`] for a title over 4096 bytes.
    pub fn start_session(
        &self,
        workspace: WorkspaceId,
        title: &str,
    ) -> Result<SessionId, HistoryError> {
        check_name("the title of a session", title)?;
        let now = self.now();
        self.db.write(|tx| {
            let known = "SELECT 1 FROM history_workspace WHERE id = ?1";
            if tx.query_one(known, [workspace], |_| Ok(()))?.is_none() {
                return Err(HistoryError::NoSuchWorkspace(workspace));
            }
            Ok(make_session(tx, workspace, title, now, now)?)
        })
    }

    /// Gives a session another title.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::NoSuchSession`], or [`HistoryError::TooLarge`]
    /// for a title over 4096 bytes.
    pub fn rename_session(&self, session: SessionId, title: &str) -> Result<(), HistoryError> {
        check_name("the title of a session", title)?;
        let sql = "UPDATE history_session SET title = ?2 WHERE id = ?1";
        match self
            .db
            .write(|tx| tx.execute(sql, params![session, title]))?
        {
            0 => Err(HistoryError::NoSuchSession(session)),
            _ => Ok(()),
        }
    }

    /// Looks a session up.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::NoSuchSession`].
    pub fn session(&self, session: SessionId) -> Result<Session, HistoryError> {
        let sql = format!("{SESSION} WHERE s.id = ?1");
        let found = self
            .db
            .read(|tx| tx.query_one(&sql, [session], read_session))?;
        found.ok_or(HistoryError::NoSuchSession(session))
    }

    /// Lists sessions, the one written to last first, of one workspace or of
    /// all: at most `limit`, after skipping `offset`.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::Database`] if the database cannot be read.
    pub fn list_sessions(
        &self,
        workspace: Option<WorkspaceId>,
        limit: u32,
        offset: u32,
    ) -> Result<Vec<Session>, HistoryError> {
        let order = "ORDER BY s.updated_ms DESC, s.id DESC LIMIT ?1 OFFSET ?2";
        // Two statements, so that each has an index to walk.
        Ok(self.db.read(|tx| match workspace {
            Some(id) => {
                let sql = format!("{SESSION} WHERE s.workspace_id = ?3 {order}");
                tx.query(&sql, params![limit, offset, id], read_session)
            }
            None => tx.query(
                &format!("{SESSION} {order}"),
                params![limit, offset],
                read_session,
            ),
        })?)
    }

    /// Deletes a session with all its messages, beyond recovery.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::NoSuchSession`].
    pub fn delete_session(&self, session: SessionId) -> Result<(), HistoryError> {
        let sql = "DELETE FROM history_session WHERE id = ?1";
        match self.db.write(|tx| tx.execute(sql, [session]))? {
            0 => Err(HistoryError::NoSuchSession(session)),
            _ => self.forget_deleted(),
        }
    }

    /// Deletes a workspace with all its sessions, beyond recovery.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::NoSuchWorkspace`].
    pub fn delete_workspace(&self, workspace: WorkspaceId) -> Result<(), HistoryError> {
        let sql = "DELETE FROM history_workspace WHERE id = ?1";
        match self.db.write(|tx| tx.execute(sql, [workspace]))? {
            0 => Err(HistoryError::NoSuchWorkspace(workspace)),
            _ => self.forget_deleted(),
        }
    }

    /// Deletes every session that was last written to before `before_ms`
    /// (milliseconds since 1970), beyond recovery, and returns how many.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::Database`] if the database refuses; nothing is
    /// deleted then.
    pub fn delete_sessions_before(&self, before_ms: i64) -> Result<u64, HistoryError> {
        let sql = "DELETE FROM history_session WHERE updated_ms < ?1";
        let deleted = self.db.write(|tx| tx.execute(sql, [before_ms]))?;
        if deleted > 0 {
            self.forget_deleted()?;
        }
        Ok(deleted as u64)
    }

    /// Counts messages per day from `since_ms` (milliseconds since 1970) on,
    /// oldest day first; days without any are left out.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::Database`] if the database cannot be read.
    pub fn activity(&self, since_ms: i64) -> Result<Vec<Activity>, HistoryError> {
        let sql = "
            SELECT created_ms / 86400000, count(*),
                   sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0))
            FROM history_message WHERE created_ms >= ?1 GROUP BY 1 ORDER BY 1";
        let read = |row: &Row<'_>| {
            Ok(Activity {
                day: row.get(0)?,
                messages: row.get::<_, i64>(1)?.unsigned_abs(),
                tokens: row.get::<_, i64>(2)?.unsigned_abs(),
            })
        };
        Ok(self.db.read(|tx| tx.query(sql, [since_ms.max(0)], read))?)
    }

    /// The rows are overwritten already; older states of their pages still lie
    /// in the log until it is emptied.
    pub(super) fn forget_deleted(&self) -> Result<(), HistoryError> {
        match self.db.checkpoint() {
            // A reader still looks at the state before; its end, or the next
            // checkpoint after it, empties the log.
            Err(DatabaseError::Busy) => Ok(()),
            other => Ok(other?),
        }
    }
}

pub(super) fn make_workspace(
    tx: &Tx<'_>,
    name: &str,
    created_ms: i64,
) -> Result<WorkspaceId, HistoryError> {
    let sql = "INSERT INTO history_workspace (name, created_ms) VALUES (?1, ?2)
               ON CONFLICT (name) DO UPDATE SET created_ms = min(created_ms, excluded.created_ms)
               RETURNING id";
    let id = tx.query_one(sql, params![name, created_ms], |row| row.get(0))?;
    id.ok_or_else(|| DatabaseError::corrupt("an insert returned no row").into())
}

pub(super) fn make_session(
    tx: &Tx<'_>,
    workspace: WorkspaceId,
    title: &str,
    created_ms: i64,
    updated_ms: i64,
) -> Result<SessionId, DatabaseError> {
    let sql = "INSERT INTO history_session (workspace_id, title, created_ms, updated_ms)
               VALUES (?1, ?2, ?3, ?4)";
    tx.insert(sql, params![workspace, title, created_ms, updated_ms])
        .map(SessionId)
}

pub(super) fn check_name(what: &'static str, name: &str) -> Result<(), HistoryError> {
    if name.len() > MAX_NAME {
        return Err(HistoryError::TooLarge {
            what,
            limit: MAX_NAME,
        });
    }
    Ok(())
}
