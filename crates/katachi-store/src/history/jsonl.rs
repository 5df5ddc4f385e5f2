//! The text form of a history: JSON Lines, one record per line.
//!
//! The first line names format and version. Then each workspace is followed by
//! its sessions, each session by its messages, in their order; there are no
//! ids, so that files can be joined and imported anywhere.
//!
//! ```text
//! {"type":"katachi-history","version":1}
//! {"type":"workspace","name":"/home/mia/orchard","created_ms":1767225600000}
//! {"type":"session","title":"Pruning","created_ms":1767225600000,"updated_ms":1767225601000}
//! {"type":"message","role":"user","state":"complete","text":"When?","created_ms":1767225600500}
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The format's version, in its first line.
pub const VERSION: u32 = 1;

/// Longest line read, in bytes.
pub const MAX_LINE: usize = 64 * 1024 * 1024;

/// Who a message is from.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions to the model.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool.
    Tool,
}

impl Role {
    /// The role's name in files and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no role.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a role is system, user, assistant or tool")]
pub struct UnknownRole;

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        [Self::System, Self::User, Self::Assistant, Self::Tool]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(UnknownRole)
    }
}

/// How far a message has come.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Still being written.
    Streaming,
    /// Whole.
    Complete,
    /// Cut off; the text is what had been written.
    Interrupted,
}

impl State {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Streaming => "streaming",
            Self::Complete => "complete",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A tool that the model asked for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// The model's name for this call.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Its arguments, usually JSON.
    pub arguments: String,
    /// What it answered, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
}

/// One line.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
#[non_exhaustive]
pub enum Record {
    /// The first line.
    #[serde(rename = "katachi-history")]
    Header {
        /// [`VERSION`].
        version: u32,
    },
    /// The sessions that follow belong to this workspace.
    Workspace {
        /// Its name, usually a directory.
        name: String,
        /// When it was first seen, in milliseconds since 1970.
        created_ms: i64,
    },
    /// The messages that follow belong to this session.
    Session {
        /// Its title.
        title: String,
        /// When it began, in milliseconds since 1970.
        created_ms: i64,
        /// When its last message was written, in milliseconds since 1970.
        updated_ms: i64,
    },
    /// A message.
    Message(MessageRecord),
}

/// A message as a line.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MessageRecord {
    /// Who it is from.
    pub role: Role,
    /// Complete, or interrupted.
    pub state: State,
    /// The text.
    pub text: String,
    /// When it began, in milliseconds since 1970.
    pub created_ms: i64,
    /// Tokens the model read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u32>,
    /// Tokens the model wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u32>,
    /// Tools asked for, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Files that belong to it, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<AttachmentRecord>,
}

/// A file that belongs to a message.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AttachmentRecord {
    /// Its name.
    pub name: String,
    /// Its media type.
    pub media_type: String,
    /// Its content in standard base64 with padding.
    pub base64: String,
}

/// Why a line cannot be imported.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// Longer than [`MAX_LINE`].
    #[error("longer than {MAX_LINE} bytes")]
    TooLong,
    /// Not a record of this format.
    #[error("not a record of this format, at column {column}")]
    Malformed {
        /// Where reading stopped, in bytes from 1.
        column: usize,
    },
    /// The file does not begin with the format's name.
    #[error(
        "the first line of a history names its format: {{\"type\":\"katachi-history\",\"version\":1}}"
    )]
    NoHeader,
    /// A newer format.
    #[error("written by a newer version (format {0}): use a newer program")]
    Newer(u32),
    /// A message before any session, or a session before any workspace.
    #[error("a message follows its session, and a session its workspace")]
    OutOfPlace,
    /// A message that claims to be in the middle of being written.
    #[error("a message in a file is complete or interrupted")]
    Unfinished,
    /// An attachment is not base64.
    #[error("an attachment is not base64")]
    Base64,
    /// A field is larger than the history keeps.
    #[error("{0} is too large")]
    TooLarge(&'static str),
}

impl Record {
    /// Reads one line.
    ///
    /// # Errors
    ///
    /// Returns [`LineError::Malformed`] for anything that is not one record.
    pub fn parse(line: &str) -> Result<Self, LineError> {
        if line.len() > MAX_LINE {
            return Err(LineError::TooLong);
        }
        let record: Self = serde_json::from_str(line).map_err(|error| LineError::Malformed {
            column: error.column(),
        })?;
        match &record {
            Self::Header { version } if *version > VERSION => Err(LineError::Newer(*version)),
            Self::Message(message) if message.state == State::Streaming => {
                Err(LineError::Unfinished)
            }
            _ => Ok(record),
        }
    }

    /// Writes one line, without its end.
    #[must_use]
    pub fn to_line(&self) -> String {
        // Strings, numbers and lists of them always have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{LineError, MessageRecord, Record, Role, State, ToolCall};

    fn message() -> Record {
        Record::Message(MessageRecord {
            role: Role::Assistant,
            state: State::Complete,
            text: "one\ntwo \u{2028} \" ü".into(),
            created_ms: -5,
            input_tokens: Some(3),
            output_tokens: None,
            tool_calls: vec![ToolCall {
                id: "1".into(),
                name: "ls".into(),
                arguments: "{}".into(),
                result: None,
            }],
            attachments: Vec::new(),
        })
    }

    #[test]
    fn a_record_is_one_line_and_reads_back_equal() {
        let line = message().to_line();
        assert!(!line.contains('\n'));
        assert_eq!(Record::parse(&line), Ok(message()));
    }

    #[test]
    fn refuses_unknown_fields_newer_formats_and_unfinished_messages() {
        let refused = |line: &str| Record::parse(line).unwrap_err();
        assert!(matches!(
            refused(r#"{"type":"workspace","name":"a","created_ms":1,"extra":1}"#),
            LineError::Malformed { .. }
        ));
        assert_eq!(
            refused(r#"{"type":"katachi-history","version":2}"#),
            LineError::Newer(2)
        );
        let unfinished = message().to_line().replace("complete", "streaming");
        assert_eq!(refused(&unfinished), LineError::Unfinished);
        assert!(matches!(
            refused(
                r#"{"type":"message","role":"user","state":"complete","text":"a","created_ms":1,"x":1}"#
            ),
            LineError::Malformed { .. }
        ));
    }
}
