//! Many at once: connections that say nothing, and calls without end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use katachi_auth::replay::Nonce;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::agent::{TestAgent, connect};
use crate::relay::TestRelay;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r01_five_hundred_who_stall_are_closed_and_others_are_served_meanwhile() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let relay = TestRelay::start_with(state, |config| {
        config.limits.handshake = Duration::from_secs(8);
        config.limits.headers = Duration::from_secs(8);
    })
    .await;
    let mut stalled = tokio::task::JoinSet::new();
    // In the handshake, half of it said.
    for n in 0..250 {
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        if n % 2 == 0 {
            stream.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        }
        stalled.spawn(async move {
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
    }
    // In the headers, a byte now and then.
    let opening = (0..250).map(|_| connect(&relay));
    for mut stream in futures_util::future::join_all(opening).await {
        stalled.spawn(async move {
            for byte in b"GET / HTTP/1.1\r\nX-Long: "
                .iter()
                .chain([b'y'; 4096].iter())
            {
                if stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
                let answered = stream.read_u8();
                let pause = Duration::from_millis(500);
                if let Ok(ended) = tokio::time::timeout(pause, answered).await {
                    assert!(matches!(ended, Err(_) | Ok(b'H')));
                    return;
                }
            }
            panic!("a request of one byte in half a second is waited for");
        });
    }
    let others = async {
        let browser = relay.browser();
        loop {
            assert_eq!(browser.get("/healthz").await.status(), StatusCode::OK);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let all = async { while stalled.join_next().await.transpose().unwrap().is_some() {} };
    tokio::select! {
        closed = tokio::time::timeout(PATIENCE, all) => assert!(closed.is_ok(), "some go on"),
        () = others => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s11_a_key_that_has_used_its_room_up_is_told_to_wait_and_nothing_is_forgotten() {
    const ROOM: usize = 300;
    let state = Arc::new(tempfile::tempdir().unwrap());
    let relay = TestRelay::start_with(state, |config| config.limits.nonces_per_agent = ROOM).await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let other = TestAgent::approved(&relay, &browser).await;
    let get = |agent: &TestAgent| {
        let mut request = TestAgent::request(&relay, Method::GET, "/v1/agent/mcp", None);
        let binding = agent.sign_with(&mut request, Nonce::random().unwrap());
        (request, binding)
    };
    let (first, binding) = get(&agent);
    let answer = agent.send(&relay, first.clone(), &binding).await;
    assert_eq!(answer.status, StatusCode::OK);
    let began = Instant::now();
    let tls = TlsConnector::from(Arc::new(relay.tls(&[b"h2"])));
    let stream = TcpStream::connect(relay.address).await.unwrap();
    let name = ServerName::try_from("katachi.localhost").unwrap();
    let stream = TokioIo::new(tls.connect(name, stream).await.unwrap());
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut taken = 1;
    let mut refused = 0;
    while refused == 0 {
        // What was accepted more than a minute ago has made room again.
        assert!(
            began.elapsed() < Duration::from_secs(50),
            "{taken} were taken"
        );
        let calls = (0..64).map(|_| {
            let (mut request, _) = get(&agent);
            let uri = format!("{}{}", relay.url, request.uri());
            *request.uri_mut() = uri.parse().unwrap();
            request.headers_mut().remove("host");
            let mut sender = sender.clone();
            async move {
                sender
                    .send_request(request.map(Full::new))
                    .await
                    .unwrap()
                    .status()
            }
        });
        for status in futures_util::future::join_all(calls).await {
            match status {
                StatusCode::OK => taken += 1,
                StatusCode::TOO_MANY_REQUESTS => refused += 1,
                status => panic!("{status}"),
            }
        }
    }
    assert!(taken >= ROOM, "{taken}");
    // The first is remembered, the next has no room yet, and others have theirs.
    let again = agent.send(&relay, first, &binding).await;
    assert_eq!(
        (again.status, again.signed),
        (StatusCode::UNAUTHORIZED, true)
    );
    assert_eq!(again.body["error"], "replayed");
    let (next, binding) = get(&agent);
    let next = agent.send(&relay, next, &binding).await;
    assert_eq!(
        (next.status, next.signed),
        (StatusCode::TOO_MANY_REQUESTS, true)
    );
    let (theirs, binding) = get(&other);
    assert_eq!(
        other.send(&relay, theirs, &binding).await.status,
        StatusCode::OK
    );
}
