//! Tunnels inside of a WebSocket: who may open one, where they are taken.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::signature::Profile;
use katachi_protocol::routes::{TUNNEL, TUNNEL_WEBSOCKET};
use katachi_relay::carrier::{ByteStream, WEBSOCKET_REQUEST, bounds};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::agent::{TestAgent, connect, wait_until_online};
use crate::relay::{Browser, TestRelay};

type Stream = ByteStream<TlsStream<TcpStream>>;

async fn relay_that_takes_them(taken: bool) -> TestRelay {
    let state = Arc::new(tempfile::tempdir().unwrap());
    TestRelay::start_with(state, |config| config.tunnel_websocket = taken).await
}

async fn with_agent(relay: &TestRelay) -> (Browser, TestAgent) {
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(relay, &browser).await;
    (browser, agent)
}

/// The request for a tunnel, signed as `profile` says.
fn asked(relay: &TestRelay, agent: &TestAgent, profile: Profile) -> Request<Bytes> {
    let mut request = TestAgent::request(relay, Method::GET, TUNNEL_WEBSOCKET, None);
    agent.sign_as(&mut request, profile, SystemClock.now(), None);
    request
}

/// Sends it as it is, as a WebSocket's.
async fn open(relay: &TestRelay, request: &Request<Bytes>) -> Result<Stream, StatusCode> {
    let url = format!(
        "wss://katachi.localhost:{}{}",
        relay.address.port(),
        request.uri()
    );
    let mut opening = url.into_client_request().unwrap();
    for (name, value) in request.headers() {
        opening.headers_mut().insert(name, value.clone());
    }
    let stream = connect(relay).await;
    match tokio_tungstenite::client_async_with_config(opening, stream, Some(bounds())).await {
        Ok((socket, _)) => Ok(ByteStream::new(socket)),
        Err(Error::Http(answer)) => Err(answer.status()),
        Err(error) => panic!("{error}"),
    }
}

fn serve(stream: Stream) {
    let router = Router::new().route("/v1/status", get(|| async { "up" }));
    tokio::spawn(async move {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
            .await
    });
}

#[tokio::test]
async fn a_tunnel_is_opened_inside_of_a_websocket_once_for_each_signature() {
    let relay = relay_that_takes_them(true).await;
    let (browser, agent) = with_agent(&relay).await;
    let request = asked(&relay, &agent, WEBSOCKET_REQUEST);
    serve(open(&relay, &request).await.unwrap());
    wait_until_online(&browser, &agent.id, true).await;
    assert_eq!(
        open(&relay, &request).await.err(),
        Some(StatusCode::UNAUTHORIZED)
    );
    // The newest wins, as elsewhere.
    let again = asked(&relay, &agent, WEBSOCKET_REQUEST);
    let second = open(&relay, &again).await.unwrap();
    drop(second);
    wait_until_online(&browser, &agent.id, false).await;
}

#[tokio::test]
async fn what_was_signed_for_something_else_opens_none() {
    let relay = relay_that_takes_them(true).await;
    let (browser, agent) = with_agent(&relay).await;
    for profile in [Profile::AGENT_REQUEST, Profile::RELAY_RESPONSE] {
        let request = asked(&relay, &agent, profile);
        assert_eq!(
            open(&relay, &request).await.err(),
            Some(StatusCode::UNAUTHORIZED)
        );
    }
    // Nor does one of these open a tunnel that is bound to its connection.
    let mut request = TestAgent::request(&relay, Method::GET, TUNNEL, None);
    agent.sign_as(&mut request, WEBSOCKET_REQUEST, SystemClock.now(), None);
    let headers = request.headers_mut();
    headers.insert("connection", "upgrade".parse().unwrap());
    headers.insert("upgrade", "katachi-tunnel/1".parse().unwrap());
    let binding = agent.sign(&mut TestAgent::request(&relay, Method::GET, TUNNEL, None));
    let answer = agent.send(&relay, request, &binding).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    // A request that asks for no WebSocket is none.
    let plain = asked(&relay, &agent, WEBSOCKET_REQUEST);
    let answer = agent.send(&relay, plain, &binding).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_ne!(answer.body, Value::Null);
    wait_until_online(&browser, &agent.id, false).await;
}

#[tokio::test]
async fn a_relay_that_was_not_told_to_takes_none() {
    let relay = relay_that_takes_them(false).await;
    let (_browser, agent) = with_agent(&relay).await;
    let request = asked(&relay, &agent, WEBSOCKET_REQUEST);
    assert_eq!(
        open(&relay, &request).await.err(),
        Some(StatusCode::NOT_FOUND)
    );
}
