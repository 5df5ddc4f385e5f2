//! Which session of a program goes on with which conversation.

use katachi_store::memory::Memory;
use serde::{Deserialize, Serialize};

/// Where the encrypted database keeps them.
const NAMESPACE: &str = "katachi-agent/acp-sessions";
/// Longest name of a session that is kept, in bytes.
const MAX_ID: usize = 1024;

/// What is known of the sessions of one conversation.
pub(super) struct Sessions<'a> {
    memory: &'a Memory,
    conversation: &'a str,
    argv: &'a [String],
}

/// One session of a program.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Session {
    /// Which program had it.
    argv: Vec<String>,
    /// Its name there.
    pub(super) id: String,
    /// Whether an answer was begun and not ended.
    pub(super) is_interrupted: bool,
}

impl<'a> Sessions<'a> {
    pub(super) fn new(memory: &'a Memory, conversation: &'a str, argv: &'a [String]) -> Self {
        Self {
            memory,
            conversation,
            argv,
        }
    }

    /// The last one, if the same program had it.
    ///
    /// # Errors
    ///
    /// Returns an error if the database cannot be read.
    pub(super) fn last(&self) -> anyhow::Result<Option<Session>> {
        let entry = self.memory.get(NAMESPACE, self.conversation)?;
        let session = entry.and_then(|entry| serde_json::from_str::<Session>(&entry.value).ok());
        Ok(session.filter(|session| session.argv == self.argv))
    }

    /// Forgets the last one, so that another begins.
    ///
    /// # Errors
    ///
    /// Returns an error if the database cannot be written.
    pub(super) fn forget(&self) -> anyhow::Result<()> {
        self.memory.remove(NAMESPACE, self.conversation)?;
        Ok(())
    }

    /// Keeps the one that goes on; `is_interrupted` until its answer ended.
    ///
    /// # Errors
    ///
    /// Returns an error if the database cannot be written, or the name is too long.
    pub(super) fn keep(&self, id: &str, is_interrupted: bool) -> anyhow::Result<()> {
        anyhow::ensure!(
            id.len() <= MAX_ID,
            "the program named its session with more than {MAX_ID} bytes"
        );
        let session = Session {
            argv: self.argv.to_vec(),
            id: id.to_owned(),
            is_interrupted,
        };
        let value = serde_json::to_string(&session)?;
        self.memory
            .set(NAMESPACE, self.conversation, &value, &[])
            .map_err(anyhow::Error::from)
    }
}
