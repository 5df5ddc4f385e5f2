//! The redirect of a browser on the same machine (RFC 8252 section 7.3).
//!
//! ```no_run
//! use std::time::Duration;
//! use katachi_auth::clock::{Clock as _, SystemClock};
//! use katachi_auth::oauth::{Client, MemoryLogins, Provider, Reqwest, ReturnTo, loopback};
//!
//! # async fn sign_in() -> Result<(), Box<dyn std::error::Error>> {
//! let http = Reqwest::new()?;
//! let listener = loopback::Listener::bind("/callback").await?;
//! let client = Client::public("my-program", listener.redirect_uri());
//! let provider = Provider::discover(&http, "https://id.example", client).await?;
//!
//! let logins = MemoryLogins::new(1);
//! let begun = provider.begin(&logins, ReturnTo::root(), SystemClock.now())?;
//! println!("open {}", begun.url);
//! let callback = listener.receive(&begun, Duration::from_secs(300)).await?;
//! let cookie = begun.cookie.expose_secret();
//! let signed_in = provider.finish(&http, &logins, &callback, cookie, SystemClock.now()).await?;
//! println!("hello {:?}", signed_in.identity.name);
//! # Ok(())
//! # }
//! ```

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Begun, Callback};
use crate::session::TokenDigest;

/// Waits on a port of 127.0.0.1 that the system chose.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    path: String,
}

/// Why no redirect came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// Nobody came back in time.
    #[error("nobody signed in in time")]
    Late,
    /// The socket failed.
    #[error("cannot listen on 127.0.0.1: {0}")]
    Socket(#[from] io::Error),
}

/// Browsers open spare connections; more than this at once is somebody else.
const MAX_CONNECTIONS: usize = 8;
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
const CONNECTION_DEADLINE: Duration = Duration::from_secs(10);
/// The smallest that hyper takes; a redirect of ours fits.
const MAX_HEADER: usize = 16 * 1024;

impl Listener {
    /// Listens. `path` is the one registered at the provider, such as `/callback`.
    ///
    /// # Errors
    ///
    /// Returns an error if the system gives no port.
    pub async fn bind(path: impl Into<String>) -> io::Result<Self> {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = socket.local_addr()?;
        Ok(Self {
            socket,
            address,
            path: path.into(),
        })
    }

    /// What to give the provider as redirect URI.
    #[must_use]
    pub fn redirect_uri(&self) -> String {
        format!("http://{}{}", self.address, self.path)
    }

    /// Waits for the redirect of `begun`, tells the person to close the window, and stops
    /// listening. Requests with another path, host or state are refused and change
    /// nothing, so another program on the machine cannot end the wait.
    ///
    /// # Errors
    ///
    /// Returns [`ReceiveError`] if none comes within `deadline`.
    pub async fn receive(
        self,
        begun: &Begun,
        deadline: Duration,
    ) -> Result<Callback, ReceiveError> {
        tokio::time::timeout(deadline, self.serve(begun.state))
            .await
            .map_err(|_| ReceiveError::Late)?
    }

    async fn serve(self, state: TokenDigest) -> Result<Callback, ReceiveError> {
        let (found, mut arrived) = mpsc::channel(1);
        let gate = Arc::new(Gate {
            host: self.address.to_string(),
            path: self.path,
            state,
            found,
        });
        let mut connections = JoinSet::new();
        let callback = loop {
            let accepting = connections.len() < MAX_CONNECTIONS;
            tokio::select! {
                biased;
                Some(callback) = arrived.recv() => break callback,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = self.socket.accept(), if accepting => {
                    let (stream, _) = accepted?;
                    connections.spawn(answer(stream, Arc::clone(&gate)));
                }
            }
        };
        drop(self.socket);
        // The page that says so must reach the browser; then everything is closed.
        let _ = tokio::time::timeout(Duration::from_secs(1), async {
            connections.join_next().await
        })
        .await;
        Ok(callback)
    }
}

/// What a redirect must look like.
struct Gate {
    host: String,
    path: String,
    state: TokenDigest,
    found: mpsc::Sender<Callback>,
}

async fn answer(stream: TcpStream, gate: Arc<Gate>) {
    let service = service_fn(move |request| {
        let (status, text) = gate.judge(&request);
        async move { Ok::<_, Infallible>(page(status, text)) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_HEADER)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .serve_connection(TokioIo::new(stream), service);
    // A connection that fails is that of the one who opened it.
    let _ = tokio::time::timeout(CONNECTION_DEADLINE, connection).await;
}

impl Gate {
    fn judge(&self, request: &Request<Incoming>) -> (StatusCode, &'static str) {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        // A page whose name was pointed at this machine says another host.
        if hosts
            .next()
            .is_none_or(|host| host.as_bytes() != self.host.as_bytes())
            || hosts.next().is_some()
        {
            return (
                StatusCode::MISDIRECTED_REQUEST,
                "This is not the host you look for.",
            );
        }
        if request.uri().path() != self.path {
            return (StatusCode::NOT_FOUND, "There is nothing here.");
        }
        if request.method() != Method::GET {
            return (StatusCode::METHOD_NOT_ALLOWED, "There is nothing here.");
        }
        let callback = Callback::parse(request.uri().query().unwrap_or_default());
        match callback {
            Ok(callback) if TokenDigest::of(callback.state()) == self.state => {
                let denied = callback.error().is_some();
                // Full means that another connection was first.
                let _ = self.found.try_send(callback);
                if denied {
                    (
                        StatusCode::OK,
                        "Nobody was signed in. You can close this window.",
                    )
                } else {
                    (
                        StatusCode::OK,
                        "You can close this window and go back to the program.",
                    )
                }
            }
            _ => (
                StatusCode::BAD_REQUEST,
                "This is not a sign-in that was begun here.",
            ),
        }
    }
}

fn page(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    response
}
