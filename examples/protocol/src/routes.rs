//! Every path, once. `{id}`, `{name}` mark what the caller fills in, in the
//! syntax of axum's router; the functions fill them in.

/// The console.
pub const CONSOLE: &str = "/";
/// The page on which a person compares and approves a device code.
pub const DEVICE_PAGE: &str = "/device";

/// Answers 200 while the process lives.
pub const HEALTH: &str = "/healthz";
/// Answers 200 while the relay can serve.
pub const READY: &str = "/readyz";
/// RFC 9116.
pub const SECURITY_TXT: &str = "/.well-known/security.txt";
/// RFC 8414.
pub const OAUTH_METADATA: &str = "/.well-known/oauth-authorization-server";

/// `POST`, browser: [`SignUp`](crate::account::SignUp).
pub const SIGN_UP: &str = "/api/signup";
/// `POST`, browser: [`LogIn`](crate::account::LogIn).
pub const LOG_IN: &str = "/api/login";
/// `POST`, browser.
pub const LOG_OUT: &str = "/api/logout";
/// `GET`, browser: [`Me`](crate::account::Me).
pub const ME: &str = "/api/me";
/// `GET`, browser: [`SessionState`](crate::account::SessionState), also without a session.
pub const SESSION: &str = "/api/session";
/// `GET`, browser: [`SignInOptions`](crate::account::SignInOptions), also without a session.
pub const SIGN_IN: &str = "/api/signin";
/// `POST` [`StartSignIn`](crate::account::StartSignIn), browser:
/// [`SignInStarted`](crate::account::SignInStarted).
pub const SIGN_IN_START: &str = "/api/signin/{provider}";
/// `GET`, where a provider sends the browser back to. A page.
pub const SIGN_IN_BACK: &str = "/signin/{provider}";
/// `GET`, browser: [`Identities`](crate::account::Identities).
pub const IDENTITIES: &str = "/api/identities";
/// `DELETE`, browser: unlinks one identity.
pub const IDENTITY: &str = "/api/identities/{id}";
/// `POST`, browser: sends a link that verifies the account's address.
pub const VERIFY_SEND: &str = "/api/verify/send";
/// `POST` [`VerifyAddress`](crate::account::VerifyAddress), browser.
pub const VERIFY: &str = "/api/verify";
/// `POST` [`ForgotPassword`](crate::account::ForgotPassword), browser, without a session.
pub const PASSWORD_FORGOT: &str = "/api/password/forgot";
/// `POST` [`ResetPassword`](crate::account::ResetPassword), browser, without a session.
pub const PASSWORD_RESET: &str = "/api/password/reset";
/// `GET ?user_code=`, browser: [`DeviceInfo`](crate::device::DeviceInfo).
pub const DEVICE: &str = "/api/device";
/// `POST`, browser: [`UserCodeBody`](crate::device::UserCodeBody).
pub const DEVICE_APPROVE: &str = "/api/device/approve";
/// `POST`, browser: [`UserCodeBody`](crate::device::UserCodeBody).
pub const DEVICE_DENY: &str = "/api/device/deny";
/// `GET`, browser: [`Agents`](crate::agent::Agents).
pub const AGENTS: &str = "/api/agents";
/// `DELETE`, browser: forgets one agent and its keys.
pub const AGENT: &str = "/api/agents/{id}";
/// `POST`, browser: lets an agent in again whose key was found in two places.
pub const AGENT_RELEASE: &str = "/api/agents/{id}/release";
/// `GET`, browser, WebSocket, [`ChannelQuery`](crate::channel::ChannelQuery): the bytes of an
/// end-to-end channel with the agent.
pub const AGENT_CHANNEL: &str = "/api/agents/{id}/channel";
/// `GET`, browser: [`McpConfigs`](crate::mcp::McpConfigs).
pub const MCP: &str = "/api/mcp";
/// `GET`, `PUT` ([`PutMcp`](crate::mcp::PutMcp)), `DELETE`, browser.
pub const MCP_ONE: &str = "/api/mcp/{name}";
/// `GET`, browser: [`SealedMcp`](crate::mcp::SealedMcp), the ciphertext as the database holds it.
pub const MCP_SEALED: &str = "/api/mcp/{name}/sealed";
/// `GET`, browser: [`Audit`](crate::record::Audit).
pub const AUDIT: &str = "/api/audit";

/// `POST` form, agent: [`DeviceAuthorizationRequest`](crate::device::DeviceAuthorizationRequest).
pub const DEVICE_AUTHORIZATION: &str = "/oauth/device_authorization";
/// `POST` form, agent: [`TokenRequest`](crate::device::TokenRequest).
pub const TOKEN: &str = "/oauth/token";
/// `GET` with the access token that [`TOKEN`] gave and a proof (RFC 9449 section 7):
/// [`TokenOwner`](crate::device::TokenOwner).
pub const TOKEN_OWNER: &str = "/oauth/agent";
/// `GET`, agent, unsigned: [`Epoch`](crate::agent::Epoch).
pub const EPOCH: &str = "/v1/epoch";
/// `POST`, agent, signed: [`Heartbeat`](crate::agent::Heartbeat).
pub const HEARTBEAT: &str = "/v1/agent/heartbeat";
/// `POST`, agent, signed: [`Activity`](crate::agent::Activity).
pub const ACTIVITY: &str = "/v1/agent/activity";
/// `GET`, agent, signed: [`AgentMcp`](crate::mcp::AgentMcp).
pub const AGENT_MCP: &str = "/v1/agent/mcp";
/// `DELETE`, agent, signed: the agent unregisters itself.
pub const UNREGISTER: &str = "/v1/agent";
/// `GET`, agent, signed and bound to the TLS connection; answered by 101.
pub const TUNNEL: &str = "/v1/tunnel";
/// `GET`, signed by the agent and not bound to the TLS connection, upgrades to a
/// WebSocket (RFC 6455) whose binary messages carry the tunnel.
pub const TUNNEL_WEBSOCKET: &str = "/v1/tunnel/websocket";
/// `POST`, agent, signed: [`CloudflareTunnel`](crate::cloudflare::CloudflareTunnel), made
/// where the agent has none yet.
pub const CLOUDFLARE: &str = "/v1/agent/cloudflare";
/// `POST` [`DialIn`](crate::cloudflare::DialIn), agent, signed: the relay opens the tunnel
/// through Cloudflare; 204 once it is open.
pub const CLOUDFLARE_DIAL: &str = "/v1/agent/cloudflare/dial";

/// The token of the `Upgrade` header that opens a tunnel.
pub const TUNNEL_PROTOCOL: &str = "katachi-tunnel/1";
/// Header that carries the TLS exporter value, base64url without padding.
pub const TLS_EXPORTER_HEADER: &str = "katachi-tls-exporter";
/// Label of the exporter that binds a tunnel to its TLS connection, RFC 9266.
pub const TLS_EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";
/// Length of the exporter value in bytes, RFC 9266.
pub const TLS_EXPORTER_LEN: usize = 32;

/// The cookie that holds a browser's session.
pub const SESSION_COOKIE: &str = "__Host-katachi";

/// What the agent serves: to the relay [`CHANNEL`](tunnel::CHANNEL) and
/// [`RECONNECT`](tunnel::RECONNECT) alone, and the rest to paired devices, inside of
/// a channel.
pub mod tunnel {
    /// `POST` [`RunRequest`](crate::run::RunRequest), answered by a stream of events.
    pub const RUN: &str = "/v1/run";
    /// `POST` [`MessageRequest`](crate::run::MessageRequest), answered by a stream of events.
    pub const MESSAGE: &str = "/v1/message";
    /// `GET` [`AgentStatus`](crate::agent::AgentStatus).
    pub const STATUS: &str = "/v1/status";
    /// `GET ?q=` [`History`](crate::record::History).
    pub const HISTORY: &str = "/v1/history";
    /// `GET` [`Sessions`](crate::record::Sessions): the conversations, newest first.
    pub const SESSIONS: &str = "/v1/sessions";
    /// `GET` [`Conversation`](crate::record::Conversation), `DELETE`: forgets it for ever.
    pub const SESSION: &str = "/v1/sessions/{id}";
    /// `GET` [`Denials`](crate::record::Denials).
    pub const DENIALS: &str = "/v1/denials";
    /// `POST` with [`ChannelQuery`](crate::channel::ChannelQuery): the bytes of an
    /// end-to-end channel, both ways at once.
    pub const CHANNEL: &str = "/v1/channel";
    /// `POST` [`Reconnect`](crate::agent::Reconnect): the relay stops, and says when to
    /// dial again.
    pub const RECONNECT: &str = "/v1/reconnect";
    /// `GET` [`Devices`](crate::channel::Devices).
    pub const DEVICES: &str = "/v1/devices";
    /// `DELETE`: forgets a device.
    pub const DEVICE: &str = "/v1/devices/{id}";
    /// `GET` [`Approvals`](crate::approval::Approvals), `POST`
    /// [`ApprovalAnswer`](crate::approval::ApprovalAnswer).
    pub const APPROVALS: &str = "/v1/approvals";
    /// `GET` [`McpServers`](crate::mcp::McpServers), `POST`
    /// [`McpCall`](crate::mcp::McpCall), answered by a stream of events.
    pub const MCP: &str = "/v1/mcp";
    /// `GET`, relay, signed, WebSocket: opens the tunnel through somebody else's, on the
    /// socket that `cloudflared` forwards to. What follows is the tunnel itself.
    pub const ORIGIN: &str = "/v1/origin";
    /// `GET`: a description of this API, for people and programs.
    pub const SCHEMA: &str = "/v1/schema";
}

/// The path of a channel with agent `id`.
#[must_use]
pub fn agent_channel(id: &str) -> String {
    AGENT_CHANNEL.replace("{id}", id)
}

/// Where `provider` sends the browser back to.
#[must_use]
pub fn sign_in_back(provider: &str) -> String {
    SIGN_IN_BACK.replace("{provider}", provider)
}

/// The path of the MCP configuration `name`.
#[must_use]
pub fn mcp_one(name: &str) -> String {
    MCP_ONE.replace("{name}", name)
}

/// The path of the ciphertext of the MCP configuration `name`.
#[must_use]
pub fn mcp_sealed(name: &str) -> String {
    MCP_SEALED.replace("{name}", name)
}
