//! Everything that is done to one route.

use bytes::Bytes;
use http::Request;
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
use super::routes::{Row, row};
use super::{CANARY, World};

/// What is to become of a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict {
    /// 4xx, as JSON that says why.
    Refused,
    /// Anything but a fault of the relay: what is wrong is nothing that the route reads.
    NoFault,
    /// As [`Refused`](Self::Refused), unless the connection ends before the answer.
    RefusedOrCut,
    /// Not even that: what is wrong may be nothing that it reads, or too much to read.
    RefusedOrCutOrServed,
    /// 413, unless the connection ends before the answer.
    TooLargeOrCut,
    /// 400 by the server before there is a request, and so without a line.
    NoRequest,
}
use Verdict::{NoFault, NoRequest, Refused, RefusedOrCut, RefusedOrCutOrServed, TooLargeOrCut};

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
        let path = self.path.clone();
        let bytes = self.world.ask(self.row, &path, kind, body);
        self.send(what, &path, bytes, verdict);
    }

    fn targets(&mut self) {
        let (row, path) = (self.row, self.path.clone());
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
            // A good body under a bad query is only for those who read none.
            if row.good().is_empty() {
                let target = format!("{path}?{query}");
                let bytes = self.world.ask(row, &target, None, b"");
                self.send(what, &target, bytes, NoFault);
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
                let bytes = self.world.ask(row, &target, row.kind(), &row.good());
                self.send(what, &target, bytes, Refused);
            }
        }
        let deeper = format!("{path}/{long}");
        let bytes = self.world.ask(row, &deeper, None, b"");
        self.send("a long path", &deeper, bytes, Refused);
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

    fn bodies(&mut self) {
        let (row, path) = (self.row, self.path.clone());
        let big = format!("{{\"x\":\"{CANARY}{}\"}}", "x".repeat(300 * 1024));
        let bad = match &row.takes {
            Json(good) => bad_json(good),
            Form(good) => bad_form(good),
            Nothing => {
                // A signed request with a body that is read would be done.
                let is_read = row.asks == Agent && row.method != "GET";
                for body in [&b"{"[..], b"\xff\0", big.as_bytes()] {
                    if !is_read && body.len() < 1000 {
                        self.body("a body", None, body, NoFault);
                    }
                    let mut unsigned = http::HeaderMap::new();
                    unsigned.insert("host", self.world.host().parse().unwrap());
                    let bytes = serialised(row.method, &path, &unsigned, body);
                    self.send("a body of nobody", &path, bytes, RefusedOrCutOrServed);
                }
                return;
            }
        };
        let (kind, good) = (row.kind(), row.good());
        for (what, body) in bad {
            self.body(&what, kind, &body, Refused);
        }
        self.body("300 KiB", kind, big.as_bytes(), TooLargeOrCut);
        for other in [
            None,
            Some("text/plain"),
            Some("application/json"),
            Some("application/x-www-form-urlencoded"),
            Some("multipart/form-data; boundary=x"),
        ] {
            if other != kind {
                self.body(&format!("as {other:?}"), other, &good, Refused);
            }
        }
        self.body("a part of a body", kind, &good, RefusedOrCut);
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
        against.targets();
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
            let row = row(method, path, asks, Nothing);
            Bad {
                what: "another method".to_owned(),
                method: method.to_owned(),
                path: row.filled(),
                bytes: self.ask(&row, &row.filled(), Some("application/json"), b"{}"),
                verdict: Refused,
                leaves: false,
            }
        };
        wrong.map(bad).collect()
    }
}

fn serialised(method: &str, target: &str, headers: &http::HeaderMap, body: &[u8]) -> Vec<u8> {
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
