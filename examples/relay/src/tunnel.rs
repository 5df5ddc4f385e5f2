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
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use crate::config::Limits;
use crate::failure::Failure;
use crate::records::tunnels::Claim;

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
    close: CancellationToken,
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
            .keep_alive_interval(Duration::from_secs(15))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(4 * 1024 * 1024)
            .max_header_list_size(16 * 1024)
            .max_concurrent_reset_streams(128)
            .max_send_buf_size(256 * 1024)
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

    /// Lets every tunnel go, for its agent to connect elsewhere: those without a
    /// request at once, the others when their requests have ended, at the latest
    /// after `patience`.
    pub(crate) async fn drain(&self, patience: Duration) {
        let left: Vec<_> = {
            let mut open = self.lock();
            self.draining.store(true, Ordering::SeqCst);
            // Without anybody who could ask, a connection ends with its last stream.
            open.drain().map(|(_, tunnel)| tunnel.close).collect()
        };
        self.carriers.close();
        if tokio::time::timeout(patience, self.carriers.wait())
            .await
            .is_ok()
        {
            return;
        }
        for close in left {
            close.cancel();
        }
        // They still give their rows up.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.carriers.wait()).await;
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
                body,
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
    body: Incoming,
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
