//! Tunnels inside of a WebSocket, where nothing else passes.
//!
//! An agent behind a proxy that ends TLS opens one to the relay, if that takes such
//! tunnels. Or the relay opens it, through somebody else's tunnel as `cloudflared` makes
//! one: it asks the agent's public name for a WebSocket, with a signature that the
//! agent checks and takes once; the messages of that WebSocket then carry the same
//! HTTP/2 that a tunnel of our own carries:
//!
//! ```text
//! relay ── TLS 1.3 ──▶ Cloudflare ──▶ cloudflared ──▶ unix socket of the agent
//!       └─────────── WebSocket ⟶ HTTP/2 ⟶ Noise channels ───────────┘
//! ```
//!
//! Whoever ends that TLS sees what a relay sees: ciphertext of channels, and when. A
//! WebSocket is used because it is what Cloudflare carries both ways at once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Sink as _, Stream as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};
use katachi_auth::signature::Profile;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// What a relay signs when it reaches an agent through somebody else's tunnel. It is
/// not bound to the TLS connection, whose other end is not the agent.
pub const ORIGIN_REQUEST: Profile = Profile::request("katachi-origin/1").purpose_name("origin");

/// What an agent signs when it opens a tunnel inside of a WebSocket: not bound to the
/// TLS connection, which a proxy may end.
pub const WEBSOCKET_REQUEST: Profile =
    Profile::request("katachi-agent/1").purpose_name("websocket");

/// The headers of the answer that opens the WebSocket which a request asks for; nothing
/// if it asks for none (RFC 6455 section 4.2).
#[must_use]
pub fn switching(request: &HeaderMap) -> Option<[(HeaderName, HeaderValue); 3]> {
    let asked = request.get(UPGRADE)?;
    let key = request.get(SEC_WEBSOCKET_KEY)?;
    if !asked.as_bytes().eq_ignore_ascii_case(b"websocket") {
        return None;
    }
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()?;
    Some([
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_ACCEPT, accept),
    ])
}

/// Longest message either way, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;

/// Bounds of the WebSocket, the same on both ends.
#[must_use]
pub fn bounds() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(16 * 1024)
        .max_write_buffer_size(256 * 1024)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// The bytes inside of a WebSocket's binary messages, as one stream. A message of any
/// other kind than binary, ping or pong ends it.
#[derive(Debug)]
pub struct ByteStream<S> {
    socket: WebSocketStream<S>,
    left: Bytes,
}

impl<S> ByteStream<S> {
    /// The bytes of `socket`.
    pub fn new(socket: WebSocketStream<S>) -> Self {
        Self {
            socket,
            left: Bytes::new(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ByteStream<S> {
    /// The bytes of a WebSocket on `stream`, once it was answered that protocols switch.
    pub async fn accepted(stream: S) -> Self {
        Self::new(WebSocketStream::from_raw_socket(stream, Role::Server, Some(bounds())).await)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ByteStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.left.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(context)) {
                Some(Ok(Message::Binary(bytes))) => self.left = bytes,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(_)) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let fits = self.left.len().min(buffer.remaining());
        buffer.put_slice(&self.left.split_to(fits));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ByteStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut socket = Pin::new(&mut self.socket);
        ready!(socket.as_mut().poll_ready(context)).map_err(broken)?;
        let piece = &bytes[..bytes.len().min(MAX_MESSAGE)];
        socket
            .start_send(Message::Binary(Bytes::copy_from_slice(piece)))
            .map_err(broken)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket)
            .poll_flush(context)
            .map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket)
            .poll_close(context)
            .map_err(broken)
    }
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn bytes_arrive_in_order_whatever_the_pieces() {
        let (near, far) = tokio::io::duplex(8 * 1024);
        let near = WebSocketStream::from_raw_socket(near, Role::Client, Some(bounds())).await;
        let (mut near, mut far) = (ByteStream::new(near), ByteStream::accepted(far).await);
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let expected = sent.clone();
        let sending = tokio::spawn(async move {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        sending.await.unwrap();
        assert!(received == expected, "{} bytes", received.len());
    }

    #[tokio::test]
    async fn a_message_beyond_the_bound_is_refused() {
        use futures_util::SinkExt as _;

        let (near, far) = tokio::io::duplex(1 << 20);
        let mut near = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        let long = Message::Binary(vec![0; MAX_MESSAGE + 1].into());
        near.send(long).await.unwrap();
        let mut far = ByteStream::accepted(far).await;
        let error = far.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
