//! Chat history: workspaces, sessions and messages, with search.
//!
//! Everything lies in one encrypted [`Database`], shared if you like with
//! tables of your own. Messages that arrive piece by piece are written as they
//! come ([`Stream`]), so that a crash costs at most the last quarter of a
//! second. What is deleted is gone: rows and index entries are overwritten.
//!
//! ```
//! use katachi_store::database::{Database, DatabaseKey, Options};
//! use katachi_store::history::{History, NewMessage, Role};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let db = Database::open(dir.path().join("history.db"), &DatabaseKey::generate()?, Options::new())?;
//! let history = History::open(&db)?;
//!
//! let workspace = history.workspace("/home/mia/orchard")?;
//! let session = history.start_session(workspace, "Pruning")?;
//! history.append(session, &NewMessage::new(Role::User, "When do I prune plum trees?"))?;
//!
//! let mut answer = history.begin(session, Role::Assistant)?;
//! answer.push("In summer, ")?;
//! answer.push("after the harvest.")?;
//! answer.finish()?;
//!
//! let hits = history.search("plum", 20)?;
//! assert_eq!(hits[0].session, session);
//! assert_eq!(history.show(session, None, 100)?.len(), 2);
//! # Ok(())
//! # }
//! ```

mod error;
pub mod jsonl;
mod message;
mod schema;
mod search;
mod session;
mod stream;
mod transfer;

pub use error::HistoryError;
pub use jsonl::{Role, State, ToolCall};
pub use message::{Attachment, Message, MessageId, NewMessage, Usage};
pub use search::{Hit, Search};
pub use session::{Activity, Session, SessionId, Workspace, WorkspaceId};
pub use stream::Stream;
pub use transfer::Transferred;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::database::Database;

/// A stream that wrote nothing for this long was cut off by a crash.
const STREAM_LEASE: Duration = Duration::from_secs(600);

/// Milliseconds since 1970, UTC.
type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The chat history in one database. Clones share it.
#[derive(Clone)]
pub struct History {
    db: Database,
    clock: Clock,
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History")
            .field("db", &self.db)
            .finish_non_exhaustive()
    }
}

impl History {
    /// Opens the history in `db`, creating its tables (all named `history_…`)
    /// where they are missing, and closes streams that a crash cut off: those
    /// that wrote nothing for ten minutes. A writer that may be silent for
    /// longer calls [`Stream::flush`] meanwhile, or others open the history
    /// with [`History::open_beside`].
    ///
    /// # Errors
    ///
    /// Returns [`HistoryError::Database`] if the tables cannot be made or
    /// belong to a newer version.
    pub fn open(db: &Database) -> Result<Self, HistoryError> {
        Self::open_at(db, Arc::new(system_clock))
    }

    /// As [`History::open`], with the time taken from `clock`, in milliseconds
    /// since 1970.
    ///
    /// # Errors
    ///
    /// As for [`History::open`].
    pub fn with_clock(
        db: &Database,
        clock: impl Fn() -> i64 + Send + Sync + 'static,
    ) -> Result<Self, HistoryError> {
        Self::open_at(db, Arc::new(clock))
    }

    /// As [`History::open`], and closes no stream: for callers that know better than
    /// by time whether who wrote them still lives, for instance by a lock. They call
    /// [`History::close_abandoned_streams`] where it does not.
    ///
    /// # Errors
    ///
    /// As for [`History::open`].
    pub fn open_beside(db: &Database) -> Result<Self, HistoryError> {
        Self::attached(db, Arc::new(system_clock))
    }

    fn open_at(db: &Database, clock: Clock) -> Result<Self, HistoryError> {
        let history = Self::attached(db, clock)?;
        history.close_abandoned_streams(STREAM_LEASE)?;
        Ok(history)
    }

    fn attached(db: &Database, clock: Clock) -> Result<Self, HistoryError> {
        db.migrate_component("history", schema::STEPS)?;
        Ok(Self {
            db: db.clone(),
            clock,
        })
    }

    /// The database below, for instance to back it up.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.db
    }

    fn now(&self) -> i64 {
        (self.clock)()
    }
}

fn system_clock() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
