//! MCP configurations: how to start a tool server, with which settings, and
//! the names of its secrets. Values of secrets go in and never come out to a
//! browser again; an agent receives those that the owner released to it.
//!
//! An agent starts only what one of its paired devices signed: the relay keeps
//! the signature beside the configuration and cannot make one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

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
    /// By agent, what a device that is paired with it signed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub signatures: BTreeMap<String, McpSignature>,
}

/// What a paired device says of a configuration for one agent.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct McpSignature {
    /// The device, as the agent lists it.
    pub device: String,
    /// When it signed, by its own clock. Of two signed configurations the agent
    /// takes the later, and never goes back.
    pub signed_at: Timestamp,
    /// Ed25519 over [`McpStatement::signed_bytes`], 86 characters of base64url.
    pub signature: String,
}

/// All that a signature covers.
#[derive(Clone, Copy, Debug)]
pub struct McpStatement<'a> {
    /// The agent that shall start the server.
    pub agent: &'a str,
    /// Name of the configuration.
    pub name: &'a str,
    /// When it was signed.
    pub signed_at: Timestamp,
    /// Program and arguments.
    pub command: &'a [String],
    /// Environment variables that are not secret.
    pub env: &'a BTreeMap<String, String>,
    /// Environment variables that are.
    pub secrets: &'a BTreeMap<String, Sensitive>,
}

impl McpStatement<'_> {
    /// What a device signs: fields of a 32-bit big-endian length and their bytes,
    /// which are the name of this encoding, the agent, the name of the
    /// configuration, the time (decimal); the number of words of the command and
    /// each; the number of plain variables, and each name and value by the order
    /// of the names' bytes; the same of the secret ones.
    ///
    /// ```
    /// # use katachi_protocol::mcp::McpStatement;
    /// let statement = |command: &[&str], env: &[(&str, &str)]| {
    ///     let command: Vec<_> = command.iter().map(|word| (*word).to_owned()).collect();
    ///     let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    ///     let signed = McpStatement {
    ///         agent: "a",
    ///         name: "weather",
    ///         signed_at: 1_800_000_000,
    ///         command: &command,
    ///         env: &env.collect(),
    ///         secrets: &Default::default(),
    ///     };
    ///     signed.signed_bytes().to_vec()
    /// };
    /// let signed = statement(&["weather-mcp"], &[]);
    /// assert!(signed.starts_with(b"\0\0\0\x0dkatachi-mcp/1\0\0\0\x01a\0\0\0\x07weather"));
    /// assert_ne!(statement(&["a", "b"], &[("c", "d")]), statement(&["a"], &[("b", "c")]));
    /// ```
    #[must_use]
    pub fn signed_bytes(&self) -> Zeroizing<Vec<u8>> {
        let count = |length: usize| length.to_string();
        let signed_at = self.signed_at.to_string();
        let (words, env, secrets) = (
            count(self.command.len()),
            count(self.env.len()),
            count(self.secrets.len()),
        );
        let mut fields = vec!["katachi-mcp/1", self.agent, self.name, &signed_at, &words];
        fields.extend(self.command.iter().map(String::as_str));
        fields.push(&env);
        for (name, value) in self.env {
            fields.extend([name.as_str(), value]);
        }
        fields.push(&secrets);
        for (name, value) in self.secrets {
            fields.extend([name.as_str(), value.expose_secret()]);
        }
        Zeroizing::new(crate::fields::encode(fields))
    }
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
    /// Agents for which a paired device signed it.
    #[serde(default)]
    pub signed_for: Vec<String>,
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
    /// What a device that is paired with this agent signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<McpSignature>,
    /// Counts the changes, from 1.
    pub version: u64,
}

/// One configuration as the agent judges it. `GET /v1/mcp` inside a channel.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct McpServer {
    /// Name of the configuration.
    pub name: String,
    /// Program and arguments; empty where it was not released to this agent.
    pub command: Vec<String>,
    /// Why it is not started; absent if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// `GET /v1/mcp`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct McpServers {
    /// By name.
    pub servers: Vec<McpServer>,
}

/// `POST /v1/mcp`: starts a server, asks it one thing, and ends it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct McpCall {
    /// Name of the configuration.
    pub server: String,
    /// The tool to call; its tools are listed where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// What the tool is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<serde_json::Map<String, serde_json::Value>>,
}
