//! What a signed agent may call.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_protocol::agent::{
    Activity, ActivityAnswer, ActivityKind, AgentState, Control, Heartbeat, HeartbeatAnswer,
    Outcome,
};
use katachi_protocol::mcp::{AgentMcp, AgentMcpConfig};
use katachi_protocol::routes::TUNNEL_PROTOCOL;
use tracing::warn;

use super::App;
use super::extract::JsonBody;
use super::signed::{self, Caller, Purpose};
use crate::carrier::{ByteStream, switching};
use crate::failure::Failure;
use crate::records::store::ReadTx;
use crate::records::{Records, RecordsError, agents, audit, mcp};
use crate::tunnel::Opened;

/// `POST /v1/agent/heartbeat`.
pub(super) async fn heartbeat(
    State(app): State<App>,
    caller: Caller,
    JsonBody(heartbeat): JsonBody<Heartbeat>,
) -> Result<Json<HeartbeatAnswer>, Failure> {
    let now = SystemClock.now().as_unix();
    let state = state_word(heartbeat.state);
    let generation = heartbeat.vault_generation;
    let known = app
        .records
        .write(move |tx| agents::seen(tx, &caller.agent_id, state, generation, now))
        .await
        .map_err(Failure::internal)?;
    Ok(Json(HeartbeatAnswer {
        server_time: now,
        next_seconds: app.limits.heartbeat.as_secs(),
        vault_generation: known,
    }))
}

/// `POST /v1/agent/activity`.
pub(super) async fn activity(
    State(app): State<App>,
    caller: Caller,
    JsonBody(activity): JsonBody<Activity>,
) -> Result<Json<ActivityAnswer>, Failure> {
    app.throttles.activity.take(caller.agent_id.clone()).await?;
    let event = audit::Event {
        at: SystemClock.now().as_unix(),
        agent_id: Some(caller.agent_id.clone()),
        action: kind_word(activity.kind),
        detail: detail(&activity),
    };
    let (sequence, head) = app
        .records
        .audit(&caller.user_id, event)
        .await
        .map_err(Failure::internal)?;
    Ok(Json(ActivityAnswer {
        sequence,
        head: audit::hex(&head),
    }))
}

/// `GET /v1/agent/mcp`.
pub(super) async fn mcp(State(app): State<App>, caller: Caller) -> Result<Json<AgentMcp>, Failure> {
    let (records, user, agent) = (app.records.clone(), caller.user_id, caller.agent_id);
    let configs = app
        .records
        .read(move |tx| {
            let rows = mcp::configs(tx, &user)?;
            rows.into_iter()
                .map(|row| released(&records, tx, &user, &agent, row))
                .collect::<Result<Vec<_>, _>>()
        })
        .await
        .map_err(Failure::internal)?;
    Ok(Json(AgentMcp { configs }))
}

/// One configuration as far as the owner released it to the agent.
fn released(
    records: &Records,
    tx: &ReadTx<'_>,
    user: &str,
    agent: &str,
    row: mcp::ConfigRow,
) -> Result<AgentMcpConfig, RecordsError> {
    let released_to: Vec<String> = serde_json::from_str(&row.released_to)?;
    let mut config = AgentMcpConfig {
        released: released_to.iter().any(|id| id == agent),
        name: row.name,
        command: Vec::new(),
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        signature: None,
        version: row.version,
    };
    if config.released {
        config.command = serde_json::from_str(&row.command)?;
        config.env = serde_json::from_str(&row.env)?;
        let rows = mcp::secrets_of(tx, user, &config.name)?;
        let values = records.open_mcp(tx, user, &rows)?;
        for (row, value) in rows.into_iter().zip(values) {
            match row.signed_for() {
                None => {
                    config.secrets.insert(row.name, value);
                }
                Some(signed) if signed == agent => {
                    config.signature = Some(serde_json::from_str(value.expose_secret())?);
                }
                Some(_) => {}
            }
        }
    }
    Ok(config)
}

/// `DELETE /v1/agent`.
pub(super) async fn unregister(
    State(app): State<App>,
    caller: Caller,
) -> Result<StatusCode, Failure> {
    let (records, agent, user) = (app.records.clone(), caller.agent_id.clone(), caller.user_id);
    app.records
        .write(move |tx| {
            agents::erase(tx, &agent)?;
            let event = audit::Event {
                at: SystemClock.now().as_unix(),
                agent_id: Some(agent),
                action: "agent_unregistered",
                detail: String::new(),
            };
            audit::append(tx, &records.audit_key(), &user, &event)
        })
        .await
        .map_err(Failure::internal)?;
    app.gate.keys.remove_agent(&caller.agent_id);
    app.tunnels.close(&caller.agent_id);
    app.cloudflare_work.notify_one();
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/tunnel`.
pub(super) async fn tunnel(State(app): State<App>, request: Request) -> Response {
    if !asks_for_tunnel(request.version(), request.headers()) {
        return Failure::UpgradeRequired.into_response();
    }
    let headers = [
        (UPGRADE, HeaderValue::from_static(TUNNEL_PROTOCOL)),
        (CONNECTION, HeaderValue::from_static("upgrade")),
    ];
    open(&app, request, Purpose::Tunnel, headers).await
}

/// `GET /v1/tunnel/websocket`.
pub(super) async fn tunnel_websocket(State(app): State<App>, request: Request) -> Response {
    if !app.websocket {
        return Failure::NotFound("this relay takes no tunnel inside of a WebSocket")
            .into_response();
    }
    match switching(request.headers()) {
        Some(headers) => open(&app, request, Purpose::WebSocket, headers).await,
        None => Failure::BadRequest("this route opens a WebSocket".to_owned()).into_response(),
    }
}

/// Opens a tunnel for whoever signed `request` for `purpose`; the answer switches
/// protocols by `headers`.
async fn open(
    app: &App,
    mut request: Request,
    purpose: Purpose,
    headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
) -> Response {
    // The signature is over no body, and what follows the head is the tunnel.
    if !request.body().is_end_stream() {
        return Failure::BadRequest("this request has no body".to_owned()).into_response();
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let tunnelled = match signed::verify_tunnel(app, request, purpose).await {
        Ok(tunnelled) => tunnelled,
        Err(response) => return *response,
    };
    if tunnelled.keys.quarantined {
        return tunnelled.sign(Failure::Quarantined.into_response()).await;
    }
    if app.tunnels.is_full_for(&tunnelled.keys.agent_id) {
        return tunnelled.sign(Failure::Unavailable.into_response()).await;
    }
    let (agent, user) = (
        tunnelled.keys.agent_id.clone(),
        tunnelled.keys.user_id.clone(),
    );
    let carrier = app.clone();
    app.tunnels.spawn(async move {
        let upgraded = match tokio::time::timeout(carrier.limits.headers, upgrade).await {
            Ok(Ok(upgraded)) => upgraded,
            Ok(Err(error)) => return warn!(%agent, %error, "a tunnel was not upgraded"),
            Err(_) => return warn!(%agent, "a tunnel was not upgraded in time"),
        };
        match purpose {
            Purpose::WebSocket => {
                let socket = ByteStream::accepted(TokioIo::new(upgraded)).await;
                carry(&carrier, &agent, &user, TokioIo::new(socket)).await;
            }
            Purpose::Api | Purpose::Tunnel => carry(&carrier, &agent, &user, upgraded).await,
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().extend(headers);
    tunnelled.sign(response).await
}

/// Runs a tunnel of `agent` to its end, and writes both down.
pub(super) async fn carry(
    app: &App,
    agent: &str,
    user: &str,
    stream: impl Read + Write + Send + Unpin + 'static,
) {
    let now = SystemClock.now().as_unix();
    let seen = agent.to_owned();
    let marked = app
        .records
        .write(move |tx| agents::seen(tx, &seen, "idle", None, now))
        .await;
    if let Err(error) = marked {
        warn!(%agent, %error, "could not note that an agent connected");
    }
    let note = app.clone();
    let (owner, id) = (user.to_owned(), agent.to_owned());
    let opened = move |opened| {
        tokio::spawn(async move {
            match opened {
                Opened::Alone => note.audit(&owner, Some(&id), "tunnel_opened").await,
                Opened::InPlaceOfAnother => flipped(&note, &owner, &id).await,
            }
        });
    };
    let claim = app.claim(agent);
    let carried = app.tunnels.carry(agent, stream, claim, opened).await;
    let Some(generation) = carried else { return };
    if let Some(cluster) = &app.cluster {
        cluster.release(agent, generation).await;
    }
    app.audit(user, Some(agent), "tunnel_closed").await;
}

/// Tunnels of one agent that take each other's place within a minute before its key
/// counts as copied.
const MOST_FLIPS: u64 = 3;

/// Writes down that a tunnel took the place of one that lived. An agent that moved does
/// so once or twice; when two places do it to each other, the key is refused to both
/// until its owner has decided.
async fn flipped(app: &App, user: &str, agent: &str) {
    let (records, owner, id) = (app.records.clone(), user.to_owned(), agent.to_owned());
    let written = app.records.write(move |tx| {
        let now = SystemClock.now().as_unix();
        let key = records.audit_key();
        let event = |action| audit::Event {
            at: now,
            agent_id: Some(id.clone()),
            action,
            detail: String::new(),
        };
        audit::append(tx, &key, &owner, &event(REPLACED))?;
        let flips = audit::count(tx, &owner, &id, REPLACED, now.saturating_sub(60))?;
        let quarantined = flips > MOST_FLIPS && agents::quarantine(tx, &id, now)?;
        if quarantined {
            audit::append(tx, &key, &owner, &event("agent_quarantined"))?;
        }
        Ok(quarantined)
    });
    match written.await {
        Ok(false) => {}
        Ok(true) => {
            warn!(%agent, "two places use this agent's key: it is refused from now on");
            if let Err(error) = app.reload_keys_of(agent).await {
                warn!(%agent, %error, "a refused key could not be loaded");
            }
            app.tunnels.close(agent);
        }
        Err(error) => warn!(%agent, %error, "could not write to the audit log"),
    }
}

const REPLACED: &str = "tunnel_replaced";

fn asks_for_tunnel(version: Version, headers: &HeaderMap) -> bool {
    let connection = headers
        .get(CONNECTION)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    version == Version::HTTP_11
        && headers
            .get(UPGRADE)
            .is_some_and(|value| value == TUNNEL_PROTOCOL)
        && connection
            .split(',')
            .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

fn detail(activity: &Activity) -> String {
    let outcome = activity
        .outcome
        .map(|outcome| format!("outcome={}", outcome_word(outcome)));
    let control = activity
        .control
        .map(|control| format!("control={}", control_word(control)));
    let took = activity
        .milliseconds
        .map(|millis| format!("milliseconds={millis}"));
    [outcome, control, took]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ")
}

pub(super) const fn state_word(state: AgentState) -> &'static str {
    match state {
        AgentState::Idle => "idle",
        AgentState::Busy => "busy",
        AgentState::Draining => "draining",
    }
}

pub(super) fn state_of(word: &str) -> AgentState {
    match word {
        "busy" => AgentState::Busy,
        "draining" => AgentState::Draining,
        _ => AgentState::Idle,
    }
}

const fn kind_word(kind: ActivityKind) -> &'static str {
    match kind {
        ActivityKind::Connected => "connected",
        ActivityKind::RunStarted => "run_started",
        ActivityKind::RunFinished => "run_finished",
        ActivityKind::ActionDenied => "action_denied",
        ActivityKind::MessageReceived => "message_received",
        ActivityKind::MessageAnswered => "message_answered",
        ActivityKind::CredentialUsed => "credential_used",
        ActivityKind::PolicyChanged => "policy_changed",
        ActivityKind::Disconnecting => "disconnecting",
    }
}

const fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Failed => "failed",
        Outcome::Denied => "denied",
        Outcome::Cancelled => "cancelled",
        Outcome::Interrupted => "interrupted",
    }
}

const fn control_word(control: Control) -> &'static str {
    match control {
        Control::Command => "command",
        Control::Read => "read",
        Control::Write => "write",
        Control::Network => "network",
        Control::Limit => "limit",
        Control::Other => "other",
    }
}
