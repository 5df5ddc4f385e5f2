//! Proofs of possession (RFC 9449) at the OAuth endpoints, and the forms there.
//!
//! Whoever makes keys can make as many proofs as they like. One takes room in the replay
//! store, which the calls of agents need, only when something depends on it: a start
//! within what everybody together may start, a poll of a grant that waits, an access
//! token that holds.

use axum::extract::Request;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, Method};
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::device::dpop::{self, ProofError, Unspent};
use katachi_auth::device::form::Form;
use katachi_auth::replay::AsyncReplayStore as _;
use katachi_protocol::device::CLIENT_ID;

use super::App;
use super::extract;
use super::oauth_failure::OauthFailure;
use crate::failure::Failure;

/// Largest form, in bytes.
const MAX_FORM: usize = 16 * 1024;

/// A request's form.
pub(super) async fn form_body(app: &App, request: Request) -> Result<Bytes, Failure> {
    extract::require_type(request.headers(), "application/x-www-form-urlencoded")?;
    let (head, body) = request.into_parts();
    extract::read(app, &head.extensions, body, MAX_FORM).await
}

pub(super) fn parse(body: &[u8]) -> Result<Form<'_>, OauthFailure> {
    Form::parse(body).map_err(|error| OauthFailure::new("invalid_request", &error.to_string()))
}

pub(super) fn require_client(form: &Form<'_>) -> Result<(), OauthFailure> {
    if form.get("client_id") == Some(CLIENT_ID) {
        return Ok(());
    }
    Err(OauthFailure::new(
        "invalid_client",
        "this client is not known here",
    ))
}

/// The proof that a request to `path` carries, not spent yet.
pub(super) async fn proof(
    app: &App,
    headers: &HeaderMap,
    method: &Method,
    path: &str,
) -> Result<Unspent, OauthFailure> {
    let uri = format!("{}{path}", app.hosts.public());
    let checked = match single_proof(headers) {
        Ok(proof) => dpop::check(proof, method.as_str(), &uri, SystemClock.now())
            .map_err(|error| OauthFailure::of_proof(&error)),
        Err(why) => Err(OauthFailure::new("invalid_dpop_proof", why)),
    };
    match checked {
        Ok(unspent) => Ok(unspent),
        Err(failure) => Err(with_nonce(app, failure).await),
    }
}

/// Spends a proof; the thumbprint of its key.
pub(super) async fn spend(app: &App, unspent: Unspent) -> Result<String, OauthFailure> {
    match unspent.spend_async(&app.replay, SystemClock.now()).await {
        Ok(thumbprint) => Ok(thumbprint),
        Err(error) => Err(with_nonce(app, OauthFailure::of_proof(&error)).await),
    }
}

/// Refuses a proof that is none for `access_token`.
pub(super) async fn require_token(
    app: &App,
    unspent: &Unspent,
    access_token: &str,
) -> Result<(), OauthFailure> {
    match unspent.for_token(access_token) {
        Ok(()) => Ok(()),
        Err(error) => Err(with_nonce(app, OauthFailure::of_proof(&error)).await),
    }
}

/// RFC 9449 section 8: the answer carries the nonce to use.
async fn with_nonce(app: &App, mut failure: OauthFailure) -> OauthFailure {
    let epoch = app.replay.epoch().await.ok();
    failure.nonce = epoch.map(|epoch| epoch.to_string());
    failure
}

/// The key to which a start binds its grant: the one that it proves, or the one that it
/// names (`dpop_jkt`, as RFC 9449 section 10 has it for other requests) and will have to
/// prove before it is given anything.
pub(super) async fn key_of_start(
    app: &App,
    headers: &HeaderMap,
    path: &str,
    form: &Form<'_>,
) -> Result<String, OauthFailure> {
    let named = form.get("dpop_jkt");
    if named.is_some_and(|named| !is_thumbprint(named)) {
        return Err(OauthFailure::new("invalid_request", "no such dpop_jkt"));
    }
    if let (Some(named), false) = (named, headers.contains_key("dpop")) {
        return Ok(named.to_owned());
    }
    let unspent = proof(app, headers, &Method::POST, path).await?;
    if named.is_some_and(|named| named != unspent.thumbprint()) {
        return Err(OauthFailure::of_proof(&ProofError::Invalid));
    }
    app.throttles.proofs.take("everybody").await?;
    spend(app, unspent).await
}

/// Whether `text` has the form of a thumbprint: a digest of 32 bytes.
fn is_thumbprint(text: &str) -> bool {
    URL_SAFE_NO_PAD
        .decode(text)
        .is_ok_and(|digest| digest.len() == 32)
}

/// The one proof of a request (RFC 9449 section 4.3).
fn single_proof(headers: &HeaderMap) -> Result<&str, &'static str> {
    let mut proofs = headers.get_all("dpop").iter();
    match (proofs.next(), proofs.next()) {
        (Some(proof), None) => proof.to_str().map_err(|_| "the proof is not text"),
        (None, _) => Err("this client proves its key: send a DPoP header"),
        (Some(_), Some(_)) => Err("two proofs"),
    }
}
