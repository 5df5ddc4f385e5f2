//! Access tokens of the token endpoint (RFC 6749 section 1.4), each bound to the key of the
//! device (RFC 9449) and good for ten minutes.
//!
//! A token tells its holder which agent it became, and nothing else is behind it: what an
//! agent does is signed call by call with the secret that came along, and no token stands
//! in for a signature. Nothing is stored of it.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use katachi_auth::clock::{Clock as _, SystemClock, Timestamp};
use katachi_crypto::mac::HmacKey;
use katachi_protocol::device::TokenOwner;
use katachi_protocol::{Sensitive, routes};

use super::App;
use super::accounts::Peer;
use super::oauth_failure::OauthFailure;
use super::proof::{proof, require_token, spend};
use crate::connection::network;
use crate::failure::Failure;
use crate::records::users;

/// Seconds that a token is good for.
pub(super) const LIFETIME: u64 = 600;

/// A token for the holder of the device's key: `KEY.EXPIRES.MAC`.
pub(super) fn issue(key: &HmacKey, key_id: &str, thumbprint: &str, now: Timestamp) -> Sensitive {
    let expires = now.as_unix() + LIFETIME;
    let tag = key.sign(claims(key_id, expires, thumbprint).as_bytes());
    let tag = URL_SAFE_NO_PAD.encode(tag.as_bytes());
    Sensitive::new(format!("{key_id}.{expires}.{tag}"))
}

/// The key of an agent that `token` names, if the holder of `thumbprint` was given it and
/// it has not run out.
fn open(key: &HmacKey, token: &str, thumbprint: &str, now: Timestamp) -> Option<String> {
    let (head, tag) = token.rsplit_once('.')?;
    let (key_id, expires) = head.rsplit_once('.')?;
    let expires: u64 = expires.parse().ok()?;
    let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
    let claims = claims(key_id, expires, thumbprint);
    key.verify(claims.as_bytes(), &tag).ok()?;
    (now.as_unix() < expires).then(|| key_id.to_owned())
}

/// Neither a key's name nor a number nor a thumbprint has a space.
fn claims(key_id: &str, expires: u64, thumbprint: &str) -> String {
    format!("{key_id} {expires} {thumbprint}")
}

/// What tokens are signed with: the same on all nodes of a cluster.
pub(super) fn key(app: &App) -> HmacKey {
    HmacKey::new(&app.records.derive("katachi-relay/access-tokens"))
}

/// `GET /oauth/agent`.
pub(super) async fn owner(
    State(app): State<App>,
    Peer(address): Peer,
    headers: HeaderMap,
) -> Result<Json<TokenOwner>, Challenge> {
    app.throttles.token.take(network(address)).await?;
    let token = bearer(&headers).ok_or_else(invalid)?;
    let unspent = proof(&app, &headers, &Method::GET, routes::TOKEN_OWNER).await?;
    require_token(&app, &unspent, token).await?;
    let now = SystemClock.now();
    let key_id = open(&key(&app), token, unspent.thumbprint(), now).ok_or_else(invalid)?;
    app.refresh_key(&key_id).await?;
    let keys = app.gate.keys.live(&key_id).ok_or_else(invalid)?;
    // What it says is for whoever has the key; the proof is used up by it.
    spend(&app, unspent).await?;
    let user = keys.user_id.clone();
    let user = app.records.read(move |tx| users::by_id(tx, &user)).await;
    let user = user.map_err(Failure::internal)?.ok_or_else(invalid)?;
    Ok(Json(TokenOwner {
        agent_id: keys.agent_id.clone(),
        key_id,
        approved_by: user.email,
    }))
}

/// The token of `Authorization: DPoP TOKEN` (RFC 9449 section 7.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("DPoP").then(|| token.trim())
}

fn invalid() -> OauthFailure {
    OauthFailure::new("invalid_token", "no token that holds")
}

/// A refusal of something that a token opens: 401 in place of 400, with the challenge
/// (RFC 9449 section 7.1).
pub(super) struct Challenge(OauthFailure);

impl<F: Into<OauthFailure>> From<F> for Challenge {
    fn from(failure: F) -> Self {
        Self(failure.into())
    }
}

impl IntoResponse for Challenge {
    fn into_response(self) -> Response {
        let Self(mut failure) = self;
        let word = failure.body.error.clone();
        if failure.status == StatusCode::BAD_REQUEST {
            failure.status = StatusCode::UNAUTHORIZED;
        }
        let mut response = failure.into_response();
        let challenge = format!("DPoP error=\"{word}\", algs=\"EdDSA Ed25519\"");
        if response.status() == StatusCode::UNAUTHORIZED
            && let Ok(challenge) = HeaderValue::from_str(&challenge)
        {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use katachi_auth::clock::Timestamp;
    use katachi_crypto::Secret;
    use katachi_crypto::mac::HmacKey;

    use super::{LIFETIME, issue, open};

    #[test]
    fn a_token_opens_for_its_holder_in_its_time_and_as_it_is() {
        let [key, other] = [1, 2].map(|byte| HmacKey::new(&Secret::new([byte; 32])));
        let at = |seconds| Timestamp::from_unix(1_000 + seconds);
        let token = issue(&key, "k", "holder", at(0));
        let text = token.expose_secret();
        let opened = |text: &str, holder: &str, seconds| open(&key, text, holder, at(seconds));
        assert_eq!(opened(text, "holder", 0).as_deref(), Some("k"));
        assert_eq!(opened(text, "holder", LIFETIME - 1).as_deref(), Some("k"));
        assert_eq!(opened(text, "holder", LIFETIME), None);
        assert_eq!(opened(text, "somebody", 0), None);
        assert_eq!(open(&other, text, "holder", at(0)), None);
        for at in 0..text.len() {
            let mut altered = text.to_owned().into_bytes();
            altered[at] ^= 1;
            let altered = String::from_utf8_lossy(&altered);
            assert_eq!(opened(&altered, "holder", 0), None, "{altered}");
        }
        for text in ["", ".", "..", "k.1", "k.1.", "...."] {
            assert_eq!(opened(text, "holder", 0), None, "{text}");
        }
    }
}
