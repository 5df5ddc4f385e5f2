//! The carrier of an end-to-end channel: bytes from a browser's WebSocket to the
//! agent and back. Nothing here can read them.
//!
//! ```text
//! browser ══ WebSocket, binary ══ here ══ body of one HTTP/2 request ══ agent
//! ```
//!
//! Either end that goes away ends the other: a browser that closes its page
//! cancels the request on the agent, and an agent that ends closes the socket.

use std::io;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream::SplitStream;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::ORIGIN;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use katachi_auth::session::TokenDigest;
use katachi_protocol::channel::ChannelQuery;
use katachi_protocol::problem::Problem;
use katachi_protocol::routes::tunnel;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tracing::debug;

use super::App;
use super::accounts::Session;
use super::extract::{PathPart, QueryOf};
use crate::failure::Failure;
use crate::limits::Limits;
use crate::metrics::Open;
use crate::records::agents;

/// Largest frame of the WebSocket, in bytes: a few records.
const MAX_FRAME: usize = 64 * 1024;
/// Bytes on their way to the browser; answers to its pings wait for room among them.
const MAX_UNSENT: usize = 256 * 1024;
/// Frames of a browser in a minute that say nothing: pings, pongs, empty ones. A
/// browser answers our pings and sends none of its own.
const MAX_IDLE_FRAMES: u32 = 100;
/// Frames on their way to the agent; a browser that sends more has to wait.
const QUEUE: usize = 4;
/// Largest refusal of an agent that is read, in bytes.
const MAX_REFUSAL: usize = 16 * 1024;

/// `GET /api/agents/{id}/channel`.
pub(super) async fn open(
    State(app): State<App>,
    session: Session,
    PathPart(id): PathPart,
    QueryOf(query): QueryOf<ChannelQuery>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Failure> {
    let upgrade =
        upgrade.map_err(|_| Failure::BadRequest("a channel is a WebSocket".to_owned()))?;
    // The same-origin policy does not hold for WebSockets: their `Origin` has to
    // be looked at, whatever else the browser says.
    let origin = headers.get(ORIGIN).and_then(|value| value.to_str().ok());
    if origin != Some(app.hosts.public().to_string().as_str()) {
        return Err(Failure::Forbidden("this request came from another site"));
    }
    if !query.is_well_formed() {
        return Err(Failure::BadRequest(
            "`device` and `stream` are 43 and 22 characters of base64url".to_owned(),
        ));
    }
    // Listens from before the session was last looked at.
    let mut ended = app.records.sessions().ended();
    ended.mark_changed();
    require_owner(&app, &session, &id).await?;
    let (to_agent, from_browser) = mpsc::channel::<io::Result<Bytes>>(QUEUE);
    let target = format!("https://agent{}?{}", tunnel::CHANNEL, query.to_query());
    let request = Request::post(target)
        .body(Body::from_stream(ReceiverStream::new(from_browser)))
        .map_err(Failure::internal)?;
    let answer = app.ask(&id, request).await?;
    if answer.status() != StatusCode::OK {
        return refused(&app, answer).await;
    }
    let from_agent = answer.into_body().into_data_stream();
    Ok(upgrade
        .max_message_size(MAX_FRAME)
        .max_frame_size(MAX_FRAME)
        .read_buffer_size(4 * 1024)
        .write_buffer_size(16 * 1024)
        .max_write_buffer_size(MAX_UNSENT)
        .on_upgrade(move |socket| async move {
            let _open = Open::count(&app);
            tokio::select! {
                () = over(&app, session.digest, ended) => {}
                () = carry(socket, to_agent, from_agent, &app.limits) => {}
            }
        }))
}

/// Completes when the session is over: signed out, pushed out or too old. The
/// channel then passes no further byte either way.
async fn over(app: &App, digest: TokenDigest, mut ended: watch::Receiver<()>) {
    let mut age = tokio::time::interval(app.limits.session_check);
    loop {
        tokio::select! {
            // The other end lives as long as the records do.
            changed = ended.changed() => if changed.is_err() { return },
            _ = age.tick() => {}
        }
        if !app.session_lives(digest).await {
            return;
        }
    }
}

async fn require_owner(app: &App, session: &Session, id: &str) -> Result<(), Failure> {
    let (user, agent) = (session.user.id.clone(), id.to_owned());
    let owned = app
        .records
        .read(move |tx| agents::one(tx, &user, &agent))
        .await
        .map_err(Failure::internal)?;
    owned
        .map(drop)
        .ok_or(Failure::NotFound("there is no such agent in this account"))
}

/// The agent said no. Its reason is passed on if it is one.
async fn refused(app: &App, answer: Response) -> Result<Response, Failure> {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_REFUSAL).collect();
    let body = timeout(app.limits.answer, body).await;
    let body = body
        .map_err(|_| Failure::AnswerLate)?
        .map_err(|_| Failure::TunnelBroken)?;
    match serde_json::from_slice::<Problem>(&body.to_bytes()) {
        Ok(problem) if status.is_client_error() => Ok((status, Json(problem)).into_response()),
        _ => Err(Failure::TunnelBroken),
    }
}

/// Carries both ways until either end stops.
async fn carry(
    socket: WebSocket,
    to_agent: mpsc::Sender<io::Result<Bytes>>,
    mut from_agent: BodyDataStream,
    limits: &Limits,
) {
    let (mut to_browser, from_browser) = socket.split();
    let silence = limits.channel_silence;
    let mut inbound = std::pin::pin!(upward(from_browser, to_agent, silence));
    let mut ping = tokio::time::interval(limits.channel_ping);
    loop {
        let message = tokio::select! {
            () = &mut inbound => return,
            piece = from_agent.next() => match piece {
                Some(Ok(piece)) => Message::Binary(piece),
                _ => break,
            },
            _ = ping.tick() => Message::Ping(Bytes::new()),
        };
        // A browser may speak and not read.
        let sending = timeout(silence, to_browser.send(message));
        tokio::select! {
            () = &mut inbound => return,
            sent = sending => match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => return debug!("a browser did not read in time"),
            },
        }
    }
    let _ = timeout(silence, to_browser.close()).await;
}

/// Hands on what the browser sends; ends when it closes, breaks a rule, is silent for
/// too long or says too often that it has nothing to say, and when the agent does not
/// take what it says for as long.
async fn upward(
    mut from_browser: SplitStream<WebSocket>,
    to_agent: mpsc::Sender<io::Result<Bytes>>,
    silence: Duration,
) {
    let (mut minute, mut idle) = (Instant::now(), 0);
    while let Ok(Some(Ok(message))) = timeout(silence, from_browser.next()).await {
        match message {
            Message::Binary(bytes) if !bytes.is_empty() => {
                match timeout(silence, to_agent.send(Ok(bytes))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return,
                    Err(_) => return debug!("an agent did not read in time"),
                }
            }
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) => {
                if minute.elapsed() >= Duration::from_secs(60) {
                    (minute, idle) = (Instant::now(), 0);
                }
                idle += 1;
                if idle > MAX_IDLE_FRAMES {
                    return debug!("a browser sent too many frames that say nothing");
                }
            }
            Message::Text(_) | Message::Close(_) => return,
        }
    }
}
