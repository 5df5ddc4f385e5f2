//! What a Katachi agent, a relay and a browser say to each other: the routes,
//! the JSON bodies and the events of a running command. Nothing here opens a
//! socket, and nothing here decides who may say it; signatures, sessions and
//! the sandbox live in the crates that own them.
//!
//! A browser asks the relay to run a command, the relay hands the question to
//! the agent through the tunnel, and the answer comes back as one JSON object
//! per line:
//!
//! ```
//! use katachi_protocol::run::{RunEvent, OutputStream};
//!
//! let event = RunEvent::Output { stream: OutputStream::Stdout, data: "hello\n".into() };
//! let line = event.to_line();
//! assert_eq!(line, "{\"event\":\"output\",\"stream\":\"stdout\",\"data\":\"hello\\n\"}\n");
//! assert_eq!(RunEvent::from_line(line.trim_end())?, event);
//! # Ok::<(), katachi_protocol::run::ParseEventError>(())
//! ```
//!
//! # Map
//!
//! | module | who speaks |
//! |---|---|
//! | [`routes`] | every path, once |
//! | [`account`] | browser to relay: sign up, sign in, who am I |
//! | [`device`] | agent to relay and browser to relay: RFC 8628 |
//! | [`agent`] | agent to relay, signed: heartbeat, activity; browser: the list of agents |
//! | [`cloudflare`] | agent to relay, signed: a tunnel of its own at Cloudflare |
//! | [`run`] | browser to agent: commands, messages, and what comes back |
//! | [`channel`] | browser to agent, inside the end-to-end channel |
//! | [`mcp`] | MCP configurations with their secrets |
//! | [`record`] | history, denials, audit |
//! | [`problem`] | how a refusal looks |
//!
//! Requests refuse fields they do not know. Responses accept them, so that a
//! newer relay can tell an older agent more than it understands.
#![forbid(unsafe_code)]

pub mod account;
pub mod agent;
pub mod approval;
pub mod channel;
pub mod cloudflare;
pub mod device;
mod fields;
pub mod mcp;
pub mod problem;
pub mod record;
pub mod routes;
pub mod run;
#[cfg(test)]
mod schema;
mod sensitive;

pub use sensitive::Sensitive;

/// Version of the agent's API behind the tunnel, as `GET /v1/schema` names it.
pub const SCHEMA_VERSION: u32 = 1;

/// Every route of that API with its types, as an OpenAPI 3.1 document; `agent-api.json`
/// beside this package's manifest.
pub const AGENT_API: &str = include_str!("../agent-api.json");

/// Media type of an answer that streams one JSON object per line.
pub const NDJSON: &str = "application/x-ndjson";

/// Seconds since 1970-01-01T00:00:00Z.
pub type Timestamp = u64;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
