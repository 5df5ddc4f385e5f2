//! Workspace memory: what an assistant was asked to remember.
//!
//! Entries have a namespace (a workspace, a person, a tool), a key, a text and
//! tags. They are found by key, by tag or by their words, and kept within
//! [`Limits`], so that a chatty assistant cannot fill the disk.
//!
//! ```
//! use katachi_store::database::{Database, DatabaseKey, Options};
//! use katachi_store::memory::Memory;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let db = Database::open(dir.path().join("memory.db"), &DatabaseKey::generate()?, Options::new())?;
//! let memory = Memory::open(&db)?;
//!
//! memory.set("orchard", "pruning", "Plum trees are pruned in summer.", &["garden"])?;
//! assert_eq!(memory.get("orchard", "pruning")?.expect("kept").value, "Plum trees are pruned in summer.");
//! assert_eq!(memory.search(Some("orchard"), "plum tree*", 10)?.len(), 1);
//! memory.remove("orchard", "pruning")?;
//! # Ok(())
//! # }
//! ```

mod entry;
mod error;
mod schema;

pub use entry::{Entry, Limits, MemoryActivity, NamespaceUse};
pub use error::MemoryError;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::database::Database;

/// The memory in one database. Clones share it.
#[derive(Clone)]
pub struct Memory {
    db: Database,
    limits: Limits,
    clock: Arc<dyn Fn() -> i64 + Send + Sync>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory")
            .field("db", &self.db)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Memory {
    /// Opens the memory in `db`, creating its tables (all named `memory_…`)
    /// where they are missing.
    ///
    /// # Errors
    ///
    /// Returns [`MemoryError::Database`] if the tables cannot be made or
    /// belong to a newer version.
    pub fn open(db: &Database) -> Result<Self, MemoryError> {
        db.migrate_component("memory", schema::STEPS)?;
        Ok(Self {
            db: db.clone(),
            limits: Limits::default(),
            clock: Arc::new(system_clock),
        })
    }

    /// Keeps within `limits` from now on. Entries that are already there stay.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Takes the time from `clock`, in milliseconds since 1970.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
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
