//! How a refusal looks: a stable word for programs, a sentence for people.

use serde::{Deserialize, Serialize};

/// The JSON body of every refusal, except those that RFC 6749 defines
/// ([`TokenError`](crate::device::TokenError)).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Problem {
    /// One of [`codes`].
    pub error: String,
    /// For people, with the next step where there is one.
    pub message: String,
    /// With `stale_epoch`: the epoch that holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// With `skew`: the relay's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_time: Option<crate::Timestamp>,
}

impl Problem {
    /// A refusal without further fields.
    #[must_use]
    pub fn new(error: &str, message: impl Into<String>) -> Self {
        Self {
            error: error.to_owned(),
            message: message.into(),
            epoch: None,
            server_time: None,
        }
    }
}

/// The words of [`Problem::error`].
pub mod codes {
    /// The body, query or path is not what the route takes.
    pub const BAD_REQUEST: &str = "bad_request";
    /// There is no session.
    pub const UNAUTHORIZED: &str = "unauthorized";
    /// The e-mail address or the password is wrong.
    pub const WRONG_CREDENTIALS: &str = "wrong_credentials";
    /// A signature that does not hold. Says no more.
    pub const REFUSED: &str = "refused";
    /// A request from another site, or not allowed to this account.
    pub const FORBIDDEN: &str = "forbidden";
    /// Two places used this agent's key in turn; its owner decides.
    pub const QUARANTINED: &str = "quarantined";
    /// There is no such thing in this account.
    pub const NOT_FOUND: &str = "not_found";
    /// It exists already.
    pub const CONFLICT: &str = "conflict";
    /// The body is larger than the route takes.
    pub const TOO_LARGE: &str = "too_large";
    /// Too many attempts; wait.
    pub const RATE_LIMITED: &str = "rate_limited";
    /// The agent listens to paired devices only.
    pub const NOT_PAIRED: &str = "not_paired";
    /// The agent has no open tunnel.
    pub const OFFLINE: &str = "offline";
    /// The agent's tunnel broke while it answered.
    pub const TUNNEL_BROKEN: &str = "tunnel_broken";
    /// The relay could not do it now.
    pub const UNAVAILABLE: &str = "unavailable";
    /// After a valid signature: the clocks differ too much.
    pub const SKEW: &str = "skew";
    /// After a valid signature: another epoch holds.
    pub const STALE_EPOCH: &str = "stale_epoch";
    /// After a valid signature: the key was withdrawn.
    pub const REVOKED: &str = "revoked";
    /// After a valid signature: it was used before.
    pub const REPLAYED: &str = "replayed";
}
