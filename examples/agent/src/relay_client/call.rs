//! One signed call and its answer, as bytes.

use std::fmt;
use std::time::Duration;

use anyhow::bail;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, StatusCode};
use katachi_auth::signature::{
    KeyId, Profile, RequestBinding, ResponseError, ResponseView, VerifiedResponse, VerifyingKey,
    verify_response,
};
use katachi_protocol::device::TokenError;
use katachi_protocol::problem::Problem;

/// Longest time for one answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// Longest answer that is read.
const MAX_ANSWER: usize = 1 << 20;

/// A signed call that was not sent yet, or will be sent again.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(super) binding: RequestBinding,
}

/// What the relay answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    believed: bool,
}

impl Answer {
    /// An answer that was read elsewhere; not believed yet.
    pub(crate) fn new(status: StatusCode, headers: HeaderMap, body: Bytes) -> Self {
        Self {
            status,
            headers,
            body,
            believed: false,
        }
    }

    /// Whether it was signed by the relay for exactly our call.
    pub(crate) fn is_believed(&self) -> bool {
        self.believed
    }

    /// The refusal that it carries, if any.
    pub(crate) fn problem(&self) -> Option<Problem> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The `error` of a refusal as RFC 6749 writes it.
    pub(super) fn token_error(&self) -> Option<String> {
        let error = serde_json::from_slice::<TokenError>(&self.body).ok()?;
        (!self.status.is_success()).then_some(error.error)
    }

    pub(super) fn believed(self) -> Self {
        Self {
            believed: true,
            ..self
        }
    }

    pub(super) fn verify(
        &self,
        key_id: &KeyId,
        key: &VerifyingKey,
        binding: &RequestBinding,
    ) -> Result<VerifiedResponse, ResponseError> {
        let headers: Vec<(&str, &[u8])> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let view = ResponseView {
            status: self.status.as_u16(),
            headers: &headers,
            body: &self.body,
        };
        verify_response(&Profile::RELAY_RESPONSE, key_id, key, &view, binding)
    }
}

/// The relay answered that it cannot serve just now (RFC 9110 section 15.6).
#[derive(Debug)]
pub(super) struct Unable {
    status: StatusCode,
    problem: Option<Problem>,
}

impl Unable {
    /// What `answer` says, if it says that.
    pub(super) fn of(answer: &Answer) -> Option<Self> {
        answer.status.is_server_error().then(|| Self {
            status: answer.status,
            problem: answer.problem(),
        })
    }
}

impl fmt::Display for Unable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            Some(Problem { error, message, .. }) => {
                write!(f, "the relay refuses the call: {message} ({error})")
            }
            None => write!(f, "the relay answered {}", self.status),
        }
    }
}

impl std::error::Error for Unable {}

/// Whether `error` is of the moment: no answer came, or the relay could not serve.
pub(super) fn may_pass(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.is::<reqwest::Error>() || cause.is::<Unable>())
}

pub(super) async fn read(response: reqwest::Response) -> anyhow::Result<Answer> {
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = BytesMut::new();
    let mut stream = response.bytes_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece?;
        if body.len() + piece.len() > MAX_ANSWER {
            bail!("the relay's answer is longer than {MAX_ANSWER} bytes");
        }
        body.extend_from_slice(&piece);
    }
    Ok(Answer::new(status, headers, body.freeze()))
}
