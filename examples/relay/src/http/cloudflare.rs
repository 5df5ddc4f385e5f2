//! What an agent that runs `cloudflared` asks of the relay.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::replay::Epoch;
use katachi_crypto::random;
use katachi_protocol::cloudflare::{CloudflareTunnel, DialIn};
use tracing::warn;

use super::App;
use super::agent_api;
use super::extract::JsonBody;
use super::signed::Caller;
use crate::cloudflare::{ApiError, Cloudflare, PATIENCE};
use crate::failure::Failure;
use crate::records::cloudflare as rows;

/// Nobody else works on an agent's tunnel for this long, in seconds; longer than
/// [`PATIENCE`].
const RESERVED: u64 = 30;

/// `POST /v1/agent/cloudflare`.
pub(super) async fn provide(
    State(app): State<App>,
    caller: Caller,
) -> Result<Json<CloudflareTunnel>, Failure> {
    let cloudflare = account(&app)?;
    let fresh = random::bytes::<10>().map_err(Failure::internal)?;
    let fresh = cloudflare.new_hostname(&fresh);
    let agent = caller.agent_id.clone();
    let reserved = app.records.write(move |tx| {
        let now = SystemClock.now().as_unix();
        rows::reserve(tx, &agent, &fresh, now, now + RESERVED)
    });
    let hostname = reserved
        .await
        .map_err(Failure::internal)?
        .ok_or(Failure::wait(Duration::from_secs(RESERVED)))?;
    // An agent that goes away in the middle must not leave its row reserved.
    let worker = app.clone();
    let provided = tokio::spawn(async move {
        let agent = caller.agent_id;
        let token = match &worker.cloudflare {
            Some(cloudflare) => {
                let providing = cloudflare.provide(&agent, &hostname);
                tokio::time::timeout(PATIENCE, providing)
                    .await
                    .unwrap_or_else(|_| Err(ApiError::Unreachable("no answer in time".to_owned())))
            }
            None => Err(ApiError::Unreachable("no account".to_owned())),
        };
        let id = agent.clone();
        let released = worker.records.write(move |tx| rows::release(tx, &id));
        released.await.map_err(Failure::internal)?;
        worker.cloudflare_work.notify_one();
        match token {
            Ok(token) => Ok(CloudflareTunnel { hostname, token }),
            Err(ApiError::Limited(pause)) => Err(Failure::wait(pause)),
            Err(error) => {
                warn!(agent, %error, "its tunnel at Cloudflare was not made");
                Err(Failure::Cloudflare(
                    "Cloudflare did not make the tunnel; the relay's log says why",
                ))
            }
        }
    });
    provided.await.map_err(Failure::internal)?.map(Json)
}

/// `POST /v1/agent/cloudflare/dial`.
pub(super) async fn dial(
    State(app): State<App>,
    caller: Caller,
    JsonBody(wanted): JsonBody<DialIn>,
) -> Result<StatusCode, Failure> {
    let cloudflare = account(&app)?;
    let epoch = Epoch::parse(&wanted.epoch)
        .map_err(|_| Failure::BadRequest("`epoch` is 22 characters of base64url".to_owned()))?;
    if app.tunnels.is_full_for(&caller.agent_id) {
        return Err(Failure::Unavailable);
    }
    // Only a name that the relay made itself: an agent does not choose what is dialled.
    let agent = caller.agent_id.clone();
    let hostname = app.records.read(move |tx| rows::hostname(tx, &agent));
    let hostname = hostname
        .await
        .map_err(Failure::internal)?
        .ok_or(Failure::NotFound("this agent has no tunnel at Cloudflare"))?;
    let keys = app
        .gate
        .keys
        .of_agent(&caller.agent_id)
        .ok_or(Failure::Unauthorized)?;
    let dialled = cloudflare.dial(&hostname, &keys.origin, epoch).await;
    let stream = dialled.map_err(|error| {
        warn!(
            agent = caller.agent_id,
            error, "not reached through Cloudflare"
        );
        Failure::Cloudflare(
            "this agent is not reached through Cloudflare; the relay's log says why",
        )
    })?;
    let carrier = app.clone();
    app.tunnels.spawn(async move {
        agent_api::carry(&carrier, &caller.agent_id, &caller.user_id, stream).await;
    });
    Ok(StatusCode::NO_CONTENT)
}

fn account(app: &App) -> Result<&Cloudflare, Failure> {
    app.cloudflare.as_ref().ok_or(Failure::NotFound(
        "this relay has no account at Cloudflare; set tunnel.carrier to \"embedded\"",
    ))
}
