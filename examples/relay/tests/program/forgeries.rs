//! Calls by nobody: the program holds nothing of them, however many there are.
//! `KATACHI_LONG=1` makes them a million.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use katachi_auth::replay::Nonce;
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::agent::TestAgent;
use crate::flood::Process;
use crate::relay::TestRelay;

const MIB: usize = 1024 * 1024;

/// A call by the agent's key, as it would be if it were signed by it.
fn forged(relay: &TestRelay, agent: &TestAgent, n: usize) -> Request<Bytes> {
    let body = json!({"state": "busy"});
    let path = "/v1/agent/heartbeat";
    let mut request = TestAgent::request(relay, Method::POST, path, Some(&body));
    agent.sign_with(&mut request, Nonce::random().unwrap());
    let mut mac = [0; 32];
    mac[..8].copy_from_slice(&n.to_be_bytes());
    let mac = format!("katachi=:{}:", STANDARD.encode(mac));
    request
        .headers_mut()
        .insert("signature", mac.parse().unwrap());
    *request.uri_mut() = format!("{}{path}", relay.url).parse().unwrap();
    request.headers_mut().remove("host");
    request
}

async fn connect(relay: &TestRelay) -> SendRequest<Full<Bytes>> {
    let tls = TlsConnector::from(Arc::new(relay.tls(&[b"h2"])));
    let stream = TcpStream::connect(relay.address).await.unwrap();
    let name = ServerName::try_from("katachi.localhost").unwrap();
    let stream = TokioIo::new(tls.connect(name, stream).await.unwrap());
    let connected = http2::handshake(TokioExecutor::new(), stream).await;
    let (sender, connection) = connected.unwrap();
    tokio::spawn(connection);
    sender
}

/// Sends forged calls until so many were answered, on four connections at once. One on
/// which too many bodies came too late, for calls that were refused before, is closed.
async fn send(relay: &Arc<TestRelay>, agent: &Arc<TestAgent>, count: usize) {
    let answered = Arc::new(AtomicUsize::new(0));
    let senders = (0..4).map(|_| {
        let (relay, agent) = (Arc::clone(relay), Arc::clone(agent));
        let answered = Arc::clone(&answered);
        tokio::spawn(async move {
            let mut sender = connect(&relay).await;
            let mut n = 0;
            while answered.load(Ordering::SeqCst) < count {
                let calls = (0..32).map(|_| {
                    n += 1;
                    let request = forged(&relay, &agent, n).map(Full::new);
                    let mut sender = sender.clone();
                    async move { sender.send_request(request).await }
                });
                let mut all_answered = true;
                for answer in futures_util::future::join_all(calls).await {
                    match answer {
                        Ok(answer) => {
                            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(_) => all_answered = false,
                    }
                }
                if !all_answered {
                    sender = connect(&relay).await;
                }
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s12_forged_calls_leave_nothing_in_memory_or_on_disk() {
    let is_long = std::env::var_os("KATACHI_LONG").is_some_and(|long| long == "1");
    let count = if is_long { 1_000_000 } else { 20_000 };
    let (process, relay) = Process::start();
    let relay = Arc::new(relay);
    let browser = relay.browser_of("ana@example.org").await;
    let agent = Arc::new(TestAgent::approved(&relay, &browser).await);
    let beat = async || {
        let body = json!({"state": "busy"});
        let path = "/v1/agent/heartbeat";
        let mut request = TestAgent::request(&relay, Method::POST, path, Some(&body));
        let binding = agent.sign_with(&mut request, Nonce::random().unwrap());
        agent.send(&relay, request, &binding).await.status
    };
    assert_eq!(beat().await, StatusCode::OK);
    let on_disk = || -> u64 {
        let files = std::fs::read_dir(relay.state.path()).unwrap();
        let files = files.map(|file| file.unwrap().metadata().unwrap());
        files
            .filter(std::fs::Metadata::is_file)
            .map(|file| file.len())
            .sum()
    };
    // What connections, buffers and the allocator take once.
    send(&relay, &agent, 2_000).await;
    let before = (process.memory(), on_disk());
    send(&relay, &agent, count).await;
    let grown = process.memory().saturating_sub(before.0);
    println!("{count} forged calls: {} KiB more", grown / 1024);
    // A place for each would take 24 bytes of the store, and what was read far more.
    assert!(grown < 8 * MIB, "{} KiB for {count}", grown / 1024);
    assert_eq!(on_disk(), before.1, "something was written");
    // And of the 4,096 places that the store has for such nonces of this key in a minute
    // none was taken.
    for _ in 0..100 {
        assert_eq!(beat().await, StatusCode::OK);
    }
}
