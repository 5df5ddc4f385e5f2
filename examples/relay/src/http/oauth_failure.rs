//! How an OAuth endpoint refuses.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode};
use katachi_auth::device::dpop::ProofError;
use katachi_protocol::device::TokenError;

use crate::failure::Failure;

/// A refusal as RFC 6749 section 5.2 writes it.
#[derive(Debug)]
pub(super) struct OauthFailure {
    pub(super) status: StatusCode,
    pub(super) body: TokenError,
    /// RFC 9449 section 8: the nonce to use from now on.
    pub(super) nonce: Option<String>,
    retry_after: Option<u64>,
}

impl OauthFailure {
    pub(super) fn new(error: &str, description: &str) -> Self {
        let body = TokenError {
            error: error.to_owned(),
            error_description: Some(description.to_owned()),
            interval: None,
        };
        Self {
            status: StatusCode::BAD_REQUEST,
            body,
            nonce: None,
            retry_after: None,
        }
    }

    pub(super) fn of_proof(error: &ProofError) -> Self {
        let mut failure = Self::new(error.code(), &error.to_string());
        failure.status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
        if matches!(failure.status.as_u16(), 429 | 503) {
            failure.retry_after = Some(1);
        }
        failure
    }
}

impl From<Failure> for OauthFailure {
    fn from(failure: Failure) -> Self {
        let problem = failure.problem();
        let word = if failure.status().is_server_error() {
            "temporarily_unavailable"
        } else {
            "invalid_request"
        };
        let mut oauth = Self::new(word, &problem.message);
        oauth.status = failure.status();
        oauth.retry_after = match failure {
            Failure::RateLimited { seconds } => Some(seconds),
            Failure::Unavailable => Some(1),
            _ => None,
        };
        oauth
    }
}

impl IntoResponse for OauthFailure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if let Some(nonce) = self
            .nonce
            .and_then(|nonce| HeaderValue::from_str(&nonce).ok())
        {
            response
                .headers_mut()
                .insert(HeaderName::from_static("dpop-nonce"), nonce);
        }
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
