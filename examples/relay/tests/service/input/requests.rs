//! Everything that is done to one route.

use bytes::Bytes;
use http::Request;
use katachi_protocol::routes;
use rustls_pki_types::ServerName;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use super::bodies::{bad_form, bad_json};
use super::routes::Asks::{Agent, Anybody, Person};
use super::routes::Takes::{Form, Json, Nothing};
use super::routes::{Row, of_text, row};
use super::{CANARY, World};

/// What is to become of a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict {
    /// This status; a refusal says why in its body.
    Is(u16),
    /// The same, unless the connection ends before the answer.
    IsOrCut(u16),
    /// 400 by the server before there is a request, and so without a line.
    NoRequest,
}
use Verdict::{Is, IsOrCut, NoRequest};

pub(super) struct Bad {
    pub(super) what: String,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) bytes: Vec<u8>,
    pub(super) verdict: Verdict,
    /// The other end goes away once it has sent this.
    pub(super) leaves: bool,
}

/// What is done to one route, as it is put together.
struct Against<'a> {
    world: &'a World,
    row: &'a Row,
    path: String,
    all: Vec<Bad>,
}

impl Against<'_> {
    /// These bytes, to `target`.
    fn send(&mut self, what: &str, target: &str, bytes: Vec<u8>, verdict: Verdict) {
        self.all.push(Bad {
            what: what.to_owned(),
            method: self.row.method.to_owned(),
            path: target.split('?').next().unwrap().to_owned(),
            bytes,
            verdict,
            leaves: false,
        });
    }

    /// A request of who may ask, with this body.
    fn body(&mut self, what: &str, kind: Option<&str>, body: &[u8], verdict: Verdict) {
        let target = self.row.target();
        let bytes = self.world.ask(self.row, &target, kind, body);
        self.send(what, &target, bytes, verdict);
    }

    fn queries(&mut self) {
        let (row, path) = (self.row, self.path.clone());
        // A good body under a bad query is only for those who read none.
        let Nothing(status) = row.takes else { return };
        // What is signed would be done, as the query means nothing.
        if row.asks == Agent && row.method != "GET" {
            return;
        }
        let status = if row.reads_query() { 400 } else { status };
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
            let target = format!("{path}?{query}");
            let bytes = self.world.ask(row, &target, None, b"");
            self.send(what, &target, bytes, Is(status));
        }
    }

    /// Names and identifiers that are none, are not there, or are somebody else's.
    fn parts(&mut self) {
        let row = self.row;
        if !row.path.contains('{') {
            return;
        }
        let (long, longer) = ("a".repeat(255), "a".repeat(6000));
        for (what, part) in [
            ("a zero byte", "%00"),
            ("a zero byte within", "a%00b"),
            ("a line feed", "a%0ab"),
            ("no UTF-8", "%ff%fe"),
            ("half an escape", "%e2%28%a1"),
        ] {
            self.part(what, part, 400);
        }
        // A configuration of another name would be made.
        let unless_named = if row.method == "PUT" { 400 } else { 404 };
        for (what, part) in [
            ("no escape", "%zz"),
            ("dots", "%2e%2e"),
            ("dots and a slash", "..%2f..%2fetc%2fpasswd"),
            ("SQL", "'%20OR%201=1%20--"),
            ("a pattern", "%25"),
            ("a right-to-left override", "%e2%80%aea"),
            ("a long one", &long),
            ("a longer one", &longer),
        ] {
            self.part(what, part, unless_named);
        }
        if row.method != "PUT" {
            for (what, part) in &self.world.others {
                self.part(&format!("{what} of another account"), part, 404);
            }
        }
    }

    fn part(&mut self, what: &str, part: &str, status: u16) {
        let row = self.row;
        let (before, _) = row.path.split_once('{').unwrap();
        let (_, after) = row.path.split_once('}').unwrap();
        let target = format!("{before}{part}{after}{}", row.query());
        let bytes = self.world.ask(row, &target, row.kind(), &row.good());
        self.send(what, &target, bytes, Is(status));
    }

    fn targets(&mut self) {
        let (row, path) = (self.row, self.path.clone());
        let deeper = format!("{path}/{}/nothing", "a".repeat(6000));
        let bytes = self.world.ask(row, &deeper, None, b"");
        self.send("a long path", &deeper, bytes, Is(404));
        for (what, bytes) in [
            ("a zero byte in the target", &b"\0"[..]),
            ("a space in the target", b" x"),
            ("no UTF-8 in the target", b"\xff\xfe"),
            ("a zero byte in a header", b" HTTP/1.1\r\nX: \0\r\nY:"),
        ] {
            let head = format!("{} {path}", row.method);
            let host = self.world.host();
            let rest = format!(" HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let bytes = [head.as_bytes(), bytes, rest.as_bytes()].concat();
            self.send(what, &path, bytes, NoRequest);
        }
    }

    /// The right request by somebody who may not make it.
    fn strangers(&mut self) {
        let row = self.row;
        let target = row.target();
        let host = ("host", self.world.host());
        let (ours, cookie) = (
            self.world.relay.relay.url.clone(),
            self.world.cookie.clone(),
        );
        let mut by = |what: &str, headers: &[(&'static str, String)], status| {
            let mut all = row.headers();
            for (name, value) in headers {
                all.insert(*name, value.parse().unwrap());
            }
            let bytes = serialised(row.method, &target, &all, &row.good());
            self.send(what, &target, bytes, Is(status));
        };
        if row.asks != Anybody && row.of_nobody() != 200 {
            by(
                "without a name",
                &[host.clone(), ("origin", ours)],
                row.of_nobody(),
            );
            let wrong = ("cookie", format!("__Host-katachi={CANARY}"));
            let signature = ("signature-input", format!("sig=();keyid=\"{CANARY}\""));
            by(
                "by a name that is none",
                &[host.clone(), wrong, signature],
                row.of_wrong_name(),
            );
        }
        if row.is_unsafe_page() {
            for origin in ["https://attacker.example", "null", ""] {
                let headers = [
                    host.clone(),
                    ("origin", origin.to_owned()),
                    ("cookie", cookie.clone()),
                ];
                by(&format!("from {origin:?}"), &headers, 403);
            }
            by("from nowhere", &[host, ("cookie", cookie)], 403);
        }
    }

    fn bodies(&mut self) {
        let row = self.row;
        let big = format!("{{\"x\":\"{CANARY}{}\"}}", "x".repeat(300 * 1024));
        let bad = match &row.takes {
            Json(good) => bad_json(good),
            Form(good) => bad_form(good),
            Nothing(status) => {
                // A signed request with a body that is read would be done.
                let is_read = row.asks == Agent && row.method != "GET";
                for body in [&b"{"[..], b"\xff\0", big.as_bytes()] {
                    if !is_read && body.len() < 1000 {
                        // Nothing is signed for a body of such a request.
                        let signed = row.asks == Agent && *status == 200;
                        self.body("a body", None, body, Is(if signed { 401 } else { *status }));
                    }
                    let mut unsigned = row.headers();
                    unsigned.insert("host", self.world.host().parse().unwrap());
                    let target = row.target();
                    let bytes = serialised(row.method, &target, &unsigned, body);
                    let status = match row.is_unsafe_page() {
                        true => 403,
                        false if row.asks == Anybody => *status,
                        false => row.of_nobody(),
                    };
                    self.send("a body of nobody", &target, bytes, IsOrCut(status));
                }
                return;
            }
        };
        let (kind, good) = (row.kind(), row.good());
        for (what, body) in bad {
            // A form has its own bound.
            let status = match row.takes {
                Form(_) if body.len() > 16 * 1024 => 413,
                _ => of_text(row, &what, self.world.sends_mail).unwrap_or(400),
            };
            self.body(&what, kind, &body, Is(status));
        }
        self.body("300 KiB", kind, big.as_bytes(), IsOrCut(413));
        for other in [
            None,
            Some("text/plain"),
            Some("application/json"),
            Some("application/x-www-form-urlencoded"),
            Some("multipart/form-data; boundary=x"),
        ] {
            if other != kind {
                self.body(&format!("as {other:?}"), other, &good, Is(415));
            }
        }
        self.body("a part of a body", kind, &good, IsOrCut(400));
        let part = self.all.last_mut().unwrap();
        part.bytes.truncate(part.bytes.len() - 3);
        part.leaves = true;
    }
}

impl World {
    pub(super) fn host(&self) -> String {
        format!("katachi.localhost:{}", self.relay.relay.address.port())
    }

    /// A request of who may ask the route, with any body.
    fn ask(&self, row: &Row, target: &str, kind: Option<&str>, body: &[u8]) -> Vec<u8> {
        let mut request = Request::builder()
            .method(row.method)
            .uri(target)
            .header("host", self.host());
        for (name, value) in row.upgrade() {
            request = request.header(*name, *value);
        }
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
                    // Wrong codes are counted for each session, and mail for each account.
                    let cookie = match row.path {
                        routes::DEVICE_DENY => &self.second_cookie,
                        routes::VERIFY_SEND if !body.is_empty() => &self.other_cookie,
                        _ => &self.cookie,
                    };
                    let cookie = cookie.parse().unwrap();
                    request.headers_mut().insert("cookie", cookie);
                }
            }
            Agent => drop(self.agent.sign(&mut request)),
        }
        serialised(row.method, target, request.headers(), body)
    }

    /// Sends bytes from an address of their own: how often one may ask is another test.
    pub(super) async fn send(&self, bad: &Bad, from: u16) -> Vec<u8> {
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
        let Bad {
            method, path, what, ..
        } = bad;
        assert!(read.is_ok(), "{method} {path}, {what}: no end");
        answer
    }

    /// Everything that is done to one route.
    pub(super) fn bad(&self, row: &Row) -> Vec<Bad> {
        let mut against = Against {
            world: self,
            row,
            path: row.filled(),
            all: Vec::new(),
        };
        against.queries();
        against.parts();
        against.targets();
        against.strangers();
        against.bodies();
        against.all
    }

    /// Methods that the path does not take.
    pub(super) fn wrong_methods(&self, rows: &[Row], path: &'static str) -> Vec<Bad> {
        let here = || rows.iter().filter(|row| row.path == path);
        let taken: Vec<&str> = here().map(|row| row.method).collect();
        let asks = match here().next().unwrap().asks {
            Agent => Anybody,
            asks => asks,
        };
        let all = [
            "GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "get",
        ];
        let wrong = all.into_iter().filter(|method| !taken.contains(method));
        let bad = |method: &'static str| {
            let row = row(method, path, asks, Nothing(405));
            Bad {
                what: "another method".to_owned(),
                method: method.to_owned(),
                path: row.filled(),
                bytes: self.ask(&row, &row.filled(), Some("application/json"), b"{}"),
                verdict: Is(405),
                leaves: false,
            }
        };
        wrong.map(bad).collect()
    }
}

fn serialised(method: &str, target: &str, headers: &http::HeaderMap, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
    if !headers.contains_key("connection") {
        bytes.extend_from_slice(b"Connection: close\r\n");
    }
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
