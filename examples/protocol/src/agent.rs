//! Signed calls of an agent, and what a browser sees of it.
//!
//! What an agent reports outside the tunnel is made of closed enumerations
//! and numbers: no path, no argument and no text of the user is among it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The value that signatures must cover in the header `katachi-epoch`.
///
/// It names one life of the relay's replay memory. A relay that lost the
/// memory has another epoch, so that no older signature is accepted again.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Epoch {
    /// 22 characters, base64url.
    pub epoch: String,
}

/// What an agent is doing.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// Waiting for work.
    #[default]
    Idle,
    /// Running a command or answering a message.
    Busy,
    /// About to go away.
    Draining,
}

/// `POST /v1/agent/heartbeat`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// What the agent is doing.
    pub state: AgentState,
    /// How often the agent's vault was saved: the relay remembers the highest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault_generation: Option<u64>,
}

/// The answer to a heartbeat.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HeartbeatAnswer {
    /// The relay's clock.
    pub server_time: Timestamp,
    /// Seconds until the next heartbeat is expected.
    pub next_seconds: u64,
    /// The highest that was ever said, so that an agent whose vault was replaced by an
    /// older copy notices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault_generation: Option<u64>,
}

/// What happened on the agent.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivityKind {
    /// The agent started and connected.
    Connected,
    /// A command started.
    RunStarted,
    /// A command ended.
    RunFinished,
    /// The sandbox refused an action.
    ActionDenied,
    /// A message of the user arrived.
    MessageReceived,
    /// A message was answered.
    MessageAnswered,
    /// A stored credential was handed to a process.
    CredentialUsed,
    /// The policy file was read again.
    PolicyChanged,
    /// The agent is about to stop.
    Disconnecting,
}

/// How it ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As asked.
    Succeeded,
    /// The program failed by itself.
    Failed,
    /// The policy refused it.
    Denied,
    /// The person stopped it.
    Cancelled,
    /// The agent was killed meanwhile; told when it starts again.
    Interrupted,
}

/// Which control of the sandbox acted.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// The list of allowed commands.
    Command,
    /// Reading outside the allowed directories.
    Read,
    /// Writing outside the allowed directories.
    Write,
    /// The network.
    Network,
    /// Memory, processes, disk or time.
    Limit,
    /// Anything else.
    Other,
}

/// `POST /v1/agent/activity`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Activity {
    /// What happened.
    pub kind: ActivityKind,
    /// How it ended, where it has an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Which control acted, for [`ActivityKind::ActionDenied`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
    /// How long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
}

/// The answer to an activity: its place in the account's audit log.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ActivityAnswer {
    /// Number of the entry in the chain.
    pub sequence: u64,
    /// Hash of the chain up to and with the entry, hexadecimal.
    pub head: String,
}

/// `GET /api/agents`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Agents {
    /// The account's agents, newest first.
    pub agents: Vec<AgentSummary>,
}

/// One agent of the account.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AgentSummary {
    /// Identifier.
    pub id: String,
    /// What the machine called itself when it was approved.
    pub host_name: String,
    /// Its operating system.
    pub os: String,
    /// Version of the agent.
    pub version: String,
    /// Whether its tunnel is open.
    pub online: bool,
    /// Last reported state.
    pub state: AgentState,
    /// When it was last heard of.
    #[serde(default)]
    pub last_seen: Option<Timestamp>,
    /// When it was approved.
    pub approved_at: Timestamp,
    /// Since when its key is refused because two places used it in turn.
    #[serde(default)]
    pub quarantined_at: Option<Timestamp>,
}

/// `POST /v1/reconnect` on the tunnel, by a relay that stops.
///
/// The agent dials again at a moment of its own choice within the spread, and never
/// later than it would by itself; requests that run keep the old connection.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Reconnect {
    /// Milliseconds before the first agent may come back.
    pub after_ms: u64,
    /// Milliseconds from then over which all of them spread.
    pub spread_ms: u64,
}

/// `GET /v1/status` on the tunnel.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AgentStatus {
    /// Version of the agent.
    pub version: String,
    /// Version of its API, [`SCHEMA_VERSION`](crate::SCHEMA_VERSION).
    pub schema: u32,
    /// Name of the machine.
    #[serde(default)]
    pub host_name: String,
    /// Name of the workspace directory, without the path to it.
    #[serde(default)]
    pub workspace: String,
    /// What it is doing.
    #[serde(default)]
    pub state: AgentState,
    /// Tier of the sandbox, for people.
    #[serde(default)]
    pub sandbox: String,
    /// How the vault was opened, for people.
    #[serde(default)]
    pub vault: String,
    /// How the `cloudflared` is that carries the tunnel, where one does, as it was a few
    /// seconds ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloudflared: Option<CloudflaredHealth>,
}

/// What a `cloudflared` says of itself.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CloudflaredHealth {
    /// Whether it says that it has a connection to Cloudflare.
    pub ready: bool,
    /// What it has counted, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<CloudflaredCounts>,
}

/// What a `cloudflared` counts.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CloudflaredCounts {
    /// Connections to Cloudflare now.
    pub connections: u64,
    /// Requests that came from there.
    pub requests: u64,
    /// Those of them that did not get to the agent.
    pub errors: u64,
}

impl fmt::Display for CloudflaredCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            connections,
            requests,
            errors,
        } = self;
        write!(
            f,
            "connections to Cloudflare: {connections}, requests: {requests}, errors: {errors}"
        )
    }
}
