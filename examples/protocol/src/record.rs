//! What was said and done: chat history and denials as the agent keeps them,
//! the audit log as the relay keeps it.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// `GET /v1/history?q=`: what a search found, or the newest messages for an
/// empty question.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct History {
    /// Best first.
    pub hits: Vec<HistoryHit>,
}

/// One message that matched.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HistoryHit {
    /// The session it belongs to.
    pub session: String,
    /// Identifier of the message.
    pub message: String,
    /// `user`, `assistant`, `tool`, ...
    #[serde(default)]
    pub role: String,
    /// The text around the match.
    pub snippet: String,
    /// When it was written.
    #[serde(default)]
    pub at: Option<Timestamp>,
}

/// `GET /v1/sessions`: the conversations about this workspace.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Sessions {
    /// Newest first.
    pub sessions: Vec<SessionEntry>,
}

/// One conversation, without what was said.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SessionEntry {
    /// Its identifier, as [`MessageRequest::session`](crate::run::MessageRequest::session)
    /// takes it to go on.
    pub session: String,
    /// How it began.
    pub title: String,
    /// How many messages it has.
    pub messages: u64,
    /// How many of them were cut off.
    #[serde(default)]
    pub interrupted: u64,
    /// When its last message was written.
    #[serde(default)]
    pub at: Option<Timestamp>,
}

/// `GET /v1/sessions/{id}`: one conversation.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Conversation {
    /// Its identifier.
    pub session: String,
    /// How it began.
    pub title: String,
    /// The newest messages, oldest first.
    pub messages: Vec<Said>,
    /// Whether there are older ones.
    #[serde(default)]
    pub more: bool,
}

/// One message of a conversation.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Said {
    /// `user`, `assistant`, `system`, ...
    pub role: String,
    /// `complete`, `streaming` or `interrupted`.
    pub state: String,
    /// Its text, as far as it was written.
    pub text: String,
    /// When it began.
    #[serde(default)]
    pub at: Option<Timestamp>,
}

/// `GET /v1/denials`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Denials {
    /// Newest first.
    pub denials: Vec<Denial>,
}

/// One action that the sandbox refused.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Denial {
    /// When.
    pub at: Timestamp,
    /// The command that tried.
    #[serde(default)]
    pub argv: Vec<String>,
    /// The control that refused.
    pub control: String,
    /// What was tried.
    pub operation: String,
    /// On what.
    pub target: String,
    /// Why it is refused.
    pub reason: String,
    /// The line of the policy file that would allow it, where one can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_with: Option<String>,
}

/// `GET /api/audit`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Audit {
    /// The newest entries of the account, newest first.
    pub entries: Vec<AuditEntry>,
    /// Whether every entry's hash follows from the one before it.
    pub intact: bool,
}

/// One entry of the hash-chained audit log.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AuditEntry {
    /// Number in the account's chain, from 1.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// The agent it is about, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// What: `login`, `device_approved`, `run_started`, ...
    pub action: String,
    /// Closed details, `key=value` separated by spaces.
    #[serde(default)]
    pub detail: String,
    /// Hash of the chain up to and with this entry, hexadecimal.
    pub hash: String,
}
