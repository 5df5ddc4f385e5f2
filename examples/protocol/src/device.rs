//! The device authorization grant (RFC 8628): an agent shows a short code, a
//! person compares and approves it in the browser, the agent learns who did.
//! The two agent-side requests are forms, as RFC 6749 asks.

use serde::{Deserialize, Serialize};

use crate::{Sensitive, Timestamp};

/// `grant_type` of a device token request, RFC 8628 section 3.4.
pub const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// The `client_id` of the Katachi agent.
pub const CLIENT_ID: &str = "katachi-agent";

/// Starts the flow (form). The descriptive fields are shown to the person who
/// approves; they are claims of the device, not proofs.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceAuthorizationRequest {
    /// [`CLIENT_ID`].
    pub client_id: String,
    /// Space-separated, optional; none is defined yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Name of the machine, at most 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
    /// Operating system, at most 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Version of the agent, at most 32 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// The codes, RFC 8628 section 3.2.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DeviceAuthorizationResponse {
    /// What the device polls with; never shown to anyone.
    pub device_code: Sensitive,
    /// What the person compares, `XXXX-XXXX`.
    pub user_code: String,
    /// Where the person goes.
    pub verification_uri: String,
    /// The same with the code filled in; it still has to be compared and approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification_uri_complete: Option<String>,
    /// Seconds until both codes expire.
    pub expires_in: u64,
    /// Least number of seconds between polls; 5 where absent.
    #[serde(default = "default_interval")]
    pub interval: u64,
}

fn default_interval() -> u64 {
    5
}

/// A poll (form), RFC 8628 section 3.4.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// [`GRANT_TYPE`].
    pub grant_type: String,
    /// From [`DeviceAuthorizationResponse`].
    pub device_code: Sensitive,
    /// [`CLIENT_ID`].
    pub client_id: String,
}

/// What an approved device receives, once.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TokenResponse {
    /// Says which agent this is ([`TOKEN_OWNER`](crate::routes::TOKEN_OWNER)), with a proof
    /// of the device's key, until `expires_in` has passed. The agent's calls are signed and
    /// need no token.
    pub access_token: Sensitive,
    /// Always `DPoP` (RFC 9449 section 5).
    pub token_type: String,
    /// Seconds that the access token is good for.
    pub expires_in: u64,
    /// Identifier of the agent, new with each authorization.
    pub agent_id: String,
    /// Identifier of the signing key, random and not derived from it.
    pub key_id: String,
    /// 32 bytes, base64url without padding. Signing keys are derived from it.
    pub hmac_secret: Sensitive,
    /// The epoch that signatures must cover, see [`Epoch`](crate::agent::Epoch).
    pub epoch: String,
    /// E-mail address of the account that approved. The device shows it and
    /// asks before it acts for that account.
    pub approved_by: String,
}

/// Whose an access token is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TokenOwner {
    /// Identifier of the agent.
    pub agent_id: String,
    /// Identifier of its signing key.
    pub key_id: String,
    /// E-mail address of the account that approved.
    pub approved_by: String,
}

/// A refusal of the token endpoint, RFC 6749 section 5.2 and RFC 8628 section 3.5.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TokenError {
    /// `authorization_pending`, `slow_down`, `access_denied`, `expired_token`,
    /// `invalid_grant`, `invalid_client`, `invalid_request`,
    /// `unsupported_grant_type`.
    pub error: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_description: Option<String>,
    /// With `slow_down`: the interval that holds from now on, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<u64>,
}

/// Names a device code from the browser.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UserCodeBody {
    /// As the person typed it; case and separators do not matter.
    pub user_code: String,
}

/// What the person compares before approving.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DeviceInfo {
    /// The code in its canonical spelling.
    pub user_code: String,
    /// What the device calls itself.
    pub host_name: String,
    /// What the device says it runs.
    pub os: String,
    /// Version of the agent.
    pub version: String,
    /// Address from which the flow was started, as the relay saw it.
    pub address: String,
    /// Seconds since it was started.
    pub age_seconds: u64,
    /// Seconds until it expires.
    pub expires_in: u64,
    /// When it was started.
    pub started_at: Timestamp,
}
