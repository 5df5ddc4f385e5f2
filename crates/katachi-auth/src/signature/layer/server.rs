//! The server's layer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use ::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use ::http::request::Parts;
use ::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body::Body;
use http_body_util::Full;
use tower_layer::Layer;
use tower_service::Service;

use super::{BoxError, MAX_BODY, Uncollected, collect};
use crate::clock::{Clock, SystemClock};
use crate::replay::{AsyncReplayStore, Epoch, ReplayStore, Spend, Spending, Unavailable};
use crate::signature::{
    Answer, Keys, KnownKey, Profile, Reason, Refusal, RequestBinding, RequestParts, SigningKey,
    Verified, Verifier, apply_headers, sign_response,
};

/// Seconds that a caller is asked to wait where there is no room or no store.
const RETRY_SECONDS: u32 = 5;

/// What a server's layer verifies with.
///
/// The head of a request is checked first, signature included; of a stranger's body
/// nothing is read, and no store is asked. Then the body is collected up to a bound
/// and compared with its digest, and the nonce is spent.
///
/// Refusals are answered with JSON `{"error": …}` in the words of [`Answer::code`].
/// Those to the holder of a key also carry the `epoch` that holds and, where waiting
/// helps, `retry_after` in seconds; they are signed like every other answer.
///
/// Answers are collected before they are sent, so keep the layer away from routes
/// that stream. It sets no deadline on how slowly the holder of a key may send a body:
/// the server under it does.
pub struct Gate {
    verifier: Verifier,
    keys: Box<dyn Keys>,
    store: Box<dyn Store>,
    clock: Box<dyn Clock>,
    answers: Option<(Profile, Box<dyn AnswerKeys>)>,
    witness: Box<dyn Fn(&Refusal) + Send + Sync>,
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
        Self::over(verifier, keys, Box::new(Local(store)))
    }

    /// As [`Self::new`], with a store that answers later: one that nodes share.
    pub fn shared(
        verifier: Verifier,
        keys: impl Keys + 'static,
        store: impl AsyncReplayStore + 'static,
    ) -> Self {
        Self::over(verifier, keys, Box::new(Remote(store)))
    }

    fn over(verifier: Verifier, keys: impl Keys + 'static, store: Box<dyn Store>) -> Self {
        Self {
            verifier,
            keys: Box::new(keys),
            store,
            clock: Box::new(SystemClock),
            answers: None,
            witness: Box::new(|_| {}),
            max_body: MAX_BODY,
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

    /// Shows every refusal to `witness`, for the operator's log: whose fault it was and
    /// which rule was broken.
    #[must_use]
    pub fn on_refusal(self, witness: impl Fn(&Refusal) + Send + Sync + 'static) -> Self {
        Self {
            witness: Box::new(witness),
            ..self
        }
    }

    async fn admit<B>(&self, head: Parts, body: B) -> Result<Verified<Request<Bytes>>, Refusal>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let shown = RequestParts {
            head: &head,
            body: &[],
        };
        let keys = &*self.keys;
        let genuine = self
            .verifier
            .authenticate(&shown, keys, self.clock.now(), None)?;
        let genuine = match self.store.epoch().await {
            Ok(epoch) => genuine.for_epoch(&shown, epoch)?,
            Err(error) => return Err(genuine.refuse(&shown, Reason::Store(error))),
        };
        let body = match collect(body, self.max_body).await {
            Ok(body) => body,
            Err(Uncollected::TooLarge) => return Err(genuine.refuse(&shown, Reason::TooLarge)),
            Err(Uncollected::Failed(_)) => return Err(genuine.refuse(&shown, Reason::Unreadable)),
        };
        // The body may have taken its time.
        let now = self.clock.now();
        let request = Request::from_parts(head, body);
        let authentic = genuine.with_body(request, self.verifier.profile(), now)?;
        let spent = self.store.spend(&authentic.spending(now)).await;
        authentic.settle(spent)
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

    async fn refuse(&self, refusal: &Refusal, method: &Method) -> Response<Bytes> {
        (self.witness)(refusal);
        let answer = refusal.answer();
        let mut body = serde_json::json!({ "error": answer.code() });
        let status = StatusCode::from_u16(answer.status()).unwrap_or(StatusCode::UNAUTHORIZED);
        let waits = matches!(answer, Answer::Busy | Answer::Unavailable);
        if refusal.authenticated().is_some() {
            let epoch = self.store.epoch().await.ok();
            body["epoch"] = epoch.map(|epoch| epoch.to_string()).into();
            if waits {
                body["retry_after"] = RETRY_SECONDS.into();
            }
        }
        // What would be signed must be what is sent, and nothing follows a HEAD.
        let text = (method != Method::HEAD).then(|| body.to_string());
        let mut response = Response::new(Bytes::from(text.unwrap_or_default()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110 section 11.6.1 wants a challenge with every 401.
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Signature"));
        }
        if waits {
            headers.insert(RETRY_AFTER, RETRY_SECONDS.into());
        }
        if let Some((key, binding)) = refusal.authenticated() {
            self.sign(key, binding, &mut response);
        }
        response
    }
}

/// A replay store behind a pointer, near or far.
trait Store: Send + Sync {
    fn epoch(&self) -> Later<'_, Epoch>;
    fn spend<'a>(&'a self, spending: &'a Spending<'a>) -> Later<'a, Spend>;
}

type Later<'a, T> = Pin<Box<dyn Future<Output = Result<T, Unavailable>> + Send + 'a>>;

struct Local<S>(S);

impl<S: ReplayStore> Store for Local<S> {
    fn epoch(&self) -> Later<'_, Epoch> {
        Box::pin(std::future::ready(self.0.epoch()))
    }

    fn spend<'a>(&'a self, spending: &'a Spending<'a>) -> Later<'a, Spend> {
        Box::pin(std::future::ready(self.0.spend(spending)))
    }
}

struct Remote<S>(S);

impl<S: AsyncReplayStore> Store for Remote<S> {
    fn epoch(&self) -> Later<'_, Epoch> {
        Box::pin(self.0.epoch())
    }

    fn spend<'a>(&'a self, spending: &'a Spending<'a>) -> Later<'a, Spend> {
        Box::pin(self.0.spend(spending))
    }
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
            let method = head.method.clone();
            let verified = match gate.admit(head, body).await {
                Ok(verified) => verified,
                Err(refusal) => return Ok(gate.refuse(&refusal, &method).await.map(Full::new)),
            };
            let (key, binding) = (verified.key().clone(), verified.binding());
            let mut request = verified.into_request().map(Full::new);
            request.extensions_mut().insert(Caller { key: key.clone() });
            let (head, body) = inner.call(request).await?.into_parts();
            let mut response = match collect(body, gate.max_body).await {
                Ok(body) => Response::from_parts(head, body),
                Err(_) => unsent(),
            };
            gate.sign(&key, &binding, &mut response);
            Ok(response.map(Full::new))
        })
    }
}

/// Stands in for an answer that could not be collected. The request was acted on.
fn unsent() -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(br#"{"error":"answer_too_large"}"#));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
