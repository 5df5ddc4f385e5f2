//! What a running `cloudflared` says of itself, on its port of loopback.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Time for it to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read, in bytes.
const LONGEST: usize = 1 << 20;

/// What it counts, as far as it says so.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counts {
    /// Connections to Cloudflare now.
    pub(super) connections: u64,
    /// Requests that came from there.
    requests: u64,
    /// Those of them that did not get to our socket.
    errors: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            connections,
            requests,
            errors,
        } = self;
        write!(
            f,
            "connections to Cloudflare: {connections}, requests: {requests}, errors: {errors}"
        )
    }
}

impl Counts {
    /// Reads the text format of Prometheus: `name{labels} value`, a line each.
    fn parse(text: &str) -> Self {
        let mut counts = Self::default();
        for line in text.lines() {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let count = match name {
                "cloudflared_tunnel_ha_connections" => &mut counts.connections,
                "cloudflared_tunnel_total_requests" => &mut counts.requests,
                "cloudflared_tunnel_request_errors" => &mut counts.errors,
                _ => continue,
            };
            let labelled = line.rsplit_once('}').map(|(_, value)| value);
            let value = labelled.unwrap_or(&line[name.len()..]);
            let value = value.split_whitespace().next().unwrap_or_default();
            let value: f64 = value.parse().unwrap_or_default();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the cast saturates, and a count is whole"
            )]
            let value = value as u64;
            *count = count.saturating_add(value);
        }
        counts
    }
}

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
pub(super) async fn counts(address: SocketAddr) -> anyhow::Result<Counts> {
    let (status, body) = get(address, "/metrics")
        .await
        .context("it does not say what it counts")?;
    match status {
        http::StatusCode::OK => Ok(Counts::parse(&String::from_utf8_lossy(&body))),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_with_labels_and_without() {
        let text = "# HELP cloudflared_tunnel_ha_connections Number of active ha connections\n\
            # TYPE cloudflared_tunnel_ha_connections gauge\n\
            cloudflared_tunnel_ha_connections 4\n\
            cloudflared_tunnel_total_requests{name=\"a b} c\"} 1.2e+01 1700000000\n\
            cloudflared_tunnel_total_requests{name=\"\"} 30\n\
            cloudflared_tunnel_request_errors NaN\n\
            cloudflared_tunnel_request_errors_more 9\n";
        let counts = Counts {
            connections: 4,
            requests: 42,
            errors: 0,
        };
        assert_eq!(Counts::parse(text), counts);
        assert_eq!(Counts::parse("nothing of that"), Counts::default());
    }
}
