//! Signed answers: what the server says, bound to the request that asked.
//!
//! A response's signature covers its status and body, and of the request the method,
//! path, query and signature. Since every request's signature is unique, an answer
//! cannot be moved to another question, and needs no nonce of its own.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::base::{once, write_response};
use super::digest::content_digest;
use super::input::{ResponseInput, parse_signature, write_response_params};
use super::message::{Response, field};
use super::refusal::Reason;
use super::sign::ascii;
use super::verify::{CONTENT_DIGEST, SIGNATURE, SIGNATURE_INPUT};
use super::{InputError, KeyId, Profile, RequestBinding, SigningKey, VerifyingKey};
use crate::clock::Timestamp;

/// Signs a response to the request named by `binding`.
///
/// Returns the headers to add, names in lower case.
#[must_use]
pub fn sign_response(
    profile: &Profile,
    key_id: &KeyId,
    key: &SigningKey,
    response: &(impl Response + ?Sized),
    binding: &RequestBinding,
    now: Timestamp,
) -> [(&'static str, String); 3] {
    let digest = content_digest(response.body());
    let mut params = Vec::with_capacity(256);
    write_response_params(&mut params, profile, now.as_unix(), key_id.as_str());
    let signature = key.sign_base(|mut out| {
        write_response(
            profile,
            response.status(),
            &digest,
            binding,
            &params,
            &mut out,
        );
    });
    [
        (CONTENT_DIGEST, ascii(&digest)),
        (
            SIGNATURE_INPUT,
            format!("{}={}", profile.label, ascii(&params)),
        ),
        (SIGNATURE, format!("{}={signature}", profile.label)),
    ]
}

/// A response that must not be believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// It is not signed. Its status may be shown to a person, and nothing else of it used.
    #[error("the response is not signed")]
    Unsigned,
    /// Its signature headers are not of the profile.
    #[error("the response's signature does not follow the profile: {0}")]
    Malformed(String),
    /// It is signed by another key, for another request, or was altered.
    #[error("the response's signature is not valid for this request")]
    Signature,
    /// Its body was altered.
    #[error("the response's body is not the one that was signed")]
    Digest,
}

/// A response that was signed by the server's key for this very request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VerifiedResponse {
    created: u64,
}

impl VerifiedResponse {
    /// The server's time when it answered, in seconds since 1970.
    #[must_use]
    pub const fn created(&self) -> u64 {
        self.created
    }
}

/// Verifies that `response` was signed with `key` for the request named by `binding`.
///
/// # Errors
///
/// Returns [`ResponseError`] if it is unsigned, altered, or answers something else.
pub fn verify_response(
    profile: &Profile,
    key_id: &KeyId,
    key: &VerifyingKey,
    response: &(impl Response + ?Sized),
    binding: &RequestBinding,
) -> Result<VerifiedResponse, ResponseError> {
    let get =
        |name: &'static str| match once(field(|visit| response.each_header(name, visit)), name) {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(ResponseError::Unsigned),
            Err(reason) => Err(malformed(&reason)),
        };
    let input = get(SIGNATURE_INPUT)?;
    let signature = get(SIGNATURE)?;
    let digest = get(CONTENT_DIGEST)?;

    let input = ResponseInput::parse(profile, input)
        .map_err(|error: InputError| malformed(&Reason::Input(error)))?;
    let mut bytes = [0; 64];
    let length = parse_signature(profile, signature, &mut bytes)
        .ok_or_else(|| malformed(&Reason::Malformed(SIGNATURE)))?;
    if input.key_id != key_id.as_str() {
        return Err(ResponseError::Signature);
    }
    let genuine = match key {
        VerifyingKey::Hmac(key) => {
            let mut mac = key.start();
            write_response(
                profile,
                response.status(),
                digest,
                binding,
                input.params,
                &mut mac,
            );
            mac.verify(&bytes[..length]).is_ok()
        }
        VerifyingKey::Ed25519(public) => {
            let mut base = Vec::with_capacity(512);
            write_response(
                profile,
                response.status(),
                digest,
                binding,
                input.params,
                &mut base,
            );
            VerifyingKey::verify_ed25519(public, &base, &bytes[..length])
        }
    };
    if !genuine {
        return Err(ResponseError::Signature);
    }
    if digest != content_digest(response.body()) {
        return Err(ResponseError::Digest);
    }
    Ok(VerifiedResponse {
        created: input.created,
    })
}

fn malformed(reason: &Reason) -> ResponseError {
    ResponseError::Malformed(reason.to_string())
}

/// How far the server's clock is from ours, learnt only from signed responses.
#[derive(Debug, Default)]
pub struct ClockOffset {
    /// Server's time minus ours, in milliseconds.
    millis: AtomicI64,
}

impl ClockOffset {
    /// Longest exchange that is learnt from: whoever holds back an answer makes the
    /// server's clock look slow by as much.
    pub const LONGEST_EXCHANGE: Duration = Duration::from_secs(10);

    /// No offset.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            millis: AtomicI64::new(0),
        }
    }

    /// Takes the offset from a response to a request sent and answered at these times
    /// of our clock. Returns whether it was used.
    ///
    /// An offset that the resolution of one second and the time of the exchange
    /// explain is taken as none.
    pub fn learn(&self, response: &VerifiedResponse, sent: Timestamp, received: Timestamp) -> bool {
        let exchange = received.since(sent);
        if received < sent || exchange > Self::LONGEST_EXCHANGE {
            return false;
        }
        let millis = |time: Timestamp| i64::try_from(time.as_unix_millis()).unwrap_or(i64::MAX);
        // The server answered somewhere between, within the second that it names.
        let middle = millis(sent).saturating_add(millis(received).saturating_sub(millis(sent)) / 2);
        let server = millis(Timestamp::from_unix(response.created)).saturating_add(500);
        let offset = server.saturating_sub(middle);
        let doubt = 1000 + i64::try_from(exchange.as_millis()).unwrap_or(i64::MAX);
        self.millis.store(
            if offset.abs() <= doubt { 0 } else { offset },
            Ordering::Relaxed,
        );
        true
    }

    /// The server's time when our clock shows `now`.
    #[must_use]
    pub fn apply(&self, now: Timestamp) -> Timestamp {
        let offset = self.millis.load(Ordering::Relaxed);
        Timestamp::from_unix_millis(now.as_unix_millis().saturating_add_signed(offset))
    }

    /// Server's time minus ours, in milliseconds.
    #[must_use]
    pub fn as_millis(&self) -> i64 {
        self.millis.load(Ordering::Relaxed)
    }
}
