//! A `tower` layer for servers: only verified requests reach the service behind it, and
//! what comes back is signed.
//!
//! The layer collects the body up to a bound, checks, spends the nonce, and puts a
//! [`Caller`] into the request's extensions. Refusals are answered with JSON
//! `{"error": …}`; those to the holder of a key also carry the current epoch, and are
//! signed like every other answer. Answers are collected before they are sent, so keep
//! the layer away from routes that stream.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use axum::{Extension, Router, routing::post};
//! use katachi_auth::replay::{Limits, MemoryReplay};
//! use katachi_auth::signature::layer::{Caller, Gate, VerifyLayer};
//! use katachi_auth::signature::{KeyId, KnownKey, Profile, Verifier, derive_key};
//! use katachi_crypto::Secret;
//!
//! # let key = derive_key(&Secret::new([1; 32]), "agent-1", &Profile::AGENT_REQUEST);
//! # let keys = Arc::new(KnownKey::new(KeyId::parse("k1")?, "agent-1", key));
//! let verifier = Verifier::new(Profile::AGENT_REQUEST, ["api.example"]);
//! let gate = Gate::new(verifier, keys, MemoryReplay::new(Limits::default())?);
//! let app: Router = Router::new()
//!     .route("/v1/run", post(|Extension(caller): Extension<Caller>| async move {
//!         format!("hello {}", caller.owner())
//!     }))
//!     .layer(VerifyLayer::new(gate));
//! # let _ = app;
//! # Ok(())
//! # }
//! ```

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use ::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use ::http::{Request, Response, StatusCode};
use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    Answer, Context, Keys, KnownKey, Profile, Refusal, RequestBinding, SigningKey, Verified,
    Verifier, apply_headers, sign_response,
};
use crate::clock::{Clock, SystemClock};
use crate::replay::ReplayStore;

/// What a layer verifies with.
pub struct Gate {
    verifier: Verifier,
    keys: Box<dyn Keys>,
    store: Box<dyn ReplayStore>,
    clock: Box<dyn Clock>,
    answers: Option<(Profile, Box<dyn AnswerKeys>)>,
    max_body: usize,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("verifier", &self.verifier)
            .finish_non_exhaustive()
    }
}

/// Finds the key that signs answers to the holder of a key.
pub trait AnswerKeys: Send + Sync {
    /// The key for answers to `key`, or none to leave them unsigned.
    fn find(&self, key: &KnownKey) -> Option<Arc<SigningKey>>;
}

impl<F: Fn(&KnownKey) -> Option<Arc<SigningKey>> + Send + Sync> AnswerKeys for F {
    fn find(&self, key: &KnownKey) -> Option<Arc<SigningKey>> {
        self(key)
    }
}

impl Gate {
    /// A gate on the system's clock that collects bodies of at most 1 MiB.
    pub fn new(
        verifier: Verifier,
        keys: impl Keys + 'static,
        store: impl ReplayStore + 'static,
    ) -> Self {
        Self {
            verifier,
            keys: Box::new(keys),
            store: Box::new(store),
            clock: Box::new(SystemClock),
            answers: None,
            max_body: 1 << 20,
        }
    }

    /// Collects bodies of at most `bytes`, of requests and of answers to be signed.
    #[must_use]
    pub fn max_body(self, bytes: usize) -> Self {
        Self {
            max_body: bytes,
            ..self
        }
    }

    /// Reads the time from `clock`.
    #[must_use]
    pub fn clock(self, clock: impl Clock + 'static) -> Self {
        Self {
            clock: Box::new(clock),
            ..self
        }
    }

    /// Signs answers after `profile`.
    #[must_use]
    pub fn sign_answers(self, profile: Profile, keys: impl AnswerKeys + 'static) -> Self {
        Self {
            answers: Some((profile, Box::new(keys))),
            ..self
        }
    }

    fn admit(&self, request: Request<Bytes>) -> Result<Verified<Request<Bytes>>, Denied> {
        let now = self.clock.now();
        let epoch = self.store.epoch().map_err(|_| Denied::Unavailable)?;
        self.verifier
            .check(request, &*self.keys, &Context::new(now, epoch))
            .and_then(|authentic| authentic.spend(&*self.store, now))
            .map_err(|refusal| Denied::Refused(Box::new(refusal)))
    }

    fn sign(&self, key: &KnownKey, binding: &RequestBinding, response: &mut Response<Bytes>) {
        let Some((profile, keys)) = &self.answers else {
            return;
        };
        let Some(signing) = keys.find(key) else {
            return;
        };
        let now = self.clock.now();
        let headers = sign_response(profile, &key.id, &signing, response, binding, now);
        apply_headers(response.headers_mut(), headers);
    }

    fn answer(&self, denied: &Denied) -> Response<Bytes> {
        let answer = match denied {
            Denied::Refused(refusal) => refusal.answer(),
            Denied::Unavailable => Answer::Unavailable,
            Denied::TooLarge => return plain(StatusCode::PAYLOAD_TOO_LARGE, "too_large", None),
            Denied::Unreadable => return plain(StatusCode::BAD_REQUEST, "bad_request", None),
        };
        let status = StatusCode::from_u16(answer.status()).unwrap_or(StatusCode::UNAUTHORIZED);
        let authenticated = match denied {
            Denied::Refused(refusal) => refusal.authenticated(),
            _ => None,
        };
        let Some((key, binding)) = authenticated else {
            return plain(status, answer.code(), None);
        };
        let epoch = self.store.epoch().ok().map(|epoch| epoch.to_string());
        let mut response = plain(status, answer.code(), epoch);
        self.sign(key, binding, &mut response);
        response
    }
}

enum Denied {
    Refused(Box<Refusal>),
    Unavailable,
    TooLarge,
    Unreadable,
}

fn plain(status: StatusCode, code: &str, epoch: Option<String>) -> Response<Bytes> {
    let mut body = serde_json::json!({ "error": code });
    if let Some(epoch) = epoch {
        body["epoch"] = epoch.into();
    }
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::UNAUTHORIZED {
        // RFC 9110 section 11.6.1 wants a challenge with every 401.
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Signature"));
    }
    if matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    ) {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
    }
    response
}

/// Who made a verified request. Found in its extensions; only the layer makes one.
#[derive(Clone, Debug)]
pub struct Caller {
    key: Arc<KnownKey>,
}

impl Caller {
    /// The key that made the request.
    #[must_use]
    pub fn key(&self) -> &Arc<KnownKey> {
        &self.key
    }

    /// Whose key that is.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.key.owner
    }
}

/// Puts a [`Gate`] before a service.
#[derive(Clone, Debug)]
pub struct VerifyLayer {
    gate: Arc<Gate>,
}

impl VerifyLayer {
    /// A layer that admits what `gate` verifies.
    #[must_use]
    pub fn new(gate: Gate) -> Self {
        Self {
            gate: Arc::new(gate),
        }
    }
}

impl<S> Layer<S> for VerifyLayer {
    type Service = Verify<S>;

    fn layer(&self, inner: S) -> Verify<S> {
        Verify {
            gate: self.gate.clone(),
            inner,
        }
    }
}

/// A service behind a [`Gate`].
#[derive(Clone, Debug)]
pub struct Verify<S> {
    gate: Arc<Gate>,
    inner: S,
}

type BoxError = Box<dyn StdError + Send + Sync>;
type Answering<E> =
    Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, E>> + Send + 'static>>;

impl<S, B, R> Service<Request<B>> for Verify<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    type Response = Response<Full<Bytes>>;
    type Error = S::Error;
    type Future = Answering<S::Error>;

    fn poll_ready(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The clone that was polled ready answers; a fresh one takes its place.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let gate = self.gate.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let admitted = match collect(body, gate.max_body).await {
                Ok(body) => gate.admit(Request::from_parts(head, body)),
                Err(denied) => Err(denied),
            };
            let verified = match admitted {
                Ok(verified) => verified,
                Err(denied) => return Ok(gate.answer(&denied).map(Full::new)),
            };
            let (key, binding) = (verified.key().clone(), verified.binding());
            let mut request = verified.into_request().map(Full::new);
            request.extensions_mut().insert(Caller { key: key.clone() });
            let (head, body) = inner.call(request).await?.into_parts();
            let mut response = match collect(body, gate.max_body).await {
                Ok(body) => Response::from_parts(head, body),
                Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "answer_too_large", None),
            };
            gate.sign(&key, &binding, &mut response);
            Ok(response.map(Full::new))
        })
    }
}

async fn collect<B>(body: B, limit: usize) -> Result<Bytes, Denied>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Denied::TooLarge),
        Err(_) => Err(Denied::Unreadable),
    }
}
