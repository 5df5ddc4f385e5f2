//! Device authorization (RFC 8628): the agent's two endpoints, and the page
//! on which a person compares and decides.

use std::net::IpAddr;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, Method, StatusCode};
use katachi_auth::clock::{Clock as _, SystemClock, Timestamp};
use katachi_auth::device::{
    Approval, DecideError, GuessLimits, Guesser, PollError, Start, StartError, Waiting,
};
use katachi_auth::replay::AsyncReplayStore as _;
use katachi_auth::signature::KeyId;
use katachi_crypto::Secret;
use katachi_protocol::device::{
    CLIENT_ID, DeviceAuthorizationResponse, DeviceInfo, GRANT_TYPE, TokenResponse, UserCodeBody,
};
use katachi_protocol::{Sensitive, routes};
use serde::{Deserialize, Serialize};
use tracing::info;

use super::App;
use super::access;
use super::accounts::{Peer, Session};
use super::extract::{JsonBody, QueryOf};
use super::oauth_failure::OauthFailure;
use super::proof::{form_body, key_of_start, parse, proof, require_client, spend};
use super::signed::AgentKeys;
use crate::connection::network;
use crate::failure::Failure;
use crate::records::agents::{AgentRow, KeyRow, MOST_AGENTS};
use crate::records::guesses::{self, Subject};
use crate::records::{agents, audit, new_id, users};

/// What a device says about itself, and where it asked from.
#[derive(Debug, Deserialize, Serialize)]
struct Details {
    host_name: String,
    os: String,
    version: String,
    address: String,
}

/// `POST /oauth/device_authorization`.
pub(super) async fn authorize(
    State(app): State<App>,
    Peer(address): Peer,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, OauthFailure> {
    app.throttles.device.take(network(address)).await?;
    let body = form_body(&app, request).await?;
    let form = parse(&body)?;
    require_client(&form)?;
    let path = routes::DEVICE_AUTHORIZATION;
    let thumbprint = key_of_start(&app, &headers, path, &form).await?;
    let details = Details {
        host_name: printable(form.get("host_name"), 64),
        os: printable(form.get("os"), 64),
        version: printable(form.get("version"), 32),
        address: address.to_string(),
    };
    let details = serde_json::to_string(&details).map_err(Failure::internal)?;
    let now = SystemClock.now();
    let device = app.clone();
    let started = blocking(move || {
        let start = Start {
            client_id: CLIENT_ID,
            thumbprint: Some(&thumbprint),
            details: &details,
        };
        device.device.start(&device.records.grants(), &start, now)
    })
    .await?;
    let started = started.map_err(|error| match error {
        StartError::Full => Failure::RateLimited { seconds: 60 },
        StartError::TooLong => Failure::TooLarge,
        error => Failure::internal(error),
    })?;
    let response = DeviceAuthorizationResponse {
        device_code: Sensitive::new(started.device_code),
        user_code: started.user_code,
        verification_uri: started.verification_uri,
        verification_uri_complete: started.verification_uri_complete,
        expires_in: started.expires_in,
        interval: started.interval.unwrap_or(5),
    };
    Ok(Json(response).into_response())
}

/// `POST /oauth/token`.
pub(super) async fn token(
    State(app): State<App>,
    Peer(address): Peer,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, OauthFailure> {
    app.throttles.token.take(network(address)).await?;
    let body = form_body(&app, request).await?;
    let form = parse(&body)?;
    if form.get("grant_type") != Some(GRANT_TYPE) {
        return Err(OauthFailure::new(
            "unsupported_grant_type",
            "the device code grant is the only one here",
        ));
    }
    require_client(&form)?;
    let code = form
        .get("device_code")
        .ok_or_else(|| OauthFailure::new("invalid_request", "no device_code"))?;
    let code = Sensitive::new(code);
    let unspent = proof(&app, &headers, &Method::POST, routes::TOKEN).await?;
    let (device, asked) = (app.clone(), code.clone());
    let by = unspent.thumbprint().to_owned();
    let waited_for = blocking(move || {
        let (grants, now) = (device.records.grants(), SystemClock.now());
        let code = asked.expose_secret();
        device
            .device
            .is_waited_for(&grants, CLIENT_ID, code, Some(&by), now)
    });
    if !waited_for.await?.map_err(Failure::internal)? {
        return Err(of_poll(PollError::InvalidGrant));
    }
    let thumbprint = spend(&app, unspent).await?;
    let now = SystemClock.now();
    let device = app.clone();
    let polled = blocking(move || {
        let grants = device.records.grants();
        device.device.poll(
            &grants,
            CLIENT_ID,
            code.expose_secret(),
            Some(&thumbprint),
            now,
        )
    })
    .await?;
    let approval = match polled {
        Ok(approval) => approval,
        Err(PollError::Unavailable(error)) => return Err(Failure::internal(error).into()),
        Err(error) => return Err(of_poll(error)),
    };
    let response = mint(&app, approval, now).await?;
    Ok(Json(response).into_response())
}

fn of_poll(error: PollError) -> OauthFailure {
    let mut failure = OauthFailure::new(error.code(), &error.to_string());
    if let PollError::SlowDown { interval } = error {
        failure.body.interval = Some(u64::from(interval));
    }
    failure
}

/// Makes the agent that was approved, and its key.
async fn mint(app: &App, approval: Approval, now: Timestamp) -> Result<TokenResponse, Failure> {
    let details: Details = serde_json::from_str(&approval.details).map_err(Failure::internal)?;
    let secret = Secret::<32>::random().map_err(Failure::internal)?;
    let agent = AgentRow {
        id: new_id().map_err(Failure::internal)?,
        user_id: approval.account,
        host_name: details.host_name,
        os: details.os,
        version: details.version,
        approved_at: now.as_unix(),
        seen_at: None,
        state: "idle".to_owned(),
        quarantined_at: None,
    };
    let key_id = KeyId::parse(&new_id().map_err(Failure::internal)?).map_err(Failure::internal)?;
    let shown = Sensitive::new(URL_SAFE_NO_PAD.encode(secret.expose_secret()));
    let mut key = KeyRow {
        id: key_id.to_string(),
        agent_id: agent.id.clone(),
        user_id: agent.user_id.clone(),
        version: 1,
        sealed: Vec::new(),
        revoked: false,
        quarantined: false,
    };
    let keys = AgentKeys::derive(&key_id, &key, &secret);
    let (records, row) = (app.records.clone(), agent.clone());
    let approved_by = app
        .records
        .write(move |tx| {
            let Some(user) = users::by_id(tx, &row.user_id)? else {
                return Ok(None);
            };
            tx.lock(&row.user_id)?;
            if agents::count(tx, &row.user_id)? >= MOST_AGENTS {
                return Ok(None);
            }
            key.sealed = records.seal_agent_key(tx, &key, &secret)?;
            agents::add(tx, &row, &key)?;
            let event = audit::Event {
                at: row.approved_at,
                agent_id: Some(row.id.clone()),
                action: "agent_connected",
                detail: String::new(),
            };
            audit::append(tx, &records.audit_key(), &row.user_id, &event)?;
            Ok(Some(user.email))
        })
        .await
        .map_err(Failure::internal)?
        .ok_or(Failure::Conflict("the account cannot take another agent"))?;
    app.gate.keys.insert(key_id.as_str(), keys);
    info!(agent = %agent.id, "an agent was connected");
    let epoch = app.replay.epoch().await;
    let thumbprint = approval.thumbprint.unwrap_or_default();
    Ok(TokenResponse {
        access_token: access::issue(&access::key(app), key_id.as_str(), &thumbprint, now),
        token_type: "DPoP".to_owned(),
        expires_in: access::LIFETIME,
        agent_id: agent.id,
        key_id: key_id.to_string(),
        hmac_secret: shown,
        epoch: epoch.map_err(Failure::internal)?.to_string(),
        approved_by,
    })
}

/// Which code a page asks about.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CodeQuery {
    user_code: String,
}

#[derive(Clone, Copy)]
enum Decision {
    Show,
    Approve,
    Deny,
}

/// `GET /api/device?user_code=`.
pub(super) async fn info(
    State(app): State<App>,
    session: Session,
    Peer(address): Peer,
    QueryOf(query): QueryOf<CodeQuery>,
) -> Result<Json<DeviceInfo>, Failure> {
    let waiting = decide(&app, &session, address, &query.user_code, Decision::Show).await?;
    let details: Details = serde_json::from_str(&waiting.details).map_err(Failure::internal)?;
    let now = SystemClock.now();
    Ok(Json(DeviceInfo {
        user_code: canonical(&query.user_code),
        host_name: details.host_name,
        os: details.os,
        version: details.version,
        address: details.address,
        age_seconds: now.since(waiting.created).as_secs(),
        expires_in: waiting.expires.since(now).as_secs(),
        started_at: waiting.created.as_unix(),
    }))
}

/// `POST /api/device/approve`.
pub(super) async fn approve(
    State(app): State<App>,
    session: Session,
    Peer(address): Peer,
    JsonBody(body): JsonBody<UserCodeBody>,
) -> Result<StatusCode, Failure> {
    app.require_verified(&session.user)?;
    decide(&app, &session, address, &body.user_code, Decision::Approve).await?;
    app.audit(&session.user.id, None, "device_approved").await;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /api/device/deny`.
pub(super) async fn deny(
    State(app): State<App>,
    session: Session,
    Peer(address): Peer,
    JsonBody(body): JsonBody<UserCodeBody>,
) -> Result<StatusCode, Failure> {
    decide(&app, &session, address, &body.user_code, Decision::Deny).await?;
    app.audit(&session.user.id, None, "device_denied").await;
    Ok(StatusCode::NO_CONTENT)
}

async fn decide(
    app: &App,
    session: &Session,
    address: std::net::IpAddr,
    typed: &str,
    decision: Decision,
) -> Result<Waiting, Failure> {
    let (app, typed) = (app.clone(), typed.to_owned());
    let (account, digest) = (session.user.id.clone(), session.digest.to_string());
    blocking(move || {
        let (grants, now) = (app.records.grants(), SystemClock.now());
        let who = Guesser {
            session: &digest,
            account: &account,
            address,
        };
        let (server, guesses) = (&app.device, &app.guesses);
        let shared = SharedGuess::begin(&app, &who)?;
        let decided = match decision {
            Decision::Show => server.look_up(&grants, guesses, &who, &typed, now),
            Decision::Approve => server.approve(&grants, guesses, &who, &typed, now),
            Decision::Deny => server.deny(&grants, guesses, &who, &typed, now),
        };
        if decided.is_ok() {
            shared.right(&app)?;
        }
        decided.map_err(|error| match error {
            DecideError::Unknown => {
                Failure::NotFound("no such code waits for a decision; start again on the device")
            }
            DecideError::TooMany(wait) => Failure::wait(wait.retry_after),
            error => Failure::internal(error),
        })
    })
    .await?
}

/// A guess that the nodes of a cluster count together, before each counts it for
/// itself: narrow subjects first.
struct SharedGuess([Subject; 4]);

impl SharedGuess {
    fn begin(app: &App, who: &Guesser<'_>) -> Result<Self, Failure> {
        let limits = GuessLimits::default();
        let subject = |what, who: &str, limit| Subject {
            what,
            who: who.to_owned(),
            limit,
        };
        let prefix = prefix(who.address);
        let guess = Self([
            subject("session", who.session, limits.session),
            subject("account", who.account, limits.account),
            subject("prefix", &prefix, limits.prefix),
            subject("all", "", limits.global),
        ]);
        if app.cluster.is_some() {
            let counted = app.records.write_now(|tx| guesses::begin(tx, &guess.0));
            counted.map_err(Failure::internal)?.map_err(Failure::wait)?;
        }
        Ok(guess)
    }

    fn right(&self, app: &App) -> Result<(), Failure> {
        if app.cluster.is_some() {
            let counted = app.records.write_now(|tx| guesses::right(tx, &self.0));
            counted.map_err(Failure::internal)?;
        }
        Ok(())
    }
}

/// What guesses are counted by: /24 of IPv4, /56 of IPv6, as [`GuessLimits::prefix`] says.
fn prefix(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            format!("{a}.{b}.{c}")
        }
        IpAddr::V6(v6) => {
            let bits = v6.to_bits() >> 72;
            format!("{bits:x}")
        }
    }
}

/// What a stranger says of itself, short and without control characters.
fn printable(text: Option<&str>, most: usize) -> String {
    text.unwrap_or_default()
        .chars()
        .filter(|c| !c.is_control())
        .take(most)
        .collect()
}

fn canonical(typed: &str) -> String {
    use katachi_auth::device::UserCode;
    UserCode::parse(typed).map_or_else(|_| typed.to_owned(), |code| code.to_string())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Failure::internal)
}

#[cfg(test)]
mod tests {
    use super::prefix;

    #[test]
    fn guesses_of_one_neighbourhood_are_counted_together() {
        let of = |text: &str| prefix(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.254"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:fe::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:100::1"));
    }
}
