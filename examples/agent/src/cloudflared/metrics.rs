//! What a running `cloudflared` says of itself, on its port of loopback.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use katachi_protocol::agent::CloudflaredCounts;
use tokio::net::TcpStream;

use super::counts;

/// Time for it to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read, in bytes.
const LONGEST: usize = 1 << 20;

/// Whether the one at `address` has a connection to Cloudflare.
///
/// # Errors
///
/// Returns an error if it has none, or does not say.
pub(super) async fn ready(address: SocketAddr) -> anyhow::Result<()> {
    let (status, _) = get(address, "/ready")
        .await
        .context("it does not say whether it is ready")?;
    match status {
        http::StatusCode::OK => Ok(()),
        status => bail!("/ready answers {}", status.as_u16()),
    }
}

/// What the one at `address` has counted.
///
/// # Errors
///
/// Returns an error if it does not say.
pub(super) async fn counts(address: SocketAddr) -> anyhow::Result<CloudflaredCounts> {
    let (status, body) = get(address, "/metrics")
        .await
        .context("it does not say what it counts")?;
    match status {
        http::StatusCode::OK => Ok(counts::parse(&String::from_utf8_lossy(&body))),
        status => bail!("/metrics answers {}", status.as_u16()),
    }
}

async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(http::StatusCode, Bytes)> {
    let asked = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = http::Request::get(path)
            .header(http::header::HOST, address.to_string())
            .body(Empty::<Bytes>::new())?;
        let read = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), LONGEST).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
            anyhow::Ok((status, body))
        };
        let answer = read.await;
        connection.abort();
        answer
    };
    tokio::time::timeout(PATIENCE, asked).await?
}
