//! One hop: a request whose agent has its tunnel to another node.
//!
//! ```text
//! browser ══ this node ══ TLS 1.3, both ends known ══ owner ══ tunnel ══ agent
//! ```
//!
//! Each request has a connection of its own: nobody's slow stream holds up another's,
//! the flow control of HTTP/2 is that of the one stream, and what ends at one side
//! ends at the other. The owner asks its own tunnels and nothing else, so that no
//! request is forwarded twice.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use katachi_protocol::routes::tunnel::CHANNEL;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tracing::{debug, warn};

use super::Cluster;
use super::links::host_name;
use crate::failure::Failure;
use crate::http::App;
use crate::records::tunnels::Owner;

/// Time to reach the owner.
const CONNECT: Duration = Duration::from_secs(1);
/// An owner that is asked this often and does not answer for as long again is dead.
const PING: Duration = Duration::from_millis(600);

const AGENT: HeaderName = HeaderName::from_static("katachi-agent");
const GENERATION: HeaderName = HeaderName::from_static("katachi-generation");
/// Why the owner could not ask the agent; never in what the agent said.
const FAILURE: HeaderName = HeaderName::from_static("katachi-failure");

impl Cluster {
    /// Asks `agent` through the node that has its tunnel.
    pub(super) async fn forward(
        &self,
        owner: &Owner,
        agent: &str,
        mut request: Request,
        patience: Duration,
    ) -> Result<Response, Failure> {
        let headers = request.headers_mut();
        headers.insert(
            AGENT,
            HeaderValue::from_str(agent).map_err(Failure::internal)?,
        );
        headers.insert(GENERATION, HeaderValue::from(owner.generation));
        let mut sender = self.reach(owner).await?;
        let answer = timeout(patience, sender.send_request(request)).await;
        let mut answer = answer
            .map_err(|_| Failure::AnswerLate)?
            .map_err(|error| broken(owner, &error))?;
        if let Some(word) = answer.headers_mut().remove(&FAILURE) {
            return Err(Failure::of_word(word.as_bytes()));
        }
        Ok(answer.map(|body| {
            Body::new(Forwarded {
                body,
                _sender: sender,
            })
        }))
    }

    /// Connects to a node. During a rotation one of the two may know the new key
    /// already, so that a handshake which failed is tried again.
    async fn reach(&self, owner: &Owner) -> Result<SendRequest<Body>, Failure> {
        let until = Instant::now() + CONNECT;
        loop {
            let attempt = timeout(until - Instant::now(), self.connect(owner)).await;
            match attempt {
                Ok(Ok(sender)) => return Ok(sender),
                Ok(Err(error)) if error.get_ref().is_some_and(|e| e.is::<rustls::Error>()) => {
                    debug!(node = owner.node, %error, "a node was not believed");
                    sleep(Duration::from_millis(100)).await;
                }
                Ok(Err(error)) => return Err(broken(owner, &error)),
                Err(late) => return Err(broken(owner, &late)),
            }
        }
    }

    async fn connect(&self, owner: &Owner) -> io::Result<SendRequest<Body>> {
        let links = self.links().map_err(io::Error::other)?;
        let stream = TcpStream::connect(owner.address.as_str()).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(host_name(&owner.node, &self.keys.current().id()));
        let stream = TlsConnector::from(links.client)
            .connect(name.map_err(io::Error::other)?, stream)
            .await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(256 * 1024)
            .max_header_list_size(16 * 1024)
            .max_send_buf_size(256 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection between nodes ended");
            }
        });
        Ok(sender)
    }
}

fn broken(owner: &Owner, error: &dyn std::error::Error) -> Failure {
    warn!(node = owner.node, error = %error, "a node could not be asked");
    Failure::TunnelBroken
}

/// What other nodes may ask of this one.
pub(crate) fn router(app: App) -> Router {
    Router::new().fallback(carried).with_state(app)
}

async fn carried(State(app): State<App>, mut request: Request) -> Response {
    let asked = named(request.headers());
    let (Some((agent, generation)), &Method::POST, CHANNEL) =
        (asked, request.method(), request.uri().path())
    else {
        return StatusCode::NOT_FOUND.into_response();
    };
    for name in [AGENT, GENERATION] {
        request.headers_mut().remove(name);
    }
    let lives = app.cluster.as_ref().is_some_and(|cluster| cluster.lives());
    let answer = match lives {
        true => app.tunnels.ask(&agent, Some(generation), request).await,
        false => Err(Failure::Unavailable),
    };
    match answer {
        Ok(mut answer) => {
            answer.headers_mut().remove(&FAILURE);
            answer
        }
        Err(failure) => {
            let word = HeaderValue::from_static(failure.word());
            let mut response = failure.status().into_response();
            response.headers_mut().insert(FAILURE, word);
            response
        }
    }
}

fn named(headers: &HeaderMap) -> Option<(String, u64)> {
    let text = |name| headers.get(name)?.to_str().ok();
    Some((text(AGENT)?.to_owned(), text(GENERATION)?.parse().ok()?))
}

/// A body that keeps its connection for as long as it is read.
struct Forwarded {
    body: Incoming,
    _sender: SendRequest<Body>,
}

impl http_body::Body for Forwarded {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
