//! A tunnel at Cloudflare that the relay made for one agent.

use serde::{Deserialize, Serialize};

use crate::Sensitive;

/// `POST /v1/agent/cloudflare`: what `cloudflared` needs.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct CloudflareTunnel {
    /// The public name under which the agent is reached.
    pub hostname: String,
    /// The tunnel's token as Cloudflare gives it; who has it can take the agent's place at
    /// Cloudflare, though not towards its devices.
    pub token: Sensitive,
}

/// `POST /v1/agent/cloudflare/dial`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DialIn {
    /// The epoch of the agent's own replay memory, which the relay's signature has to cover.
    pub epoch: String,
}
