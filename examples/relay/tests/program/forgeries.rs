//! Calls by nobody, and starts without end: the program holds nothing of the first and a
//! few of the second, however many there are. `KATACHI_LONG=1` makes them a million each.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use katachi_auth::replay::Nonce;
use katachi_protocol::routes::DEVICE_AUTHORIZATION;
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::agent::{Device, START, TestAgent};
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

fn is_long() -> bool {
    std::env::var_os("KATACHI_LONG").is_some_and(|long| long == "1")
}

/// Of an HTTP/2 connection what sends, and what tells how it ended.
type Sender = (SendRequest<Full<Bytes>>, JoinHandle<hyper::Result<()>>);

async fn connect(relay: &TestRelay) -> Sender {
    let tls = TlsConnector::from(Arc::new(relay.tls(&[b"h2"])));
    let stream = TcpStream::connect(relay.address).await.unwrap();
    let name = ServerName::try_from("katachi.localhost").unwrap();
    let stream = TokioIo::new(tls.connect(name, stream).await.unwrap());
    let connected = http2::handshake(TokioExecutor::new(), stream).await;
    let (sender, connection) = connected.unwrap();
    (sender, tokio::spawn(connection))
}

/// Sends forged calls until so many were answered, on four connections at once; how those
/// ended that the relay has closed.
///
/// A call is refused by its head, and its body comes when its stream is closed already.
/// The HTTP/2 library ignores that for the last fifty streams, answers each further one
/// with `RST_STREAM`, and ends a connection on which that happened 1,024 times with
/// `GOAWAY` and `ENHANCE_YOUR_CALM` (RFC 9113 section 5.4.1): so many calls that
/// nobody signed are enough from one. Whoever sends more connects again.
async fn send(relay: &Arc<TestRelay>, agent: &Arc<TestAgent>, count: usize) -> Vec<String> {
    let answered = Arc::new(AtomicUsize::new(0));
    let closed = Arc::new(Mutex::new(Vec::new()));
    let senders = (0..4).map(|_| {
        let (relay, agent) = (Arc::clone(relay), Arc::clone(agent));
        let (answered, closed) = (Arc::clone(&answered), Arc::clone(&closed));
        tokio::spawn(async move {
            let (mut sender, mut ended) = connect(&relay).await;
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
                    let why = ended.await.unwrap();
                    closed.lock().unwrap().push(format!("{why:?}"));
                    (sender, ended) = connect(&relay).await;
                }
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    std::mem::take(&mut *closed.lock().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s12_forged_calls_leave_nothing_in_memory_or_on_disk() {
    let count = if is_long() { 1_000_000 } else { 5_000 };
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
    let closed = send(&relay, &agent, count).await;
    let grown = process.memory().saturating_sub(before.0);
    println!(
        "{count} forged calls: {} KiB more; {} connections closed",
        grown / 1024,
        closed.len()
    );
    for why in &closed {
        assert!(why.contains("ENHANCE_YOUR_CALM"), "{why}");
    }
    // A place for each would take 24 bytes of the store, and what was read far more.
    assert!(grown < 8 * MIB, "{} KiB for {count}", grown / 1024);
    assert_eq!(on_disk(), before.1, "something was written");
    // And of the 4,096 places that the store has for such nonces of this key in a minute
    // none was taken.
    for _ in 0..100 {
        assert_eq!(beat().await, StatusCode::OK);
    }
}

/// Rows of the table `device_grants`, and of all others.
fn rows(relay: &TestRelay) -> (usize, usize) {
    let tables = crate::embedded::tables(relay.state.path());
    let count = |is_wanted: bool| {
        let wanted = tables
            .iter()
            .filter(|(name, _)| (name == "device_grants") == is_wanted);
        wanted.map(|(_, rows)| rows.len()).sum()
    };
    (count(true), count(false))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d18_starts_without_end_from_one_address_leave_a_few_rows() {
    let count = if is_long() { 1_000_000 } else { 800 };
    let (process, relay) = Process::start();
    let relay = Arc::new(relay);
    let began = Instant::now();
    let nonce = Device::new(&relay, 0).nonce().await;
    // Those whom the address may start, and what connections take once.
    let ask = async |total: usize| {
        let asked = Arc::new(AtomicUsize::new(0));
        let senders = (0..4_u8).map(|seed| {
            let (relay, asked) = (Arc::clone(&relay), Arc::clone(&asked));
            tokio::spawn(async move {
                let device = Device::new(&relay, seed);
                let mut started = 0;
                while asked.fetch_add(16, Ordering::SeqCst) < total {
                    // Each with a proof of its own, as good as any.
                    let starts = (0..16).map(|_| {
                        let proof = device.prove(DEVICE_AUTHORIZATION, Some(&nonce));
                        device.send(DEVICE_AUTHORIZATION, &START, [proof])
                    });
                    for answer in futures_util::future::join_all(starts).await {
                        match answer.status() {
                            StatusCode::OK => started += 1,
                            status => assert_eq!(status, StatusCode::TOO_MANY_REQUESTS),
                        }
                    }
                }
                started
            })
        });
        let mut started = 0;
        for sender in senders.collect::<Vec<_>>() {
            started += sender.await.unwrap();
        }
        started
    };
    let others = rows(&relay).1;
    let mut started: usize = ask(200).await;
    let before = process.memory();
    started += ask(count).await;
    let grown = process.memory().saturating_sub(before);
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    let (kept, other) = rows(&relay);
    println!(
        "{count} starts in {seconds} s: {started} were taken, {kept} rows, {} KiB more",
        grown / 1024
    );
    // Twenty at once, and one more for each five seconds.
    assert!((20..=21 + seconds / 5).contains(&started), "{started}");
    // What ran out goes when another comes.
    assert!((1..=started).contains(&kept), "{kept} rows");
    assert!(kept <= 21 + 600 / 5 + 1, "{kept} rows");
    assert_eq!(other, others, "something else was written");
    assert!(grown < 8 * MIB, "{} KiB for {count}", grown / 1024);
    // Somebody elsewhere starts meanwhile.
    let mut elsewhere = TestRelay::of_process(&process.ready, Arc::clone(&relay.state));
    elsewhere.source = Some([127, 0, 0, 9].into());
    let elsewhere = Device::new(&elsewhere, 9);
    let answer = elsewhere.post(DEVICE_AUTHORIZATION, &START).await;
    assert_eq!(answer.status(), StatusCode::OK);
}
