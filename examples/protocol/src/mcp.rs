//! MCP configurations: how to start a tool server, with which settings, and
//! the names of its secrets. Values of secrets go in and never come out to a
//! browser again; an agent receives those that the owner released to it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Sensitive, Timestamp};

/// `PUT /api/mcp/{name}`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PutMcp {
    /// Program and arguments that start the server.
    pub command: Vec<String>,
    /// Environment variables that are not secret.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Environment variables that are. A name that was stored before and is
    /// absent here is removed.
    #[serde(default)]
    pub secrets: BTreeMap<String, Sensitive>,
    /// Identifiers of the agents that may receive the secrets. An agent that
    /// is not named learns that the configuration exists and no more.
    #[serde(default)]
    pub released_to: Vec<String>,
}

/// One configuration as a browser sees it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct McpConfig {
    /// Its name.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Environment variables that are not secret.
    pub env: BTreeMap<String, String>,
    /// Names of the secret ones.
    pub secret_names: Vec<String>,
    /// Agents that may receive them.
    pub released_to: Vec<String>,
    /// Counts the changes, from 1.
    pub version: u64,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// `GET /api/mcp`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct McpConfigs {
    /// The account's configurations by name.
    pub configs: Vec<McpConfig>,
}

/// Where a sealed value belongs. The seal opens only in exactly this place.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CellContext {
    /// The account.
    pub tenant: String,
    /// The database table.
    pub table: String,
    /// Its column.
    pub column: String,
    /// Its row.
    pub row: String,
    /// The version of the row's value.
    pub version: u64,
}

/// One secret as the database holds it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SealedCell {
    /// Name of the secret.
    pub name: String,
    /// Its place.
    pub context: CellContext,
    /// The envelope, base64 with padding: ciphertext.
    pub sealed: String,
}

/// `GET /api/mcp/{name}/sealed`, for the owner only.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SealedMcp {
    /// Name of the configuration.
    pub name: String,
    /// One cell for each secret.
    pub cells: Vec<SealedCell>,
}

/// `GET /v1/agent/mcp`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct AgentMcp {
    /// The account's configurations.
    pub configs: Vec<AgentMcpConfig>,
}

/// One configuration as an agent receives it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AgentMcpConfig {
    /// Its name.
    pub name: String,
    /// Whether the owner released it to this agent. Where not, the fields
    /// below are empty.
    pub released: bool,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Environment variables that are not secret.
    pub env: BTreeMap<String, String>,
    /// Environment variables that are.
    pub secrets: BTreeMap<String, Sensitive>,
    /// Counts the changes, from 1.
    pub version: u64,
}
