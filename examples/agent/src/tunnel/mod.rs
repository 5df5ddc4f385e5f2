//! The tunnel: dialled out or reached through Cloudflare, authenticated, then served
//! as HTTP/2.

mod ask;
mod backoff;
mod dial;
mod mcp;
mod service;
mod sessions;
mod websocket;
mod work;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::service::TowerToHyperService;
use katachi_protocol::agent::{Activity, ActivityKind, AgentState, Reconnect};
use tokio::sync::watch;

use crate::config::Carrier;
use crate::relay_client::patiently;
use backoff::Backoff;

pub(crate) use ask::{Question, approve, ask};
pub(crate) use dial::relayed;
pub(crate) use service::{ROUTES, Refusal, Service, inside, outside};
pub(crate) use work::{Interrupted, check_run, confined, interrupted};

/// What the connection is doing, for whoever watches.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Link {
    /// Not connected yet.
    Dialling,
    /// Open.
    Open,
    /// Broken or refused; tried again after the wait.
    Waiting { why: String, wait: Duration },
}

/// Keeps the tunnel open until `stop` completes.
///
/// # Errors
///
/// Returns an error if the relay took this machine's registration away, or there is no
/// `cloudflared` to carry the tunnel.
pub(crate) async fn keep_open(
    service: Arc<Service>,
    link: watch::Sender<Link>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let mut way = Way::of(&service).await?;
    let ended = keep_open_by(&mut way, &service, link, stop).await;
    way.close().await;
    ended
}

/// How the tunnel is opened.
enum Way {
    /// By a connection of our own.
    Dial,
    /// By the same, inside of a WebSocket.
    WebSocket,
    /// By the relay, through a `cloudflared` of ours.
    #[cfg(unix)]
    Cloudflared(Box<crate::cloudflared::Carrier>),
}

/// An open tunnel, as bytes.
trait Bytes: Read + Write + Send + Unpin {}

impl<T: Read + Write + Send + Unpin> Bytes for T {}

impl Way {
    async fn of(service: &Service) -> anyhow::Result<Self> {
        match &service.config.carrier {
            Carrier::Embedded => Ok(Self::Dial),
            Carrier::WebSocket => Ok(Self::WebSocket),
            #[cfg(unix)]
            Carrier::Cloudflared(wanted) => {
                let carrier = crate::cloudflared::Carrier::new(service, wanted).await?;
                Ok(Self::Cloudflared(Box::new(carrier)))
            }
            #[cfg(not(unix))]
            Carrier::Cloudflared(_) => Err(crate::mistake::Mistake::new(
                "tunnel.carrier",
                "cloudflared is supervised where there are unix sockets",
                "use the carrier `embedded`",
            )
            .into()),
        }
    }

    async fn open(&mut self, service: &Arc<Service>) -> anyhow::Result<Box<dyn Bytes>> {
        let (client, limits) = (service.client(), &service.config.limits);
        Ok(match self {
            Self::Dial => Box::new(dial::dial(client, limits).await?),
            Self::WebSocket => Box::new(websocket::dial(client, limits).await?),
            #[cfg(unix)]
            Self::Cloudflared(carrier) => Box::new(carrier.open(service).await?),
        })
    }

    /// Completes when what carries the open tunnel says that it no longer does; why.
    async fn lost(&mut self) -> String {
        match self {
            Self::Dial | Self::WebSocket => std::future::pending().await,
            #[cfg(unix)]
            Self::Cloudflared(carrier) => carrier.lost().await,
        }
    }

    async fn close(&mut self) {
        match self {
            Self::Dial | Self::WebSocket => {}
            #[cfg(unix)]
            Self::Cloudflared(carrier) => carrier.stop().await,
        }
    }
}

async fn keep_open_by(
    way: &mut Way,
    service: &Arc<Service>,
    link: watch::Sender<Link>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let mut stop = pin!(stop);
    let limits = service.config.limits;
    let mut backoff = Backoff::new(&limits);
    loop {
        // Nobody has to watch.
        let _ = link.send(Link::Dialling);
        let dialled = tokio::select! {
            dialled = way.open(service) => dialled,
            () = &mut stop => return Ok(()),
        };
        let ended = match dialled {
            Ok(connection) => {
                let _ = link.send(Link::Open);
                let began = tokio::time::Instant::now();
                let ended = serve(service, connection, way.lost(), &mut stop).await;
                if began.elapsed() > limits.held {
                    backoff.reset();
                }
                ended
            }
            Err(error) => Ended::Closed(format!("{error:#}")),
        };
        let (why, wait) = match ended {
            Ended::Stopped => return Ok(()),
            Ended::Closed(why) => (why, backoff.next(random_fraction())),
            Ended::SentAway(when) => {
                let wait = backoff.told(when, random_fraction());
                ("the relay stops".to_owned(), wait)
            }
        };
        let _ = link.send(Link::Waiting { why, wait });
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = &mut stop => return Ok(()),
        }
    }
}

enum Ended {
    Stopped,
    Closed(String),
    /// The relay stops, and says when to come back.
    SentAway(Reconnect),
}

async fn serve(
    service: &Arc<Service>,
    connection: Box<dyn Bytes>,
    lost: impl Future<Output = String>,
    mut stop: impl Future<Output = ()> + Unpin,
) -> Ended {
    let limits = service.config.limits;
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.keep_alive)
        .keep_alive_timeout(limits.keep_alive_timeout)
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.tunnel_window)
        .max_header_list_size(limits.header_bytes);
    let (leave, mut sent_away) = watch::channel(None);
    let router = TowerToHyperService::new(service::outside(Arc::clone(service), leave));
    let mut connection = Box::pin(builder.serve_connection(connection, router));
    let mut beating = pin!(heartbeats(service));
    let mut lost = pin!(lost);
    let when = tokio::select! {
        // The relay closes an idle tunnel as soon as it has said why.
        biased;
        when = told(&mut sent_away) => when,
        result = connection.as_mut() => return Ended::Closed(match result {
            Ok(()) => "the relay closed the tunnel".to_owned(),
            Err(error) => format!("the tunnel broke: {error}"),
        }),
        why = lost.as_mut() => return Ended::Closed(why),
        error = beating.as_mut() => return Ended::Closed(format!("{error:#}")),
        () = &mut stop => {
            say_goodbye(service).await;
            connection.as_mut().graceful_shutdown();
            // What is still running is killed when the connection is dropped.
            let _ = tokio::time::timeout(limits.drain, connection).await;
            return Ended::Stopped;
        }
    };
    // What runs ends where it began, while the next tunnel is dialled.
    tokio::spawn(tokio::time::timeout(limits.longest_wait, connection));
    Ended::SentAway(when)
}

/// Completes when the relay has said that it stops.
async fn told(sent_away: &mut watch::Receiver<Option<Reconnect>>) -> Reconnect {
    let said = sent_away.wait_for(Option::is_some).await;
    let said = said.ok().and_then(|said| *said);
    match said {
        Some(when) => when,
        // Nobody is left who could say it.
        None => std::future::pending().await,
    }
}

/// Sends heartbeats as often as the relay asks; returns why it could not.
async fn heartbeats(service: &Arc<Service>) -> anyhow::Error {
    let connected = Activity {
        kind: ActivityKind::Connected,
        outcome: None,
        control: None,
        milliseconds: None,
    };
    let client = service.client();
    // A relay that stops just now still says so in the tunnel.
    let told = patiently(|| client.activity(&connected)).await;
    if let Err(error) = told {
        return error.context("the relay does not take this machine's reports");
    }
    tell_interrupted(service).await;
    loop {
        let beat = patiently(|| client.heartbeat(service.state()));
        let answer = match beat.await {
            Ok(answer) => answer,
            Err(error) => return error.context("the relay does not take heartbeats"),
        };
        tokio::time::sleep(Duration::from_secs(answer.next_seconds.clamp(5, 300))).await;
    }
}

/// Tells the relay what was interrupted when the agent was killed; what it does not take
/// is told on the next tunnel.
async fn tell_interrupted(service: &Service) {
    let mut untold = service.untold.lock().await;
    while let Some(activity) = untold.last() {
        if let Err(error) = patiently(|| service.client().activity(activity)).await {
            tracing::warn!("the relay was not told what was interrupted: {error:#}");
            return;
        }
        untold.pop();
    }
}

async fn say_goodbye(service: &Arc<Service>) {
    let goodbye = Activity {
        kind: ActivityKind::Disconnecting,
        outcome: None,
        control: None,
        milliseconds: None,
    };
    let said = async {
        service.client().heartbeat(AgentState::Draining).await?;
        service.client().activity(&goodbye).await?;
        anyhow::Ok(())
    };
    let result = tokio::time::timeout(service.config.limits.drain, said)
        .await
        .context("no answer in time");
    if let Err(error) | Ok(Err(error)) = result {
        tracing::debug!("the relay was not told that we stop: {error:#}");
    }
}

/// A number from 0 to 1, unpredictable enough to spread reconnections.
fn random_fraction() -> f64 {
    let bytes = katachi_crypto::random::bytes::<4>().unwrap_or([0x80, 0, 0, 0]);
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}
