//! How a request fails, sorted by whose fault it is, and the one place that
//! turns it into a status.
//!
//! Towards a peer that has not proved who it is, a failure says as little as
//! possible. What an operator needs stands in the log.

use std::error::Error;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use katachi_protocol::problem::{Problem, codes};

use crate::records::RecordsError;
use crate::records::postgres::Outage;

/// A handler's refusal.
#[derive(Debug)]
pub(crate) enum Failure {
    // The peer broke a rule.
    BadRequest(String),
    Unauthorized,
    WrongCredentials,
    Forbidden(&'static str),
    /// The agent's key is in two places, as it seems.
    Quarantined,
    NotFound(&'static str),
    MethodNotAllowed,
    Conflict(&'static str),
    TooLarge,
    /// The body did not arrive in time.
    Slow,
    UnsupportedMediaType,
    UpgradeRequired,
    Misdirected,
    RateLimited {
        seconds: u64,
    },
    // The other side of the tunnel is missing.
    Offline,
    TunnelBroken,
    /// Cloudflare, between the relay and the agent, did not do its part.
    Cloudflare(&'static str),
    AnswerLate,
    AgentBusy,
    /// Somebody else's server does not answer.
    Upstream(String),
    // The relay could not.
    Unavailable,
    Internal,
}

impl Failure {
    /// The relay's own fault, or its database's: log the cause here, tell the
    /// peer nothing but whether it passes.
    pub(crate) fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let cause = cause.into();
        tracing::error!(%cause, "request failed");
        let mut link: Option<&(dyn Error + 'static)> = Some(cause.as_ref());
        while let Some(error) = link {
            let superseded = matches!(error.downcast_ref(), Some(RecordsError::Superseded));
            if superseded || error.is::<Outage>() {
                return Self::Unavailable;
            }
            link = error.source();
        }
        Self::Internal
    }

    /// As one node says it to another; [`Failure::of_word`] reads it.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::TunnelBroken => "broken",
            Self::AnswerLate => "late",
            Self::AgentBusy => "busy",
            _ => "unavailable",
        }
    }

    pub(crate) fn of_word(word: &[u8]) -> Self {
        match word {
            b"offline" => Self::Offline,
            b"broken" => Self::TunnelBroken,
            b"late" => Self::AnswerLate,
            b"busy" => Self::AgentBusy,
            _ => Self::Unavailable,
        }
    }

    /// Too early; `after` says when it may be tried again.
    pub(crate) fn wait(after: std::time::Duration) -> Self {
        Self::RateLimited {
            seconds: after.as_secs().max(1),
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized | Self::WrongCredentials => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) | Self::Quarantined => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::UpgradeRequired => StatusCode::UPGRADE_REQUIRED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::TunnelBroken | Self::Cloudflare(_) => StatusCode::BAD_GATEWAY,
            Self::AnswerLate => StatusCode::GATEWAY_TIMEOUT,
            Self::Offline | Self::AgentBusy | Self::Upstream(_) | Self::Unavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(crate) fn problem(&self) -> Problem {
        let (code, message): (&str, &str) = match self {
            Self::BadRequest(what) => (codes::BAD_REQUEST, what),
            Self::Unauthorized => (codes::UNAUTHORIZED, "sign in first"),
            Self::WrongCredentials => (codes::WRONG_CREDENTIALS, "e-mail or password is wrong"),
            Self::Forbidden(why) => (codes::FORBIDDEN, why),
            Self::Quarantined => (
                codes::QUARANTINED,
                "two places used this agent's key in turn; its owner lets it in again in the console, or removes it",
            ),
            Self::NotFound(what) => (codes::NOT_FOUND, what),
            Self::MethodNotAllowed => (codes::BAD_REQUEST, "this path takes another method"),
            Self::Conflict(why) => (codes::CONFLICT, why),
            Self::TooLarge => (codes::TOO_LARGE, "the body is larger than this path takes"),
            Self::Slow => (codes::BAD_REQUEST, "the body did not arrive in time"),
            Self::UnsupportedMediaType => (
                codes::BAD_REQUEST,
                "the body has another media type than this path takes",
            ),
            Self::UpgradeRequired => (
                codes::BAD_REQUEST,
                "a tunnel needs HTTP/1.1 and `Upgrade: katachi-tunnel/1`",
            ),
            Self::Misdirected => (codes::BAD_REQUEST, "this host name is not served here"),
            Self::RateLimited { .. } => {
                (codes::RATE_LIMITED, "too many attempts; wait and try again")
            }
            Self::Offline => (
                codes::OFFLINE,
                "the agent is not connected; start it with `katachi-agent up`",
            ),
            Self::TunnelBroken => (codes::TUNNEL_BROKEN, "the connection to the agent broke"),
            Self::Cloudflare(why) => (codes::UNAVAILABLE, why),
            Self::AnswerLate => (codes::TUNNEL_BROKEN, "the agent did not answer in time"),
            Self::AgentBusy => (
                codes::UNAVAILABLE,
                "the agent is doing as much as it can; try again later",
            ),
            Self::Upstream(what) => (codes::UNAVAILABLE, what),
            Self::Unavailable => (
                codes::UNAVAILABLE,
                "the relay cannot do this now; try again later",
            ),
            Self::Internal => (
                codes::UNAVAILABLE,
                "the relay made a mistake; its log has the cause",
            ),
        };
        Problem::new(code, message)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.problem())).into_response();
        let retry_after = match self {
            Self::RateLimited { seconds } => Some(seconds),
            Self::Unavailable => Some(1),
            _ => None,
        };
        if let Some(seconds) = retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if matches!(self, Self::UpgradeRequired) {
            let protocol = HeaderValue::from_static(katachi_protocol::routes::TUNNEL_PROTOCOL);
            response.headers_mut().insert(header::UPGRADE, protocol);
        }
        response
    }
}
