//! The accept loop: every phase of a connection has a deadline, and every
//! count a bound. Nothing here knows what is served.
//!
//! ```text
//! accept -> slot free? -> TLS handshake (10 s) -> first request (10 s) -> requests
//!             |                |                       |                     |
//!             wait in the      drop                    drop                  headers 10 s,
//!             kernel's queue                                                 HTTP/2 pings,
//!                                                                            writes 60 s
//! ```

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use katachi_protocol::routes::{TLS_EXPORTER_LABEL, TLS_EXPORTER_LEN};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use crate::limits::Limits;

/// What a handler may know of the connection a request came on.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) peer: SocketAddr,
    /// RFC 9266 exporter value; equal on both ends of one TLS connection and
    /// on no other.
    pub(crate) exporter: [u8; TLS_EXPORTER_LEN],
    /// Bytes of bodies that may be read on it at once.
    pub(crate) bodies: Arc<Semaphore>,
}

/// Serves `router` on `listener` until `shutdown`, then lets running requests
/// end within [`Limits::drain`]. Each connection has the `tls` of its moment.
pub(crate) async fn accept(
    listener: TcpListener,
    tls: impl Fn() -> Arc<ServerConfig>,
    router: Router,
    limits: Arc<Limits>,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let addresses = Arc::new(Addresses::new(limits.connections_per_address));
    let connections = TaskTracker::new();
    loop {
        let slot = tokio::select! {
            () = shutdown.cancelled() => break,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let Ok(slot) = slot else { break };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, usually: connections have to end first.
                warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(place) = addresses.enter(peer.ip()) else {
            debug!(address = %peer.ip(), "too many connections from one address");
            continue;
        };
        let (acceptor, router) = (TlsAcceptor::from(tls()), router.clone());
        let (limits, shutdown) = (Arc::clone(&limits), shutdown.clone());
        connections.spawn(async move {
            if let Some((stream, connection)) = handshake(&acceptor, stream, peer, &limits).await {
                serve_one(stream, connection, router, &limits, shutdown).await;
            }
            drop((slot, place));
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.drain, connections.wait())
        .await
        .is_err()
    {
        warn!(
            open = connections.len(),
            "some connections did not end in time"
        );
    }
}

async fn handshake(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    limits: &Limits,
) -> Option<(TlsStream<TcpStream>, Connection)> {
    // Small frames of a stream must not wait for each other.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(limits.handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            debug!(%error, "TLS handshake failed");
            return None;
        }
        Err(_) => {
            debug!("TLS handshake took too long");
            return None;
        }
    };
    #[cfg(feature = "acme")]
    if crate::acme::is_challenge(stream.get_ref().1.alpn_protocol()) {
        debug!("the authority looked");
        return None;
    }
    let exporter = stream
        .get_ref()
        .1
        .export_keying_material([0; TLS_EXPORTER_LEN], TLS_EXPORTER_LABEL, None)
        .inspect_err(|error| warn!(%error, "no TLS exporter"))
        .ok()?;
    let bodies = Arc::new(Semaphore::new(limits.bodies_per_connection));
    let connection = Connection {
        peer,
        exporter,
        bodies,
    };
    Some((stream, connection))
}

async fn serve_one(
    stream: TlsStream<TcpStream>,
    connection: Connection,
    router: Router,
    limits: &Limits,
    shutdown: CancellationToken,
) {
    // Decided by ALPN: guessing from the first bytes would wait for them
    // without a deadline.
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let started = Arc::new(AtomicBool::new(false));
    let service = {
        let started = Arc::clone(&started);
        service_fn(move |request: Request<Incoming>| {
            started.store(true, Ordering::Relaxed);
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(connection.clone());
            router.clone().oneshot(request)
        })
    };
    // Who reads nothing holds no connection.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.write));
    let io = TokioIo::new(Box::pin(stream));
    if is_http2 {
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(limits.keep_alive)
            .keep_alive_timeout(limits.keep_alive_timeout)
            .max_concurrent_streams(u32::try_from(limits.streams_per_agent).unwrap_or(u32::MAX))
            .max_header_list_size(limits.header_bytes)
            .initial_stream_window_size(limits.stream_window)
            .initial_connection_window_size(limits.browser_window)
            .max_send_buf_size(limits.stream_window as usize)
            .serve_connection(io, service);
        let mut connection = std::pin::pin!(connection);
        drive(&mut connection, &started, limits.headers, &shutdown, |c| {
            c.graceful_shutdown()
        })
        .await;
    } else {
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.headers)
            .max_headers(64)
            // A head that is longer gets 431.
            .max_buf_size((limits.header_bytes as usize).max(8 * 1024))
            .serve_connection(io, service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        drive(&mut connection, &started, limits.headers, &shutdown, |c| {
            c.graceful_shutdown()
        })
        .await;
    }
}

/// Runs a connection to its end; ends it early if its first request does not
/// come, and gracefully once the service stops.
async fn drive<C>(
    connection: &mut std::pin::Pin<&mut C>,
    started: &AtomicBool,
    first_request: Duration,
    shutdown: &CancellationToken,
    stop: impl Fn(std::pin::Pin<&mut C>),
) where
    C: Future<Output = hyper::Result<()>>,
{
    let first = tokio::time::sleep(first_request);
    let mut first = std::pin::pin!(first);
    let mut waiting = true;
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "connection ended");
                }
                return;
            }
            () = &mut first, if waiting => {
                waiting = false;
                if !started.load(Ordering::Relaxed) {
                    return;
                }
            }
            () = shutdown.cancelled(), if !stopping => {
                stopping = true;
                stop(connection.as_mut());
            }
        }
    }
}

/// Counts connections by address.
struct Addresses {
    limit: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

struct Place {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Addresses {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            counts: Mutex::default(),
        }
    }

    /// Takes a place, unless the address has all of its own.
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Place {
            addresses: Arc::clone(self),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self
            .addresses
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// What one customer of an access provider can change at will is one address:
/// all of IPv4, the first 64 bits of IPv6.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets[8..].fill(0);
            IpAddr::V6(octets.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Addresses, network};

    #[test]
    fn an_address_gets_its_places_back() {
        let addresses = Arc::new(Addresses::new(2));
        let ip = "192.0.2.1".parse().unwrap();
        let first = addresses.enter(ip).unwrap();
        let _second = addresses.enter(ip).unwrap();
        assert!(addresses.enter(ip).is_none());
        assert!(addresses.enter("192.0.2.2".parse().unwrap()).is_some());
        drop(first);
        assert!(addresses.enter(ip).is_some());
    }

    #[test]
    fn one_customer_is_one_address() {
        let net = |text: &str| network(text.parse().unwrap());
        assert_eq!(net("2001:db8::1"), net("2001:db8::ffff:2"));
        assert_ne!(net("2001:db8::1"), net("2001:db8:0:1::1"));
        assert_eq!(net("::ffff:192.0.2.1"), net("192.0.2.1"));
    }
}
