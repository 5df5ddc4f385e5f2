//! The carrier of a channel under a peer that speaks WebSocket badly, or too much of it:
//! it is cut off, what it sent is neither kept nor passed on, and others go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::post;
use futures_util::StreamExt as _;
use katachi_relay::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::agent::{TestAgent, connect, wait_until_online};
use crate::relay::{Browser, TestRelay, channel_with};

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// What the kernel on both sides may hold of what was written and never read.
const UNDER_WAY: usize = 24 * 1024 * 1024;
/// The largest message, and a piece that was already under way to the agent.
const PASSED_ON: usize = 128 * 1024;

/// A frame of a client (RFC 6455 section 5.2), masked by zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    announced(first, payload.len() as u64, payload)
}

/// A frame that says it has `length` bytes.
fn announced(first: u8, length: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match length {
        0..126 => frame.push(MASKED | length as u8),
        126..65_536 => {
            frame.push(MASKED | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            frame.push(MASKED | 127);
            frame.extend_from_slice(&length.to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// What a peer sends: once, and then again and again.
struct Attack {
    what: &'static str,
    first: Vec<u8>,
    rest: Vec<u8>,
    /// It does not read what comes back.
    deaf: bool,
}

fn attack(what: &'static str, first: Vec<u8>, rest: Vec<u8>) -> Attack {
    Attack {
        what,
        first,
        rest,
        deaf: false,
    }
}

struct World {
    relay: TestRelay,
    browser: Browser,
    agent: TestAgent,
    /// Bytes that reached the agent.
    heard: Arc<AtomicUsize>,
}

impl World {
    /// An agent that says again what it is told.
    async fn start(adapt: impl FnOnce(&mut Limits)) -> Self {
        let state = Arc::new(tempfile::tempdir().unwrap());
        let relay = TestRelay::start_with(state, |config| adapt(&mut config.limits)).await;
        let browser = relay.browser_of("ana@example.org").await;
        let agent = TestAgent::approved(&relay, &browser).await;
        let heard = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&heard);
        let echo = post(async move |body: Body| {
            let pieces = body.into_data_stream().inspect(move |piece| {
                let length = piece.as_ref().map_or(0, bytes::Bytes::len);
                counter.fetch_add(length, Ordering::SeqCst);
            });
            Response::new(Body::from_stream(pieces))
        });
        let router = Router::new().route("/v1/channel", echo);
        agent.open_tunnel(&relay, router, None).await.unwrap();
        wait_until_online(&browser, &agent.id, true).await;
        Self {
            relay,
            browser,
            agent,
            heard,
        }
    }

    /// A channel as nothing but a connection.
    async fn open(&self) -> TlsStream<TcpStream> {
        let origin = format!("Origin: {}\r\n", self.relay.url);
        let (stream, head) = self.ask(&origin).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        stream
    }

    /// Asks for one with these headers besides; the connection, and the head of the answer.
    async fn ask(&self, more: &str) -> (TlsStream<TcpStream>, String) {
        let mut stream = connect(&self.relay).await;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: katachi.localhost:{}\r\n{more}Cookie: {}\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            channel_with(&self.agent.id),
            self.relay.address.port(),
            self.browser.cookie(),
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        (stream, String::from_utf8(head).unwrap())
    }

    /// Sends until the relay ends the connection; how much that took.
    async fn suffer(&self, attack: &Attack) -> usize {
        let (mut from, mut to) = tokio::io::split(self.open().await);
        let deaf = attack.deaf;
        let ended = async move {
            let mut answers = vec![0; 64 * 1024];
            while !deaf && matches!(from.read(&mut answers).await, Ok(1..)) {}
            if deaf {
                std::future::pending::<()>().await;
            }
        };
        let sent = AtomicUsize::new(0);
        let sending = async {
            let mut next = &attack.first;
            while sent.load(Ordering::SeqCst) < 4 * UNDER_WAY {
                if to.write_all(next).await.is_err() || to.flush().await.is_err() {
                    return;
                }
                sent.fetch_add(next.len(), Ordering::SeqCst);
                next = &attack.rest;
                if next.is_empty() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let both = async {
            tokio::select! {
                () = ended => {}
                () = sending => {}
            }
        };
        let over = tokio::time::timeout(Duration::from_secs(60), both).await;
        assert!(over.is_ok(), "{}: the relay did not end it", attack.what);
        sent.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r02_a_peer_that_breaks_the_rules_is_cut_off_and_others_go_on() {
    let world = World::start(|_| {}).await;
    let (id, mebibyte) = (&world.agent.id, 1 << 20);
    let mut other = world.browser.carry(id, "hello").await.unwrap();
    assert_eq!(other.next().await.unwrap(), "hello");

    // The control: what is within the rules is carried, in one piece or in several.
    let mut honest = world.open().await;
    let whole = frame(FIN | BINARY, &[b'x'; 60_000]);
    let pieces = [
        frame(BINARY, b"yy"),
        frame(FIN | PING, b"?"),
        frame(FIN | CONTINUATION, b"y"),
    ];
    honest
        .write_all(&[whole, pieces.concat()].concat())
        .await
        .unwrap();
    let mut back = 0;
    while back < 60_003 {
        back += honest.read(&mut vec![0; 70_000]).await.unwrap();
    }

    let kibibyte = vec![b'x'; 1024];
    let piece = vec![b'x'; 64 * 1024];
    let unmasked = [&[FIN | BINARY, 5][..], b"hello"].concat();
    for attack in [
        attack(
            "a frame of 64 MiB",
            announced(FIN | BINARY, 64 * mebibyte, &piece),
            piece.clone(),
        ),
        attack(
            "a frame of 2^63 - 1 bytes",
            announced(FIN | BINARY, (1 << 63) - 1, &piece),
            piece.clone(),
        ),
        attack(
            "a frame of 2^64 - 1 bytes",
            announced(FIN | BINARY, u64::MAX, &piece),
            piece.clone(),
        ),
        attack(
            "a frame over the bound",
            frame(FIN | BINARY, &[b'x'; 65_537]),
            Vec::new(),
        ),
        attack(
            "fragments without end",
            frame(BINARY, &kibibyte),
            frame(CONTINUATION, &kibibyte),
        ),
        attack("an unmasked frame", unmasked, Vec::new()),
        attack("text", frame(FIN | TEXT, b"hello"), Vec::new()),
        attack(
            "text that is none",
            frame(FIN | TEXT, b"\xff\xfe"),
            Vec::new(),
        ),
        attack("a frame of no kind", frame(FIN | 3, b"hello"), Vec::new()),
        attack(
            "a control frame of no kind",
            frame(FIN | 11, b"hello"),
            Vec::new(),
        ),
        attack(
            "a reserved bit",
            frame(FIN | 0x40 | BINARY, b"hello"),
            Vec::new(),
        ),
        attack("a long ping", frame(FIN | PING, &[0; 126]), Vec::new()),
        attack("a ping in pieces", frame(PING, b"?"), Vec::new()),
        attack(
            "the rest of nothing",
            frame(FIN | CONTINUATION, b"hello"),
            Vec::new(),
        ),
        attack(
            "a message within another",
            frame(BINARY, b"a"),
            frame(FIN | BINARY, b"b"),
        ),
        attack("a close that is none", frame(FIN | CLOSE, b"x"), Vec::new()),
        attack(
            "no WebSocket",
            b"GET / HTTP/1.1\r\n\r\n".repeat(8),
            Vec::new(),
        ),
        attack(
            "pings without end",
            frame(FIN | PING, &[0; 125]),
            frame(FIN | PING, &[0; 125]),
        ),
        attack(
            "pongs without end",
            frame(FIN | PONG, b""),
            frame(FIN | PONG, b""),
        ),
        attack(
            "frames of nothing",
            frame(FIN | BINARY, b""),
            frame(FIN | BINARY, b""),
        ),
        Attack {
            deaf: true,
            ..attack(
                "pings, deaf",
                frame(FIN | PING, &[0; 125]),
                frame(FIN | PING, &[0; 125]),
            )
        },
    ] {
        let before = world.heard.load(Ordering::SeqCst);
        let sent = world.suffer(&attack).await;
        assert!(sent < UNDER_WAY, "{}: {sent} bytes were taken", attack.what);
        let passed = world.heard.load(Ordering::SeqCst) - before;
        assert!(
            passed < PASSED_ON,
            "{}: {passed} bytes reached the agent",
            attack.what
        );
        other.send("still there").await;
        assert_eq!(
            other.next().await.unwrap(),
            "still there",
            "{}",
            attack.what
        );
    }
}

#[tokio::test]
async fn l09_a_channel_is_opened_by_our_own_pages_alone() {
    let world = World::start(|_| {}).await;
    // The cookie of a session alone, as any page makes a browser send it.
    for origin in [
        "",
        "Origin: null\r\n",
        "Origin: https://attacker.example\r\n",
        "Origin: https://katachi.localhost\r\n",
        "Sec-Fetch-Site: same-origin\r\n",
        "Sec-Fetch-Site: none\r\n",
    ] {
        let (_, head) = world.ask(origin).await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{origin}: {head}");
    }
    world.open().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r02_fragments_of_nothing_are_silence() {
    let world = World::start(|limits| limits.channel_silence = Duration::from_secs(2)).await;
    let nothing = attack(
        "empty fragments",
        frame(BINARY, b""),
        frame(CONTINUATION, b""),
    );
    world.suffer(&nothing).await;
    assert_eq!(world.heard.load(Ordering::SeqCst), 0);
    let mut after = world.browser.carry(&world.agent.id, "hello").await.unwrap();
    assert_eq!(after.next().await.unwrap(), "hello");
}

#[tokio::test]
async fn a_quiet_browser_that_answers_pings_stays() {
    // Its answers are frames that say nothing, too: as many as a minute has, and not more.
    let world = World::start(|limits| limits.channel_ping = Duration::from_millis(30)).await;
    let mut quiet = world.browser.carry(&world.agent.id, "hello").await.unwrap();
    assert_eq!(quiet.next().await.unwrap(), "hello");
    let waiting = tokio::time::timeout(Duration::from_millis(900), quiet.next()).await;
    assert!(waiting.is_err(), "the channel ended");
    quiet.send("still there").await;
    assert_eq!(quiet.next().await.unwrap(), "still there");
}
