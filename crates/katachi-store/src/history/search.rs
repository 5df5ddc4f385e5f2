//! Finds messages by their words.

use std::ops::Range;

use super::jsonl::Role;
use super::message::read_role;
use super::{History, HistoryError, MessageId, SessionId, WorkspaceId};
use crate::database::{Row, RowResult, TextQuery, params};

/// What to look for, and where.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Search {
    /// The words, as a person types them; see [`TextQuery`].
    pub text: String,
    /// In this workspace alone.
    pub workspace: Option<WorkspaceId>,
    /// In this session alone.
    pub session: Option<SessionId>,
    /// From this role alone.
    pub role: Option<Role>,
    /// At most this many.
    pub limit: u32,
    /// After skipping this many.
    pub offset: u32,
}

impl Search {
    /// Looks for `text` everywhere, twenty hits at a time.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            limit: 20,
            ..Self::default()
        }
    }

    /// Looks in one workspace.
    #[must_use]
    pub fn workspace(mut self, workspace: WorkspaceId) -> Self {
        self.workspace = Some(workspace);
        self
    }

    /// Looks in one session.
    #[must_use]
    pub fn session(mut self, session: SessionId) -> Self {
        self.session = Some(session);
        self
    }

    /// Looks at what one role said.
    #[must_use]
    pub fn role(mut self, role: Role) -> Self {
        self.role = Some(role);
        self
    }

    /// Returns at most `limit` hits, after skipping `offset`.
    #[must_use]
    pub fn page(mut self, limit: u32, offset: u32) -> Self {
        self.limit = limit;
        self.offset = offset;
        self
    }
}

/// A message that was found.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Hit {
    /// The message.
    pub message: MessageId,
    /// Its session.
    pub session: SessionId,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// The session's title.
    pub title: String,
    /// Who it is from.
    pub role: Role,
    /// When it began, in milliseconds since 1970.
    pub created_ms: i64,
    /// The part of its text around the words.
    pub snippet: String,
    /// Where in `snippet` the words are, in bytes.
    pub highlights: Vec<Range<usize>>,
    /// How well it fits: hits come in falling order.
    pub rank: f64,
}

/// Marks around a found word, taken out before anyone sees them.
const OPEN: char = '\u{2}';
const CLOSE: char = '\u{3}';

impl History {
    /// Finds the `limit` messages that fit `text` best. Any text is a valid
    /// query; see [`TextQuery`] for what quotes and `*` mean.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::Database`] if the database cannot be read.
    pub fn search(&self, text: &str, limit: u32) -> Result<Vec<Hit>, HistoryError> {
        self.search_with(&Search::new(text).page(limit, 0))
    }

    /// Finds messages, restricted and paged as `search` says.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::Database`] if the database cannot be read.
    pub fn search_with(&self, search: &Search) -> Result<Vec<Hit>, HistoryError> {
        let Some(query) = TextQuery::parse(&search.text) else {
            return Ok(Vec::new());
        };
        let sql = "
            SELECT m.id, m.session_id, s.workspace_id, s.title, m.role, m.created_ms,
                   snippet(history_fts, 0, char(2), char(3), '…', 24), history_fts.rank
            FROM history_fts
            CROSS JOIN history_message m ON m.id = history_fts.rowid
            CROSS JOIN history_session s ON s.id = m.session_id
            WHERE history_fts MATCH ?1
              AND (?2 IS NULL OR s.workspace_id = ?2)
              AND (?3 IS NULL OR m.session_id = ?3)
              AND (?4 IS NULL OR m.role = ?4)
            ORDER BY history_fts.rank LIMIT ?5 OFFSET ?6";
        let role = search.role.map(Role::as_str);
        let values = params![
            query.as_str(),
            search.workspace,
            search.session,
            role,
            search.limit,
            search.offset
        ];
        Ok(self.db.read(|tx| tx.query(sql, values, read_hit))?)
    }
}

fn read_hit(row: &Row<'_>) -> RowResult<Hit> {
    let (snippet, highlights) = unmark(row.get_ref(6)?.as_str().unwrap_or_default());
    Ok(Hit {
        message: row.get(0)?,
        session: row.get(1)?,
        workspace: row.get(2)?,
        title: row.get(3)?,
        role: read_role(row, 4)?,
        created_ms: row.get(5)?,
        snippet,
        highlights,
        // SQLite's is negative, the best the smallest.
        rank: -row.get::<_, f64>(7)?,
    })
}

/// Takes the marks out and notes where they were.
pub(crate) fn unmark(marked: &str) -> (String, Vec<Range<usize>>) {
    let mut text = String::with_capacity(marked.len());
    let mut found = Vec::new();
    let mut opened = None;
    for character in marked.chars() {
        match character {
            OPEN => opened = Some(text.len()),
            CLOSE => found.extend(opened.take().map(|start| start..text.len())),
            other => text.push(other),
        }
    }
    (text, found)
}

#[cfg(test)]
mod tests {
    use super::unmark;

    #[test]
    fn marks_become_ranges() {
        let (text, found) = unmark("a \u{2}plüm\u{3} and \u{2}b\u{3}");
        assert_eq!(text, "a plüm and b");
        assert_eq!(found, [2..7, 12..13]);
        assert_eq!(&text[found[0].clone()], "plüm");
    }

    #[test]
    fn stray_marks_are_harmless() {
        assert_eq!(unmark("\u{3}x\u{2}"), ("x".into(), vec![]));
    }
}
