//! Calls that agents sign: verified before a handler sees them, answered under
//! a signature that is bound to the question.
//!
//! A stranger learns nothing but "refused". Who holds the key learns, signed,
//! that the clock is off, the epoch is stale, the key was withdrawn or the
//! request was sent before.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use axum::Json;
use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequestParts, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::replay::AsyncReplayStore as _;
use katachi_auth::signature::{
    Answer, Context, KeyId, Keys, KnownKey, Profile, Reason, Refusal, RequestBinding, ResponseView,
    Signer, SigningKey, Verified, Verifier, derive_key, sign_response,
};
use katachi_crypto::Secret;
use katachi_protocol::problem::Problem;
use tracing::{info, warn};

use super::App;
use super::extract;
use crate::carrier::{ORIGIN_REQUEST, WEBSOCKET_REQUEST};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::records::agents::KeyRow;

/// The keys of one agent, derived from its secret, one for each purpose.
pub(crate) struct AgentKeys {
    pub(crate) agent_id: String,
    pub(crate) user_id: String,
    /// Two places use it, and its owner has not decided yet.
    pub(crate) quarantined: bool,
    api: Arc<KnownKey>,
    tunnel: Arc<KnownKey>,
    websocket: Arc<KnownKey>,
    response: SigningKey,
    /// What the relay signs when it reaches the agent through Cloudflare.
    pub(crate) origin: Signer,
}

impl AgentKeys {
    pub(crate) fn derive(key_id: &KeyId, row: &KeyRow, secret: &Secret<32>) -> Self {
        let (agent_id, revoked) = (row.agent_id.as_str(), row.revoked);
        let known = |profile: &Profile| {
            let mut known = KnownKey::new(
                key_id.clone(),
                agent_id,
                derive_key(secret, agent_id, profile),
            );
            known.revoked = revoked;
            Arc::new(known)
        };
        Self {
            agent_id: agent_id.to_owned(),
            user_id: row.user_id.clone(),
            quarantined: row.quarantined,
            api: known(&Profile::AGENT_REQUEST),
            tunnel: known(&Profile::TUNNEL_REQUEST),
            websocket: known(&WEBSOCKET_REQUEST),
            response: derive_key(secret, agent_id, &Profile::RELAY_RESPONSE).into(),
            origin: Signer::new(
                ORIGIN_REQUEST,
                key_id.clone(),
                derive_key(secret, agent_id, &ORIGIN_REQUEST),
            ),
        }
    }
}

impl std::fmt::Debug for AgentKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentKeys")
            .field("agent_id", &self.agent_id)
            .finish_non_exhaustive()
    }
}

/// All agents' keys, in memory: how long a lookup takes says nothing.
#[derive(Debug, Default)]
pub(crate) struct KeyRing(RwLock<HashMap<String, Arc<AgentKeys>>>);

impl KeyRing {
    pub(crate) fn insert(&self, key_id: &str, keys: AgentKeys) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key_id.to_owned(), Arc::new(keys));
    }

    pub(crate) fn remove_agent(&self, agent_id: &str) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, keys| keys.agent_id != agent_id);
    }

    pub(crate) fn remove(&self, key_id: &str) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key_id);
    }

    /// Whether the key of `row` is here as the row has it.
    pub(crate) fn is_current(&self, row: &KeyRow) -> bool {
        self.get(&row.id).is_some_and(|keys| {
            (keys.api.revoked, keys.quarantined) == (row.revoked, row.quarantined)
        })
    }

    /// The keys of an agent that may still use them.
    pub(crate) fn of_agent(&self, agent_id: &str) -> Option<Arc<AgentKeys>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.values()
            .find(|keys| keys.agent_id == agent_id && !keys.api.revoked)
            .cloned()
    }

    /// The keys of this name, unless they were withdrawn.
    pub(crate) fn live(&self, key_id: &str) -> Option<Arc<AgentKeys>> {
        self.get(key_id).filter(|keys| !keys.api.revoked)
    }

    fn get(&self, key_id: &str) -> Option<Arc<AgentKeys>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key_id)
            .cloned()
    }
}

/// What a request is signed for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Api,
    /// To open a tunnel on this TLS connection.
    Tunnel,
    /// To open one inside of a WebSocket.
    WebSocket,
}

/// The keys for one purpose.
struct For<'a>(&'a KeyRing, Purpose);

impl Keys for For<'_> {
    fn find(&self, id: &str) -> Option<Arc<KnownKey>> {
        let keys = self.0.get(id)?;
        Some(Arc::clone(match self.1 {
            Purpose::Api => &keys.api,
            Purpose::Tunnel => &keys.tunnel,
            Purpose::WebSocket => &keys.websocket,
        }))
    }
}

/// What is accepted, and what was.
#[derive(Debug)]
pub(crate) struct Gate {
    api: Verifier,
    tunnel: Verifier,
    websocket: Verifier,
    pub(crate) keys: KeyRing,
}

impl Gate {
    /// A gate for requests addressed to one of `authorities`.
    pub(crate) fn new(authorities: &[String]) -> Self {
        Self {
            api: Verifier::new(Profile::AGENT_REQUEST, authorities.to_vec()),
            tunnel: Verifier::new(Profile::TUNNEL_REQUEST, authorities.to_vec()),
            websocket: Verifier::new(WEBSOCKET_REQUEST, authorities.to_vec()),
            keys: KeyRing::default(),
        }
    }
}

/// The agent that signed the request. Only this module makes one.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) agent_id: String,
    pub(crate) user_id: String,
    _private: (),
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Failure::internal("a signed route without its layer"))
    }
}

/// Lets only signed requests pass and signs what comes back. Of a stranger's body nothing
/// is read.
pub(super) async fn layer(State(app): State<App>, request: Request<Body>, next: Next) -> Response {
    let verified = match verify(&app, request, Purpose::Api).await {
        Ok(verified) => verified,
        Err(response) => return *response,
    };
    let Some(keys) = app.gate.keys.get(verified.key().id.as_str()) else {
        // Withdrawn between the check and here.
        return Failure::Unauthorized.into_response();
    };
    let (key_id, binding) = (verified.key().id.clone(), verified.binding());
    let mut request = verified.into_request().map(Body::from);
    // It may still go for good.
    if keys.quarantined && request.method() != Method::DELETE {
        let refused = Failure::Quarantined.into_response();
        return sign(&keys, &key_id, &binding, refused).await;
    }
    request.extensions_mut().insert(Caller {
        agent_id: keys.agent_id.clone(),
        user_id: keys.user_id.clone(),
        _private: (),
    });
    let response = next.run(request).await;
    sign(&keys, &key_id, &binding, response).await
}

/// Verifies the request that opens a tunnel, for `purpose`.
/// The answer has to be signed by [`Tunnelled::sign`].
pub(super) async fn verify_tunnel(
    app: &App,
    request: Request<Body>,
    purpose: Purpose,
) -> Result<Tunnelled, Box<Response>> {
    let verified = verify(app, request, purpose).await?;
    let keys = app
        .gate
        .keys
        .get(verified.key().id.as_str())
        .ok_or_else(|| Box::new(Failure::Unauthorized.into_response()))?;
    Ok(Tunnelled {
        key_id: verified.key().id.clone(),
        binding: verified.binding(),
        keys,
    })
}

/// A tunnel request that may be answered.
pub(super) struct Tunnelled {
    key_id: KeyId,
    binding: RequestBinding,
    pub(super) keys: Arc<AgentKeys>,
}

impl Tunnelled {
    pub(super) async fn sign(&self, response: Response) -> Response {
        sign(&self.keys, &self.key_id, &self.binding, response).await
    }
}

/// Why a signed request goes no further.
enum Refused {
    Signature(Refusal),
    Body(Failure),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Signature(refusal)
    }
}

async fn verify(
    app: &App,
    request: Request<Body>,
    purpose: Purpose,
) -> Result<Verified<Request<Bytes>>, Box<Response>> {
    if let Some(key_id) = claimed_key(request.headers()) {
        app.refresh_key(key_id.as_str())
            .await
            .map_err(|failure| Box::new(failure.into_response()))?;
    }
    match accept(app, request, purpose).await {
        Ok(verified) => Ok(verified),
        Err(Refused::Signature(refusal)) => Err(Box::new(answer(app, &refusal).await)),
        Err(Refused::Body(failure)) => Err(Box::new(failure.into_response())),
    }
}

/// The key that a request says it was signed with, before anything is checked.
fn claimed_key(headers: &HeaderMap) -> Option<KeyId> {
    let input = headers.get("signature-input")?.to_str().ok()?;
    let (_, rest) = input.split_once(";keyid=\"")?;
    KeyId::parse(rest.split_once('"')?.0).ok()
}

async fn accept(
    app: &App,
    request: Request<Body>,
    purpose: Purpose,
) -> Result<Verified<Request<Bytes>>, Refused> {
    let (head, body) = request.into_parts();
    let epoch = app.replay.epoch().await.map_err(|error| {
        // Without an epoch nothing can be accepted; a random one refuses all.
        warn!(%error, "the replay store gives no epoch");
        error
    });
    let epoch = epoch.unwrap_or(katachi_auth::replay::Epoch::from_bytes([0; 16]));
    let mut context = Context::new(SystemClock.now(), epoch);
    let channel = head.extensions.get::<Connection>();
    let channel = channel.map(|connection| connection.exporter);
    context.channel = channel.as_ref();
    let verifier = match purpose {
        Purpose::Api => &app.gate.api,
        Purpose::Tunnel => &app.gate.tunnel,
        Purpose::WebSocket => &app.gate.websocket,
    };
    let keys = For(&app.gate.keys, purpose);
    let head = verifier.check_head(head, &keys, &context)?;
    let body = match takes_body(&head.head().method) {
        true => extract::read(app, &head.head().extensions, body, app.limits.body_bytes).await,
        false if body.is_end_stream() => Ok(Bytes::new()),
        // Whatever it is, it is not what was signed for a request without one.
        false => return Err(head.refuse(Reason::Digest).into()),
    };
    let body = body.map_err(Refused::Body)?;
    // The body may have taken its time.
    let now = SystemClock.now();
    let authentic = head.with_body(body, now)?;
    Ok(authentic.spend_async(&app.replay, now).await?)
}

/// Whether a signed request with this method has a body at all.
fn takes_body(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::DELETE)
}

/// Says to the peer what it may hear, and to the operator the rest.
async fn answer(app: &App, refusal: &Refusal) -> Response {
    let answer = refusal.answer();
    info!(%refusal, "signed call refused");
    let message = match answer {
        Answer::BadRequest => "the request is not one that this relay could accept",
        Answer::Refused => "the request is not signed by a key that this relay knows",
        Answer::Skew => "the clocks differ too much; correct yours by `server_time`",
        Answer::StaleEpoch => "sign again for the current `epoch`",
        Answer::Revoked => "this agent was removed; run `katachi-agent login` to connect it again",
        Answer::Replayed => "this request was accepted before",
        _ => "try again later",
    };
    let mut problem = Problem::new(answer.code(), message);
    let known = refusal.authenticated();
    if known.is_some() {
        problem.server_time = Some(SystemClock.now().as_unix());
        let epoch = app.replay.epoch().await.ok();
        problem.epoch = epoch.map(|epoch| epoch.to_string());
    }
    let status = StatusCode::from_u16(answer.status()).unwrap_or(StatusCode::UNAUTHORIZED);
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = (status, Json(&problem)).into_response();
    if let Some((key, binding)) = known
        && let Some(keys) = app.gate.keys.get(key.id.as_str())
    {
        add_signature(&keys, &key.id, binding, &mut response, &body);
    }
    response
}

/// Largest answer to a signed call, in bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

async fn sign(
    keys: &AgentKeys,
    key_id: &KeyId,
    binding: &RequestBinding,
    response: Response,
) -> Response {
    let (parts, body) = response.into_parts();
    let body = match Limited::new(body, MAX_ANSWER).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Failure::internal(error).into_response(),
    };
    let mut response = Response::from_parts(parts, Body::from(body.clone()));
    add_signature(keys, key_id, binding, &mut response, &body);
    response
}

fn add_signature(
    keys: &AgentKeys,
    key_id: &KeyId,
    binding: &RequestBinding,
    response: &mut Response,
    body: &[u8],
) {
    let view = ResponseView {
        status: response.status().as_u16(),
        headers: &[],
        body,
    };
    let signed = sign_response(
        &Profile::RELAY_RESPONSE,
        key_id,
        &keys.response,
        &view,
        binding,
        SystemClock.now(),
    );
    for (name, value) in signed {
        match HeaderValue::from_str(&value) {
            Ok(value) => response
                .headers_mut()
                .insert(HeaderName::from_static(name), value),
            Err(error) => {
                warn!(%error, name, "a signature header is not a header value");
                None
            }
        };
    }
}
