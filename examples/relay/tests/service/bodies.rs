//! Whose bodies are read, and how much of them at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use katachi_auth::clock::{Clock as _, SystemClock};
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;

use crate::agent::{TestAgent, connect};
use crate::relay::TestRelay;

/// What a test waits for at most; that much longer the relay waits for a body.
const PATIENCE: Duration = Duration::from_secs(30);

async fn relay_that_waits() -> TestRelay {
    let state = Arc::new(tempfile::tempdir().unwrap());
    TestRelay::start_with(state, |config| config.limits.body = 20 * PATIENCE).await
}

/// Sends the head of a request that announces `length` bytes and none of them; the answer
/// as far as its head.
async fn only_the_head(relay: &TestRelay, request: &Request<Bytes>, length: usize) -> String {
    let mut stream = connect(relay).await;
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        head += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    head += &format!("Content-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
    };
    let read = tokio::time::timeout(PATIENCE, read).await;
    assert!(
        read.is_ok(),
        "{} {}: it waits for a body",
        request.method(),
        request.uri()
    );
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn of_a_stranger_s_body_nothing_is_read_nor_where_there_should_be_none() {
    let relay = relay_that_waits().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let body = json!({"state": "busy"});
    let heartbeat = || TestAgent::request(&relay, Method::POST, "/v1/agent/heartbeat", Some(&body));
    let unsigned = heartbeat();
    let mut unknown = heartbeat();
    agent.sign(&mut unknown);
    let input = unknown.headers()["signature-input"].to_str().unwrap();
    let input = input.replace("keyid=\"", "keyid=\"0").parse().unwrap();
    unknown.headers_mut().insert("signature-input", input);
    let mut old = heartbeat();
    let then = SystemClock.now().before(Duration::from_secs(600));
    agent.sign_as(
        &mut old,
        katachi_auth::signature::Profile::AGENT_REQUEST,
        then,
        None,
    );
    for request in [unsigned, unknown, old] {
        let answer = only_the_head(&relay, &request, 200_000).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }
    for (method, path) in [
        (Method::GET, "/v1/agent/mcp"),
        (Method::DELETE, "/v1/agent"),
    ] {
        let mut request = TestAgent::request(&relay, method, path, None);
        agent.sign(&mut request);
        let answer = only_the_head(&relay, &request, 200_000).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }
    // Nothing was done, and a body that is announced and comes is read.
    let beat = agent.call(&relay, Method::POST, "/v1/agent/heartbeat", Some(body));
    assert_eq!(beat.await.status, 200);
}

type Sender = hyper::client::conn::http2::SendRequest<
    StreamBody<ReceiverStream<Result<Frame<Bytes>, std::convert::Infallible>>>,
>;

async fn http2(relay: &TestRelay) -> Sender {
    let tls = TlsConnector::from(Arc::new(relay.tls(&[b"h2"])));
    let stream = TcpStream::connect(relay.address).await.unwrap();
    let name = ServerName::try_from("katachi.localhost").unwrap();
    let stream = TokioIo::new(tls.connect(name, stream).await.unwrap());
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_has_only_so_much_of_bodies_at_once() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let relay = TestRelay::start_with(state, |config| {
        config.limits.body = 20 * PATIENCE;
        config.limits.bodies_per_connection = 256 * 1024;
    })
    .await;
    /// Of a body of 150 KiB, which no route takes as it is.
    const LENGTH: usize = 150 * 1024;
    let ask = |sender: &Sender| {
        let (piece, pieces) = mpsc::channel(8);
        let request = Request::post(format!("{}/api/login", relay.url))
            .header("origin", &relay.url)
            .header("content-type", "application/json")
            .header("content-length", LENGTH)
            .body(StreamBody::new(ReceiverStream::new(pieces)))
            .unwrap();
        let mut sender = sender.clone();
        let answer = tokio::spawn(async move {
            let answer = sender.send_request(request).await.unwrap();
            let status = answer.status().as_u16();
            answer.into_body().collect().await.unwrap();
            status
        });
        (piece, answer)
    };
    let data = |length: usize| Ok(Frame::data(Bytes::from(vec![b'x'; length])));
    let sender = http2(&relay).await;
    let (first, first_answer) = ask(&sender);
    first.send(data(LENGTH - 1)).await.unwrap();
    // It has its room before the next one comes.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (second, mut second_answer) = ask(&sender);
    second.send(data(LENGTH)).await.unwrap();
    drop(second);
    // Somebody else is served; this one waits for the first.
    let elsewhere = http2(&relay).await;
    let (other, other_answer) = ask(&elsewhere);
    other.send(data(LENGTH)).await.unwrap();
    drop(other);
    let served = tokio::time::timeout(PATIENCE, other_answer).await;
    assert_eq!(served.unwrap().unwrap(), 400);
    let waiting = tokio::time::timeout(Duration::from_millis(700), &mut second_answer).await;
    assert!(waiting.is_err(), "both bodies were read at once");
    first.send(data(1)).await.unwrap();
    drop(first);
    for answer in [first_answer, second_answer] {
        let served = tokio::time::timeout(PATIENCE, answer).await;
        assert_eq!(served.unwrap().unwrap(), 400);
    }
}
