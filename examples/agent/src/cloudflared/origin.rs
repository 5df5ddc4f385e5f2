//! The socket that `cloudflared` forwards to. Everybody who knows the public name can
//! send something there: nothing is served but the relay's signed request, once each.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use katachi_auth::replay::{Epoch, MemoryReplay, ReplayStore as _};
use katachi_auth::signature::{Context, Keys, KnownKey, Refusal, Verifier};
use katachi_protocol::routes::tunnel::ORIGIN;
use katachi_relay::carrier::{ByteStream, ORIGIN_REQUEST, switching};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::mistake::Mistake;
use crate::relay_client::RelayClient;
use crate::tunnel::Service;

/// Connections at once, of whoever.
const MOST: usize = 32;
/// Time for the headers of a request.
const HEADERS: Duration = Duration::from_secs(10);
/// Bytes of the headers of a request.
const MAX_HEADERS: usize = 32 * 1024;
/// Longest path of a unix socket, in bytes, on the systems that there are.
const LONGEST_PATH: usize = 103;

/// What the relay opened, as bytes.
pub(crate) type Stream = ByteStream<TokioIo<Upgraded>>;

/// The listening socket.
#[derive(Debug)]
pub(super) struct Origin {
    socket: PathBuf,
    gate: Arc<Gate>,
    opened: mpsc::Receiver<Stream>,
    accepting: JoinHandle<()>,
}

/// What is accepted, and what was.
struct Gate {
    verifier: Verifier,
    key: Only,
    replay: MemoryReplay,
    service: Arc<Service>,
    opened: mpsc::Sender<Stream>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

struct Only(Arc<KnownKey>);

impl Keys for Only {
    fn find(&self, id: &str) -> Option<Arc<KnownKey>> {
        (self.0.id.as_str() == id).then(|| Arc::clone(&self.0))
    }
}

impl Origin {
    /// Listens in `dir`, for requests to `hostname` signed by the relay of `service`.
    ///
    /// # Errors
    ///
    /// Returns an error if the socket cannot be made.
    pub(super) fn listen(
        dir: &Path,
        hostname: &str,
        service: &Arc<Service>,
    ) -> anyhow::Result<Self> {
        crate::paths::create_private_dir(dir)?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
        let socket = socket_in(dir);
        // One `up` runs at a time, so that a socket that is there is nobody's.
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot delete {}", socket.display()));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&socket)
            .with_context(|| format!("cannot listen on {}", socket.display()))?;
        // Until here the directory keeps others out.
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))?;
        let (sender, opened) = mpsc::channel(1);
        let gate = Arc::new(Gate {
            verifier: Verifier::new(ORIGIN_REQUEST, [hostname]),
            key: Only(service.client().origin_key()),
            replay: MemoryReplay::new(katachi_auth::replay::Limits::default())?,
            service: Arc::clone(service),
            opened: sender,
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&gate)));
        Ok(Self {
            socket,
            gate,
            opened,
            accepting,
        })
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Has the relay of `client` call, and gives what it opened.
    ///
    /// # Errors
    ///
    /// Returns an error if the relay does not call, or its call does not arrive.
    pub(super) async fn called(
        &mut self,
        client: &RelayClient,
        arrival: Duration,
    ) -> anyhow::Result<Stream> {
        // Whatever came while nobody waited.
        while self.opened.try_recv().is_ok() {}
        client.dial_in(self.gate.replay.epoch()?).await?;
        match tokio::time::timeout(arrival, self.opened.recv()).await {
            Ok(Some(stream)) => Ok(stream),
            _ => bail!("the relay called, and its call did not arrive here"),
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
        // One that stays is deleted by the next start.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Checks that a socket in `dir` can be named.
///
/// # Errors
///
/// Returns a [`Mistake`] if its path is too long for the system.
pub(super) fn check_length(dir: &Path) -> Result<(), Mistake> {
    let socket = socket_in(dir);
    match socket.as_os_str().len() <= LONGEST_PATH {
        true => Ok(()),
        false => Err(Mistake::new(
            "--home",
            format!("{} is too long for the path of a socket", socket.display()),
            "use a home with a shorter path, or the carrier `embedded`",
        )),
    }
}

fn socket_in(dir: &Path) -> PathBuf {
    dir.join("origin")
}

async fn accept(listener: UnixListener, gate: Arc<Gate>) {
    let places = Arc::new(Semaphore::new(MOST));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cloudflared cannot be listened to: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let gate = Arc::clone(&gate);
        tokio::spawn(async move {
            if let Err(error) = serve(stream, gate).await {
                tracing::debug!("a connection of cloudflared: {error}");
            }
            drop(place);
        });
    }
}

async fn serve(stream: UnixStream, gate: Arc<Gate>) -> hyper::Result<()> {
    let answer = hyper::service::service_fn(move |request| {
        let gate = Arc::clone(&gate);
        async move { Ok::<_, std::convert::Infallible>(answer(&gate, request)) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades()
        .await
}

/// Opens the WebSocket for the relay; tells everybody else as little as possible.
fn answer(gate: &Arc<Gate>, mut request: Request<Incoming>) -> Response<Empty<Bytes>> {
    let upgrade = hyper::upgrade::on(&mut request);
    let request = match gate.verify(request.map(|_| Bytes::new())) {
        Ok(request) => request,
        Err(refusal) => {
            // Strangers must not fill a log.
            tracing::debug!("a request through Cloudflare was refused: {refusal}");
            return status(StatusCode::FORBIDDEN);
        }
    };
    let (Some(switching), ORIGIN) = (switching(request.headers()), request.uri().path()) else {
        return status(StatusCode::BAD_REQUEST);
    };
    let gate = Arc::clone(gate);
    tokio::spawn(async move {
        let upgraded = match tokio::time::timeout(HEADERS, upgrade).await {
            Ok(Ok(upgraded)) => TokioIo::new(upgraded),
            Ok(Err(error)) => return tracing::debug!("the relay's call broke off: {error}"),
            Err(_) => return tracing::debug!("the relay's call broke off"),
        };
        // Where nobody waits it is closed.
        let _ = gate.opened.try_send(ByteStream::accepted(upgraded).await);
    });
    let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
    response.headers_mut().extend(switching);
    response
}

impl Gate {
    fn verify(&self, request: Request<Bytes>) -> Result<Request<Bytes>, Box<Refusal>> {
        let now = self.service.client().now();
        // Without an epoch nothing is accepted.
        let epoch = self.replay.epoch().unwrap_or(Epoch::from_bytes([0; 16]));
        let context = Context::new(now, epoch);
        let authentic = self.verifier.check(request, &self.key, &context)?;
        Ok(authentic.spend(&self.replay, now)?.into_request())
    }
}

fn status(status: StatusCode) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    response
}
