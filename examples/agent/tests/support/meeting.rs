//! A paired browser and its agent: whatever is asked goes through a channel.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_protocol::approval::{ApprovalAnswer, ApprovalRequest, Decision};
use katachi_protocol::channel::{ChannelQuery, ChannelRequest};
use katachi_protocol::run::{OutputStream, RunEvent};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::browser::{Browser, EMAIL};
use super::device::{self, Answer, Device};
use super::up::Up;

/// A browser, its agent, and where both are.
pub(crate) struct Meeting {
    pub(crate) browser: Browser,
    pub(crate) agent: String,
}

impl Meeting {
    /// Approves the machine; nothing is paired yet.
    pub(crate) async fn of(up: &mut Up) -> Self {
        let (browser, agent) = up.approved().await;
        Self { browser, agent }
    }

    pub(crate) fn place(&self) -> device::Place<'_> {
        device::Place {
            relay: self.browser.origin(),
            account: EMAIL,
            agent: &self.agent,
        }
    }

    pub(crate) async fn ask(
        &self,
        device: &Device,
        request: ChannelRequest,
    ) -> anyhow::Result<Answer<TlsStream<TcpStream>>> {
        let query: ChannelQuery = device.query()?;
        let origin = self.browser.origin();
        let socket = self.browser.channel(&self.agent, &query, origin).await;
        let socket = socket.map_err(|status| anyhow::anyhow!("refused with {status}"))?;
        let asking = device.ask(socket, &query, self.place(), request);
        tokio::time::timeout(Duration::from_secs(60), asking).await?
    }

    /// Pairs by the link that `up` printed.
    pub(crate) async fn paired(&self, up: &Up) -> Device {
        let device = Device::new(up.fragment.as_ref().unwrap(), "Ana's laptop").unwrap();
        let answer = self.ask(&device, get("/v1/status")).await.unwrap();
        assert_eq!(answer.status, 200);
        answer.whole().await.unwrap();
        device
    }

    /// Reads one thing.
    pub(crate) async fn read<T: DeserializeOwned>(&self, device: &Device, path: &str) -> T {
        let answer = self.ask(device, get(path)).await.unwrap();
        assert_eq!(answer.status, 200, "{path}");
        serde_json::from_slice(&answer.whole().await.unwrap()).unwrap()
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, device: &Device, argv: &[&str]) -> Vec<RunEvent> {
        events(self.ask(device, run(argv)).await.unwrap()).await
    }

    /// Sends a message and gives each event of its answer to `each` as it comes,
    /// until the answer ends or `each` says that it has seen enough: then this
    /// side leaves.
    pub(crate) async fn follow(
        &self,
        device: &Device,
        (session, text): (Option<&str>, &str),
        mut each: impl AsyncFnMut(&RunEvent) -> bool,
    ) -> Vec<RunEvent> {
        let body = json!({ "session": session, "text": text });
        let mut answer = self.ask(device, post("/v1/message", body)).await.unwrap();
        let (mut events, mut rest) = (Vec::new(), String::new());
        while let Some(piece) = answer.piece().await.unwrap() {
            rest.push_str(std::str::from_utf8(&piece).unwrap());
            while let Some((line, after)) = rest.split_once('\n') {
                let event = RunEvent::from_line(line).unwrap();
                let go_on = each(&event).await;
                events.push(event);
                if !go_on {
                    return events;
                }
                rest = after.to_owned();
            }
        }
        events
    }

    /// Sends a message and says `decision` to whatever asks.
    pub(crate) async fn decide(
        &self,
        device: &Device,
        message: (Option<&str>, &str),
        decision: Decision,
    ) -> Vec<RunEvent> {
        let say = async |event: &RunEvent| {
            if let RunEvent::Approval(request) = event {
                let said = signed(request.clone(), decision, device);
                assert_eq!(self.ask(device, said).await.unwrap().status, 204);
            }
            true
        };
        self.follow(device, message, say).await
    }

    /// Sends a message and waits for the whole answer.
    pub(crate) async fn message(
        &self,
        device: &Device,
        session: Option<&str>,
        text: &str,
    ) -> Vec<RunEvent> {
        let body = json!({ "session": session, "text": text });
        let request = post("/v1/message", body);
        events(self.ask(device, request).await.unwrap()).await
    }
}

pub(crate) async fn events(answer: Answer<TlsStream<TcpStream>>) -> Vec<RunEvent> {
    let status = answer.status;
    let text = String::from_utf8(answer.whole().await.unwrap()).unwrap();
    assert_eq!(status, 200, "{text}");
    let events: Vec<_> = text
        .lines()
        .map(|line| RunEvent::from_line(line).unwrap())
        .collect();
    assert!(events.last().unwrap().is_last(), "{text}");
    events
}

/// The text of an answer.
pub(crate) fn text_of(events: &[RunEvent]) -> String {
    of_stream(events, OutputStream::Stdout)
}

/// What stood beside it.
pub(crate) fn notes_of(events: &[RunEvent]) -> String {
    of_stream(events, OutputStream::Stderr)
}

fn of_stream(events: &[RunEvent], wanted: OutputStream) -> String {
    let pieces = events.iter().filter_map(|event| match event {
        RunEvent::Output { stream, data } if *stream == wanted => Some(data.as_str()),
        _ => None,
    });
    pieces.collect()
}

/// The conversation that an answer belongs to.
pub(crate) fn session_of(events: &[RunEvent]) -> String {
    let session = events.iter().find_map(|event| match event {
        RunEvent::Started { session, .. } => session.clone(),
        _ => None,
    });
    session.unwrap_or_else(|| panic!("{events:?}"))
}

pub(crate) fn get(path: &str) -> ChannelRequest {
    ChannelRequest {
        method: "GET".to_owned(),
        path: path.to_owned(),
        body: None,
        name: None,
        signing_key: None,
    }
}

pub(crate) fn post(path: &str, body: serde_json::Value) -> ChannelRequest {
    ChannelRequest {
        method: "POST".to_owned(),
        path: path.to_owned(),
        body: Some(body),
        name: None,
        signing_key: None,
    }
}

pub(crate) fn run(argv: &[&str]) -> ChannelRequest {
    post("/v1/run", json!({ "argv": argv }))
}

/// The device's answer to a start that waits.
pub(crate) fn signed(
    request: ApprovalRequest,
    decision: Decision,
    device: &Device,
) -> ChannelRequest {
    let signature = device.signing.sign(&request.signed_bytes(decision));
    let answer = ApprovalAnswer {
        request,
        decision,
        signature: URL_SAFE_NO_PAD.encode(signature.as_ref()),
    };
    post("/v1/approvals", serde_json::to_value(answer).unwrap())
}
