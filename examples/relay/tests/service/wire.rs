//! What can be done to a signed call on its way, class by class: each request is made
//! by hand, byte for byte as it goes over the wire, and differs from one that is
//! accepted in one thing.
//!
//! The classes have the names of `crates/katachi-auth/SECURITY-TESTS.md`, where the
//! same is asked of the library.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::signature::Profile;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

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

#[tokio::test]
async fn s04_another_spelling_of_the_same_signature() {
    let world = World::start().await;
    type Spell = fn(&str) -> String;
    let tails: [Spell; 8] = [
        |tail| format!("{tail};extra=1"),
        |tail| format!("{tail};alg=\"hmac-sha256\""),
        |tail| format!("{tail};tag=\"katachi-agent/1\""),
        |tail| tail.replace(";created", "; created"),
        |tail| tail.replace(";created=", ";Created="),
        |tail| tail.replace("\";keyid=\"", "\\\";keyid=\\\""),
        |tail| {
            let mut parts: Vec<&str> = tail.split(';').collect();
            parts.swap(1, 2);
            parts.join(";")
        },
        |tail| {
            let mut parts: Vec<&str> = tail.split(';').collect();
            parts.swap(4, 5);
            parts.join(";")
        },
    ];
    let signed = tails
        .map(|spell| -> Box<dyn Fn(&Sent) -> String> { Box::new(move |sent| spell(&sent.tail())) });
    let mut rows = with_tails(&world, Silence, signed);
    let missing = (1..6).map(|missing| -> Box<dyn Fn(&Sent) -> String> {
        Box::new(move |sent| {
            let tail = sent.tail();
            let parts = tail.split(';').enumerate();
            let kept: Vec<&str> = parts
                .filter(|(at, _)| *at != missing)
                .map(|(_, part)| part)
                .collect();
            kept.join(";")
        })
    });
    rows.extend(with_tails(&world, Silence, missing));
    let members: [Spell; 8] = [
        |input| format!("{input}, katachi=()"),
        |input| format!("{input}, other=(\"@method\");created=1"),
        |input| format!("other=(\"@method\"), {input}"),
        |input| input.replacen("katachi=", "katachi =", 1),
        |input| input.replacen("katachi=", "Katachi=", 1),
        |input| input.replacen("(\"", "( \"", 1),
        |input| input.replacen("\" \"", "\"  \"", 1),
        |input| format!("{input}\t;"),
    ];
    for spell in members {
        let mut sent = world.heartbeat(BUSY);
        let other = spell(&sent.header("signature-input"));
        sent.set("signature-input", &other);
        rows.push((other, sent, Silence));
    }
    for twice in ["signature-input", "signature"] {
        let mut sent = world.heartbeat(BUSY);
        let value = sent.header(twice);
        sent.add(twice, &value);
        rows.push((format!("{twice} twice"), sent, Silence));
    }
    world.hold("S04", rows).await;
}

#[tokio::test]
async fn s05_a_time_that_is_no_plain_integer() {
    let world = World::start().await;
    let odd = [
        "-1",
        "\"1\"",
        "1.5",
        "?1",
        "",
        "+1800000000",
        "01800000000",
        "@1800000000",
        "1800000000 ",
        ":MTgwMDAwMDAwMA==:",
        "1e9",
        "1800000000000000000000000000000000000000",
    ];
    let mut rows = Vec::new();
    for name in ["created", "expires"] {
        let tails = odd.map(|value| -> Box<dyn Fn(&Sent) -> String> {
            Box::new(move |sent| {
                let new = format!(";{name}={value}");
                sent.tail().replacen(&sent.parameter(name), &new, 1)
            })
        });
        rows.extend(with_tails(&world, Silence, tails));
    }
    // The largest that is an integer is a time, and not a time of ours.
    let far: Box<dyn Fn(&Sent) -> String> = Box::new(|sent| {
        let tail = sent
            .tail()
            .replacen(&sent.parameter("created"), ";created=999999999999939", 1);
        tail.replacen(&sent.parameter("expires"), ";expires=999999999999999", 1)
    });
    rows.extend(with_tails(&world, Told("skew"), [far]));
    world.hold("S05", rows).await;
}

#[tokio::test]
async fn s06_a_time_outside_the_window() {
    let world = World::start().await;
    let mut rows = Vec::new();
    // Seconds from now; the edges of 60 and 5 themselves pass by while this runs.
    for (created, expires, verdict) in [
        (0, 60, Taken),
        (0, 20, Taken),
        (-50, 10, Taken),
        (3, 63, Taken),
        (-75, -15, Told("skew")),
        (-30, -10, Told("skew")),
        (30, 90, Told("skew")),
        (86_400, 86_460, Told("skew")),
        (0, 0, Told("refused")),
        (0, -1, Told("refused")),
        (0, 61, Told("refused")),
        (0, 86_400, Told("refused")),
    ] {
        let body = if matches!(verdict, Taken) { IDLE } else { BUSY };
        let mut sent = world.heartbeat(body);
        let at = |offset: i64| SystemClock.now().as_unix().saturating_add_signed(offset);
        let tail = sent.tail();
        let tail = tail.replacen(
            &sent.parameter("created"),
            &format!(";created={}", at(created)),
            1,
        );
        let tail = tail.replacen(
            &sent.parameter("expires"),
            &format!(";expires={}", at(expires)),
            1,
        );
        let lines = sent.lines();
        world.resign(&mut sent, &lines, &tail);
        rows.push((
            format!("made {created} s from now, ends {expires} s"),
            sent,
            verdict,
        ));
    }
    world.hold("S06", rows).await;
}

#[tokio::test]
async fn s07_a_nonce_that_is_none() {
    let world = World::start().await;
    let tails = [
        "",
        "short",
        "c1.AAAA",
        "r1.AAAAAAAAAAAAAAAAAAAAA",
        "r1.AAAAAAAAAAAAAAAAAAAAAA==",
        "x1.AAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAA",
        "r1.AAAAAAAAAAAAAAAAAAAAA/",
        &"A".repeat(65),
        &"A".repeat(1500),
    ]
    .map(|nonce| -> Box<dyn Fn(&Sent) -> String> {
        let new = format!(";nonce=\"{nonce}\"");
        Box::new(move |sent| sent.tail().replacen(&sent.parameter("nonce"), &new, 1))
    });
    let rows = with_tails(&world, Silence, tails);
    world.hold("S07", rows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn s09_of_256_copies_at_once_one_is_accepted() {
    let world = World::start().await;
    let bytes = world.heartbeat(BUSY).bytes();
    // All are connected before the first is sent.
    let mut streams = Vec::new();
    for _ in 0..256 {
        streams.push(connect(&world.relay).await);
    }
    let copies = streams.into_iter().map(|mut stream| {
        let bytes = bytes.clone();
        tokio::spawn(async move {
            stream.write_all(&bytes).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            Answered::parse(&answer)
        })
    });
    let mut taken = 0;
    for answer in futures_util::future::join_all(copies).await {
        let answer = answer.unwrap();
        match answer.status {
            200 => taken += 1,
            _ => assert_eq!(
                (answer.status, answer.is_signed(), answer.error().as_str()),
                (401, true, "replayed")
            ),
        }
    }
    assert_eq!(taken, 1);
}

#[tokio::test]
async fn s18_a_signature_that_leaves_something_out() {
    let world = World::start().await;
    let mut rows = Vec::new();
    let good = world.heartbeat(BUSY).lines();
    let mut lists = vec![("()".to_owned(), Vec::new())];
    for missing in 0..good.len() {
        let mut fewer = good.clone();
        let (name, _) = fewer.remove(missing);
        lists.push((format!("without {name}"), fewer));
    }
    let mut twice = good.clone();
    twice.push(good[0].clone());
    lists.push(("one twice".to_owned(), twice));
    let mut swapped = good.clone();
    swapped.swap(0, 1);
    lists.push(("another order".to_owned(), swapped));
    for (what, lines) in lists {
        let mut sent = world.heartbeat(BUSY);
        // Its own values: a digest and an epoch do not change between two requests.
        let tail = sent.tail();
        world.resign(&mut sent, &lines, &tail);
        rows.push((what, sent, Silence));
    }
    world.hold("S18", rows).await;
}

#[tokio::test]
async fn s21_a_body_where_none_was_signed() {
    let world = World::start().await;
    let mcp = || world.signed(Method::GET, "/v1/agent/mcp", "");
    let unregister = || world.signed(Method::DELETE, "/v1/agent", "");
    let mut rows = vec![("nothing".to_owned(), mcp(), Taken)];
    for (what, mut sent) in [("GET", mcp()), ("DELETE", unregister())] {
        sent.body = "x".to_owned();
        rows.push((format!("a body on {what}"), sent.clone(), Told("refused")));
        sent.add("transfer-encoding", "chunked");
        let fresh = if what == "GET" { mcp() } else { unregister() };
        sent.set("signature-input", &fresh.header("signature-input"));
        sent.set("signature", &fresh.header("signature"));
        rows.push((format!("a chunked body on {what}"), sent, Told("refused")));
    }
    // Two lengths, of which a proxy may believe the other.
    for (name, value) in [
        ("content-length", "0"),
        ("transfer-encoding", "chunked, identity"),
        ("transfer-encoding", "xchunked"),
    ] {
        let mut sent = unregister();
        sent.body = "x".to_owned();
        sent.add(name, value);
        rows.push((
            format!("also {name}: {value}"),
            sent,
            Elsewhere(&[400, 501]),
        ));
    }
    // No signature is over the body of a request that opens a tunnel.
    let mut tunnel = world.signed(Method::GET, "/v1/tunnel", "");
    tunnel.add("connection", "upgrade, close");
    tunnel.add("upgrade", "katachi-tunnel/1");
    tunnel.body = "x".to_owned();
    rows.push(("a body on the tunnel".to_owned(), tunnel, NoRequest));
    world.hold("S21", rows).await;
}

#[tokio::test]
async fn s22_a_header_that_somebody_added() {
    let world = World::start().await;
    let mut rows = Vec::new();
    for (name, value) in [
        ("content-encoding", "gzip"),
        ("content-encoding", "identity"),
        ("content-type", "application/json"),
        ("content-type", "text/plain"),
        ("idempotency-key", "\"1\""),
        ("authorization", "Bearer x"),
        ("katachi-epoch", "AAAAAAAAAAAAAAAAAAAAAA"),
        ("content-digest", "sha-256=:AAAA:"),
    ] {
        let mut sent = world.heartbeat(BUSY);
        sent.add(name, value);
        rows.push((format!("{name}: {value}"), sent, Silence));
    }
    let mut removed = world.heartbeat(BUSY);
    removed.remove("content-type");
    rows.push(("content-type removed".to_owned(), removed, Silence));
    // What is not signed is not honoured: the agent is still there, and idle.
    for (name, value) in [
        ("x-http-method-override", "DELETE"),
        ("x-http-method", "DELETE"),
        ("x-original-url", "/v1/agent"),
        ("x-rewrite-url", "/v1/agent"),
        ("x-forwarded-host", "attacker.example"),
        ("forwarded", "host=attacker.example"),
    ] {
        let mut sent = world.heartbeat(IDLE);
        sent.add(name, value);
        rows.push((format!("{name}: {value}"), sent, Taken));
    }
    world.hold("S22", rows).await;
}

#[tokio::test]
async fn s23_something_else_in_place_of_a_signature() {
    let world = World::start().await;
    let mut rows = Vec::new();
    for stripped in [
        &["signature"][..],
        &["signature-input"],
        &["signature", "signature-input"],
        &[
            "signature",
            "signature-input",
            "content-digest",
            "katachi-epoch",
        ],
    ] {
        for (name, value) in [
            ("x-nothing", String::new()),
            ("authorization", "Bearer token".to_owned()),
            ("authorization", format!("Bearer {}", world.agent.key_id)),
            // The owner's session opens the owner's routes, and not the agent's.
            ("cookie", world.cookie.clone()),
        ] {
            let mut sent = world.heartbeat(BUSY);
            stripped.iter().for_each(|name| sent.remove(name));
            sent.add(name, &value);
            rows.push((format!("{name} without {stripped:?}"), sent, Silence));
        }
    }
    world.hold("S23", rows).await;
}

#[tokio::test]
async fn s26_a_key_of_somebody_else() {
    let world = World::start().await;
    let ben = world.relay.browser_of("ben@example.org").await;
    let other = TestAgent::approved(&world.relay, &ben).await;
    let gone = TestAgent::approved(&world.relay, &ben).await;
    let path = format!("/api/agents/{}", gone.id);
    let removed = ben.send(Method::DELETE, &path, None).await;
    assert_eq!(removed.status(), StatusCode::NO_CONTENT);
    let own = world.agent.key_id.as_str();
    let mut rows = Vec::new();
    for (what, key, verdict) in [
        ("another tenant's", other.key_id.to_string(), Silence),
        ("one that was withdrawn", gone.key_id.to_string(), Silence),
        ("the agent's own name", world.agent.id.clone(), Silence),
        ("another case", own.to_uppercase(), Silence),
        ("a space behind", format!("{own} "), Silence),
        ("a letter less", own[1..].to_owned(), Silence),
        ("a letter more", format!("{own}0"), Silence),
        ("none", String::new(), Silence),
        ("a quote", format!("{own}\\\"x"), Silence),
        ("a path", format!("../{own}"), Silence),
        ("SQL", "' OR 1=1 --".to_owned(), Silence),
        ("65 characters", "k".repeat(65), Silence),
        ("10,000 characters", "k".repeat(10_000), NoRequest),
    ] {
        // As it is, and with a MAC of our own key over the name.
        let mut sent = world.heartbeat(BUSY);
        sent.edit("signature-input", own, &key);
        rows.push((what.to_owned(), sent, verdict));
        let mut sent = world.heartbeat(BUSY);
        let (lines, tail) = (sent.lines(), sent.tail().replacen(own, &key, 1));
        world.resign(&mut sent, &lines, &tail);
        rows.push((format!("{what}, signed over"), sent, verdict));
    }
    world.hold("S26", rows).await;
    // Its holder alone hears that a key was withdrawn.
    let answer = gone.call(
        &world.relay,
        Method::POST,
        HEARTBEAT,
        Some(json!({"state": "busy"})),
    );
    let answer = answer.await;
    assert_eq!(
        (answer.signed, &answer.body["error"]),
        (true, &json!("revoked"))
    );
}

#[tokio::test]
async fn s27_a_mac_of_a_wrong_length_or_form() {
    let world = World::start().await;
    let good = world.heartbeat(BUSY);
    let signature = good.header("signature");
    let text = signature
        .trim_start_matches("katachi=:")
        .trim_end_matches(':');
    let mac = STANDARD.decode(text).unwrap();
    let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let of = |bytes: &[u8]| format!("katachi=:{}:", STANDARD.encode(bytes));
    let mut forms = vec![
        "katachi=::".to_owned(),
        "katachi=:AA==:".to_owned(),
        "katachi=:=:".to_owned(),
        of(&mac[..1]),
        of(&mac[..31]),
        of(&[&mac[..], &[0]].concat()),
        of(&[&mac[..], &mac[..]].concat()),
        of(&[0; 32]),
        format!("katachi=:{hex}:"),
        format!("katachi={text}"),
        format!("katachi=\"{text}\""),
        format!("{signature}, {signature}"),
        format!("{signature};x=1"),
        signature.replace("katachi", "other"),
        signature.replace("katachi", "Katachi"),
        signature.trim_end_matches(':').to_owned(),
        signature.replace("=:", ":"),
        "x".repeat(250),
        String::new(),
    ];
    for at in 0..mac.len() {
        let mut flipped = mac.clone();
        flipped[at] ^= 1 << (at % 8);
        forms.push(of(&flipped));
    }
    let row = |form: String| {
        let mut sent = good.clone();
        sent.set("signature", &form);
        (form, sent, Silence)
    };
    world
        .hold("S27", forms.into_iter().map(row).collect())
        .await;
}

#[tokio::test]
async fn s30_another_spelling_of_the_same_target() {
    let world = World::start().await;
    let port = world.relay.address.port();
    let mut rows = Vec::new();
    // The first is what was signed, the second what is sent.
    for (signed, sent, verdict) in [
        (
            "/v1/agent/heartbeat?a=1&b=2",
            "/v1/agent/heartbeat?a=1&b=2",
            Taken,
        ),
        (
            "/v1/agent/heartbeat?a=%2F+%20",
            "/v1/agent/heartbeat?a=%2F+%20",
            Taken,
        ),
        (
            "/v1/agent/heartbeat?a=%0a",
            "/v1/agent/heartbeat?a=%0a",
            Taken,
        ),
        (
            "/v1/agent/heartbeat?a=1&a=1",
            "/v1/agent/heartbeat?a=1&a=1",
            Taken,
        ),
        (
            "/v1/agent/heartbeat?a=1&b=2",
            "/v1/agent/heartbeat?b=2&a=1",
            Silence,
        ),
        (
            "/v1/agent/heartbeat?a=1&a=1",
            "/v1/agent/heartbeat?a=1",
            Silence,
        ),
        (
            "/v1/agent/heartbeat?a=%2F",
            "/v1/agent/heartbeat?a=%2f",
            Silence,
        ),
        (
            "/v1/agent/heartbeat?a=/",
            "/v1/agent/heartbeat?a=%2F",
            Silence,
        ),
        (
            "/v1/agent/heartbeat?a=+",
            "/v1/agent/heartbeat?a=%20",
            Silence,
        ),
        (
            "/v1/agent/heartbeat?a=%0a",
            "/v1/agent/heartbeat?a=%0A",
            Silence,
        ),
        (
            "/v1/agent/heartbeat?a=~",
            "/v1/agent/heartbeat?a=%7e",
            Silence,
        ),
        ("/v1/agent/heartbeat", "/v1/agent/heartbeat?", Silence),
        ("/v1/agent/heartbeat?", "/v1/agent/heartbeat", Taken),
        ("/v1/agent/heartbeat", "/v1/agent/heartbeat?x", Silence),
        ("/v1/agent/heartbeat", "/v1/agent/activity", Silence),
        // These are routes of nothing, whether they were signed so or not.
        (
            "/v1/agent/heartbeat",
            "/v1/agent/%68eartbeat",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/%68eartbeat",
            "/v1/agent/%68eartbeat",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/heartbeat",
            "/v1/agent%2Fheartbeat",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/heartbeat",
            "/v1/agent/./heartbeat",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/./heartbeat",
            "/v1/agent/./heartbeat",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/heartbeat",
            "/v1/x/../agent/heartbeat",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/heartbeat",
            "//v1/agent/heartbeat",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/heartbeat",
            "/v1//agent/heartbeat",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/heartbeat",
            "/v1/agent/heartbeat/",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/heartbeat",
            "/V1/agent/heartbeat",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/heartbeat",
            "/v1/agent/heartbeat%00",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/heartbeat",
            "/v1/agent/heartbeat;x",
            Elsewhere(&[404]),
        ),
        ("/", "*", Elsewhere(&[400, 404, 405])),
        ("/", "/\u{fc}", Elsewhere(&[400, 404])),
    ] {
        let mut request = world.heartbeat(if matches!(verdict, Taken) { IDLE } else { BUSY });
        request.signed_target = signed.to_owned();
        let (lines, tail) = (request.lines(), request.tail());
        world.resign(&mut request, &lines, &tail);
        request.target = sent.to_owned();
        rows.push((format!("{signed} sent as {sent}"), request, verdict));
    }
    let own = world.host();
    for (signed, sent, verdict) in [
        (
            format!("localhost:{port}"),
            format!("localhost:{port}"),
            Taken,
        ),
        (own.clone(), format!("localhost:{port}"), Silence),
        (format!("localhost:{port}"), own.clone(), Silence),
        (own.clone(), own.to_uppercase(), NoRequest),
        (own.to_uppercase(), own.to_uppercase(), NoRequest),
        (
            own.clone(),
            "katachi.localhost".to_owned(),
            Elsewhere(&[421]),
        ),
        (
            own.clone(),
            "katachi.localhost:443".to_owned(),
            Elsewhere(&[421]),
        ),
        (
            own.clone(),
            format!("katachi.localhost.:{port}"),
            Elsewhere(&[421]),
        ),
        (own.clone(), format!("[::1]:{port}"), Elsewhere(&[421])),
        (
            own.clone(),
            format!("k\u{e4}tachi.localhost:{port}"),
            Elsewhere(&[400, 421]),
        ),
        (
            own.clone(),
            format!("xn--ktachi-bua.localhost:{port}"),
            Elsewhere(&[421]),
        ),
        (
            own.clone(),
            format!("{own}@attacker.example"),
            Elsewhere(&[400, 421]),
        ),
    ] {
        let mut request = world.heartbeat(if matches!(verdict, Taken) { IDLE } else { BUSY });
        request.signed_host = signed.clone();
        let (lines, tail) = (request.lines(), request.tail());
        world.resign(&mut request, &lines, &tail);
        request.host = sent.clone();
        rows.push((format!("{signed} sent to {sent}"), request, verdict));
    }
    world.hold("S30", rows).await;
}

#[tokio::test]
async fn s32_a_component_that_means_something_else() {
    let world = World::start().await;
    let good = world.heartbeat(BUSY).lines();
    let mut rows = Vec::new();
    let mut push = |what: &str, lines: Vec<(String, String)>| {
        let mut sent = world.heartbeat(BUSY);
        let tail = sent.tail();
        world.resign(&mut sent, &lines, &tail);
        rows.push((what.to_owned(), sent, Silence));
    };
    let renamed = |from: &str, to: &str| -> Vec<(String, String)> {
        let line = |(name, value): (String, String)| match name == from {
            true => (to.to_owned(), value),
            false => (name, value),
        };
        good.iter().cloned().map(line).collect()
    };
    for (from, to) in [
        ("\"@method\"", "\"@Method\""),
        ("\"content-digest\"", "\"Content-Digest\""),
        ("\"@method\"", "\"@method\";req"),
        ("\"@path\"", "\"@path\";req"),
        ("\"@query\"", "\"@query-param\";name=\"a\""),
        ("\"@authority\"", "\"host\""),
        ("\"@path\"", "\"@target-uri\""),
        ("\"content-type\"", "\"content-type\";bs"),
        ("\"content-type\"", "\"content-type\";sf"),
        ("\"content-type\"", "\"content-type\";tr"),
        ("\"content-digest\"", "\"content-digest\";key=\"sha-256\""),
        ("\"@method\"", "@method"),
        ("\"@method\"", "\"@met\\hod\""),
    ] {
        push(to, renamed(from, to));
    }
    for more in [
        "\"@signature-params\"",
        "\"@status\"",
        "\"@unknown\"",
        "\"signature\"",
        "\"x\"",
    ] {
        let mut lines = good.clone();
        lines.push((more.to_owned(), String::new()));
        push(&format!("{more} as well"), lines);
    }
    world.hold("S32", rows).await;
}

#[tokio::test]
async fn s34_both_versions_of_http_carry_the_same_signature_once() {
    let world = World::start().await;
    let tls = TlsConnector::from(std::sync::Arc::new(world.relay.tls(&[b"h2"])));
    let stream = TcpStream::connect(world.relay.address).await.unwrap();
    let name = ServerName::try_from("katachi.localhost").unwrap();
    let stream = TokioIo::new(tls.connect(name, stream).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut over_http_2 = async |sent: &Sent| {
        let uri = format!("https://{}{}", sent.host, sent.target);
        let mut request = Request::builder().method(sent.method.as_str()).uri(uri);
        for (name, value) in &sent.headers {
            request = request.header(name, value);
        }
        let body = Full::new(Bytes::from(sent.body.clone()));
        let answer = sender
            .send_request(request.body(body).unwrap())
            .await
            .unwrap();
        assert_eq!(answer.version(), http::Version::HTTP_2);
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        (
            status,
            body["error"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let taken = (200, String::new());
    let replayed = (401, "replayed".to_owned());
    let first = world.heartbeat(IDLE);
    let answer = world.send(&first).await;
    assert_eq!((answer.status, answer.error()), taken);
    assert_eq!(over_http_2(&first).await, replayed, "a copy over HTTP/2");
    let second = world.heartbeat(IDLE);
    assert_eq!(over_http_2(&second).await, taken);
    let answer = world.send(&second).await;
    assert_eq!(
        (answer.status, answer.error()),
        replayed,
        "a copy over HTTP/1.1"
    );
    // What belongs to the signature counts there too.
    let mut altered = world.heartbeat(BUSY);
    altered.target = "/v1/agent/heartbeat?x=1".to_owned();
    assert_eq!(over_http_2(&altered).await, (401, "refused".to_owned()));
}

#[tokio::test]
async fn s35_a_signature_input_without_end() {
    let world = World::start().await;
    let mut rows = Vec::new();
    let good = world.heartbeat(BUSY).header("signature-input");
    let labels = |count: usize| -> String {
        let more: Vec<_> = (0..count).map(|n| format!("l{n}=()")).collect();
        format!("{good}, {}", more.join(", "))
    };
    let components = |count: usize| {
        let more: String = (0..count).map(|n| format!(" \"x{n}\"")).collect();
        good.replacen("\"@method\"", &format!("\"@method\"{more}"), 1)
    };
    let parameters = |count: usize| {
        let more: String = (0..count).map(|n| format!(";p{n}=1")).collect();
        format!("{good}{more}")
    };
    for (what, input, verdict) in [
        ("100 labels", labels(100), Silence),
        ("1,000 labels", labels(1000), NoRequest),
        ("100 components", components(100), Silence),
        ("1,000 components", components(1000), NoRequest),
        ("100 parameters", parameters(100), Silence),
        ("1,000 parameters", parameters(1000), NoRequest),
        ("14 KiB", "a".repeat(14 * 1024), NoRequest),
        ("2,000 brackets", "(".repeat(2000), Silence),
        ("60 KiB", "a".repeat(60 * 1024), NoRequest),
        ("200 KiB", "a".repeat(200 * 1024), Elsewhere(&[431, 0])),
    ] {
        let mut sent = world.heartbeat(BUSY);
        sent.set("signature-input", &input);
        rows.push((what.to_owned(), sent, verdict));
    }
    let mut many = world.heartbeat(BUSY);
    for n in 0..30 {
        many.add("signature-input", &format!("l{n}=()"));
    }
    rows.push(("31 of them".to_owned(), many, Silence));
    world.hold("S35", rows).await;
}
