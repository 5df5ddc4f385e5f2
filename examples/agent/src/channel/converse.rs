//! One channel: the handshake, one request, its answer.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};
use axum::body::{Body, BodyDataStream};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{Method, Request, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use katachi_crypto::Secret;
use katachi_crypto::channel::{
    Binding, Channel, Event, Frames, Proved, PublicKey, Responder, Step,
};
use katachi_protocol::channel::{ChannelHead, ChannelQuery, ChannelRequest, Mode};
use katachi_protocol::problem::codes;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tower::ServiceExt as _;

use crate::tunnel::{Refusal, Service, inside};

/// Time for the handshake and for the request to arrive.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long pieces of an answer are gathered: the times at which a program
/// prints are not to be read from the times at which records pass.
const TICK: Duration = Duration::from_millis(60);
/// An answer is sent before the tick once it fills a record.
const FULL: usize = 16 * 1024;
/// Pieces that wait for a slow carrier before the answer has to.
const QUEUE: usize = 4;
/// How often it is looked whether the device was removed while there is nothing to send.
const GLANCE: Duration = Duration::from_millis(100);
/// Most bytes kept of what a device says before it is its turn.
const EARLY: usize = 64 * 1024;

/// `POST /v1/channel`: answers with the other half of the channel's bytes.
pub(crate) async fn serve(
    State(service): State<Arc<Service>>,
    query: Result<Query<ChannelQuery>, QueryRejection>,
    body: Body,
) -> Result<Response, Refusal> {
    let Query(query) = query?;
    if !query.is_well_formed() {
        return Err(Refusal::bad("`device` and `stream` are not well-formed"));
    }
    let permit = Arc::clone(&service.channels)
        .try_acquire_owned()
        .map_err(|_| {
            Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                codes::RATE_LIMITED,
                "too many channels are open; wait for one to end",
            )
            .unwritten()
        })?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let _permit = permit;
        let carrier = Carrier {
            from: body.into_data_stream(),
            rest: Bytes::new(),
            to: sender,
            began: Instant::now(),
        };
        // The other end learns from the carrier's end alone that something was
        // wrong; what it was stands in our log.
        if let Err(error) = converse(&service, &query, carrier).await {
            tracing::info!(device = &query.device[..8], "a channel ended: {error:#}");
        }
    });
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(receiver)));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/octet-stream"),
    );
    Ok(response)
}

/// The relay's bytes, both ways.
pub(super) struct Carrier {
    from: BodyDataStream,
    rest: Bytes,
    to: mpsc::Sender<Result<Bytes, std::io::Error>>,
    began: Instant,
}

impl Carrier {
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) async fn send(&mut self, bytes: Vec<u8>) -> anyhow::Result<()> {
        let sent = self.to.send(Ok(bytes.into())).await;
        sent.map_err(|_| anyhow::anyhow!("the carrier is gone"))
    }

    /// The next message of a handshake.
    pub(super) async fn frame(&mut self, frames: &mut Frames) -> anyhow::Result<Vec<u8>> {
        self.take(|input| Ok(frames.next(input)?.map(<[u8]>::to_vec)))
            .await
    }

    /// Completes when the other end leaves, or says more than has a place here;
    /// what it says meanwhile is kept for later.
    pub(super) async fn ends(&mut self) {
        while let Some(Ok(piece)) = self.from.next().await {
            if self.rest.len() + piece.len() > EARLY {
                return;
            }
            self.rest = [&self.rest[..], &piece].concat().into();
        }
    }

    /// Gives what has arrived to `take`, which leaves what it does not need,
    /// until it returns something.
    async fn take<T>(
        &mut self,
        mut take: impl FnMut(&mut &[u8]) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        loop {
            let mut input: &[u8] = &self.rest;
            let taken = take(&mut input)?;
            let left = input.len();
            self.rest = self.rest.split_off(self.rest.len() - left);
            if let Some(taken) = taken {
                return Ok(taken);
            }
            self.rest = match self.from.next().await {
                Some(piece) => piece.context("the carrier broke")?,
                None => bail!("the carrier ended"),
            };
        }
    }
}

async fn converse(
    service: &Arc<Service>,
    query: &ChannelQuery,
    mut carrier: Carrier,
) -> anyhow::Result<()> {
    let opened = match query.mode {
        Mode::Code => {
            let paired = super::code::pair(service, query, &mut carrier).await;
            paired.map(|(channel, request)| (channel, Ok(request)))
        }
        Mode::Pair | Mode::Resume => {
            let opened = by_key(service, query, &mut carrier);
            let opened = tokio::time::timeout(PATIENCE, opened).await;
            opened
                .context("nothing came in time")
                .and_then(|opened| opened)
        }
    };
    if opened.is_err() {
        service.record_refused(CALL, detail(query));
    }
    let (mut channel, request) = opened?;
    let mut watch = Watch {
        service,
        peer: channel.peer(),
        seen: None,
    };
    answer(service, request, &mut channel, &mut carrier, &mut watch).await
}

const CALL: &str = "POST /v1/channel";

/// Writes down that a device proved itself, before anything comes of it.
pub(super) fn record(service: &Service, query: &ChannelQuery) -> anyhow::Result<()> {
    let recorded = service.record(CALL, detail(query), "received");
    recorded.map_err(|_| anyhow::anyhow!("the audit log cannot be written"))
}

fn detail(query: &ChannelQuery) -> String {
    let how = match query.mode {
        Mode::Pair => "pairing by link",
        Mode::Code => "pairing by code",
        Mode::Resume => "paired",
    };
    format!("{how}, device {}", &query.device[..8])
}

/// Opens the channel of a device that knows this agent's key, from a link or
/// from before.
async fn by_key(
    service: &Service,
    query: &ChannelQuery,
    carrier: &mut Carrier,
) -> anyhow::Result<(Channel, Result<ChannelRequest, Refusal>)> {
    let vault = &service.home.vault;
    let secret = match query.mode {
        Mode::Pair => Some(
            service
                .pairing
                .secret(vault)?
                .context("no pairing is open")?,
        ),
        Mode::Code | Mode::Resume => None,
    };
    let proved = handshake(service, query, secret.as_ref(), carrier).await?;
    record(service, query)?;
    let peer = proved.peer();
    if let Some(secret) = &secret {
        // First the end of the secret, then the device: a crash in between
        // costs another link, never a second device.
        ensure!(
            service.pairing.spend(vault, secret)?,
            "another device used the link"
        );
        service.devices.enrol(vault, &peer, "", None)?;
    }
    let mut channel = proved.into_channel();
    let request = request(&mut channel, carrier).await?;
    if let (Some(_), Ok(request)) = (&secret, &request)
        && let Some(name) = &request.name
    {
        let signing_key = request.signing_key.clone();
        service.devices.enrol(vault, &peer, name, signing_key)?;
    }
    Ok((channel, request))
}

/// Where this channel is, as both ends name it.
pub(super) fn binding<'a>(service: &'a Service, query: &'a ChannelQuery) -> Binding<'a> {
    let client = service.client();
    Binding {
        relay: &client.endpoint().url,
        account: client.account(),
        agent: client.agent_id(),
        device: &query.device,
        stream: &query.stream,
    }
}

async fn handshake(
    service: &Service,
    query: &ChannelQuery,
    secret: Option<&Secret<32>>,
    carrier: &mut Carrier,
) -> anyhow::Result<Proved> {
    let vault = &service.home.vault;
    let key = super::own_key(vault);
    let place = binding(service, query);
    let waiting = match secret {
        Some(secret) => Responder::pair(&key, secret, &place)?,
        None => Responder::resume(&key, &place)?,
    };
    let message = carrier.frame(&mut Frames::of_handshake()).await?;
    let incoming = waiting.read(&message)?;
    let peer = incoming.peer();
    ensure!(
        super::devices::id_of(&peer) == query.device,
        "the device is not who the relay says"
    );
    if secret.is_none() {
        let known = service.devices.find(vault, &peer)?;
        ensure!(known.is_some(), "the device is not paired");
    }
    let (unproved, sent) = incoming.answer(carrier.now())?;
    carrier.send(sent).await?;
    let mut state = Some(unproved);
    carrier
        .take(|input| {
            let unproved = state.take().context("the handshake failed")?;
            Ok(match unproved.prove(input)? {
                Step::Done(proved) => Some(proved),
                Step::Waiting(unproved) => {
                    state = Some(unproved);
                    None
                }
            })
        })
        .await
}

/// What the device asks, or what it is told where that cannot be read.
pub(super) async fn request(
    channel: &mut Channel,
    carrier: &mut Carrier,
) -> anyhow::Result<Result<ChannelRequest, Refusal>> {
    loop {
        match carrier.take(|input| Ok(channel.receive(input)?)).await? {
            Event::Message(message) => return Ok(read(message.expose_secret())),
            Event::Rekeyed => {}
            _ => bail!("the device asked nothing"),
        }
    }
}

fn read(message: &[u8]) -> Result<ChannelRequest, Refusal> {
    if message.len() > ChannelRequest::MAX_BYTES {
        return Err(Refusal::too_large("the request is too long"));
    }
    let request: ChannelRequest = serde_json::from_slice(message)
        .map_err(|error| Refusal::bad(format!("the request is not one: {error}")))?;
    match request.is_well_formed() {
        true => Ok(request),
        false => Err(Refusal::bad("the signing key is not one")),
    }
}

/// Who asks, as the handshake has shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker(pub(crate) PublicKey);

/// Notices that the device was removed while its answer is under way.
struct Watch<'a> {
    service: &'a Service,
    peer: PublicKey,
    /// The list as it was when the device was last found there; nothing before that.
    seen: Option<Option<(SystemTime, u64)>>,
}

impl Watch<'_> {
    fn check(&mut self) -> anyhow::Result<()> {
        let devices = &self.service.devices;
        // Asked first: what changes while the device is looked for is seen the next time.
        let changed = Some(devices.changed());
        if changed != self.seen {
            let known = devices.find(&self.service.home.vault, &self.peer)?;
            ensure!(known.is_some(), "the device was removed");
            self.seen = changed;
        }
        Ok(())
    }
}

async fn answer(
    service: &Arc<Service>,
    request: Result<ChannelRequest, Refusal>,
    channel: &mut Channel,
    carrier: &mut Carrier,
    watch: &mut Watch<'_>,
) -> anyhow::Result<()> {
    // Not later than this: what is asked happens.
    watch.check()?;
    let response = match request.and_then(|request| asked(request, watch.peer)) {
        Ok(request) => inside(Arc::clone(service)).oneshot(request).await?,
        Err(refusal) => refusal.write_down(service),
    };
    let head = serde_json::to_vec(&ChannelHead {
        status: response.status().as_u16(),
    })?;
    say(channel, carrier, watch, &head).await?;

    let mut pieces = response.into_body().into_data_stream();
    let mut gathered = Vec::new();
    // Set while something waits to be sent.
    let mut due: Option<tokio::time::Instant> = None;
    let mut glance = tokio::time::interval(GLANCE);
    loop {
        let tick = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            piece = pieces.next() => match piece {
                Some(piece) => {
                    gathered.extend_from_slice(&piece?);
                    due.get_or_insert_with(|| tokio::time::Instant::now() + TICK);
                    if gathered.len() < FULL {
                        continue;
                    }
                }
                None => break,
            },
            () = tick => {}
            _ = glance.tick() => {
                watch.check()?;
                continue;
            }
            // The device says nothing more; what it does say is that it left.
            event = carrier.take(|input| Ok(channel.receive(input)?)) => match event? {
                Event::Closed => bail!("the device left"),
                _ => continue,
            },
        }
        say(channel, carrier, watch, &gathered).await?;
        gathered.clear();
        due = None;
    }
    if !gathered.is_empty() {
        say(channel, carrier, watch, &gathered).await?;
    }
    let mut end = Vec::new();
    channel.close(&mut end)?;
    carrier.send(end).await
}

async fn say(
    channel: &mut Channel,
    carrier: &mut Carrier,
    watch: &mut Watch<'_>,
    message: &[u8],
) -> anyhow::Result<()> {
    watch.check()?;
    let mut out = Vec::new();
    channel.send(carrier.now(), message, &mut out)?;
    let mut sent = pin!(carrier.send(out));
    loop {
        // Who does not read is not spared either.
        match tokio::time::timeout(GLANCE, sent.as_mut()).await {
            Ok(sent) => return sent,
            Err(_) => watch.check()?,
        }
    }
}

/// The request as the routes take it.
fn asked(request: ChannelRequest, peer: PublicKey) -> Result<Request<Body>, Refusal> {
    let method = Method::from_bytes(request.method.as_bytes());
    let method = method.map_err(|_| Refusal::bad("that is no method"))?;
    // The routes would answer it as they do `GET`.
    if method == Method::HEAD {
        return Err(Refusal::wrong_method());
    }
    if !request.path.starts_with('/') {
        return Err(Refusal::bad("a path begins with a slash"));
    }
    let body = match request.body {
        None => Body::empty(),
        Some(body) => Body::from(body.to_string()),
    };
    Request::builder()
        .method(method)
        .uri(request.path)
        .header(header::CONTENT_TYPE, "application/json")
        .extension(Asker(peer))
        .body(body)
        .map_err(|_| Refusal::bad("that is no path"))
}
