//! A message that arrives piece by piece.

use std::time::{Duration, Instant};

use super::jsonl::{Role, State, ToolCall};
use super::message::{self, MAX_TEXT, NewMessage, Usage};
use super::{History, HistoryError, MessageId, SessionId};
use crate::database::{DatabaseError, Tx, params};

/// Unwritten text is written when it is this long, in bytes …
const FLUSH_BYTES: usize = 4096;
/// … or this old at the next push.
const FLUSH_AFTER: Duration = Duration::from_millis(250);

/// A message being written.
///
/// Pieces are kept as rows of their own and joined at the end, so that a long
/// message is not rewritten at each step. Other threads and processes see what
/// was flushed. Dropping the stream, or a crash, leaves the message
/// [`State::Interrupted`] with what had been written.
#[derive(Debug)]
pub struct Stream {
    history: History,
    id: MessageId,
    pending: String,
    written: usize,
    flushed_at: Instant,
    closed: bool,
}

impl History {
    /// Begins a message that is written piece by piece.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::NoSuchSession`].
    pub fn begin(&self, session: SessionId, role: Role) -> Result<Stream, HistoryError> {
        let now = self.now();
        let id = self.db.write(|tx| {
            message::touch(tx, session, now)?;
            let empty = NewMessage::new(role, String::new());
            Ok::<_, HistoryError>(message::insert(tx, session, &empty, State::Streaming, now)?)
        })?;
        Ok(Stream {
            history: self.clone(),
            id,
            pending: String::new(),
            written: 0,
            flushed_at: Instant::now(),
            closed: false,
        })
    }

    /// Closes streams that wrote nothing for at least `idle`, as a crash
    /// leaves them: their messages become [`State::Interrupted`] and can be
    /// searched. Returns how many. Opening the history does this for streams
    /// idle for ten minutes.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::Database`] if the database refuses.
    pub fn close_abandoned_streams(&self, idle: Duration) -> Result<u64, HistoryError> {
        let idle = i64::try_from(idle.as_millis()).unwrap_or(i64::MAX);
        let before = self.now().saturating_sub(idle);
        let find = "SELECT id FROM history_message WHERE state = 'streaming' AND touched_ms <= ?1";
        // Most often there is none, and no reason to wait for a writer.
        let any = self
            .db
            .read(|tx| tx.query_one(find, [before], |_| Ok(())))?;
        if any.is_none() {
            return Ok(0);
        }
        Ok(self.db.write(|tx| {
            let abandoned: Vec<MessageId> = tx.query(find, [before], |row| row.get(0))?;
            for id in &abandoned {
                close(tx, *id, State::Interrupted, Usage::default())?;
            }
            Ok::<_, DatabaseError>(abandoned.len() as u64)
        })?)
    }
}

impl Stream {
    /// The message being written.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Adds a piece of text. It is on disk after 4 KiB or a quarter of a
    /// second, whichever comes first, or when [`Stream::flush`] is called.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::TooLarge`] beyond 8 MiB of text, and
    /// [`HistoryError::StreamEnded`] if the message was deleted or closed
    /// meanwhile.
    pub fn push(&mut self, text: &str) -> Result<(), HistoryError> {
        if self.written + self.pending.len() + text.len() > MAX_TEXT {
            return Err(HistoryError::TooLarge {
                what: "the text of a message",
                limit: MAX_TEXT,
            });
        }
        self.pending.push_str(text);
        if self.pending.len() >= FLUSH_BYTES || self.flushed_at.elapsed() >= FLUSH_AFTER {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what has not been written yet.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::StreamEnded`] if the message was deleted or
    /// closed meanwhile; the text is kept for another attempt after any other
    /// error.
    pub fn flush(&mut self) -> Result<(), HistoryError> {
        let now = self.history.now();
        self.history.db.write(|tx| self.write_pending(tx, now))?;
        self.written += self.pending.len();
        self.pending.clear();
        self.flushed_at = Instant::now();
        Ok(())
    }

    /// Ends the message as complete.
    ///
    /// # Errors
    ///
    /// As for [`Stream::flush`].
    pub fn finish(self) -> Result<MessageId, HistoryError> {
        self.finish_with(Usage::default(), &[])
    }

    /// Ends the message as complete, with what it cost and the tools it asks
    /// for.
    ///
    /// # Errors
    ///
    /// As for [`Stream::flush`].
    pub fn finish_with(
        mut self,
        usage: Usage,
        calls: &[ToolCall],
    ) -> Result<MessageId, HistoryError> {
        self.end(State::Complete, usage, calls)?;
        Ok(self.id)
    }

    fn end(&mut self, state: State, usage: Usage, calls: &[ToolCall]) -> Result<(), HistoryError> {
        let now = self.history.now();
        self.history.db.write(|tx| {
            self.write_pending(tx, now)?;
            message::insert_tool_calls(tx, self.id, calls)?;
            Ok::<_, HistoryError>(close(tx, self.id, state, usage)?)
        })?;
        self.closed = true;
        Ok(())
    }

    fn write_pending(&self, tx: &Tx<'_>, now: i64) -> Result<(), HistoryError> {
        let sql =
            "UPDATE history_message SET touched_ms = ?2 WHERE id = ?1 AND state = 'streaming'";
        if tx.execute(sql, params![self.id, now])? == 0 {
            return Err(HistoryError::StreamEnded(self.id));
        }
        if !self.pending.is_empty() {
            let sql = "INSERT INTO history_chunk (message_id, number, text)
                       SELECT ?1, coalesce(max(number), 0) + 1, ?2
                       FROM history_chunk WHERE message_id = ?1";
            tx.execute(sql, params![self.id, self.pending])?;
        }
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.closed {
            // Best effort: what cannot be written now is closed as abandoned
            // when the history is opened again.
            let _ = self.end(State::Interrupted, Usage::default(), &[]);
        }
    }
}

/// Joins the pieces and lets the search see the message.
fn close(tx: &Tx<'_>, id: MessageId, state: State, usage: Usage) -> Result<(), DatabaseError> {
    let sql = "UPDATE history_message
               SET text = coalesce((SELECT group_concat(text, '' ORDER BY number)
                                    FROM history_chunk WHERE message_id = ?1), ''),
                   state = ?2, input_tokens = ?3, output_tokens = ?4
               WHERE id = ?1 AND state = 'streaming'";
    tx.execute(
        sql,
        params![id, state.as_str(), usage.input_tokens, usage.output_tokens],
    )?;
    tx.execute("DELETE FROM history_chunk WHERE message_id = ?1", [id])?;
    Ok(())
}
