//! A browser that knows no key of the agent: its part of a pairing by numbers.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use katachi_crypto::channel::{
    Binding, CodeInitiator, CodeResponder, Event, Frames, StaticKey, Step, Uncompared,
};
use katachi_protocol::channel::{ChannelHead, ChannelQuery, ChannelRequest, Mode};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::meeting::{Meeting, get};

const NOW: Duration = Duration::ZERO;

/// One that has its numbers and waits for its person.
pub(crate) struct Stranger {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    rest: Bytes,
    uncompared: Uncompared,
}

impl Stranger {
    pub(crate) async fn meets(meeting: &Meeting) -> anyhow::Result<Self> {
        Self::meets_as(meeting, Mode::Code).await
    }

    /// The same handshake under a carrier that was opened for `mode`.
    pub(crate) async fn meets_as(meeting: &Meeting, mode: Mode) -> anyhow::Result<Self> {
        let key = StaticKey::generate()?;
        let query = ChannelQuery {
            mode,
            device: URL_SAFE_NO_PAD.encode(key.public().as_bytes()),
            stream: URL_SAFE_NO_PAD.encode(katachi_crypto::random::bytes::<16>()?),
        };
        let place = meeting.place();
        let binding = Binding {
            relay: place.relay,
            account: place.account,
            agent: place.agent,
            device: &query.device,
            stream: &query.stream,
        };
        let origin = meeting.browser.origin();
        let socket = meeting.browser.channel(&meeting.agent, &query, origin);
        let mut socket = socket.await.map_err(|status| anyhow::anyhow!("{status}"))?;
        let mut rest = Bytes::new();
        let (begun, first) = CodeInitiator::begin(&key, &binding)?;
        socket.send(Message::Binary(first.into())).await?;
        let mut frames = Frames::of_handshake();
        let answer = take(&mut socket, &mut rest, |input| {
            Ok(frames.next(input)?.map(<[u8]>::to_vec))
        });
        let (unrevealed, last) = begun.answer(&answer.await?, NOW)?;
        socket.send(Message::Binary(last.into())).await?;
        let mut state = Some(unrevealed);
        let uncompared = take(&mut socket, &mut rest, |input| {
            let unrevealed = state.take().context("the handshake failed")?;
            Ok(match unrevealed.reveal(input)? {
                Step::Done(uncompared) => Some(uncompared),
                Step::Waiting(unrevealed) => {
                    state = Some(unrevealed);
                    None
                }
            })
        });
        let uncompared = uncompared.await?;
        Ok(Self {
            socket,
            rest,
            uncompared,
        })
    }

    pub(crate) fn numbers(&self) -> String {
        self.uncompared.code().to_string()
    }

    /// Says that the machine accepted the numbers; returns what the agent answers.
    pub(crate) async fn confirms(self, name: &str) -> anyhow::Result<u16> {
        let (mut socket, mut rest) = (self.socket, self.rest);
        let mut channel = self.uncompared.codes_are_equal();
        let request = ChannelRequest {
            name: Some(name.to_owned()),
            ..get("/v1/status")
        };
        let mut sent = Vec::new();
        channel.send(NOW, &serde_json::to_vec(&request)?, &mut sent)?;
        socket.send(Message::Binary(sent.into())).await?;
        let event = take(&mut socket, &mut rest, |input| Ok(channel.receive(input)?));
        let Event::Message(head) = event.await? else {
            bail!("the agent said nothing");
        };
        Ok(serde_json::from_slice::<ChannelHead>(head.expose_secret())?.status)
    }
}

async fn take<T>(
    socket: &mut WebSocketStream<TlsStream<TcpStream>>,
    rest: &mut Bytes,
    mut take: impl FnMut(&mut &[u8]) -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    loop {
        let mut input = &rest[..];
        let taken = take(&mut input)?;
        let left = input.len();
        *rest = rest.slice(rest.len() - left..);
        if let Some(taken) = taken {
            return Ok(taken);
        }
        ensure!(rest.is_empty(), "a whole frame is taken or kept");
        *rest = match tokio::time::timeout(Duration::from_secs(20), socket.next()).await? {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Bytes::new(),
            _ => bail!("the carrier ended"),
        };
    }
}

/// What a browser shows that was answered by somebody with another key.
pub(crate) fn numbers_with_someone_else() -> String {
    let (device, other) = (StaticKey::generate(), StaticKey::generate());
    let binding = Binding {
        relay: "https://relay.example",
        account: "ada",
        agent: "laptop",
        device: "phone",
        stream: "1",
    };
    // Each frame begins with its length, of two bytes.
    let (begun, sent) = CodeInitiator::begin(&device.unwrap(), &binding).unwrap();
    let waiting = CodeResponder::wait(&other.unwrap(), &binding).unwrap();
    let (committed, sent) = waiting.answer(&sent[2..]).unwrap();
    let (_, sent) = begun.answer(&sent[2..], NOW).unwrap();
    let (uncompared, _) = committed.finish(&sent[2..], NOW).unwrap();
    uncompared.code().to_string()
}
