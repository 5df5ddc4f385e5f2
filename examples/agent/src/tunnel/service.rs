//! What can be asked of this machine: this, and nothing else.
//!
//! There is no route for files and none for shells. A command is an argument
//! vector that runs in the sandbox under the person's policy; every request is
//! written to the audit log before anything happens, also one that cannot be read, and
//! one that the relay makes by itself and is refused is at least counted there.
//!
//! The relay itself reaches two routes only: one carries the channels of paired
//! devices, and by the other it says that it stops. Everything else is served inside
//! of channels, where the relay neither reads nor speaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Extension, Path, Query, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use katachi_protocol::SCHEMA_VERSION;
use katachi_protocol::agent::{Activity, AgentState, AgentStatus, CloudflaredHealth, Reconnect};
use katachi_protocol::approval::{ApprovalAnswer, Approvals as Waiting};
use katachi_protocol::channel::{Devices as DeviceList, is_device};
use katachi_protocol::problem::{Problem, codes};
use katachi_protocol::record::{Denial, Denials, History};
use katachi_protocol::routes::tunnel as routes;
use serde::Deserialize;
use tokio::sync::{Semaphore, watch};

use super::work::{self, Interrupted};
use super::{mcp, sessions};
use crate::approvals::Approvals;
use crate::audit::{AuditLog, Call, Direction};
use crate::channel::{self, Asker, CodePairing, Devices, Pairing};
use crate::chat::Chat;
use crate::config::{Ai, Config};
use crate::home::Home;
use crate::mcp::{Policies, Signed};
use crate::policy::Rules;
use crate::relay_client::RelayClient;
use crate::runner::Finished;

/// Commands and messages at once; more are refused, not queued.
pub(super) const MAX_RUNS: usize = 8;
/// Channels at once; each is one request.
const MAX_CHANNELS: usize = 64;
/// Bytes of a request body.
const MAX_BODY: usize = 256 * 1024;
/// Bytes of what the relay says when it stops.
const MAX_RECONNECT: usize = 1024;
/// Most hits and denials in one answer.
pub(super) const MAX_RECORDS: u32 = 50;

/// Everything that requests from the relay can reach.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) config: Config,
    pub(super) rules: Rules,
    pub(crate) ai: Option<(Ai, Rules)>,
    pub(crate) home: Arc<Home>,
    pub(crate) chat: Chat,
    pub(super) client: RelayClient,
    pub(super) audit: Arc<AuditLog>,
    pub(crate) devices: Devices,
    pub(crate) pairing: Pairing,
    pub(crate) codes: CodePairing,
    pub(crate) channels: Arc<Semaphore>,
    /// Policies of MCP servers.
    pub(crate) mcp: Policies,
    /// Which of their configurations were started here.
    pub(crate) signed: Signed,
    pub(super) approvals: Approvals,
    pub(super) runs: Arc<Semaphore>,
    pub(super) running: AtomicUsize,
    /// What the relay has yet to be told of: ends that the agent did not live to tell.
    pub(super) untold: tokio::sync::Mutex<Vec<Activity>>,
    /// How the `cloudflared` is that carries the tunnel, while one does.
    pub(crate) cloudflared: watch::Sender<Option<CloudflaredHealth>>,
}

impl Service {
    /// Puts the service together.
    ///
    /// # Errors
    ///
    /// Returns an error if a policy file cannot be read.
    pub(crate) fn new(
        config: &Config,
        home: Arc<Home>,
        chat: Chat,
        client: RelayClient,
        audit: Arc<AuditLog>,
        interrupted: &Interrupted,
    ) -> anyhow::Result<Self> {
        let rules = Rules::load(config.policy.as_deref())?;
        let ai = match &config.ai {
            None => None,
            Some(ai) => {
                let rules = match &ai.policy {
                    Some(file) => Rules::load(Some(file))?,
                    None => rules.clone(),
                };
                Some((ai.clone(), rules))
            }
        };
        Ok(Self {
            devices: Devices::of(&config.paths),
            pairing: Pairing::of(&config.paths),
            codes: CodePairing::of(&config.paths),
            channels: Arc::new(Semaphore::new(MAX_CHANNELS)),
            mcp: Policies::load(&config.mcp, &rules)?,
            signed: Signed::of(&config.paths),
            config: config.clone(),
            rules,
            ai,
            home,
            chat,
            client,
            audit,
            approvals: Approvals::default(),
            runs: Arc::new(Semaphore::new(MAX_RUNS)),
            running: AtomicUsize::new(0),
            untold: interrupted.activities().into(),
            cloudflared: watch::Sender::new(None),
        })
    }

    /// The signed client of the same relay.
    pub(crate) fn client(&self) -> &RelayClient {
        &self.client
    }

    /// What this machine is doing.
    pub(crate) fn state(&self) -> AgentState {
        match self.running.load(Ordering::Relaxed) {
            0 => AgentState::Idle,
            _ => AgentState::Busy,
        }
    }

    /// Writes a request down. Nothing happens that is not written down.
    pub(crate) fn record(&self, call: &str, detail: String, outcome: &str) -> Result<(), Refusal> {
        self.audit
            .record(Call {
                direction: Direction::In,
                call: call.to_owned(),
                detail,
                outcome: outcome.to_owned(),
                denial: None,
            })
            .map_err(|error| {
                tracing::error!("{error:#}");
                Refusal::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    codes::UNAVAILABLE,
                    "the agent cannot write its audit log",
                )
            })
    }

    /// Writes down what came to nothing, as far as there is room for it.
    pub(crate) fn record_refused(&self, call: &str, detail: String) {
        let recorded = self.audit.record_refused(Call {
            direction: Direction::In,
            call: call.to_owned(),
            detail,
            outcome: REFUSED.to_owned(),
            denial: None,
        });
        if let Err(error) = recorded {
            tracing::error!("{error:#}");
        }
    }

    pub(super) fn record_end(&self, call: &str, detail: &str, finished: &Finished) {
        let entry = |outcome: String, denial: Option<Denial>| Call {
            direction: Direction::In,
            call: call.to_owned(),
            detail: detail.to_owned(),
            outcome,
            denial,
        };
        let denials = finished
            .denials
            .iter()
            .map(|denial| entry("denied".to_owned(), Some(denial.clone())));
        for entry in denials.chain([entry(finished.outcome.clone(), None)]) {
            if let Err(error) = self.audit.record(entry) {
                tracing::error!("{error:#}");
            }
        }
    }
}

/// The routes as the relay reaches them: the carrier of channels, and what it says
/// when it stops. Whether a device was ever paired makes no difference.
pub(crate) fn outside(service: Arc<Service>, leave: Leave) -> Router {
    let record: Record = |service, call, why| {
        service.record_refused(call, why);
        Ok(())
    };
    let reconnect = post(reconnect).layer(DefaultBodyLimit::max(MAX_RECONNECT));
    Router::new()
        .route(routes::CHANNEL, post(channel::serve))
        .route(routes::RECONNECT, reconnect)
        .layer(Extension(leave))
        .fallback(refuse)
        .method_not_allowed_fallback(refuse)
        .layer(middleware::from_fn_with_state(
            (Arc::clone(&service), record),
            write_down,
        ))
        .with_state(service)
}

/// Where the serving end of one tunnel hears that the relay stops.
pub(crate) type Leave = watch::Sender<Option<Reconnect>>;

async fn reconnect(
    State(service): State<Arc<Service>>,
    Extension(leave): Extension<Leave>,
    body: Result<Json<Reconnect>, JsonRejection>,
) -> Result<StatusCode, Refusal> {
    let Json(when) = body?;
    if leave.borrow().is_some() {
        // It was told, and the agent is about to go.
        return Ok(StatusCode::NO_CONTENT);
    }
    let said = format!("after {} ms, within {} ms", when.after_ms, when.spread_ms);
    service.record("POST /v1/reconnect", said, "received")?;
    // Nobody listens where the tunnel ends anyway.
    let _ = leave.send(Some(when));
    Ok(StatusCode::NO_CONTENT)
}

/// The routes as a device reaches them, inside of a channel.
pub(crate) fn inside(service: Arc<Service>) -> Router {
    let record: Record = |service, call, why| service.record(call, why, REFUSED);
    Router::new()
        .route(routes::RUN, post(work::run))
        .route(routes::MESSAGE, post(work::message))
        .route(routes::STATUS, get(status))
        .route(routes::HISTORY, get(history))
        .route(routes::SESSIONS, get(sessions::list))
        .route(
            routes::SESSION,
            get(sessions::show).delete(sessions::forget),
        )
        .route(routes::DENIALS, get(denials))
        .route(routes::SCHEMA, get(schema))
        .route(routes::APPROVALS, get(approvals).post(approve))
        .route(routes::MCP, get(mcp::list).post(mcp::call))
        .route(routes::DEVICES, get(devices))
        .route(routes::DEVICE, delete(remove_device))
        .fallback(async || Refusal::nowhere())
        .method_not_allowed_fallback(async || Refusal::wrong_method())
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(
            (Arc::clone(&service), record),
            write_down,
        ))
        .with_state(service)
}

/// How a call is written down that came to nothing, with its route and why.
type Record = fn(&Service, &str, String) -> Result<(), Refusal>;

/// Writes down what was refused before its route could.
async fn write_down(
    State((service, record)): State<(Arc<Service>, Record)>,
    request: Request,
    next: Next,
) -> Response {
    let call = name(request.method(), request.uri());
    let response = next.run(request).await;
    if response.extensions().get::<Unwritten>().is_none() {
        return response;
    }
    match record(&service, &call, response.status().to_string()) {
        Ok(()) => response,
        Err(unavailable) => unavailable.into_response(),
    }
}

/// What the log calls a request. Whoever asks does not choose what stands there.
fn name(method: &Method, uri: &Uri) -> String {
    let is = |route: &str| {
        let (route, path) = (route.split('/'), uri.path().split('/'));
        let mut parts = route.clone().zip(path.clone());
        route.count() == path.count()
            && parts.all(|(route, part)| match route {
                "{id}" => !part.is_empty(),
                _ => route == part,
            })
    };
    let mut routes = ROUTES.into_iter();
    match routes.find(|(verb, route)| *verb == method.as_str() && is(route)) {
        Some((method, path)) => format!("{method} {path}"),
        None => ANOTHER_CALL.to_owned(),
    }
}

/// What the log calls a request for no route.
const ANOTHER_CALL: &str = "another call";
/// The outcome of what came to nothing.
const REFUSED: &str = "refused";

/// Refuses what the relay asks by itself, and writes down that it did, or counts it where
/// there is no room for more of them.
async fn refuse(State(service): State<Arc<Service>>, method: Method, uri: Uri) -> Response {
    service.record_refused(&name(&method, &uri), "outside a channel".to_owned());
    Refusal::new(
        StatusCode::FORBIDDEN,
        codes::NOT_PAIRED,
        "this agent listens to paired devices only; run `katachi-agent device pair` on it and open the link here",
    )
    .into_response()
}

/// Every route there is, by method and path.
pub(crate) const ROUTES: [(&str, &str); 17] = [
    ("POST", routes::RUN),
    ("POST", routes::MESSAGE),
    ("GET", routes::STATUS),
    ("GET", routes::HISTORY),
    ("GET", routes::SESSIONS),
    ("GET", routes::SESSION),
    ("DELETE", routes::SESSION),
    ("GET", routes::DENIALS),
    ("GET", routes::SCHEMA),
    ("POST", routes::CHANNEL),
    ("POST", routes::RECONNECT),
    ("GET", routes::APPROVALS),
    ("POST", routes::APPROVALS),
    ("GET", routes::MCP),
    ("POST", routes::MCP),
    ("GET", routes::DEVICES),
    ("DELETE", routes::DEVICE),
];

/// A request that is not served.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    problem: Problem,
    is_written: bool,
}

/// Marks an answer of which the log knows nothing yet.
#[derive(Clone, Copy, Debug)]
struct Unwritten;

impl Refusal {
    /// One that the route has written down.
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            problem: Problem::new(code, message),
            is_written: true,
        }
    }

    /// The same where nothing of the request was written down yet.
    pub(crate) fn unwritten(self) -> Self {
        Self {
            is_written: false,
            ..self
        }
    }

    /// What cannot be read, or means nothing here; it is not written down yet.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, codes::BAD_REQUEST, message).unwritten()
    }

    /// More than is read; it is not written down yet.
    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, codes::TOO_LARGE, message).unwritten()
    }

    /// A method that the route does not have; it is not written down yet.
    pub(crate) fn wrong_method() -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, codes::BAD_REQUEST, "this path has no such method").unwritten()
    }

    fn nowhere() -> Self {
        let status = StatusCode::NOT_FOUND;
        Self::new(status, codes::NOT_FOUND, "there is no such path").unwritten()
    }

    pub(super) fn internal(error: &anyhow::Error) -> Self {
        tracing::error!("{error:#}");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            codes::UNAVAILABLE,
            "the agent could not do it; its log says why",
        )
    }

    /// The sentence for people.
    pub(crate) fn why(&self) -> &str {
        &self.problem.message
    }

    /// The answer to what asks for no route, written down.
    pub(crate) fn write_down(self, service: &Service) -> Response {
        match service.record(ANOTHER_CALL, self.status.to_string(), REFUSED) {
            Ok(()) => self.into_response(),
            Err(unavailable) => unavailable.into_response(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.problem)).into_response();
        if !self.is_written {
            response.extensions_mut().insert(Unwritten);
        }
        response
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        let why = rejection.body_text();
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::too_large(why),
            status @ StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                Self::new(status, codes::BAD_REQUEST, why).unwritten()
            }
            _ => Self::bad(why),
        }
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad(rejection.body_text())
    }
}

impl From<PathRejection> for Refusal {
    fn from(rejection: PathRejection) -> Self {
        Self::bad(rejection.body_text())
    }
}

async fn status(State(service): State<Arc<Service>>) -> Result<Json<AgentStatus>, Refusal> {
    service.record("GET /v1/status", String::new(), "answered")?;
    let workspace = service.config.workspace.file_name();
    Ok(Json(AgentStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        schema: SCHEMA_VERSION,
        host_name: crate::relay_client::login::host_name(),
        workspace: workspace
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        state: service.state(),
        sandbox: crate::commands::doctor::sandbox_line(),
        vault: crate::home::slot_line(&service.home.vault),
        cloudflared: *service.cloudflared.borrow(),
    }))
}

#[derive(Debug, Deserialize)]
struct Search {
    #[serde(default)]
    q: String,
}

async fn history(
    State(service): State<Arc<Service>>,
    query: Result<Query<Search>, QueryRejection>,
) -> Result<Json<History>, Refusal> {
    let Query(search) = query?;
    service.record(
        "GET /v1/history",
        format!("{} bytes of words", search.q.len()),
        "answered",
    )?;
    let worker = Arc::clone(&service);
    let found = tokio::task::spawn_blocking(move || worker.chat.find(&search.q, MAX_RECORDS))
        .await
        .map_err(|error| Refusal::internal(&error.into()))?;
    let hits = found.map_err(|error| Refusal::internal(&error))?;
    Ok(Json(History { hits }))
}

async fn denials(State(service): State<Arc<Service>>) -> Result<Json<Denials>, Refusal> {
    service.record("GET /v1/denials", String::new(), "answered")?;
    let worker = Arc::clone(&service);
    let found = tokio::task::spawn_blocking(move || worker.audit.denials(MAX_RECORDS as usize))
        .await
        .map_err(|error| Refusal::internal(&error.into()))?;
    let denials = found.map_err(|error| Refusal::internal(&error))?;
    Ok(Json(Denials { denials }))
}

async fn approvals(State(service): State<Arc<Service>>) -> Result<Json<Waiting>, Refusal> {
    service.record("GET /v1/approvals", String::new(), "answered")?;
    let approvals = service.approvals.waiting(crate::audit::now());
    Ok(Json(Waiting { approvals }))
}

async fn approve(
    State(service): State<Arc<Service>>,
    Extension(Asker(peer)): Extension<Asker>,
    body: Result<Json<ApprovalAnswer>, JsonRejection>,
) -> Result<StatusCode, Refusal> {
    let Json(answer) = body?;
    let device = service.devices.find(&service.home.vault, &peer);
    let device = device.map_err(|error| Refusal::internal(&error).unwritten())?;
    let device = device.ok_or_else(|| {
        Refusal::new(
            StatusCode::FORBIDDEN,
            codes::NOT_PAIRED,
            "the device was removed",
        )
        .unwritten()
    })?;
    let said = format!("{}, device {}", answer.decision.word(), &device.id[..8]);
    let checked = service
        .approvals
        .check(&device, &answer, crate::audit::now());
    let outcome = match &checked {
        Ok(_) => "received".to_owned(),
        Err(why) => format!("refused: {why}"),
    };
    // What cannot be written down does not count, and can be said again.
    service.record("POST /v1/approvals", said, &outcome)?;
    match checked {
        Ok(checked) => {
            checked.count();
            Ok(StatusCode::NO_CONTENT)
        }
        Err(why) => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            codes::FORBIDDEN,
            why.to_string(),
        )),
    }
}

async fn devices(State(service): State<Arc<Service>>) -> Result<Json<DeviceList>, Refusal> {
    service.record("GET /v1/devices", String::new(), "answered")?;
    let listed = service.devices.list(&service.home.vault);
    let devices = listed.map_err(|error| Refusal::internal(&error))?;
    Ok(Json(DeviceList { devices }))
}

async fn remove_device(
    State(service): State<Arc<Service>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    let Path(id) = id?;
    let nobody = || {
        let status = StatusCode::NOT_FOUND;
        Refusal::new(status, codes::NOT_FOUND, "there is no such device")
    };
    // A person at the terminal may give the beginning of an identifier; here it is whole.
    if !is_device(&id) {
        return Err(nobody().unwritten());
    }
    let detail = format!("device {}", &id[..8]);
    service.record("DELETE /v1/devices/{id}", detail, "received")?;
    let removed = service.devices.remove(&service.home.vault, &id);
    let removed = removed.map_err(|error| Refusal::internal(&error))?;
    removed.map(|_| StatusCode::NO_CONTENT).ok_or_else(nobody)
}

async fn schema(State(service): State<Arc<Service>>) -> Result<impl IntoResponse, Refusal> {
    service.record("GET /v1/schema", String::new(), "answered")?;
    let json = [(header::CONTENT_TYPE, "application/json")];
    Ok((json, katachi_protocol::AGENT_API))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::ROUTES;

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        let api: serde_json::Value = serde_json::from_str(katachi_protocol::AGENT_API).unwrap();
        let paths = api["paths"].as_object().unwrap();
        let described: BTreeSet<_> = paths
            .iter()
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().unwrap().keys();
                methods.map(move |method| (method.to_uppercase(), path.clone()))
            })
            .collect();
        let served = ROUTES.map(|(method, path)| (method.to_owned(), path.to_owned()));
        assert_eq!(described, BTreeSet::from(served));
    }
}
