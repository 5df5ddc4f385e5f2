//! Dialling out: TCP, TLS 1.3, a signed upgrade bound to that TLS connection.
//!
//! Nothing listens on this machine. The agent opens the connection, proves who
//! it is, and then answers requests on it as an HTTP/2 server. The signature
//! covers a value that only the two ends of this TLS connection know (RFC 9266),
//! so that nobody in between can pass it on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::StatusCode;
use http::header::{CONNECTION, HOST, UPGRADE};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use katachi_auth::clock::{Clock as _, SystemClock, Timestamp};
use katachi_auth::signature::RequestBinding;
use katachi_protocol::routes;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::Limits;
use crate::relay_client::{Answer as RelayAnswer, Endpoint, RelayClient};

/// Longest refusal that is read.
const MAX_REFUSAL: usize = 16 * 1024;

/// Opens a tunnel to the relay of `client`.
///
/// # Errors
///
/// Returns an error if the relay cannot be reached or believed, or refuses.
pub(super) async fn dial(client: &RelayClient, limits: &Limits) -> anyhow::Result<Upgraded> {
    // A restarted relay has a new epoch and says so once.
    for _ in 0..2 {
        match attempt(client, limits.dial, |exporter| exporter).await? {
            Answer::Open(connection) => return Ok(connection),
            Answer::Refused {
                answer,
                binding,
                sent,
            } => client.learn(&answer, &binding, sent)?,
        }
    }
    bail!("the relay refuses the tunnel's signature twice")
}

/// Asks for a tunnel with a signature made for another TLS connection, as
/// somebody in between would have to.
///
/// # Errors
///
/// Returns an error if the relay cannot be reached.
pub(crate) async fn relayed(client: &RelayClient) -> anyhow::Result<StatusCode> {
    let other = |mut exporter: Exporter| {
        exporter[0] ^= 1;
        exporter
    };
    Ok(
        match attempt(client, Limits::default().dial, other).await? {
            Answer::Open(_) => StatusCode::SWITCHING_PROTOCOLS,
            Answer::Refused { answer, .. } => answer.status,
        },
    )
}

/// What only the two ends of one TLS connection know.
type Exporter = [u8; routes::TLS_EXPORTER_LEN];

enum Answer {
    Open(Upgraded),
    Refused {
        answer: RelayAnswer,
        binding: RequestBinding,
        sent: Timestamp,
    },
}

async fn attempt(
    client: &RelayClient,
    patience: Duration,
    signed_for: impl FnOnce(Exporter) -> Exporter,
) -> anyhow::Result<Answer> {
    let endpoint = client.endpoint();
    let tls = secure(endpoint, patience).await?;
    let mut exporter = [0; routes::TLS_EXPORTER_LEN];
    tls.get_ref()
        .1
        .export_keying_material(&mut exporter, routes::TLS_EXPORTER_LABEL, Some(&[]))?;

    let mut request = http::Request::get(routes::TUNNEL)
        .header(HOST, endpoint.authority())
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, routes::TUNNEL_PROTOCOL)
        .body(Empty::<Bytes>::new())?;
    let sent = SystemClock.now();
    let binding = client.sign_tunnel(&mut request, &signed_for(exporter))?;

    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
    tokio::spawn(connection.with_upgrades());
    let mut response = tokio::time::timeout(patience, sender.send_request(request))
        .await
        .context("the relay does not answer the tunnel request")??;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upgraded = hyper::upgrade::on(&mut response).await?;
        return Ok(Answer::Open(upgraded));
    }
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_REFUSAL)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("the relay's refusal cannot be read: {error}"))?
        .to_bytes();
    Ok(Answer::Refused {
        answer: RelayAnswer::new(parts.status, parts.headers, body),
        binding,
        sent,
    })
}

/// A connection to the relay, which proved that it is there by its certificate.
pub(super) async fn secure(
    endpoint: &Endpoint,
    patience: Duration,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut config = endpoint.tls()?;
    // The upgrade is a matter of HTTP/1.1; HTTP/2 comes after it, reversed.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tcp = connect(&endpoint.addresses().await?, patience).await?;
    tokio::time::timeout(
        patience,
        TlsConnector::from(Arc::new(config)).connect(endpoint.server_name()?, tcp),
    )
    .await
    .context("the relay does not finish the TLS handshake")?
    .with_context(|| format!("no trusted TLS connection to {}", endpoint.url))
}

async fn connect(
    addresses: &[std::net::SocketAddr],
    patience: Duration,
) -> anyhow::Result<TcpStream> {
    let mut last = None;
    for address in addresses {
        match tokio::time::timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = Some(format!("{address}: {error}")),
            Err(_) => last = Some(format!("{address}: no answer within {patience:?}")),
        }
    }
    bail!("cannot connect to the relay: {}", last.unwrap_or_default())
}
