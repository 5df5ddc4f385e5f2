//! Tunnels: connections that agents opened, or had opened through Cloudflare,
//! over which the relay asks them.
//!
//! The agent dials out, is upgraded, and from then on serves HTTP/2 on the
//! connection; the relay is the client. A request, its stream and its
//! cancellation are therefore those of HTTP/2 and need no protocol of ours.
//!
//! The newest tunnel of an agent wins: its predecessor is closed at once, so
//! that a connection which died unnoticed cannot swallow requests.

use std::collections::HashMap;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::join_all;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use katachi_protocol::agent::Reconnect;
use katachi_protocol::routes::tunnel::RECONNECT;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use crate::failure::Failure;
use crate::limits::Limits;
use crate::pace::{Pace, Paced};
use crate::records::tunnels::Claim;

/// Time to tell the agents of a relay that stops when to come back: busy machines
/// take more than a second to hear it.
const TELLING: Duration = Duration::from_secs(3);
/// However few there are, they do not come back in one instant.
const SHORTEST_SPREAD: Duration = Duration::from_millis(200);

/// The open tunnels by agent.
#[derive(Debug)]
pub(crate) struct Tunnels {
    limits: Arc<Limits>,
    generations: AtomicU64,
    open: Mutex<HashMap<String, Tunnel>>,
    /// Those that carry one.
    carriers: TaskTracker,
    draining: AtomicBool,
}

/// How a tunnel was opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Opened {
    /// The agent had none.
    Alone,
    /// The agent had one that still lived: it moved, or somebody else has its
    /// key.
    InPlaceOfAnother,
}

#[derive(Clone, Debug)]
struct Tunnel {
    generation: u64,
    sender: SendRequest<Body>,
    streams: Arc<Semaphore>,
    pace: Arc<Pace>,
    close: CancellationToken,
}

impl Tunnel {
    /// Tells the agent when to come back.
    async fn tell(&self, when: Reconnect) {
        let Ok(body) = serde_json::to_vec(&when) else {
            return;
        };
        let request = Request::post(format!("https://agent{RECONNECT}"))
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(body));
        let mut sender = self.sender.clone();
        if let (Ok(request), Ok(())) = (request, sender.ready().await)
            && let Err(error) = sender.send_request(request).await
        {
            debug!(%error, "an agent was not told when to come back");
        }
    }
}

impl Tunnels {
    pub(crate) fn new(limits: Arc<Limits>) -> Self {
        Self {
            limits,
            generations: AtomicU64::new(0),
            open: Mutex::default(),
            carriers: TaskTracker::new(),
            draining: AtomicBool::new(false),
        }
    }

    /// Runs what carries a tunnel and ends with it.
    pub(crate) fn spawn(&self, carrier: impl Future<Output = ()> + Send + 'static) {
        self.carriers.spawn(carrier);
    }

    /// The next generation, where no other node counts them.
    pub(crate) fn next(&self) -> Claim {
        Claim {
            generation: self.generations.fetch_add(1, Ordering::Relaxed) + 1,
            replaced: false,
        }
    }

    pub(crate) fn is_online(&self, agent: &str) -> bool {
        self.lock()
            .get(agent)
            .is_some_and(|tunnel| !tunnel.sender.is_closed())
    }

    /// Runs the tunnel of `agent` on `stream`, which the agent opened or through
    /// which it was reached, until it ends, if `claim` lets it
    /// begin; its generation. Calls `opened` once it is open.
    pub(crate) async fn carry(
        &self,
        agent: &str,
        stream: impl Read + Write + Send + Unpin + 'static,
        claim: impl Future<Output = Option<Claim>> + Send,
        opened: impl FnOnce(Opened),
    ) -> Option<u64> {
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(self.limits.keep_alive)
            .keep_alive_timeout(self.limits.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(self.limits.stream_window)
            .initial_connection_window_size(self.limits.tunnel_window)
            .max_header_list_size(self.limits.header_bytes)
            .max_concurrent_reset_streams(self.limits.streams_per_agent)
            .max_send_buf_size(self.limits.stream_window as usize)
            .handshake(stream)
            .await;
        let (sender, connection) = match handshake {
            Ok(pair) => pair,
            Err(error) => {
                debug!(agent, %error, "tunnel did not open");
                return None;
            }
        };
        let claim = claim.await?;
        let tunnel = Tunnel {
            generation: claim.generation,
            sender,
            streams: Arc::new(Semaphore::new(self.limits.streams_per_agent)),
            pace: Pace::new(self.limits.agent_bytes_per_second),
            close: CancellationToken::new(),
        };
        let (generation, close) = (tunnel.generation, tunnel.close.clone());
        let Some(older) = self.insert(agent, tunnel) else {
            debug!(agent, generation, "a newer tunnel was faster");
            return Some(generation);
        };
        opened(match &older {
            Some(older) if !older.sender.is_closed() => Opened::InPlaceOfAnother,
            _ if claim.replaced => Opened::InPlaceOfAnother,
            _ => Opened::Alone,
        });
        if let Some(older) = older {
            info!(
                agent,
                older = older.generation,
                generation,
                "a newer tunnel replaced an older one"
            );
            older.close.cancel();
        }
        info!(agent, generation, "tunnel open");
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                debug!(agent, generation, %error, "tunnel broke");
            },
            () = close.cancelled() => {}
        }
        self.close_one(agent, generation);
        info!(agent, generation, "tunnel closed");
        Some(generation)
    }

    /// Puts a tunnel in its place and gives its predecessor; `None` if there is a
    /// newer one, or none may begin any more.
    fn insert(&self, agent: &str, tunnel: Tunnel) -> Option<Option<Tunnel>> {
        let mut open = self.lock();
        let newer = |there: &Tunnel| there.generation > tunnel.generation;
        if self.draining.load(Ordering::SeqCst) || open.get(agent).is_some_and(newer) {
            return None;
        }
        Some(open.insert(agent.to_owned(), tunnel))
    }

    /// The open tunnels and their generations.
    pub(crate) fn generations(&self) -> Vec<(String, u64)> {
        let open = self.lock();
        let all = open.iter();
        all.map(|(agent, tunnel)| (agent.clone(), tunnel.generation))
            .collect()
    }

    /// Closes this tunnel of `agent`, unless a newer one is in its place.
    pub(crate) fn close_one(&self, agent: &str, generation: u64) {
        let mut open = self.lock();
        if open
            .get(agent)
            .is_some_and(|tunnel| tunnel.generation == generation)
            && let Some(tunnel) = open.remove(agent)
        {
            tunnel.close.cancel();
        }
    }

    /// Lets every tunnel go, for its agent to connect elsewhere, and tells each when
    /// to: those without a request at once, the others when their requests have
    /// ended, at the latest after [`Limits::drain`].
    pub(crate) async fn drain(&self) {
        let left: Vec<_> = {
            let mut open = self.lock();
            self.draining.store(true, Ordering::SeqCst);
            open.drain().map(|(_, tunnel)| tunnel).collect()
        };
        self.carriers.close();
        let ending = Instant::now() + self.limits.drain;
        self.send_away(&left).await;
        // Without anybody who could ask, a connection ends with its last stream.
        let left = left
            .into_iter()
            .map(|tunnel| (tunnel.streams, tunnel.close));
        let left: Vec<_> = left.collect();
        let all = u32::try_from(self.limits.streams_per_agent).unwrap_or(u32::MAX);
        // What carries a tunnel may end before its streams do; each of those holds a
        // place until its answer was passed on.
        let idle = left.iter().map(|(streams, _)| streams.acquire_many(all));
        let _ = tokio::time::timeout_at(ending, join_all(idle)).await;
        for (_, close) in left {
            close.cancel();
        }
        // They still give their rows up.
        let _ = tokio::time::timeout(TELLING, self.carriers.wait()).await;
    }

    /// Tells the agents of `left` when to come back.
    async fn send_away(&self, left: &[Tunnel]) {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let count = u32::try_from(left.len()).unwrap_or(u32::MAX);
        let spread = Duration::from_secs(1) * count / self.limits.returns_per_second.max(1);
        let when = Reconnect {
            after_ms: millis(self.limits.restart),
            spread_ms: millis(spread.max(SHORTEST_SPREAD)),
        };
        let telling = left.iter().map(|tunnel| tunnel.tell(when));
        // One that does not listen comes back by its own judgement.
        let _ = tokio::time::timeout(TELLING.min(self.limits.drain), join_all(telling)).await;
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is no room for a tunnel of `agent`, which may always
    /// replace its own.
    pub(crate) fn is_full_for(&self, agent: &str) -> bool {
        let open = self.lock();
        open.len() >= self.limits.tunnels && !open.contains_key(agent)
    }

    /// Closes the tunnel of `agent`, if it has one.
    pub(crate) fn close(&self, agent: &str) {
        if let Some(tunnel) = self.lock().remove(agent) {
            tunnel.close.cancel();
        }
    }

    /// Closes every tunnel.
    pub(crate) fn close_all(&self) {
        for (_, tunnel) in self.lock().drain() {
            tunnel.close.cancel();
        }
    }

    /// Asks `agent`, through the tunnel of this `generation` if one is given. The
    /// answer's body arrives as the agent sends it; dropping it cancels the request
    /// on the agent.
    pub(crate) async fn ask(
        &self,
        agent: &str,
        generation: Option<u64>,
        request: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        let tunnel = self.lock().get(agent).cloned().ok_or(Failure::Offline)?;
        if generation.is_some_and(|asked| asked != tunnel.generation) {
            return Err(Failure::Offline);
        }
        let permit = Arc::clone(&tunnel.streams)
            .try_acquire_owned()
            .map_err(|_| Failure::AgentBusy)?;
        let pace = Arc::clone(&tunnel.pace);
        let request = request.map(|body| Body::new(Paced::new(body, pace)));
        let mut sender = tunnel.sender;
        let answer = async {
            sender.ready().await.map_err(|_| Failure::Offline)?;
            sender.send_request(request).await.map_err(|error| {
                debug!(agent, %error, "the agent did not answer");
                Failure::TunnelBroken
            })
        };
        let answer = tokio::time::timeout(self.limits.answer, answer)
            .await
            .map_err(|_| Failure::AnswerLate)??;
        Ok(answer.map(|body| {
            Body::new(Guarded {
                body: Paced::new(body, tunnel.pace),
                closed: Box::pin(tunnel.close.cancelled_owned()),
                _permit: permit,
            })
        }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Tunnel>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that holds its place among the agent's streams until it ends, and ends
/// with its tunnel: a connection that was given up would go on for as long as it
/// has streams.
struct Guarded {
    body: Paced<Incoming>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::BoxError>>> {
        if self.closed.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err("the tunnel was closed".into())));
        }
        Pin::new(&mut self.body)
            .poll_frame(context)
            .map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
