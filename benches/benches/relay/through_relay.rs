//! A browser's WebSocket, the relay, and an agent's tunnel.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::Query;
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use katachi_crypto::channel::{
    Binding, Channel, Event, Frames, Initiator, Responder, StaticKey, Step,
};
use katachi_protocol::channel::{ChannelQuery, Mode};
use katachi_protocol::routes;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::{PIECE, SIZE, Used};
use crate::agent::{self, Account, Agent};
use crate::server::{Failure, Server};

const NOW: Duration = Duration::ZERO;
/// The message that asks for as much in return.
const RETURN: &[u8] = b"return";

pub(super) async fn measure() -> Result<Used, Failure> {
    let home = tempfile::tempdir()?;
    let relay = Server::start("--relay", home.path())?;
    let account = Account::open(&relay.url, "bench", Ipv4Addr::LOCALHOST).await?;
    let agent = account.connect().await?;
    let key = Arc::new(StaticKey::generate()?);
    let place = Arc::new(Place {
        relay: relay.url.clone(),
        account: account.email.clone(),
        agent: agent.id.clone(),
    });
    let tls = agent::tls(home.path())?;
    let (on_agent, at) = (Arc::clone(&key), Arc::clone(&place));
    let answer = move |Query(query): Query<ChannelQuery>, body: Body| async move {
        let (to, receiver) = mpsc::channel(4);
        let from = Reader::new(body.into_data_stream());
        tokio::spawn(async move { Responding { from, to }.serve(&on_agent, &at, &query).await });
        Body::from_stream(ReceiverStream::new(receiver))
    };
    let router = Router::new().route(routes::tunnel::CHANNEL, post(answer));
    agent.dial(&tls, Ipv4Addr::LOCALHOST, router).await?;

    let mut browser = Browser::open(&account, &agent, &place, &key, &tls).await?;
    let start = relay.used()?;
    browser.send_all().await?;
    let middle = relay.used()?;
    browser.receive_all().await?;
    Ok(Used {
        to_agent: middle - start,
        to_browser: relay.used()? - middle,
    })
}

/// Where the channel is, as both ends name it.
struct Place {
    relay: String,
    account: String,
    agent: String,
}

impl Place {
    fn binding<'a>(&'a self, query: &'a ChannelQuery) -> Binding<'a> {
        Binding {
            relay: &self.relay,
            account: &self.account,
            agent: &self.agent,
            device: &query.device,
            stream: &query.stream,
        }
    }
}

/// Bytes that arrive in pieces.
struct Reader {
    pieces: BodyDataStream,
    rest: Bytes,
}

impl Reader {
    fn new(pieces: BodyDataStream) -> Self {
        let rest = Bytes::new();
        Self { pieces, rest }
    }

    async fn more(&mut self) -> Result<(), Failure> {
        self.rest = self.pieces.next().await.ok_or("the carrier ended")??;
        Ok(())
    }

    fn keep(&mut self, left: usize) {
        self.rest = self.rest.slice(self.rest.len() - left..);
    }

    async fn message(&mut self, channel: &mut Channel) -> Result<Vec<u8>, Failure> {
        loop {
            let mut input = &self.rest[..];
            let event = channel.receive(&mut input)?;
            let left = input.len();
            self.keep(left);
            match event {
                Some(Event::Message(message)) => return Ok(message.expose_secret().to_vec()),
                Some(Event::Closed) => return Err("the channel was closed".into()),
                Some(_) => {}
                None => self.more().await?,
            }
        }
    }
}

/// The agent's end.
struct Responding {
    from: Reader,
    to: mpsc::Sender<Result<Bytes, std::io::Error>>,
}

impl Responding {
    async fn serve(
        mut self,
        key: &StaticKey,
        place: &Place,
        query: &ChannelQuery,
    ) -> Result<(), Failure> {
        let waiting = Responder::resume(key, &place.binding(query))?;
        let mut frames = Frames::of_handshake();
        let incoming = loop {
            let mut input = &self.from.rest[..];
            let message = frames.next(&mut input)?.map(<[u8]>::to_vec);
            let left = input.len();
            self.from.keep(left);
            match message {
                Some(message) => break waiting.read(&message)?,
                None => self.from.more().await?,
            }
        };
        let (mut unproved, answer) = incoming.answer(NOW)?;
        self.send(answer).await?;
        let mut channel = loop {
            let mut input = &self.from.rest[..];
            let step = unproved.prove(&mut input)?;
            let left = input.len();
            self.from.keep(left);
            match step {
                Step::Done(proved) => break proved.into_channel(),
                Step::Waiting(same) => {
                    unproved = same;
                    self.from.more().await?;
                }
            }
        };
        let mut received = 0_u64;
        loop {
            let message = self.from.message(&mut channel).await?;
            if message == RETURN {
                break;
            }
            received += message.len() as u64;
        }
        let mut out = Vec::new();
        channel.send(NOW, &received.to_be_bytes(), &mut out)?;
        self.send(out).await?;
        let piece = vec![7; PIECE];
        for _ in 0..pieces() {
            let mut out = Vec::new();
            channel.send(NOW, &piece, &mut out)?;
            self.send(out).await?;
        }
        // The browser ends it.
        self.from.message(&mut channel).await.map(drop)
    }

    async fn send(&mut self, bytes: Vec<u8>) -> Result<(), Failure> {
        Ok(self.to.send(Ok(bytes.into())).await?)
    }
}

fn pieces() -> usize {
    (SIZE << 20) / PIECE
}

/// The browser's end.
struct Browser {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    channel: Channel,
}

impl Browser {
    async fn open(
        account: &Account,
        agent: &Agent,
        place: &Place,
        key: &StaticKey,
        tls: &tokio_rustls::TlsConnector,
    ) -> Result<Self, Failure> {
        let own = StaticKey::generate()?;
        let query = ChannelQuery {
            mode: Mode::Resume,
            device: URL_SAFE_NO_PAD.encode(own.public().as_bytes()),
            stream: URL_SAFE_NO_PAD.encode(katachi_crypto::random::bytes::<16>()?),
        };
        let stream = agent::connect(tls, &account.url, Ipv4Addr::LOCALHOST).await?;
        let authority = account.url.trim_start_matches("https://");
        let path = routes::agent_channel(&agent.id);
        let mut request =
            format!("wss://{authority}{path}?{}", query.to_query()).into_client_request()?;
        let headers = request.headers_mut();
        headers.insert("origin", account.url.parse()?);
        headers.insert("cookie", account.cookie()?);
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await?;
        let (begun, first) = Initiator::resume(&own, &key.public(), &place.binding(&query))?;
        socket.send(Message::Binary(first.into())).await?;
        let answer = next(&mut socket).await?;
        let (mut channel, mut sent) = begun.finish(&answer[2..], NOW)?;
        channel.send(NOW, b"first", &mut sent)?;
        socket.send(Message::Binary(sent.into())).await?;
        Ok(Self { socket, channel })
    }

    /// Sends everything, and waits until the agent says that it has it.
    async fn send_all(&mut self) -> Result<(), Failure> {
        let piece = vec![7; PIECE];
        for _ in 0..pieces() {
            self.send(&piece).await?;
        }
        self.send(RETURN).await?;
        let received = self.messages(1).await?;
        assert_eq!(received, 8, "the agent says how much it has");
        Ok(())
    }

    async fn receive_all(&mut self) -> Result<(), Failure> {
        let received = self.messages(pieces()).await?;
        assert_eq!(received, pieces() * PIECE, "all of it came");
        Ok(())
    }

    async fn send(&mut self, message: &[u8]) -> Result<(), Failure> {
        let mut out = Vec::new();
        self.channel.send(NOW, message, &mut out)?;
        Ok(self.socket.send(Message::Binary(out.into())).await?)
    }

    /// Bytes in the next `count` messages.
    async fn messages(&mut self, mut count: usize) -> Result<usize, Failure> {
        let mut received = 0;
        loop {
            let bytes = next(&mut self.socket).await?;
            let mut input = &bytes[..];
            while let Some(event) = self.channel.receive(&mut input)? {
                if let Event::Message(message) = event {
                    received += message.len();
                    count -= 1;
                }
            }
            if count == 0 {
                return Ok(received);
            }
        }
    }
}

async fn next(socket: &mut WebSocketStream<TlsStream<TcpStream>>) -> Result<Bytes, Failure> {
    loop {
        match socket.next().await.ok_or("the carrier ended")?? {
            Message::Binary(bytes) => return Ok(bytes),
            Message::Ping(_) | Message::Pong(_) => {}
            other => return Err(format!("the relay sent {other:?}").into()),
        }
    }
}
