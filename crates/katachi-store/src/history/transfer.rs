//! Export and import as JSON Lines.

use std::io::{BufRead, Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::jsonl::{AttachmentRecord, LineError, MAX_LINE, MessageRecord, Record, State, VERSION};
use super::message::{self, Attachment, MESSAGE, NewMessage, Usage, read_message};
use super::session::{check_name, make_session, make_workspace};
use super::{History, HistoryError, SessionId, WorkspaceId};
use crate::database::{Tx, params};

/// Records imported in one transaction.
const BATCH: usize = 1000;

/// How much was exported or imported.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Transferred {
    /// Workspaces met, counting one again where it comes again.
    pub workspaces: u64,
    /// Sessions.
    pub sessions: u64,
    /// Messages.
    pub messages: u64,
}

impl History {
    /// Writes everything as JSON Lines (see [`super::jsonl`]), in constant
    /// memory and as of one moment. Messages still being written are marked
    /// interrupted.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::Io`] if `out` fails.
    pub fn export(&self, mut out: impl Write) -> Result<Transferred, HistoryError> {
        let mut count = Transferred::default();
        let mut line = |record: &Record| -> Result<(), HistoryError> {
            let mut text = record.to_line();
            text.push('\n');
            Ok(out.write_all(text.as_bytes())?)
        };
        line(&Record::Header { version: VERSION })?;
        self.db.read(|tx| {
            let workspaces = "SELECT id, name, created_ms FROM history_workspace ORDER BY id";
            tx.for_each(workspaces, [], |row| {
                let workspace: WorkspaceId = column(row, 0)?;
                line(&Record::Workspace {
                    name: column(row, 1)?,
                    created_ms: column(row, 2)?,
                })?;
                count.workspaces += 1;
                let sessions = "SELECT id, title, created_ms, updated_ms FROM history_session
                                WHERE workspace_id = ?1 ORDER BY id";
                tx.for_each(sessions, [workspace], |row| {
                    let session: SessionId = column(row, 0)?;
                    line(&Record::Session {
                        title: column(row, 1)?,
                        created_ms: column(row, 2)?,
                        updated_ms: column(row, 3)?,
                    })?;
                    count.sessions += 1;
                    let messages = format!("{MESSAGE} WHERE m.session_id = ?1 ORDER BY m.id");
                    tx.for_each(&messages, params![session], |row| {
                        let message =
                            read_message(row).map_err(crate::database::DatabaseError::from)?;
                        let calls = message::tool_calls(tx, message.id)?;
                        let files = match message.attachments {
                            0 => Vec::new(),
                            _ => message::attachments(tx, message.id)?,
                        };
                        count.messages += 1;
                        line(&Record::Message(MessageRecord {
                            role: message.role,
                            state: match message.state {
                                State::Complete => State::Complete,
                                State::Streaming | State::Interrupted => State::Interrupted,
                            },
                            text: message.text,
                            created_ms: message.created_ms,
                            input_tokens: message.usage.input_tokens,
                            output_tokens: message.usage.output_tokens,
                            tool_calls: calls,
                            attachments: files.into_iter().map(to_record).collect(),
                        }))
                    })
                })
            })
        })?;
        out.flush()?;
        Ok(count)
    }

    /// Adds everything from JSON Lines, in constant memory, calling `progress`
    /// now and then. Workspaces are joined by name; sessions are always added.
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::Import`] at the first line that cannot be read;
    /// what came before it stays.
    pub fn import(
        &self,
        input: impl BufRead,
        mut progress: impl FnMut(Transferred),
    ) -> Result<Transferred, HistoryError> {
        let mut reader = Reader { input, line: 0 };
        let mut importer = Importer::default();
        loop {
            let mut batch = Vec::with_capacity(BATCH);
            let mut broken = None;
            let mut bytes = 0;
            while batch.len() < BATCH && bytes < MAX_LINE {
                match reader.next() {
                    Ok(Some((record, length))) => {
                        bytes += length;
                        batch.push((reader.line, record));
                    }
                    Ok(None) => break,
                    Err(error) => {
                        broken = Some(error);
                        break;
                    }
                }
            }
            let ended = batch.is_empty();
            if !ended {
                let outcome = self.db.write(|tx| importer.add(tx, batch));
                importer = outcome?;
            }
            progress(importer.count);
            match broken {
                Some(ReadError::Line(reason)) => return Err(importer.refuse(reader.line, reason)),
                Some(ReadError::Io(error)) => return Err(error.into()),
                None if ended => return Ok(importer.count),
                None => {}
            }
        }
    }
}

/// Where the import stands.
#[derive(Clone, Copy, Debug, Default)]
struct Importer {
    header: bool,
    workspace: Option<WorkspaceId>,
    session: Option<SessionId>,
    count: Transferred,
}

impl Importer {
    /// Adds a batch and returns where the import then stands.
    fn add(mut self, tx: &Tx<'_>, batch: Vec<(u64, Record)>) -> Result<Self, HistoryError> {
        let before = self;
        for (line, record) in batch {
            self.add_one(tx, record).map_err(|error| match error {
                Refused::Line(reason) => before.refuse(line, reason),
                Refused::History(error) => error,
            })?;
        }
        Ok(self)
    }

    fn add_one(&mut self, tx: &Tx<'_>, record: Record) -> Result<(), Refused> {
        match record {
            Record::Header { .. } => {
                // Files may be joined: another header begins another file.
                (self.header, self.workspace, self.session) = (true, None, None);
            }
            _ if !self.header => return Err(Refused::Line(LineError::NoHeader)),
            Record::Workspace { name, created_ms } => {
                check_name("", &name).map_err(|_| LineError::TooLarge("the name"))?;
                self.workspace = Some(make_workspace(tx, &name, created_ms)?);
                self.session = None;
                self.count.workspaces += 1;
            }
            Record::Session {
                title,
                created_ms,
                updated_ms,
            } => {
                check_name("", &title).map_err(|_| LineError::TooLarge("the title"))?;
                let workspace = self.workspace.ok_or(LineError::OutOfPlace)?;
                let session = make_session(tx, workspace, &title, created_ms, updated_ms);
                self.session = Some(session.map_err(HistoryError::from)?);
                self.count.sessions += 1;
            }
            Record::Message(record) => {
                let session = self.session.ok_or(LineError::OutOfPlace)?;
                let (state, created_ms) = (record.state, record.created_ms);
                let message = from_record(record)?;
                message
                    .check()
                    .map_err(|_| LineError::TooLarge("the message"))?;
                message::insert(tx, session, &message, state, created_ms)
                    .map_err(HistoryError::from)?;
                self.count.messages += 1;
            }
        }
        Ok(())
    }

    fn refuse(&self, line: u64, reason: LineError) -> HistoryError {
        HistoryError::Import {
            line,
            reason,
            messages: self.count.messages,
        }
    }
}

enum Refused {
    Line(LineError),
    History(HistoryError),
}

impl From<LineError> for Refused {
    fn from(reason: LineError) -> Self {
        Self::Line(reason)
    }
}

impl From<HistoryError> for Refused {
    fn from(error: HistoryError) -> Self {
        Self::History(error)
    }
}

/// Reads lines of bounded length.
struct Reader<R> {
    input: R,
    line: u64,
}

enum ReadError {
    Line(LineError),
    Io(std::io::Error),
}

impl<R: BufRead> Reader<R> {
    /// The next record and its length in bytes; empty lines are skipped.
    fn next(&mut self) -> Result<Option<(Record, usize)>, ReadError> {
        loop {
            self.line += 1;
            let mut bytes = Vec::new();
            let mut bounded = self.input.by_ref().take(MAX_LINE as u64 + 1);
            let length = bounded
                .read_until(b'\n', &mut bytes)
                .map_err(ReadError::Io)?;
            if length == 0 {
                return Ok(None);
            }
            if length > MAX_LINE {
                return Err(ReadError::Line(LineError::TooLong));
            }
            let text = std::str::from_utf8(&bytes).map_err(|error| {
                ReadError::Line(LineError::Malformed {
                    column: error.valid_up_to() + 1,
                })
            })?;
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let record = Record::parse(text).map_err(ReadError::Line)?;
            return Ok(Some((record, length)));
        }
    }
}

fn to_record(file: Attachment) -> AttachmentRecord {
    AttachmentRecord {
        name: file.name,
        media_type: file.media_type,
        base64: STANDARD.encode(file.content),
    }
}

fn from_record(record: MessageRecord) -> Result<NewMessage, LineError> {
    let mut message = NewMessage::new(record.role, record.text).usage(Usage {
        input_tokens: record.input_tokens,
        output_tokens: record.output_tokens,
    });
    message.tool_calls = record.tool_calls;
    for file in record.attachments {
        message.attachments.push(Attachment {
            name: file.name,
            media_type: file.media_type,
            content: STANDARD
                .decode(file.base64)
                .map_err(|_| LineError::Base64)?,
        });
    }
    Ok(message)
}

/// One column of a row that is visited rather than collected.
fn column<T: crate::database::FromSql>(
    row: &crate::database::Row<'_>,
    index: usize,
) -> Result<T, HistoryError> {
    Ok(row
        .get(index)
        .map_err(crate::database::DatabaseError::from)?)
}
