//! Connections on which nothing happens: what the program holds for each, and that
//! nothing is left of it when they end. `KATACHI_LONG=1` makes them ten thousand.
//!
//! What one takes in a relay that was built to be used is measured by the bench
//! `relay-idle`; here it is bounded, for each kind.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use crate::relay::TestRelay;
use crate::storm::{Node, approved};

/// What the relay, as it is built for tests, may hold for each, in bytes.
const FOR_A_TUNNEL: u64 = 96 * 1024;
const FOR_A_BROWSER: u64 = 64 * 1024;
/// What the program takes for other things, and the allocator keeps.
const SLACK: u64 = 8 * 1024 * 1024;

/// An HTTP/2 connection that was used once, from one of many addresses.
async fn browser(relay: &TestRelay, tls: TlsConnector, n: usize) -> SendRequest<Empty<Bytes>> {
    let [high, low] = u16::try_from(n / 500).unwrap().to_be_bytes();
    let socket = TcpSocket::new_v4().unwrap();
    let from = Ipv4Addr::new(127, 40, high, low + 1);
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    let stream = socket.connect(relay.address).await.unwrap();
    let name = ServerName::try_from("katachi.localhost").unwrap();
    let stream = TokioIo::new(tls.connect(name, stream).await.unwrap());
    let connected = http2::handshake(TokioExecutor::new(), stream).await;
    let (mut sender, connection) = connected.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("{}/healthz", relay.url));
    let answer = sender.send_request(request.body(Empty::new()).unwrap());
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    sender
}

/// The memory of `node` once it no longer changes much.
async fn settled(node: &Node) -> u64 {
    let began = Instant::now();
    let mut last = node.memory();
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = node.memory();
        if now.abs_diff(last) < last / 100 || began.elapsed() > Duration::from_secs(30) {
            return now;
        }
        last = now;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r04_idle_connections_take_little_and_leave_nothing() {
    let is_long = std::env::var_os("KATACHI_LONG").is_some_and(|long| long == "1");
    let (tunnels, browsers) = if is_long { (400, 10_000) } else { (24, 300) };
    let node = Node::start(Arc::new(tempfile::tempdir().unwrap()), 0);
    let agents = approved(&node, tunnels).await;
    let tls = TlsConnector::from(Arc::new(node.relay.tls(&[b"h2"])));
    let mut rounds = Vec::new();
    let (at_first, alone) = (node.descriptors(), settled(&node).await);
    for _ in 0..2 {
        let before = settled(&node).await;
        let opening = agents
            .iter()
            .map(|agent| agent.open_tunnel(&node.relay, Router::new(), None));
        let opening = futures_util::stream::iter(opening).buffer_unordered(16);
        let open: Vec<_> = opening.map(Result::unwrap).collect().await;
        let with_tunnels = settled(&node).await;
        let opening = (0..browsers).map(|n| browser(&node.relay, tls.clone(), n));
        let opening = futures_util::stream::iter(opening).buffer_unordered(16);
        let mut idle: Vec<_> = opening.collect().await;
        let with_all = settled(&node).await;
        let alive = open.iter().filter(|tunnel| !tunnel.is_finished()).count();
        assert_eq!(alive, tunnels, "tunnels that stayed open");
        for sender in &mut idle {
            sender.ready().await.expect("a quiet browser stays");
        }
        rounds.push((before, with_tunnels, with_all));
        for tunnel in open {
            tunnel.abort();
            let _ = tunnel.await;
        }
        drop(idle);
        let began = Instant::now();
        while node.descriptors() > at_first + 16 {
            let waited = began.elapsed();
            assert!(waited < Duration::from_secs(60), "they stay open");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // What they took goes back to the system, though nobody comes any more.
        let most = alone + with_all.saturating_sub(alone) / 4 + SLACK;
        let began = Instant::now();
        while node.memory() > most {
            let (waited, kept) = (began.elapsed(), node.memory());
            assert!(
                waited < Duration::from_secs(60),
                "{kept} is kept: {rounds:?}"
            );
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
    let kib = |bytes: u64, count: usize| bytes / 1024 / count as u64;
    let (before, with_tunnels, with_all) = rounds[0];
    let tunnel = with_tunnels.saturating_sub(before);
    let browser = with_all.saturating_sub(with_tunnels);
    println!(
        "{tunnels} tunnels: {} KiB each; {browsers} browsers: {} KiB each; {rounds:?}",
        kib(tunnel, tunnels),
        kib(browser, browsers)
    );
    assert!(tunnel < FOR_A_TUNNEL * tunnels as u64 + SLACK);
    assert!(browser < FOR_A_BROWSER * browsers as u64 + SLACK);
    // The second time as the first: nothing is kept of those that went.
    let most = with_all + SLACK;
    assert!(rounds.iter().all(|round| round.2 < most), "{rounds:?}");
}
