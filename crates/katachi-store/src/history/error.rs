//! What can go wrong with the history.

use super::jsonl::LineError;
use super::{MessageId, SessionId, WorkspaceId};
use crate::database::DatabaseError;

/// Why the history refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    // The caller.
    /// There is no such workspace; it may have been deleted.
    #[error("there is no workspace {0}")]
    NoSuchWorkspace(WorkspaceId),
    /// There is no such session; it may have been deleted.
    #[error("there is no session {0}")]
    NoSuchSession(SessionId),
    /// There is no such message; it may have been deleted.
    #[error("there is no message {0}")]
    NoSuchMessage(MessageId),
    /// The stream's message was deleted, or closed because nothing was written
    /// to it for ten minutes.
    #[error("message {0} is no longer being written")]
    StreamEnded(MessageId),
    /// A text is larger than the history keeps.
    #[error("{what} has at most {limit} bytes")]
    TooLarge {
        /// Which text.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
    },

    // The file being imported.
    /// A line cannot be read. Lines before it were imported.
    #[error("line {line} of the import: {reason}")]
    Import {
        /// The line, counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: LineError,
        /// Messages imported before it.
        messages: u64,
    },

    // The machine.
    /// Reading or writing the transfer failed.
    #[error("the export or import file cannot be read or written")]
    Io(#[from] std::io::Error),
    /// The database refused.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}
