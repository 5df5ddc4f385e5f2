//! What can be done to a signed call on its way, class by class: each request is made
//! by hand, byte for byte as it goes over the wire, and differs from one that is
//! accepted in one thing.
//!
//! The classes have the names of `crates/katachi-auth/SECURITY-TESTS.md`, where the
//! same is asked of the library.

mod covered;
mod keys;
mod spelling;
mod targets;
mod times;

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request};
use katachi_auth::signature::Profile;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::agent::{TestAgent, connect};
use crate::relay::{Browser, TestRelay};

const HEARTBEAT: &str = "/v1/agent/heartbeat";
/// What an agent says when nothing is wrong, and what every refused request says.
const IDLE: &str = r#"{"state":"idle"}"#;
const BUSY: &str = r#"{"state":"busy"}"#;

/// A request as bytes.
#[derive(Clone)]
struct Sent {
    method: String,
    /// What is sent, and what is signed.
    target: String,
    signed_target: String,
    host: String,
    signed_host: String,
    headers: Vec<(String, String)>,
    body: String,
}

/// An answer as bytes.
struct Answered {
    status: u16,
    /// Everything but the date.
    head: String,
    body: String,
}

impl Answered {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let kept = head.lines().filter(|line| !line.starts_with("date:"));
        Self {
            status: status.unwrap_or_default(),
            head: kept.collect::<Vec<_>>().join("\n"),
            body: body.to_owned(),
        }
    }

    fn error(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["error"].as_str().unwrap_or_default().to_owned()
    }

    fn is_signed(&self) -> bool {
        self.head.lines().any(|line| line.starts_with("signature:"))
    }
}

/// What has to become of a request.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    /// It is accepted.
    Taken,
    /// 401, and not a word more than a request by an unknown key hears.
    Silence,
    /// 400, unsigned: larger than any request, or for nobody here.
    NoRequest,
    /// 401, signed for who holds the key.
    Told(&'static str),
    /// It reaches no handler of signed calls at all: one of these.
    Elsewhere(&'static [u16]),
}
use Verdict::{Elsewhere, NoRequest, Silence, Taken, Told};

/// What was done, the request, what has to become of it.
type Row = (String, Sent, Verdict);

/// A relay, an agent of Ana's, and Ana.
struct World {
    relay: TestRelay,
    ana: Browser,
    agent: TestAgent,
    cookie: String,
}

impl World {
    async fn start() -> Self {
        let relay = TestRelay::start().await;
        let ana = relay.browser_of("ana@example.org").await;
        let agent = TestAgent::approved(&relay, &ana).await;
        let cookie = ana.cookie().to_owned();
        Self {
            relay,
            ana,
            agent,
            cookie,
        }
    }

    fn host(&self) -> String {
        format!("katachi.localhost:{}", self.relay.address.port())
    }

    /// A request, signed as of now by the signer of the agent.
    fn signed(&self, method: Method, path: &str, body: &str) -> Sent {
        let kind = (!body.is_empty()).then_some(("content-type", "application/json"));
        let mut request = Request::builder()
            .method(&method)
            .uri(path)
            .header("host", self.host());
        if let Some((name, value)) = kind {
            request = request.header(name, value);
        }
        let mut request = request
            .body(Bytes::copy_from_slice(body.as_bytes()))
            .unwrap();
        self.agent.sign(&mut request);
        let headers = request.headers().iter().filter(|(name, _)| *name != "host");
        let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
        Sent {
            method: method.to_string(),
            target: path.to_owned(),
            signed_target: path.to_owned(),
            host: self.host(),
            signed_host: self.host(),
            headers: headers
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect(),
            body: body.to_owned(),
        }
    }

    fn heartbeat(&self, body: &str) -> Sent {
        self.signed(Method::POST, HEARTBEAT, body)
    }

    /// Signs by hand over exactly `lines`, with `tail` as parameters.
    fn resign(&self, sent: &mut Sent, lines: &[(String, String)], tail: &str) {
        let names: Vec<&str> = lines.iter().map(|(name, _)| name.as_str()).collect();
        let params = format!("({}){tail}", names.join(" "));
        let mut base = String::new();
        for (name, value) in lines {
            let _ = writeln!(base, "{name}: {value}");
        }
        let _ = write!(base, "\"@signature-params\": {params}");
        let mac = self.agent.mac(&Profile::AGENT_REQUEST, &base);
        sent.set("signature-input", &format!("katachi={params}"));
        sent.set("signature", &format!("katachi=:{}:", STANDARD.encode(mac)));
    }

    async fn send(&self, sent: &Sent) -> Answered {
        let mut stream = connect(&self.relay).await;
        // The relay may refuse before all was sent.
        let _ = stream.write_all(&sent.bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        Answered::parse(&answer)
    }

    /// What the account sees of its agents, but for when one was last heard.
    async fn seen(&self) -> (Value, Value) {
        let mut agents = self.ana.json("/api/agents").await;
        for agent in agents["agents"].as_array_mut().unwrap() {
            agent["last_seen"].take();
        }
        (agents, self.ana.json("/api/audit").await)
    }

    /// Sends every row, between two requests that are accepted.
    async fn hold(&self, class: &str, rows: Vec<Row>) {
        let control = async || {
            let mut control = self.heartbeat(IDLE);
            let (lines, tail) = (control.lines(), control.tail());
            self.resign(&mut control, &lines, &tail);
            let answer = self.send(&control).await;
            assert_eq!(
                answer.status, 200,
                "{class}: signed by hand: {}",
                answer.body
            );
        };
        control().await;
        let before = self.seen().await;
        let mut unknown = self.heartbeat(BUSY);
        unknown.edit(
            "signature-input",
            self.agent.key_id.as_str(),
            "somebody-else",
        );
        let silence = self.send(&unknown).await;
        assert_eq!((silence.status, silence.error().as_str()), (401, "refused"));
        assert!(!rows.is_empty());
        for (what, sent, verdict) in rows {
            let answer = self.send(&sent).await;
            let shown = format!("{class}, {what}: {} {}", answer.head, answer.body);
            match verdict {
                Taken => assert_eq!(answer.status / 100, 2, "{shown}"),
                Silence => {
                    assert_eq!(answer.body, silence.body, "{shown}");
                    assert_eq!(answer.head, silence.head, "{shown}");
                }
                NoRequest => {
                    assert_eq!((answer.status, answer.is_signed()), (400, false), "{shown}");
                }
                Told(word) => {
                    let told = (answer.status, answer.is_signed(), answer.error());
                    assert_eq!(told, (401, true, word.to_owned()), "{shown}");
                }
                Elsewhere(statuses) => {
                    assert!(statuses.contains(&answer.status), "{shown}");
                    assert!(!answer.is_signed(), "{shown}");
                }
            }
        }
        assert_eq!(self.seen().await, before, "{class}: something was changed");
        control().await;
    }
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        let mut text = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\n",
            self.method, self.target, self.host
        );
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        if self.header("connection").is_empty() {
            text += "Connection: close\r\n";
        }
        let chunked = self
            .headers
            .iter()
            .any(|(name, _)| name == "transfer-encoding");
        match (chunked, self.body.is_empty()) {
            (true, _) => {
                let _ = write!(
                    text,
                    "\r\n{:x}\r\n{}\r\n0\r\n\r\n",
                    self.body.len(),
                    self.body
                );
            }
            (false, true) => text += "\r\n",
            (false, false) => {
                let _ = write!(
                    text,
                    "Content-Length: {}\r\n\r\n{}",
                    self.body.len(),
                    self.body
                );
            }
        }
        text.into_bytes()
    }

    fn header(&self, name: &str) -> String {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    }

    fn remove(&mut self, name: &str) {
        self.headers.retain(|(found, _)| found != name);
    }

    fn add(&mut self, name: &str, value: &str) {
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.add(name, value);
    }

    fn edit(&mut self, name: &str, from: &str, to: &str) {
        let value = self.header(name);
        assert!(value.contains(from), "{name} has no {from}: {value}");
        self.set(name, &value.replacen(from, to, 1));
    }

    /// The lines of the base that the profile prescribes.
    fn lines(&self) -> Vec<(String, String)> {
        let (path, query) = match self.signed_target.split_once('?') {
            Some((path, query)) => (path, query),
            None => (self.signed_target.as_str(), ""),
        };
        let line = |name: &str, value: String| (format!("\"{name}\""), value);
        let mut lines = vec![
            line("@method", self.method.clone()),
            line("@authority", self.signed_host.clone()),
            line("@path", path.to_owned()),
            line("@query", format!("?{query}")),
        ];
        for name in ["content-digest", "katachi-epoch", "content-type"] {
            if self.headers.iter().any(|(found, _)| found == name) {
                lines.push(line(name, self.header(name)));
            }
        }
        lines
    }

    /// The parameters.
    fn tail(&self) -> String {
        let input = self.header("signature-input");
        input.split_once(')').unwrap().1.to_owned()
    }

    /// One parameter as it stands there, such as `;created=1`.
    fn parameter(&self, name: &str) -> String {
        let tail = self.tail();
        let found = tail.split(';').find(|part| part.starts_with(name));
        format!(";{}", found.unwrap())
    }
}

/// A busy heartbeat for each of `tails`, with a MAC that covers it.
fn with_tails(
    world: &World,
    verdict: Verdict,
    tails: impl IntoIterator<Item = Box<dyn Fn(&Sent) -> String>>,
) -> Vec<Row> {
    let row = |tail: Box<dyn Fn(&Sent) -> String>| {
        let mut sent = world.heartbeat(BUSY);
        let tail = tail(&sent);
        let lines = sent.lines();
        world.resign(&mut sent, &lines, &tail);
        (tail, sent, verdict)
    };
    tails.into_iter().map(row).collect()
}
