//! Every route of the relay asked badly: it answers without a fault of its own, in the
//! form of all its refusals, with one line in its log that says which path it was and
//! nothing that it was told, and changes nothing.
//!
//! The routes are read out of the router's own source, so that one without a row in
//! [`table`] fails the test.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use katachi_protocol::device::{CLIENT_ID, GRANT_TYPE};
use katachi_protocol::routes;

use crate::agent::{Device, TestAgent};
use crate::relay::{PASSWORD, TestRelay};

/// Stands in everything that is told, and must not stand in the log.
const CANARY: &str = "canary-7f3d";

/// Who may ask a route.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Asks {
    Anybody,
    /// A page of ours, in a session.
    Person,
    /// An agent, by its signature.
    Agent,
}
use Asks::{Agent, Anybody, Person};

/// What a route takes in its body.
enum Takes {
    Nothing,
    /// A good one, from which bad ones are made.
    Json(Value),
    Form(Vec<(&'static str, String)>),
}
use Takes::{Form, Json, Nothing};

struct Row {
    method: &'static str,
    path: &'static str,
    asks: Asks,
    takes: Takes,
}

fn row(method: &'static str, path: &'static str, asks: Asks, takes: Takes) -> Row {
    Row {
        method,
        path,
        asks,
        takes,
    }
}

fn table() -> Vec<Row> {
    let word = || format!("{CANARY}-word");
    let code = || Json(json!({"user_code": word()}));
    let person = json!({"email": format!("{CANARY}@example.org"), "password": word()});
    let start = vec![
        ("client_id", CLIENT_ID.to_owned()),
        ("host_name", word()),
        ("os", word()),
        ("version", word()),
    ];
    let poll = vec![
        ("grant_type", GRANT_TYPE.to_owned()),
        ("client_id", CLIENT_ID.to_owned()),
        ("device_code", word()),
    ];
    let config = json!({
        "command": [word()], "env": {"A": word()}, "secrets": {"B": word()}, "released_to": [],
    });
    vec![
        row("GET", routes::CONSOLE, Anybody, Nothing),
        row("GET", routes::DEVICE_PAGE, Anybody, Nothing),
        row("GET", "/assets/{name}", Anybody, Nothing),
        row("GET", routes::HEALTH, Anybody, Nothing),
        row("GET", routes::READY, Anybody, Nothing),
        row("GET", routes::SECURITY_TXT, Anybody, Nothing),
        row("GET", routes::OAUTH_METADATA, Anybody, Nothing),
        row("GET", routes::EPOCH, Anybody, Nothing),
        row("POST", routes::DEVICE_AUTHORIZATION, Anybody, Form(start)),
        row("POST", routes::TOKEN, Anybody, Form(poll)),
        row("POST", routes::SIGN_UP, Anybody, Json(person.clone())),
        row("POST", routes::LOG_IN, Anybody, Json(person)),
        // With its cookie it would end the session, whatever else is wrong.
        row("POST", routes::LOG_OUT, Anybody, Nothing),
        row("GET", routes::ME, Person, Nothing),
        row("GET", routes::SESSION, Person, Nothing),
        row("GET", routes::SIGN_IN, Anybody, Nothing),
        row(
            "POST",
            routes::SIGN_IN_START,
            Anybody,
            Json(json!({"return_to": word(), "link": false})),
        ),
        row("GET", routes::SIGN_IN_BACK, Anybody, Nothing),
        row("GET", routes::IDENTITIES, Person, Nothing),
        row("DELETE", routes::IDENTITY, Person, Nothing),
        row("POST", routes::VERIFY_SEND, Person, Nothing),
        row(
            "POST",
            routes::VERIFY,
            Person,
            Json(json!({"token": word()})),
        ),
        row(
            "POST",
            routes::PASSWORD_FORGOT,
            Anybody,
            Json(json!({"email": word()})),
        ),
        row(
            "POST",
            routes::PASSWORD_RESET,
            Anybody,
            Json(json!({"token": word(), "password": word()})),
        ),
        row("GET", routes::DEVICE, Person, Nothing),
        row("POST", routes::DEVICE_APPROVE, Person, code()),
        row("POST", routes::DEVICE_DENY, Person, code()),
        row("GET", routes::AGENTS, Person, Nothing),
        row("DELETE", routes::AGENT, Person, Nothing),
        row("GET", routes::AGENT_CHANNEL, Person, Nothing),
        row("GET", routes::MCP, Person, Nothing),
        row("GET", routes::MCP_ONE, Person, Nothing),
        row("PUT", routes::MCP_ONE, Person, Json(config)),
        row("DELETE", routes::MCP_ONE, Person, Nothing),
        row("GET", routes::MCP_SEALED, Person, Nothing),
        row("GET", routes::AUDIT, Person, Nothing),
        row(
            "POST",
            routes::HEARTBEAT,
            Agent,
            Json(json!({"state": "busy"})),
        ),
        row(
            "POST",
            routes::ACTIVITY,
            Agent,
            Json(json!({"kind": "run_started"})),
        ),
        row("GET", routes::AGENT_MCP, Agent, Nothing),
        row("DELETE", routes::UNREGISTER, Agent, Nothing),
        row("POST", routes::CLOUDFLARE, Agent, Nothing),
        row(
            "POST",
            routes::CLOUDFLARE_DIAL,
            Agent,
            Json(json!({"epoch": word()})),
        ),
        row("GET", routes::TUNNEL, Agent, Nothing),
        row("GET", routes::TUNNEL_WEBSOCKET, Agent, Nothing),
    ]
}

/// What the router routes, read from its source: methods and paths.
fn routed() -> BTreeSet<(String, String)> {
    let named: BTreeMap<&str, &str> = include_str!("../../../protocol/src/routes.rs")
        .split("pub mod tunnel")
        .next()
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.strip_suffix("\";"))
        .filter_map(|line| line.split_once(": &str = \""))
        .collect();
    let mut routed = BTreeSet::new();
    for call in include_str!("../../src/http/mod.rs")
        .split(".route(")
        .skip(1)
    {
        let (path, rest) = call.split_once(',').unwrap();
        let path = match path.trim().strip_prefix("routes::") {
            Some(name) => named[name],
            None => path.trim().trim_matches('"'),
        };
        // As far as the bracket that closes the call.
        let mut open = 1;
        let end = rest.find(|c| {
            open += i32::from(c == '(') - i32::from(c == ')');
            open == 0
        });
        let handlers = &rest[..end.unwrap()];
        let mut methods = 0;
        for method in ["get", "post", "put", "delete", "patch", "any", "on"] {
            let call = format!("{method}(");
            for (at, _) in handlers.match_indices(&call) {
                let before = handlers[..at].chars().next_back();
                if before.is_none_or(|c| c.is_whitespace() || c == '.') {
                    routed.insert((method.to_uppercase(), path.to_owned()));
                    methods += 1;
                }
            }
        }
        assert!(methods > 0, "no method is read out of {handlers}");
    }
    routed
}

#[test]
fn every_route_has_a_row() {
    let table = table();
    let rows = table
        .iter()
        .map(|row| (row.method.to_owned(), row.path.to_owned()));
    let rows: Vec<_> = rows.collect();
    let set: BTreeSet<_> = rows.iter().cloned().collect();
    assert_eq!(set.len(), rows.len(), "a row stands there twice");
    assert_eq!(set, routed());
    assert!(set.len() > 40);
}

/// What is to become of a request.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    /// 4xx, as JSON that says why.
    Refused,
    /// Anything but a fault of the relay: what is wrong is nothing that the route reads.
    NoFault,
    /// As [`Refused`](Self::Refused), unless the connection ends before the answer.
    RefusedOrCut,
    /// Not even that: what is wrong may be nothing that it reads, or too much to read.
    RefusedOrCutOrServed,
    /// 400 by the server before there is a request, and so without a line.
    NoRequest,
}

struct Bad {
    what: String,
    method: String,
    path: String,
    bytes: Vec<u8>,
    verdict: Verdict,
    /// The other end goes away once it has sent this.
    leaves: bool,
}

/// Ended with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The relay as a process, whose log is kept.
struct Process {
    child: Running,
    relay: TestRelay,
    log: JoinHandle<String>,
}

impl Process {
    fn start(state: &Arc<TempDir>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_katachi-relay"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KATACHI_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--no-keychain",
                "--ready-json",
                "--tunnel-websocket",
            ])
            .arg("--state-dir")
            .arg(state.path())
            .args(crate::arguments(state.path()))
            .env("KATACHI_RELAY_LOG", "debug")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut log = Vec::new();
            stderr.read_to_end(&mut log).unwrap();
            String::from_utf8(log).unwrap()
        });
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap();
        let relay = TestRelay::of_process(&ready, Arc::clone(state));
        let child = Running(child);
        Self { child, relay, log }
    }

    /// Asks it to stop, and gives what it said.
    fn stop(mut self) -> String {
        let pid = self.child.0.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(told.success());
        assert!(self.child.0.wait().unwrap().success());
        self.log.join().unwrap()
    }
}

struct World {
    relay: Process,
    cookie: String,
    agent: TestAgent,
}

impl World {
    fn host(&self) -> String {
        format!("katachi.localhost:{}", self.relay.relay.address.port())
    }

    /// A request of who may ask the route, with any body.
    fn ask(&self, row: &Row, target: &str, kind: Option<&str>, body: &[u8]) -> Vec<u8> {
        let mut request = Request::builder()
            .method(row.method)
            .uri(target)
            .header("host", self.host());
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let request = request.body(Bytes::copy_from_slice(body));
        let Ok(mut request) = request else {
            panic!("{target} is no target");
        };
        match row.asks {
            Anybody | Person => {
                let origin = self.relay.relay.url.parse().unwrap();
                request.headers_mut().insert("origin", origin);
                if row.asks == Person {
                    let cookie = self.cookie.parse().unwrap();
                    request.headers_mut().insert("cookie", cookie);
                }
            }
            Agent => drop(self.agent.sign(&mut request)),
        }
        self.serialised(row.method, target, request.headers(), body)
    }

    fn serialised(
        &self,
        method: &str,
        target: &str,
        headers: &http::HeaderMap,
        body: &[u8],
    ) -> Vec<u8> {
        let mut bytes = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n").into_bytes();
        for (name, value) in headers {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    /// Sends bytes from an address of their own: how often one may ask is another test.
    async fn send(&self, bad: &Bad, from: u16) -> Vec<u8> {
        let [high, low] = from.to_be_bytes();
        let socket = TcpSocket::new_v4().unwrap();
        let from = IpAddr::V4(Ipv4Addr::new(127, 9, high, low));
        socket.bind((from, 0).into()).unwrap();
        let tcp = socket.connect(self.relay.relay.address).await.unwrap();
        let tls = TlsConnector::from(Arc::new(self.relay.relay.tls(&[b"http/1.1"])));
        let name = ServerName::try_from("katachi.localhost").unwrap();
        let mut stream = tls.connect(name, tcp).await.unwrap();
        // It may refuse before all was sent.
        let _ = stream.write_all(&bad.bytes).await;
        if bad.leaves {
            let _ = stream.shutdown().await;
        }
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let read = tokio::time::timeout(Duration::from_secs(30), read).await;
        assert!(
            read.is_ok(),
            "{} {}, {}: no end",
            bad.method,
            bad.path,
            bad.what
        );
        answer
    }

    /// Everything that is done to one route.
    fn bad(&self, row: &Row) -> Vec<Bad> {
        let path = row
            .path
            .replace("{id}", "nobody")
            .replace("{name}", "nothing");
        let path = path.replace("{provider}", "nowhere");
        let mut all = Vec::new();
        let mut push = |what: &str, path: &str, bytes: Vec<u8>, verdict: Verdict, leaves: bool| {
            let path = path.split('?').next().unwrap().to_owned();
            let (what, method) = (what.to_owned(), row.method.to_owned());
            all.push(Bad {
                what,
                method,
                path,
                bytes,
                verdict,
                leaves,
            });
        };
        use Verdict::{NoFault, NoRequest, Refused, RefusedOrCut, RefusedOrCutOrServed};

        // The target.
        let long = "a".repeat(6000);
        for (what, query) in [
            ("a long query", format!("q={CANARY}{long}")),
            (
                "bytes in the query",
                format!("{CANARY}=%00%ff%fe&&=&user_code=%00{CANARY}&state=%ff"),
            ),
            (
                "a query twice",
                format!("user_code={CANARY}&user_code={CANARY}&state=a&state=b&mode=a&mode=b"),
            ),
            ("a query that is none", "=&%&%%%&%zz".to_owned()),
        ] {
            if row.asks == Agent && !matches!(row.takes, Json(_)) && row.method != "GET" {
                // The query means nothing, and what is signed would be done.
                continue;
            }
            let target = format!("{path}?{query}");
            let body = self.good(row);
            // A good body under a bad query is only for those who read none.
            if body.is_empty() {
                push(
                    what,
                    &path,
                    self.ask(row, &target, None, b""),
                    NoFault,
                    false,
                );
            }
        }
        if row.path.contains('{') {
            let (before, _) = row.path.split_once('{').unwrap();
            let (_, after) = row.path.split_once('}').unwrap();
            for (what, part) in [
                ("a zero byte", "%00"),
                ("a zero byte within", "a%00b"),
                ("a line feed", "a%0ab"),
                ("no UTF-8", "%ff%fe"),
                ("half an escape", "%e2%28%a1"),
                ("no escape", "%zz"),
                ("dots", "%2e%2e"),
                ("dots and a slash", "..%2f..%2fetc%2fpasswd"),
                ("SQL", "'%20OR%201=1%20--"),
                ("a right-to-left override", "%e2%80%aea"),
                ("a long one", &long),
            ] {
                let target = format!("{before}{part}{after}");
                let body = self.good(row);
                let kind = self.kind(row);
                push(
                    what,
                    &target,
                    self.ask(row, &target, kind, &body),
                    Refused,
                    false,
                );
            }
        }
        let deeper = format!("{path}/{long}");
        push(
            "a long path",
            &deeper,
            self.ask(row, &deeper, None, b""),
            Refused,
            false,
        );
        for (what, bytes) in [
            ("a zero byte in the target", &b"\0"[..]),
            ("a space in the target", b" x"),
            ("no UTF-8 in the target", b"\xff\xfe"),
            ("a zero byte in a header", b" HTTP/1.1\r\nX: \0\r\nY:"),
        ] {
            let head = format!("{} {path}", row.method);
            let rest = format!(
                " HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                self.host()
            );
            let bytes = [head.as_bytes(), bytes, rest.as_bytes()].concat();
            push(what, &path, bytes, NoRequest, false);
        }

        // The body.
        let big = format!("{{\"x\":\"{CANARY}{}\"}}", "x".repeat(300 * 1024));
        let cut = |mut bytes: Vec<u8>| {
            bytes.truncate(bytes.len() - 3);
            bytes
        };
        match &row.takes {
            Nothing => {
                // A signed request with a body that is read would be done.
                let is_read = row.asks == Agent && row.method != "GET";
                for body in [&b"{"[..], b"\xff\0", big.as_bytes()] {
                    if !is_read && body.len() < 1000 {
                        push(
                            "a body",
                            &path,
                            self.ask(row, &path, None, body),
                            NoFault,
                            false,
                        );
                    }
                    let mut unsigned = http::HeaderMap::new();
                    unsigned.insert("host", self.host().parse().unwrap());
                    let bytes = self.serialised(row.method, &path, &unsigned, body);
                    push(
                        "a body of nobody",
                        &path,
                        bytes,
                        RefusedOrCutOrServed,
                        false,
                    );
                }
            }
            Json(good) => {
                let kind = Some("application/json");
                for (what, body) in bad_json(good) {
                    push(
                        &what,
                        &path,
                        self.ask(row, &path, kind, &body),
                        Refused,
                        false,
                    );
                }
                push(
                    "300 KiB",
                    &path,
                    self.ask(row, &path, kind, big.as_bytes()),
                    RefusedOrCut,
                    false,
                );
                let body = good.to_string();
                for kind in [
                    None,
                    Some("text/plain"),
                    Some("application/x-www-form-urlencoded"),
                    Some("multipart/form-data; boundary=x"),
                ] {
                    let bytes = self.ask(row, &path, kind, body.as_bytes());
                    push(&format!("as {kind:?}"), &path, bytes, Refused, false);
                }
                push(
                    "a part of a body",
                    &path,
                    cut(self.ask(row, &path, kind, body.as_bytes())),
                    RefusedOrCut,
                    true,
                );
            }
            Form(good) => {
                let kind = Some("application/x-www-form-urlencoded");
                for (what, body) in bad_form(good) {
                    push(
                        &what,
                        &path,
                        self.ask(row, &path, kind, &body),
                        Refused,
                        false,
                    );
                }
                push(
                    "300 KiB",
                    &path,
                    self.ask(row, &path, kind, big.as_bytes()),
                    RefusedOrCut,
                    false,
                );
                let body = self.good(row);
                for kind in [None, Some("text/plain"), Some("application/json")] {
                    let bytes = self.ask(row, &path, kind, &body);
                    push(&format!("as {kind:?}"), &path, bytes, Refused, false);
                }
                push(
                    "a part of a body",
                    &path,
                    cut(self.ask(row, &path, kind, &body)),
                    RefusedOrCut,
                    true,
                );
            }
        }
        all
    }

    fn kind(&self, row: &Row) -> Option<&'static str> {
        match row.takes {
            Nothing => None,
            Json(_) => Some("application/json"),
            Form(_) => Some("application/x-www-form-urlencoded"),
        }
    }

    fn good(&self, row: &Row) -> Vec<u8> {
        match &row.takes {
            Nothing => Vec::new(),
            Json(good) => good.to_string().into_bytes(),
            Form(good) => {
                let pairs = good.iter().map(|(name, value)| format!("{name}={value}"));
                pairs.collect::<Vec<_>>().join("&").into_bytes()
            }
        }
    }

    /// Methods that the path does not take.
    fn wrong_methods(&self, rows: &[Row], path: &'static str) -> Vec<Bad> {
        let taken: Vec<&str> = rows
            .iter()
            .filter(|row| row.path == path)
            .map(|row| row.method)
            .collect();
        let filled = path.replace("{id}", "nobody").replace("{name}", "nothing");
        let filled = filled.replace("{provider}", "nowhere");
        let wrong = [
            "GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "get",
        ];
        let wrong = wrong.iter().filter(|method| !taken.contains(method));
        let bad = |method: &&'static str| {
            let asks = rows.iter().find(|row| row.path == path).unwrap().asks;
            let row = row(
                method,
                path,
                if asks == Agent { Anybody } else { asks },
                Nothing,
            );
            Bad {
                what: "another method".to_owned(),
                method: (*method).to_owned(),
                path: filled.clone(),
                bytes: self.ask(&row, &filled, Some("application/json"), b"{}"),
                verdict: Verdict::Refused,
                leaves: false,
            }
        };
        wrong.map(bad).collect()
    }
}

/// Bodies that are JSON or nearly, and not what a good one is.
fn bad_json(good: &Value) -> Vec<(String, Vec<u8>)> {
    let text = good.to_string();
    let members = good.as_object().unwrap();
    let with = |name: &str, value: Value| {
        let mut other = good.clone();
        other[name] = value;
        other.to_string().into_bytes()
    };
    let mut all: Vec<(String, Vec<u8>)> = vec![
        ("nothing".to_owned(), Vec::new()),
        (
            "half of it".to_owned(),
            text.as_bytes()[..text.len() / 2].to_vec(),
        ),
        (
            "more than it".to_owned(),
            format!("{text}{text}").into_bytes(),
        ),
        (
            "a byte order mark".to_owned(),
            format!("\u{feff}{text}").into_bytes(),
        ),
        ("a text".to_owned(), format!("\"{CANARY}\"").into_bytes()),
        ("a list".to_owned(), format!("[{text}]").into_bytes()),
        ("null".to_owned(), b"null".to_vec()),
        ("a large number".to_owned(), b"1e400".to_vec()),
        ("no JSON".to_owned(), format!("<{CANARY}/>").into_bytes()),
        ("zero bytes".to_owned(), vec![0; 64]),
        (
            "no UTF-8".to_owned(),
            text.replacen(':', ":\"\u{1}", 1).into_bytes(),
        ),
        ("deep".to_owned(), "[".repeat(100_000).into_bytes()),
        ("another member".to_owned(), with("admin", json!(CANARY))),
    ];
    let mut raw = text.clone().into_bytes();
    let at = raw.len() - 2;
    raw.insert(at, 0xff);
    all.push(("a byte that is no UTF-8".to_owned(), raw));
    for name in members.keys() {
        let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
        let deep = text
            .replacen(&members[name].to_string(), &deep, 1)
            .into_bytes();
        all.push((format!("{name} deep"), deep));
        all.push((
            format!("{name} twice"),
            text.replacen('{', &format!("{{\"{name}\":{},", members[name]), 1)
                .into_bytes(),
        ));
        for (what, value) in [
            ("a number", json!(7)),
            ("below zero", json!(-1)),
            ("a map", json!({"x": {"y": CANARY}})),
            ("a list of lists", json!([[CANARY], [7]])),
            ("a zero byte", json!("\0")),
            ("half a character", json!("\u{fffd}\u{0}")),
            (
                "a long text",
                json!(format!("{CANARY}{}", "x".repeat(20_000))),
            ),
        ] {
            all.push((format!("{name} is {what}"), with(name, value)));
        }
    }
    all
}

fn bad_form(good: &[(&'static str, String)]) -> Vec<(String, Vec<u8>)> {
    let text = |pairs: &[(&str, String)]| {
        let pairs = pairs.iter().map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join("&")
    };
    let mut all = vec![
        ("nothing".to_owned(), Vec::new()),
        (
            "no form".to_owned(),
            format!("{{\"{CANARY}\":1}}").into_bytes(),
        ),
        ("zero bytes".to_owned(), vec![0; 64]),
        ("no UTF-8".to_owned(), b"client_id=\xff\xfe".to_vec()),
        (
            "escapes of no UTF-8".to_owned(),
            b"client_id=%ff%fe".to_vec(),
        ),
        ("half an escape".to_owned(), b"client_id=%f".to_vec()),
        ("many".to_owned(), "a=b&".repeat(10_000).into_bytes()),
    ];
    for at in 0..good.len() {
        let mut twice = good.to_vec();
        twice.push(good[at].clone());
        all.push((format!("{} twice", good[at].0), text(&twice).into_bytes()));
        for value in ["", "%00", "%ff", &"x".repeat(20_000)] {
            let mut other = good.to_vec();
            other[at].1 = value.to_owned();
            let shown = value.get(..5).unwrap_or(value);
            all.push((
                format!("{} is {shown:?}", good[at].0),
                text(&other).into_bytes(),
            ));
        }
    }
    all
}

/// The tables, without what only tells when somebody was last here and what counts
/// tries.
fn kept(state: &TempDir) -> Vec<(String, Vec<Value>)> {
    let mut tables = crate::tables(state.path());
    assert!(tables.len() > 10);
    tables.retain(|(table, _)| table != "throttles");
    for (_, rows) in tables.iter_mut().filter(|(table, _)| table == "sessions") {
        rows.iter_mut().for_each(|row| drop(row["seen_ms"].take()));
    }
    tables
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_route_is_asked_it_answers_says_so_once_and_changes_nothing() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let relay = Process::start(&state);
    let browser = relay.relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay.relay, &browser).await;
    let config =
        json!({"command": ["x"], "env": {}, "secrets": {"T": "x"}, "released_to": [agent.id]});
    let stored = browser
        .send(Method::PUT, "/api/mcp/kept", Some(config))
        .await;
    assert!(stored.status().is_success());
    Device::new(&relay.relay, 3)
        .post(routes::DEVICE_AUTHORIZATION, &crate::agent::START)
        .await;
    let cookie = browser.cookie().to_owned();
    let world = World {
        relay,
        cookie,
        agent,
    };
    let before = kept(&state);

    let rows = table();
    let mut paths = BTreeSet::new();
    let mut asked = Asked::default();
    for row in &rows {
        // What is signed is good for a minute.
        asked.all(&world, world.bad(row)).await;
        if paths.insert(row.path) {
            asked
                .all(&world, world.wrong_methods(&rows, row.path))
                .await;
        }
    }
    let Asked {
        count,
        faults,
        lines,
    } = asked;
    assert!(
        faults.is_empty(),
        "{} of {}:\n{}",
        faults.len(),
        count,
        faults.join("\n\n")
    );
    assert_eq!(kept(&state), before, "something was changed");
    // It still serves, and the control changes what is compared.
    let answer = world.agent.call(
        &world.relay.relay,
        Method::POST,
        routes::HEARTBEAT,
        Some(json!({"state": "busy"})),
    );
    assert!(answer.await.signed);
    assert_ne!(kept(&state), before);

    let log = world.relay.stop();
    let mut written: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let fields = &line["fields"];
        if fields["message"] == "request" {
            let text = |name: &str| fields[name].as_str().unwrap().to_owned();
            if text("peer").starts_with("127.9.") {
                *written.entry((text("method"), text("path"))).or_default() += 1;
            }
        }
    }
    assert_eq!(written, lines, "one line for each request");
    let cookie = world.cookie.split('=').nth(1).unwrap();
    for secret in [CANARY, PASSWORD, cookie] {
        let leak = log.lines().find(|line| line.contains(secret));
        assert!(leak.is_none(), "{secret}: {leak:?}");
    }
}

/// What was asked so far.
#[derive(Default)]
struct Asked {
    count: u16,
    faults: Vec<String>,
    /// How many lines the log must have for each method and path.
    lines: BTreeMap<(String, String), usize>,
}

impl Asked {
    async fn all(&mut self, world: &World, requests: Vec<Bad>) {
        for bad in requests {
            self.count += 1;
            let answer = world.send(&bad, self.count).await;
            self.judge(&bad, &answer);
            if !matches!(bad.verdict, Verdict::NoRequest) {
                let path = bad.path[..bad.path.len().min(256)].to_owned();
                *self.lines.entry((bad.method, path)).or_default() += 1;
            }
        }
    }

    fn judge(&mut self, bad: &Bad, answer: &[u8]) {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(2000)]).into_owned();
        let status = shown.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status: u16 = status.unwrap_or(0);
        let says_why = shown.contains("content-type: application/json")
            && (shown.contains("\"message\":") || shown.contains("\"error_description\":"));
        let refused = (400..500).contains(&status) && (says_why || is_page(bad, status));
        let fine = match bad.verdict {
            Verdict::Refused => refused,
            Verdict::NoFault => refused || (200..400).contains(&status),
            Verdict::RefusedOrCut => refused || status == 0,
            Verdict::RefusedOrCutOrServed => refused || status < 400,
            Verdict::NoRequest => status == 400,
        };
        if !fine {
            let Bad {
                what, method, path, ..
            } = bad;
            let path = &path[..path.len().min(80)];
            self.faults
                .push(format!("{method} {path}, {what}: {shown}"));
        }
    }
}

/// Where a provider sends people back to, a refusal is a page for them.
fn is_page(bad: &Bad, status: u16) -> bool {
    bad.path.starts_with("/signin/") && (400..500).contains(&status)
}
