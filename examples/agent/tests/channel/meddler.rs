//! Whoever sits between a device's WebSocket and the relay, and can cut what
//! passes into frames.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use katachi_protocol::channel::{ChannelQuery, ChannelRequest};
use tokio::io::DuplexStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::device::{Answer, Device};
use crate::support::frames::{Frames, cut};
use crate::support::meeting::Meeting;

/// Longer than an agent waits for what does not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Points at which frames pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum At {
    /// The device's part of the handshake.
    Hello,
    /// The agent's.
    Answer,
    /// The records of the request.
    Request,
}

type Change = Box<dyn Fn(&mut Frames) + Send + Sync>;

#[derive(Default)]
struct Seen {
    query: Option<ChannelQuery>,
    hello: Frames,
    request: Frames,
    /// Sizes of the frames after the handshake that the agent sent.
    answered: Vec<usize>,
    /// Whether frames were changed.
    changed: bool,
    /// Whether the agent's side ended first.
    cut_off: bool,
}

/// Passes everything on, but for what it is told to change.
#[derive(Default)]
pub(crate) struct Meddler {
    change: Option<Arc<(At, Change)>>,
    seen: Arc<Mutex<Seen>>,
}

impl Meddler {
    pub(crate) fn changing(at: At, change: Change) -> Self {
        Self {
            change: Some(Arc::new((at, change))),
            ..Self::default()
        }
    }

    /// Has `device` ask through this.
    pub(crate) async fn ask(
        &self,
        meeting: &Meeting,
        device: &Device,
        request: ChannelRequest,
    ) -> anyhow::Result<Answer<DuplexStream>> {
        let query = device.query()?;
        self.seen.lock().unwrap().query = Some(query.clone());
        let outer = open(meeting, &query).await;
        let (near, far) = tokio::io::duplex(1 << 20);
        let inner = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
        let (change, seen) = (self.change.clone(), Arc::clone(&self.seen));
        let mut passing = tokio::spawn(pass(inner, outer, change, seen));
        let near = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        let asking = device.ask(near, &query, meeting.place(), request);
        let asked = tokio::time::timeout(PATIENCE, asking).await?;
        if asked.is_err() {
            // The device is gone, so that what still passes comes to an end.
            tokio::time::timeout(PATIENCE, &mut passing).await??;
        }
        asked
    }

    /// Says what was said from the device's side once more, to the same agent.
    pub(crate) async fn say_again(&self, meeting: &Meeting) {
        let (query, said) = {
            let seen = self.seen.lock().unwrap();
            let said = [seen.hello.concat(), seen.request.concat()];
            (seen.query.clone().unwrap(), said)
        };
        let mut outer = open(meeting, &query).await;
        for bytes in said {
            // It may have been closed already.
            let _ = outer.send(Message::Binary(bytes.into())).await;
        }
        let ended = async { while let Some(Ok(_)) = outer.next().await {} };
        tokio::time::timeout(PATIENCE, ended)
            .await
            .expect("a channel that was played back stays open");
    }

    /// The records of the request that passed.
    pub(crate) fn records(&self) -> Frames {
        self.seen.lock().unwrap().request.clone()
    }

    /// Sizes of the records that the agent answered with.
    pub(crate) fn answered(&self) -> Vec<usize> {
        self.seen.lock().unwrap().answered.clone()
    }

    /// Checks that the change was made.
    pub(crate) fn has_changed(&self, name: &str) {
        let seen = self.seen.lock().unwrap();
        assert!(seen.changed, "{name}: nothing was changed");
    }

    /// Whether it was the agent's side that ended the channel.
    pub(crate) fn was_cut_off(&self) -> bool {
        self.seen.lock().unwrap().cut_off
    }
}

type Outer = WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>;

async fn open(meeting: &Meeting, query: &ChannelQuery) -> Outer {
    let origin = meeting.browser.origin();
    let opened = meeting.browser.channel(&meeting.agent, query, origin);
    opened.await.expect("the relay opens a channel")
}

async fn pass(
    mut inner: WebSocketStream<DuplexStream>,
    mut outer: Outer,
    change: Option<Arc<(At, Change)>>,
    seen: Arc<Mutex<Seen>>,
) {
    let alter = |at: At, frames: &mut Frames| {
        if let Some(change) = change.as_deref().filter(|change| change.0 == at) {
            let before = frames.clone();
            change.1(frames);
            seen.lock().unwrap().changed = *frames != before;
        }
    };
    let (mut said, mut heard) = (0, Vec::new());
    let mut greeted = false;
    loop {
        tokio::select! {
            message = inner.next() => {
                let Some(Ok(Message::Binary(bytes))) = message else { break };
                let mut rest = bytes.to_vec();
                let mut frames = cut(&mut rest);
                assert!(rest.is_empty(), "a device sends whole frames");
                let at = if said == 0 { At::Hello } else { At::Request };
                said += 1;
                match at {
                    At::Hello => seen.lock().unwrap().hello = frames.clone(),
                    _ => seen.lock().unwrap().request.extend(frames.clone()),
                }
                alter(at, &mut frames);
                if outer.send(Message::Binary(frames.concat().into())).await.is_err() {
                    break;
                }
            }
            message = outer.next() => {
                let bytes = match message {
                    Some(Ok(Message::Binary(bytes))) => bytes,
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    _ => {
                        seen.lock().unwrap().cut_off = true;
                        break;
                    }
                };
                heard.extend_from_slice(&bytes);
                let mut frames = cut(&mut heard);
                if !greeted && !frames.is_empty() {
                    greeted = true;
                    alter(At::Answer, &mut frames);
                } else {
                    let sizes = frames.iter().map(Vec::len);
                    seen.lock().unwrap().answered.extend(sizes);
                }
                if inner.send(Message::Binary(frames.concat().into())).await.is_err() {
                    break;
                }
            }
        }
    }
}
