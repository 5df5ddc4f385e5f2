//! A device's part: end-to-end channels over a WebSocket, as the console in a
//! browser speaks them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use katachi_crypto::Secret;
use katachi_crypto::channel::{Binding, Channel, Event, Frames, Initiator, PublicKey, StaticKey};
use katachi_protocol::channel::{ChannelHead, ChannelQuery, ChannelRequest, Mode, PairingFragment};
use katachi_protocol::mcp::{McpSignature, McpStatement, PutMcp};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Bytes of one message of the carrier; a relay takes no longer ones.
const MAX_PIECE: usize = 32 * 1024;

/// A device with a key of its own.
pub(crate) struct Device {
    key: StaticKey,
    agent: PublicKey,
    /// The secret of the link.
    secret: Secret<32>,
    /// Whether the secret was used; the key does from then on.
    is_paired: AtomicBool,
    name: String,
    /// Signs approvals.
    pub(crate) signing: Ed25519KeyPair,
}

/// Where the agent is, as both ends name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) relay: &'a str,
    pub(crate) account: &'a str,
    pub(crate) agent: &'a str,
}

impl Device {
    /// A device that was shown the link with `fragment`.
    ///
    /// # Errors
    ///
    /// Returns an error if the fragment is none.
    pub(crate) fn new(fragment: &PairingFragment, name: &str) -> anyhow::Result<Self> {
        let decode = |text: &str| -> anyhow::Result<[u8; 32]> {
            let bytes = URL_SAFE_NO_PAD.decode(text)?;
            bytes.try_into().ok().context("a key has 32 bytes")
        };
        Ok(Self {
            key: StaticKey::generate()?,
            agent: PublicKey::from_bytes(decode(&fragment.agent)?),
            secret: Secret::new(decode(fragment.secret.expose_secret())?),
            is_paired: AtomicBool::new(false),
            name: name.to_owned(),
            signing: Ed25519KeyPair::from_seed_unchecked(&katachi_crypto::random::bytes::<32>()?)
                .ok()
                .context("a seed is a key")?,
        })
    }

    /// The query with which to open a WebSocket for one request.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no randomness.
    pub(crate) fn query(&self) -> anyhow::Result<ChannelQuery> {
        Ok(ChannelQuery {
            mode: match self.is_paired.load(Ordering::Relaxed) {
                false => Mode::Pair,
                true => Mode::Resume,
            },
            device: URL_SAFE_NO_PAD.encode(self.key.public().as_bytes()),
            stream: URL_SAFE_NO_PAD.encode(katachi_crypto::random::bytes::<16>()?),
        })
    }

    /// Signs an MCP configuration for `agent`, as the console does when it is
    /// saved.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no randomness.
    pub(crate) fn sign_mcp(
        &self,
        agent: &str,
        name: &str,
        config: &PutMcp,
    ) -> anyhow::Result<McpSignature> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let statement = McpStatement {
            agent,
            name,
            signed_at: now.as_secs(),
            command: &config.command,
            env: &config.env,
            secrets: &config.secrets,
        };
        let signature = self.signing.sign(&statement.signed_bytes());
        Ok(McpSignature {
            device: self.query()?.device,
            signed_at: statement.signed_at,
            signature: URL_SAFE_NO_PAD.encode(signature.as_ref()),
        })
    }

    /// Asks one thing through an open carrier.
    ///
    /// # Errors
    ///
    /// Returns an error if the carrier breaks or is not the agent's.
    pub(crate) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: WebSocketStream<S>,
        query: &ChannelQuery,
        place: Place<'_>,
        mut request: ChannelRequest,
    ) -> anyhow::Result<Answer<S>> {
        if query.mode == Mode::Pair {
            request.name = Some(self.name.clone());
            let key = self.signing.public_key();
            request.signing_key = Some(URL_SAFE_NO_PAD.encode(key.as_ref()));
        }
        let request = serde_json::to_vec(&request)?;
        self.ask_bytes(socket, query, place, &request).await
    }

    /// The same with whatever stands in place of the request.
    ///
    /// # Errors
    ///
    /// Those of [`ask`](Self::ask).
    pub(crate) async fn ask_bytes<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: WebSocketStream<S>,
        query: &ChannelQuery,
        place: Place<'_>,
        request: &[u8],
    ) -> anyhow::Result<Answer<S>> {
        let binding = Binding {
            relay: place.relay,
            account: place.account,
            agent: place.agent,
            device: &query.device,
            stream: &query.stream,
        };
        let mut socket = Socket(socket);
        let now = Duration::ZERO;
        let (begun, first) = match query.mode {
            Mode::Pair => Initiator::pair(&self.key, &self.agent, &self.secret, &binding)?,
            Mode::Resume => Initiator::resume(&self.key, &self.agent, &binding)?,
            Mode::Code => bail!("this device was shown a link"),
        };
        socket.send(first).await?;
        let mut frames = Frames::of_handshake();
        let (message, rest) = loop {
            let bytes = socket.next().await?.context("the agent did not answer")?;
            let mut input = &bytes[..];
            if let Some(message) = frames.next(&mut input)? {
                break (message.to_vec(), bytes.slice(bytes.len() - input.len()..));
            }
        };
        let (mut channel, mut sent) = begun.finish(&message, now)?;
        channel.send(now, request, &mut sent)?;
        socket.send(sent).await?;
        let mut answer = Answer {
            status: 0,
            channel,
            socket,
            rest,
        };
        let head = answer.piece().await?.context("the agent said nothing")?;
        answer.status = serde_json::from_slice::<ChannelHead>(&head)?.status;
        self.is_paired.store(true, Ordering::Relaxed);
        Ok(answer)
    }
}

/// An answer under way; dropping it cancels the request.
pub(crate) struct Answer<S> {
    pub(crate) status: u16,
    channel: Channel,
    socket: Socket<S>,
    rest: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Answer<S> {
    /// The next piece of the body; `None` at its proper end.
    ///
    /// # Errors
    ///
    /// Returns an error if the answer was cut off or changed on the way.
    pub(crate) async fn piece(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        loop {
            let mut input = &self.rest[..];
            let event = self.channel.receive(&mut input)?;
            let left = input.len();
            self.rest = self.rest.slice(self.rest.len() - left..);
            match event {
                Some(Event::Message(message)) => return Ok(Some(message.expose_secret().to_vec())),
                Some(Event::Closed) => return Ok(None),
                Some(_) => {}
                None => match self.socket.next().await? {
                    Some(bytes) => self.rest = bytes,
                    None => {
                        self.channel.end()?;
                        return Ok(None);
                    }
                },
            }
        }
    }

    /// All of the body that is still to come.
    ///
    /// # Errors
    ///
    /// Those of [`piece`](Self::piece).
    pub(crate) async fn whole(mut self) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece().await? {
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }
}

/// The carrier.
struct Socket<S>(WebSocketStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    async fn send(&mut self, bytes: Vec<u8>) -> anyhow::Result<()> {
        let mut bytes = Bytes::from(bytes);
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(MAX_PIECE));
            self.0.send(Message::Binary(piece)).await?;
        }
        Ok(())
    }

    async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Binary(bytes))) => return Ok(Some(bytes)),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Ok(None),
                Some(Ok(other)) => bail!("the relay sent {other:?}"),
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }
}
