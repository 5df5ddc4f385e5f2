//! The tunnel inside of a WebSocket, for networks whose proxies end TLS and pass nothing
//! else.
//!
//! Such a proxy stands between the two ends of any TLS connection, so that the signature
//! is not bound to one: whoever stands there can take the tunnel over. It then sees what
//! a relay sees, and nothing of what browsers and this machine say in their channels.
//! That the relay itself answered is seen by its signature.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_protocol::routes;
use katachi_relay::carrier::{ByteStream, bounds};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::dial::secure;
use crate::config::Limits;
use crate::relay_client::{Answer, RelayClient};

type Stream = TokioIo<ByteStream<TlsStream<TcpStream>>>;

/// Opens a tunnel to the relay of `client`.
///
/// # Errors
///
/// Returns an error if the relay cannot be reached or believed, refuses, or takes no
/// such tunnels.
pub(super) async fn dial(client: &RelayClient, limits: &Limits) -> anyhow::Result<Stream> {
    // A restarted relay has a new epoch and says so once.
    for _ in 0..2 {
        if let Some(stream) = attempt(client, limits.dial).await? {
            return Ok(stream);
        }
    }
    bail!("the relay refuses the tunnel's signature twice")
}

/// One attempt; nothing if the refusal taught what to do otherwise.
async fn attempt(client: &RelayClient, patience: Duration) -> anyhow::Result<Option<Stream>> {
    let endpoint = client.endpoint();
    let tls = secure(endpoint, patience).await?;
    let url = format!("wss://{}{}", endpoint.authority(), routes::TUNNEL_WEBSOCKET);
    let mut request = url.into_client_request()?;
    let sent = SystemClock.now();
    let binding = client.sign_websocket(&mut request)?;
    let opening = tokio_tungstenite::client_async_with_config(request, tls, Some(bounds()));
    let opened = tokio::time::timeout(patience, opening)
        .await
        .context("the relay does not answer the tunnel request")?;
    match opened {
        Ok((socket, response)) => {
            let (parts, _) = response.into_parts();
            let answer = Answer::new(parts.status, parts.headers, Bytes::new());
            if client.verify(&answer, &binding).is_err() {
                bail!("the WebSocket was opened by somebody else than the relay");
            }
            Ok(Some(TokioIo::new(ByteStream::new(socket))))
        }
        Err(Error::Http(response)) => {
            let (parts, body) = response.into_parts();
            if parts.status == http::StatusCode::NOT_FOUND {
                bail!(
                    "the relay {} takes no tunnel inside of a WebSocket; its operator allows them \
                     by `--tunnel-websocket`",
                    endpoint.url
                );
            }
            let body = Bytes::from(body.unwrap_or_default());
            let answer = Answer::new(parts.status, parts.headers, body);
            client.learn(&answer, &binding, sent)?;
            Ok(None)
        }
        Err(error) => Err(error).context("the relay opens no WebSocket"),
    }
}
