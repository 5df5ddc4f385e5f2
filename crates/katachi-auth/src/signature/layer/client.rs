//! The client's layer.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use ::http::{Request, Response, StatusCode};
use bytes::Bytes;
use http_body::Body;
use http_body_util::Full;
use tower_layer::Layer;
use tower_service::Service;

use super::{BoxError, MAX_BODY, Uncollected, collect};
use crate::clock::{Clock, SystemClock};
use crate::replay::{Epoch, NonceSequence, Unavailable};
use crate::signature::{
    Answer, ClockOffset, Freshness, Profile, RequestBinding, ResponseError, SignError, Signer,
    VerifyingKey, verify_response,
};

/// Signs the calls to one server, and remembers what its signed answers taught: the
/// epoch that holds and how far its clock is from ours.
///
/// It begins without an epoch unless [`Self::epoch`] gives one; the first call then
/// costs a second round trip. Clones of an [`Arc`] of it serve any number of clients of
/// the same server at once.
pub struct CallSigner {
    keys: RwLock<Arc<Keys>>,
    epoch: RwLock<Epoch>,
    nonces: NonceSequence,
    offset: ClockOffset,
    clock: Box<dyn Clock>,
    max_body: usize,
}

/// What one call is signed with and its answer verified with.
#[derive(Debug)]
struct Keys {
    signer: Signer,
    profile: Profile,
    answers: VerifyingKey,
}

impl fmt::Debug for CallSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallSigner")
            .field("key_id", self.keys().signer.key_id())
            .finish_non_exhaustive()
    }
}

impl CallSigner {
    /// Signs with `signer`, and believes answers of `profile` made with `answers`.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the operating system gives no randomness.
    pub fn new(
        signer: Signer,
        profile: Profile,
        answers: impl Into<VerifyingKey>,
    ) -> Result<Self, Unavailable> {
        Ok(Self {
            keys: RwLock::new(Arc::new(Keys {
                signer,
                profile,
                answers: answers.into(),
            })),
            // No server's: the first signed answer names the one that holds.
            epoch: RwLock::new(Epoch::from_bytes([0; 16])),
            nonces: NonceSequence::start()?,
            offset: ClockOffset::new(),
            clock: Box::new(SystemClock),
            max_body: MAX_BODY,
        })
    }

    /// Begins with an epoch that the server handed out earlier.
    #[must_use]
    pub fn epoch(self, epoch: Epoch) -> Self {
        Self {
            epoch: RwLock::new(epoch),
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

    /// Collects bodies of at most `bytes`, of requests and of answers. 1 MiB unless set.
    #[must_use]
    pub fn max_body(self, bytes: usize) -> Self {
        Self {
            max_body: bytes,
            ..self
        }
    }

    /// Signs with another key from here on. Answers to calls under way are still
    /// verified with the key that goes with theirs, so keep the old one live on the
    /// server until they are through.
    pub fn rotate(&self, signer: Signer, answers: impl Into<VerifyingKey>) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        *keys = Arc::new(Keys {
            signer,
            profile: keys.profile,
            answers: answers.into(),
        });
    }

    /// Server's time minus ours, in milliseconds, as learnt from signed answers.
    #[must_use]
    pub fn offset_millis(&self) -> i64 {
        self.offset.as_millis()
    }

    // A writer only stores one value, so that nothing is half done after a panic.

    fn keys(&self) -> Arc<Keys> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.clone()
    }

    fn current_epoch(&self) -> Epoch {
        *self.epoch.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn_epoch(&self, epoch: Epoch) {
        *self.epoch.write().unwrap_or_else(PoisonError::into_inner) = epoch;
    }

    fn sign(
        &self,
        keys: &Keys,
        request: &Request<Bytes>,
    ) -> Result<(Request<Bytes>, RequestBinding), SignError> {
        let now = self.offset.apply(self.clock.now());
        let freshness = Freshness::new(now, self.nonces.draw(), self.current_epoch());
        let signed = keys.signer.sign(request, &freshness)?;
        let mut request = request.clone();
        signed.apply(request.headers_mut());
        Ok((request, signed.binding().clone()))
    }
}

/// A call that brought no answer to be believed, or a refusal.
///
/// [`Self::nothing_was_done`] tells whether the same call may be made again without
/// fear that its effect happens twice.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The request cannot be signed. The fault is the caller's.
    #[error("the request cannot be signed: {0}")]
    Request(#[source] SignError),
    /// The request's body could not be read, or is longer than [`CallSigner::max_body`].
    #[error("the request's body cannot be sent: {0}")]
    Body(#[source] BoxError),
    /// No answer came. The server may have acted.
    #[error("no answer: {0}")]
    Transport(#[source] BoxError),
    /// The answer is not the server's, as far as can be known; it may come from anybody
    /// on the way, or from a server that does not know our key. It may have acted.
    #[error("answered {status}, but {error}")]
    Unverified {
        /// The status, to be shown to a person and not used.
        status: StatusCode,
        /// What is wrong with the signature.
        error: ResponseError,
    },
    /// Signed: the clocks differ, and still do after the offset was learnt.
    #[error(
        "the server finds this request too old or too new: its clock is {offset_millis} ms from ours"
    )]
    Skew {
        /// Server's time minus ours, in milliseconds, as far as it could be learnt.
        offset_millis: i64,
    },
    /// Signed: the server takes epoch after epoch. Try later.
    #[error("the server's epoch changed again while the request was on its way")]
    StaleEpoch,
    /// Signed: the key was revoked. Only a new key helps.
    #[error("the key was revoked")]
    Revoked,
    /// Signed: this very request was accepted before. Somebody sent a copy of it
    /// first, so the server has acted.
    #[error("a copy of this request was accepted before it arrived")]
    Replayed,
    /// Signed: the server has no room now.
    #[error("the server is busy: ask again in {} s", retry_after.as_secs())]
    Busy {
        /// How long to wait.
        retry_after: Duration,
    },
    /// Signed: the server lacks something that it needs.
    #[error("the server is unavailable: ask again in {} s", retry_after.as_secs())]
    Unavailable {
        /// How long to wait.
        retry_after: Duration,
    },
    /// Signed: refused for another reason, such as a body that was altered on the way
    /// or is too large.
    #[error("the server refused the request: {}", .0.code())]
    Refused(Answer),
}

impl CallError {
    /// Whether it is certain that the server did not act on the call, so that it may
    /// safely be made again.
    #[must_use]
    pub const fn nothing_was_done(&self) -> bool {
        match self {
            Self::Transport(_) | Self::Unverified { .. } | Self::Replayed => false,
            Self::Request(_)
            | Self::Body(_)
            | Self::Skew { .. }
            | Self::StaleEpoch
            | Self::Revoked
            | Self::Busy { .. }
            | Self::Unavailable { .. }
            | Self::Refused(_) => true,
        }
    }

    /// How long to wait before the same call may succeed, where the server said so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after } | Self::Unavailable { retry_after } => Some(*retry_after),
            _ => None,
        }
    }
}

/// What a signed answer says when the server's layer made it.
#[derive(Clone, Copy, Debug)]
struct Refused {
    answer: Answer,
    epoch: Option<Epoch>,
    retry_after: Duration,
}

impl Refused {
    /// Longest wait that is believed.
    const LONGEST_WAIT: u64 = 3600;

    /// Reads a signed answer. The server's layer puts `epoch` beside `error`; the
    /// services behind it do not.
    fn read(response: &Response<Bytes>) -> Option<Self> {
        let body: serde_json::Value = match response.status().as_u16() {
            400.. => serde_json::from_slice(response.body()).ok()?,
            _ => return None,
        };
        let epoch = body.get("epoch")?;
        let answer = Answer::from_code(body.get("error")?.as_str()?)?;
        if answer.status() != response.status().as_u16() {
            return None;
        }
        let seconds = body.get("retry_after").and_then(serde_json::Value::as_u64);
        Some(Self {
            answer,
            epoch: epoch.as_str().and_then(|text| Epoch::parse(text).ok()),
            retry_after: Duration::from_secs(seconds.unwrap_or(1).min(Self::LONGEST_WAIT)),
        })
    }

    fn error(self, signer: &CallSigner) -> CallError {
        let retry_after = self.retry_after;
        match self.answer {
            Answer::Skew => CallError::Skew {
                offset_millis: signer.offset_millis(),
            },
            Answer::StaleEpoch => CallError::StaleEpoch,
            Answer::Revoked => CallError::Revoked,
            Answer::Replayed => CallError::Replayed,
            Answer::Busy => CallError::Busy { retry_after },
            Answer::Unavailable => CallError::Unavailable { retry_after },
            other => CallError::Refused(other),
        }
    }
}

/// Signs what a client sends, and lets only verified answers through.
///
/// A call is repeated at most once, and only after a *signed* `stale_epoch` or `skew`:
/// the server then has not acted, and says what to mend. Nothing else is repeated. Not
/// every failure leaves open what happened: see [`CallError::nothing_was_done`].
///
/// The client underneath keeps its own deadlines. Turn off its redirects and its
/// decompression: the first would send a signature where it is worth nothing, the
/// second hands on other bytes than were signed. A `HEAD` has no body that could say
/// why it was refused; its refusal comes back as an ordinary verified answer.
#[derive(Clone, Debug)]
pub struct SignLayer {
    signer: Arc<CallSigner>,
}

impl SignLayer {
    /// A layer that signs with `signer`.
    #[must_use]
    pub fn new(signer: impl Into<Arc<CallSigner>>) -> Self {
        Self {
            signer: signer.into(),
        }
    }
}

impl<S> Layer<S> for SignLayer {
    type Service = Sign<S>;

    fn layer(&self, inner: S) -> Sign<S> {
        Sign {
            signer: self.signer.clone(),
            inner,
        }
    }
}

/// A client whose calls are signed.
#[derive(Clone, Debug)]
pub struct Sign<S> {
    signer: Arc<CallSigner>,
    inner: S,
}

type Calling = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, CallError>> + Send>>;

impl<S, B, R> Service<Request<B>> for Sign<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    type Response = Response<Full<Bytes>>;
    type Error = CallError;
    type Future = Calling;

    fn poll_ready(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<(), CallError>> {
        self.inner.poll_ready(task).map_err(transport)
    }

    fn call(&mut self, request: Request<B>) -> Calling {
        // The clone that was polled ready calls; a fresh one takes its place.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let signer = self.signer.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = match collect(body, signer.max_body).await {
                Ok(body) => body,
                Err(Uncollected::TooLarge) => {
                    return Err(CallError::Body("longer than this client sends".into()));
                }
                Err(Uncollected::Failed(error)) => return Err(CallError::Body(error)),
            };
            let request = Request::from_parts(head, body);
            let refused = match attempt(&signer, &mut inner, &request).await? {
                Attempt::Answered(response) => return Ok(response.map(Full::new)),
                Attempt::Mended(_) => {
                    poll_fn(|task| inner.poll_ready(task))
                        .await
                        .map_err(transport)?;
                    match attempt(&signer, &mut inner, &request).await? {
                        Attempt::Answered(response) => return Ok(response.map(Full::new)),
                        Attempt::Mended(refused) | Attempt::Refused(refused) => refused,
                    }
                }
                Attempt::Refused(refused) => refused,
            };
            Err(refused.error(&signer))
        })
    }
}

/// What became of one request.
enum Attempt {
    /// A verified answer of the service.
    Answered(Response<Bytes>),
    /// Refused, and what was wrong is known now.
    Mended(Refused),
    /// Refused.
    Refused(Refused),
}

async fn attempt<S, R>(
    signer: &CallSigner,
    inner: &mut S,
    request: &Request<Bytes>,
) -> Result<Attempt, CallError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
{
    let keys = signer.keys();
    let (request, binding) = signer.sign(&keys, request).map_err(CallError::Request)?;
    let sent = signer.clock.now();
    let response = inner
        .call(request.map(Full::new))
        .await
        .map_err(transport)?;
    let (head, body) = response.into_parts();
    let body = match collect(body, signer.max_body).await {
        Ok(body) => body,
        Err(Uncollected::TooLarge) => {
            return Err(transport("the answer is longer than this client reads"));
        }
        Err(Uncollected::Failed(error)) => return Err(transport(error)),
    };
    let received = signer.clock.now();
    let response = Response::from_parts(head, body);
    let key_id = keys.signer.key_id();
    let verified = verify_response(&keys.profile, key_id, &keys.answers, &response, &binding)
        .map_err(|error| CallError::Unverified {
            status: response.status(),
            error,
        })?;
    let corrected = signer.offset.learn(&verified, sent, received);
    let Some(refused) = Refused::read(&response) else {
        return Ok(Attempt::Answered(response));
    };
    if let Some(epoch) = refused.epoch {
        signer.learn_epoch(epoch);
    }
    Ok(match refused.answer {
        Answer::Skew if corrected => Attempt::Mended(refused),
        Answer::StaleEpoch if refused.epoch.is_some() => Attempt::Mended(refused),
        _ => Attempt::Refused(refused),
    })
}

fn transport(error: impl Into<BoxError>) -> CallError {
    CallError::Transport(error.into())
}
