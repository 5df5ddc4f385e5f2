//! Messages: adding, reading, deleting.

use super::jsonl::{Role, State, ToolCall};
use super::{History, HistoryError, SessionId};
use crate::database::{DatabaseError, ReadTx, Row, RowResult, Tx, params};

/// Names a message. Never used again for another, even after deletion.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct MessageId(pub i64);

/// Tokens that a model counted, as far as it said so.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Tokens read.
    pub input_tokens: Option<u32>,
    /// Tokens written.
    pub output_tokens: Option<u32>,
}

/// A message to add.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct NewMessage {
    /// Who it is from.
    pub role: Role,
    /// Its text, at most 8 MiB.
    pub text: String,
    /// Tools it asks for.
    pub tool_calls: Vec<ToolCall>,
    /// What it cost.
    pub usage: Usage,
    /// Files that belong to it, at most 32 MiB each.
    pub attachments: Vec<Attachment>,
}

/// A file that belongs to a message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attachment {
    /// Its name.
    pub name: String,
    /// Its media type, such as `image/png`.
    pub media_type: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// A message as it was kept.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// The session it belongs to.
    pub session: SessionId,
    /// Who it is from.
    pub role: Role,
    /// Whether it is whole.
    pub state: State,
    /// Its text, as far as it was written.
    pub text: String,
    /// When it began, in milliseconds since 1970.
    pub created_ms: i64,
    /// What it cost.
    pub usage: Usage,
    /// Tools it asked for, in order.
    pub tool_calls: Vec<ToolCall>,
    /// How many files belong to it; see [`History::attachments`].
    pub attachments: u64,
}

/// Longest text of a message, in bytes.
pub(super) const MAX_TEXT: usize = 8 * 1024 * 1024;
/// Longest argument or result of a tool call, in bytes.
const MAX_TOOL_TEXT: usize = 8 * 1024 * 1024;
/// Largest attachment, in bytes.
const MAX_ATTACHMENT: usize = 32 * 1024 * 1024;

impl NewMessage {
    /// A message with nothing but text.
    #[must_use]
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Self {
            role,
            text: text.into(),
            tool_calls: Vec::new(),
            usage: Usage::default(),
            attachments: Vec::new(),
        }
    }

    /// Adds a tool call.
    #[must_use]
    pub fn tool_call(mut self, call: ToolCall) -> Self {
        self.tool_calls.push(call);
        self
    }

    /// States what it cost.
    #[must_use]
    pub fn usage(mut self, usage: Usage) -> Self {
        self.usage = usage;
        self
    }

    /// Adds a file.
    #[must_use]
    pub fn attachment(mut self, attachment: Attachment) -> Self {
        self.attachments.push(attachment);
        self
    }

    pub(super) fn check(&self) -> Result<(), HistoryError> {
        let fits = |what, length, limit| match length > limit {
            true => Err(HistoryError::TooLarge { what, limit }),
            false => Ok(()),
        };
        fits("the text of a message", self.text.len(), MAX_TEXT)?;
        for call in &self.tool_calls {
            let result = call.result.as_ref().map_or(0, String::len);
            let longest = call.arguments.len().max(result);
            fits("an argument or result of a tool", longest, MAX_TOOL_TEXT)?;
        }
        for file in &self.attachments {
            fits("an attachment", file.content.len(), MAX_ATTACHMENT)?;
        }
        Ok(())
    }
}

impl History {
    /// Adds a whole message to the end of a session.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::NoSuchSession`], or [`HistoryError::TooLarge`]
    /// where something is over its limit.
    pub fn append(
        &self,
        session: SessionId,
        message: &NewMessage,
    ) -> Result<MessageId, HistoryError> {
        message.check()?;
        let now = self.now();
        self.db.write(|tx| {
            touch(tx, session, now)?;
            Ok(insert(tx, session, message, State::Complete, now)?)
        })
    }

    /// Reads the messages of a session in their order: at most `limit` of
    /// those after the message `after`.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::NoSuchSession`].
    pub fn show(
        &self,
        session: SessionId,
        after: Option<MessageId>,
        limit: u32,
    ) -> Result<Vec<Message>, HistoryError> {
        let after = after.unwrap_or(MessageId(0));
        self.db.read(|tx| {
            let known = "SELECT 1 FROM history_session WHERE id = ?1";
            if tx.query_one(known, [session], |_| Ok(()))?.is_none() {
                return Err(HistoryError::NoSuchSession(session));
            }
            let sql =
                format!("{MESSAGE} WHERE m.session_id = ?1 AND m.id > ?2 ORDER BY m.id LIMIT ?3");
            let mut messages = tx.query(&sql, params![session, after, limit], read_message)?;
            for message in &mut messages {
                message.tool_calls = tool_calls(tx, message.id)?;
            }
            Ok(messages)
        })
    }

    /// Reads one message.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::NoSuchMessage`].
    pub fn message(&self, id: MessageId) -> Result<Message, HistoryError> {
        self.db.read(|tx| {
            let sql = format!("{MESSAGE} WHERE m.id = ?1");
            let found = tx.query_one(&sql, [id], read_message)?;
            let mut message = found.ok_or(HistoryError::NoSuchMessage(id))?;
            message.tool_calls = tool_calls(tx, id)?;
            Ok(message)
        })
    }

    /// Reads the files that belong to a message.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::Database`] if the database cannot be read.
    pub fn attachments(&self, message: MessageId) -> Result<Vec<Attachment>, HistoryError> {
        Ok(self.db.read(|tx| attachments(tx, message))?)
    }

    /// Notes what a tool answered to a call of an earlier message.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::NoSuchMessage`] if that message has no such
    /// call, or [`HistoryError::TooLarge`].
    pub fn set_tool_result(
        &self,
        message: MessageId,
        call_id: &str,
        result: &str,
    ) -> Result<(), HistoryError> {
        if result.len() > MAX_TOOL_TEXT {
            return Err(HistoryError::TooLarge {
                what: "the result of a tool",
                limit: MAX_TOOL_TEXT,
            });
        }
        let sql = "UPDATE history_tool_call SET result = ?3 WHERE message_id = ?1 AND call_id = ?2";
        match self
            .db
            .write(|tx| tx.execute(sql, params![message, call_id, result]))?
        {
            0 => Err(HistoryError::NoSuchMessage(message)),
            _ => Ok(()),
        }
    }

    /// Deletes one message, beyond recovery.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::NoSuchMessage`].
    pub fn delete_message(&self, id: MessageId) -> Result<(), HistoryError> {
        let sql = "DELETE FROM history_message WHERE id = ?1";
        match self.db.write(|tx| tx.execute(sql, [id]))? {
            0 => Err(HistoryError::NoSuchMessage(id)),
            _ => self.forget_deleted(),
        }
    }
}

pub(super) const MESSAGE: &str = "
    SELECT m.id, m.session_id, m.role, m.state,
           CASE m.state WHEN 'streaming' THEN coalesce(
               (SELECT group_concat(c.text, '' ORDER BY c.number)
                FROM history_chunk c WHERE c.message_id = m.id), '') ELSE m.text END,
           m.created_ms, m.input_tokens, m.output_tokens,
           (SELECT count(*) FROM history_attachment a WHERE a.message_id = m.id)
    FROM history_message m";

pub(super) fn read_message(row: &Row<'_>) -> RowResult<Message> {
    let state = match row.get_ref(3)?.as_str().unwrap_or_default() {
        "streaming" => State::Streaming,
        "complete" => State::Complete,
        _ => State::Interrupted,
    };
    Ok(Message {
        id: row.get(0)?,
        session: row.get(1)?,
        role: read_role(row, 2)?,
        state,
        text: row.get(4)?,
        created_ms: row.get(5)?,
        usage: Usage {
            input_tokens: row.get(6)?,
            output_tokens: row.get(7)?,
        },
        tool_calls: Vec::new(),
        attachments: row.get::<_, i64>(8)?.unsigned_abs(),
    })
}

pub(super) fn read_role(row: &Row<'_>, column: usize) -> RowResult<Role> {
    let text = row.get_ref(column)?.as_str().unwrap_or_default();
    text.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            Box::new(error),
        )
    })
}

pub(super) fn tool_calls(
    tx: &ReadTx<'_>,
    message: MessageId,
) -> Result<Vec<ToolCall>, DatabaseError> {
    let sql = "SELECT call_id, name, arguments, result FROM history_tool_call
               WHERE message_id = ?1 ORDER BY number";
    tx.query(sql, [message], |row| {
        Ok(ToolCall {
            id: row.get(0)?,
            name: row.get(1)?,
            arguments: row.get(2)?,
            result: row.get(3)?,
        })
    })
}

pub(super) fn attachments(
    tx: &ReadTx<'_>,
    message: MessageId,
) -> Result<Vec<Attachment>, DatabaseError> {
    let sql = "SELECT name, media_type, content FROM history_attachment
               WHERE message_id = ?1 ORDER BY id";
    tx.query(sql, [message], |row| {
        Ok(Attachment {
            name: row.get(0)?,
            media_type: row.get(1)?,
            content: row.get(2)?,
        })
    })
}

/// Notes that a session was written to.
pub(super) fn touch(tx: &Tx<'_>, session: SessionId, now: i64) -> Result<(), HistoryError> {
    let sql = "UPDATE history_session SET updated_ms = max(updated_ms, ?2) WHERE id = ?1";
    match tx.execute(sql, params![session, now])? {
        0 => Err(HistoryError::NoSuchSession(session)),
        _ => Ok(()),
    }
}

pub(super) fn insert(
    tx: &Tx<'_>,
    session: SessionId,
    message: &NewMessage,
    state: State,
    created_ms: i64,
) -> Result<MessageId, DatabaseError> {
    let sql = "INSERT INTO history_message
               (session_id, role, state, text, created_ms, touched_ms, input_tokens, output_tokens)
               VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, ?7)";
    let Usage {
        input_tokens,
        output_tokens,
    } = message.usage;
    let (role, state) = (message.role.as_str(), state.as_str());
    let id = tx.insert(
        sql,
        params![
            session,
            role,
            state,
            message.text,
            created_ms,
            input_tokens,
            output_tokens
        ],
    )?;
    insert_tool_calls(tx, MessageId(id), &message.tool_calls)?;
    for file in &message.attachments {
        let sql = "INSERT INTO history_attachment (message_id, name, media_type, content)
                   VALUES (?1, ?2, ?3, ?4)";
        tx.execute(sql, params![id, file.name, file.media_type, file.content])?;
    }
    Ok(MessageId(id))
}

pub(super) fn insert_tool_calls(
    tx: &Tx<'_>,
    message: MessageId,
    calls: &[ToolCall],
) -> Result<(), DatabaseError> {
    for (number, call) in calls.iter().enumerate() {
        let sql = "INSERT INTO history_tool_call VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        tx.execute(
            sql,
            params![
                message,
                number,
                call.id,
                call.name,
                call.arguments,
                call.result
            ],
        )?;
    }
    Ok(())
}
