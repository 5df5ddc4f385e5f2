//! Conversations with the AI, kept in the encrypted database.

use std::time::Duration;

use katachi_protocol::record::HistoryHit;
use katachi_store::history::{
    History, Message, NewMessage, Role, Search, Session, SessionId, Stream, WorkspaceId,
};

use crate::home::Home;

/// Longest title taken from a first message, in characters.
const TITLE: usize = 60;

/// The conversations of one workspace.
#[derive(Clone, Debug)]
pub(crate) struct Chat {
    history: History,
    workspace: WorkspaceId,
}

impl Chat {
    /// Opens the conversations about `workspace`.
    ///
    /// # Errors
    ///
    /// Returns an error if the database cannot be opened.
    pub(crate) fn open(home: &Home, workspace: &std::path::Path) -> anyhow::Result<Self> {
        let history = History::open_beside(&home.database()?)?;
        let workspace = history.workspace(&workspace.display().to_string())?;
        Ok(Self { history, workspace })
    }

    /// Marks answers that were being written when an agent of this home was killed as
    /// interrupted; returns how many. For the only agent that runs in it.
    ///
    /// # Errors
    ///
    /// Returns an error if the database cannot be written.
    pub(crate) fn close_abandoned(&self) -> anyhow::Result<u64> {
        Ok(self.history.close_abandoned_streams(Duration::ZERO)?)
    }

    /// Keeps what the person wrote and names the conversation, a new one
    /// unless `session` names one of this workspace.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such conversation or it cannot be written.
    pub(crate) fn hear(&self, session: Option<&str>, text: &str) -> anyhow::Result<String> {
        let session = match session {
            None => self.history.start_session(self.workspace, &title(text))?,
            Some(named) => self.session(named)?.id,
        };
        self.history
            .append(session, &NewMessage::new(Role::User, text))?;
        Ok(session.to_string())
    }

    /// A conversation of this workspace.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such conversation here or it cannot be read.
    pub(crate) fn session(&self, named: &str) -> anyhow::Result<Session> {
        let known = self.history.session(session_id(named)?)?;
        if known.workspace != self.workspace {
            anyhow::bail!("session {named} belongs to another workspace");
        }
        Ok(known)
    }

    /// The `limit` conversations of this workspace that were written to last, newest first.
    ///
    /// # Errors
    ///
    /// Returns an error if the database cannot be read.
    pub(crate) fn sessions(&self, limit: u32) -> anyhow::Result<Vec<Session>> {
        Ok(self.history.list_sessions(Some(self.workspace), limit, 0)?)
    }

    /// Forgets a conversation of this workspace for ever.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such conversation here or it cannot be written.
    pub(crate) fn forget(&self, named: &str) -> anyhow::Result<()> {
        Ok(self.history.delete_session(self.session(named)?.id)?)
    }

    /// Begins to keep an answer of the AI, which is written as it comes.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such conversation or it cannot be written.
    pub(crate) fn answer(&self, session: &str) -> anyhow::Result<Stream> {
        Ok(self.history.begin(session_id(session)?, Role::Assistant)?)
    }

    /// Keeps what became of an answer, where that is not its end. It is no part of what
    /// an AI is told of the conversation.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such conversation or it cannot be written.
    pub(crate) fn note(&self, session: &str, text: &str) -> anyhow::Result<()> {
        let note = NewMessage::new(Role::System, text);
        self.history.append(session_id(session)?, &note)?;
        Ok(())
    }

    /// The last `limit` messages of a conversation, oldest first.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such conversation or it cannot be read.
    pub(crate) fn latest(&self, session: &str, limit: u32) -> anyhow::Result<Vec<Message>> {
        let session = session_id(session)?;
        let (mut latest, mut after) = (Vec::new(), None);
        loop {
            let page = self.history.show(session, after, limit)?;
            let Some(last) = page.last() else {
                return Ok(latest);
            };
            after = Some(last.id);
            latest.extend(page);
            let surplus = latest.len().saturating_sub(limit as usize);
            latest.drain(..surplus);
        }
    }

    /// The messages that fit `words` best, or the newest where there are none.
    ///
    /// # Errors
    ///
    /// Returns an error if the database cannot be read.
    pub(crate) fn find(&self, words: &str, limit: u32) -> anyhow::Result<Vec<HistoryHit>> {
        if words.trim().is_empty() {
            return self.newest(limit);
        }
        let search = Search::new(words).workspace(self.workspace).page(limit, 0);
        let hits = self.history.search_with(&search)?;
        Ok(hits
            .into_iter()
            .map(|hit| HistoryHit {
                session: hit.session.to_string(),
                message: hit.message.to_string(),
                role: hit.role.to_string(),
                snippet: hit.snippet,
                at: seconds(hit.created_ms),
            })
            .collect())
    }

    fn newest(&self, limit: u32) -> anyhow::Result<Vec<HistoryHit>> {
        let mut found = Vec::new();
        for session in self.history.list_sessions(Some(self.workspace), limit, 0)? {
            for message in self.history.show(session.id, None, limit)? {
                found.push(HistoryHit {
                    session: session.id.to_string(),
                    message: message.id.to_string(),
                    role: message.role.to_string(),
                    snippet: message.text.chars().take(240).collect(),
                    at: seconds(message.created_ms),
                });
            }
        }
        found.sort_by_key(|hit| std::cmp::Reverse(hit.at));
        found.truncate(limit as usize);
        Ok(found)
    }
}

/// Reads the number of a conversation.
///
/// # Errors
///
/// Returns a mistake if `text` is no number.
pub(crate) fn session_id(text: &str) -> Result<SessionId, crate::mistake::Mistake> {
    text.parse().map_err(|_| {
        crate::mistake::Mistake::new(
            "session",
            format!("`{}` is not a number", crate::output::printable(text)),
            "take one from `katachi-agent history list`",
        )
    })
}

/// Seconds since 1970 of a moment in milliseconds.
pub(crate) fn seconds(milliseconds: i64) -> Option<u64> {
    u64::try_from(milliseconds)
        .ok()
        .map(|milliseconds| milliseconds / 1000)
}

fn title(text: &str) -> String {
    let line = text
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("(empty)");
    line.trim().chars().take(TITLE).collect()
}

#[cfg(test)]
mod tests {
    use katachi_store::database::{Database, DatabaseKey};
    use katachi_store::history::History;

    use super::{Chat, title};

    #[test]
    fn a_workspace_neither_shows_nor_forgets_what_was_said_in_another() {
        let dir = tempfile::tempdir().unwrap();
        let key = DatabaseKey::generate().unwrap();
        let options = crate::home::database_options();
        let database = Database::open(dir.path().join("db"), &key, options).unwrap();
        let history = History::open(&database).unwrap();
        let [here, there] = ["/here", "/there"].map(|name| Chat {
            history: history.clone(),
            workspace: history.workspace(name).unwrap(),
        });
        here.hear(None, "plums of the orchard").unwrap();
        there.hear(None, "plums of the merger").unwrap();
        for words in ["", "plums"] {
            let found = here.find(words, 50).unwrap();
            assert_eq!(found.len(), 1, "{words}");
            assert!(found[0].snippet.contains("orchard"), "{words}");
        }
        let sessions = here.sessions(50).unwrap();
        let [own] = sessions.as_slice() else {
            panic!("{sessions:?}")
        };
        let other = there.sessions(50).unwrap()[0].id.to_string();
        assert!(here.session(&other).is_err());
        assert!(here.forget(&other).is_err());
        assert!(there.session(&other).is_ok());
        here.forget(&own.id.to_string()).unwrap();
        assert!(here.find("", 50).unwrap().is_empty());
    }

    #[test]
    fn a_title_is_the_first_line_with_words() {
        assert_eq!(title("\n\n  Prune the plums \nand more"), "Prune the plums");
        assert_eq!(title(" \n"), "(empty)");
        assert_eq!(title(&"ü".repeat(100)).chars().count(), 60);
    }
}
