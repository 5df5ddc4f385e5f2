//! AI processes of each kind, and the MCP servers beside them, under the policy.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod acp;
#[cfg(unix)]
mod acp_mcp;
mod mcp;
mod model;
mod servers;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;

fn main() -> ExitCode {
    support::run([
        acp::trials(),
        #[cfg(unix)]
        acp_mcp::trials(),
        mcp::trials(),
        model::trials(),
    ])
}
