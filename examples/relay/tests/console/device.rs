//! The agent's end of the channels, for the test agent: the handshake, one
//! request, and its answer in pieces.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::Query;
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::StreamExt as _;
use katachi_crypto::Secret;
use katachi_crypto::channel::{Binding, Channel, Event, Frames, Responder, StaticKey, Step};
use katachi_protocol::Sensitive;
use katachi_protocol::channel::{ChannelHead, ChannelQuery, ChannelRequest, Mode, PairingFragment};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tower::ServiceExt as _;

/// The agent's key, and the secret of its link.
pub(crate) struct Keys {
    key: StaticKey,
    secret: Secret<32>,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self {
            key: StaticKey::generate().unwrap(),
            secret: Secret::random().unwrap(),
        }
    }

    pub(crate) fn fragment(&self) -> PairingFragment {
        PairingFragment {
            agent: URL_SAFE_NO_PAD.encode(self.key.public().as_bytes()),
            secret: Sensitive::new(URL_SAFE_NO_PAD.encode(self.secret.expose_secret())),
        }
    }
}

/// What the tunnel serves: channels of the account `ana@example.org`, in which
/// `inside` answers.
pub(crate) fn carrier(keys: &Arc<Keys>, relay: &str, agent: &str, inside: Router) -> Router {
    let (keys, relay, agent) = (Arc::clone(keys), relay.to_owned(), agent.to_owned());
    Router::new().route(
        "/v1/channel",
        post(
            move |Query(query): Query<ChannelQuery>, body: Body| async move {
                let (to, from) = mpsc::channel(4);
                tokio::spawn(async move {
                    let place = Binding {
                        relay: &relay,
                        account: "ana@example.org",
                        agent: &agent,
                        device: &query.device,
                        stream: &query.stream,
                    };
                    let carrier = Carrier {
                        from: body.into_data_stream(),
                        rest: Bytes::new(),
                        to,
                    };
                    converse(&keys, query.mode, &place, carrier, inside).await;
                });
                Body::from_stream(ReceiverStream::new(from))
            },
        ),
    )
}

struct Carrier {
    from: BodyDataStream,
    rest: Bytes,
    to: mpsc::Sender<Result<Bytes, std::io::Error>>,
}

impl Carrier {
    /// Reads until `parse` has found something; `None` once the browser left.
    async fn take<T>(&mut self, mut parse: impl FnMut(&mut &[u8]) -> Option<T>) -> Option<T> {
        loop {
            let mut input = &self.rest[..];
            let found = parse(&mut input);
            let left = input.len();
            self.rest = self.rest.slice(self.rest.len() - left..);
            match found {
                Some(found) => return Some(found),
                None => self.rest = self.from.next().await?.ok()?,
            }
        }
    }

    /// Sends; `None` once the browser left.
    async fn send(&mut self, bytes: Vec<u8>) -> Option<()> {
        self.to.send(Ok(bytes.into())).await.ok()
    }
}

async fn converse(
    keys: &Keys,
    mode: Mode,
    place: &Binding<'_>,
    mut carrier: Carrier,
    inside: Router,
) -> Option<()> {
    let waiting = match mode {
        Mode::Pair => Responder::pair(&keys.key, &keys.secret, place).unwrap(),
        Mode::Resume => Responder::resume(&keys.key, place).unwrap(),
        Mode::Code => panic!("this agent made a link"),
    };
    let mut frames = Frames::of_handshake();
    let first = carrier
        .take(|input| frames.next(input).unwrap().map(<[u8]>::to_vec))
        .await?;
    let (unproved, sent) = waiting
        .read(&first)
        .unwrap()
        .answer(Duration::ZERO)
        .unwrap();
    carrier.send(sent).await?;
    let mut state = Some(unproved);
    let proved = carrier
        .take(|input| match state.take()?.prove(input).unwrap() {
            Step::Done(proved) => Some(proved),
            Step::Waiting(unproved) => {
                state = Some(unproved);
                None
            }
        })
        .await?;
    let mut channel = proved.into_channel();
    let Event::Message(message) = carrier
        .take(|input| channel.receive(input).unwrap())
        .await?
    else {
        panic!("the browser asked nothing");
    };
    let request: ChannelRequest = serde_json::from_slice(message.expose_secret()).unwrap();
    answer(request, &mut channel, &mut carrier, inside).await
}

async fn answer(
    request: ChannelRequest,
    channel: &mut Channel,
    carrier: &mut Carrier,
    inside: Router,
) -> Option<()> {
    let body = request.body.map(|body| body.to_string());
    let asked = http::Request::builder()
        .method(request.method.as_str())
        .uri(request.path)
        .header("content-type", "application/json")
        .body(Body::from(body.unwrap_or_default()))
        .unwrap();
    let response = inside.oneshot(asked).await.unwrap();
    let status = response.status().as_u16();
    let head = serde_json::to_vec(&ChannelHead { status }).unwrap();
    say(channel, carrier, &head).await?;
    let mut pieces = response.into_body().into_data_stream();
    loop {
        tokio::select! {
            piece = pieces.next() => match piece {
                Some(piece) => say(channel, carrier, &piece.unwrap()).await?,
                None => break,
            },
            // The browser has nothing more to say; it may leave.
            event = carrier.take(|input| channel.receive(input).unwrap()) => {
                event?;
            }
        }
    }
    let mut end = Vec::new();
    channel.close(&mut end).unwrap();
    carrier.send(end).await
}

async fn say(channel: &mut Channel, carrier: &mut Carrier, message: &[u8]) -> Option<()> {
    let mut out = Vec::new();
    channel.send(Duration::ZERO, message, &mut out).unwrap();
    carrier.send(out).await
}
