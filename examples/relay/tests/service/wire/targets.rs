//! Another spelling of where it goes.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Verdict::{Elsewhere, NoRequest, Silence, Taken};
use super::{BUSY, IDLE, Sent, World};

#[tokio::test]
async fn s30_another_spelling_of_the_same_target() {
    let world = World::start().await;
    let port = world.relay.address.port();
    let mut rows = Vec::new();
    // The first is what was signed, the second what is sent.
    for (signed, sent, verdict) in [
        (
            "/v1/agent/heartbeat?a=1&b=2",
            "/v1/agent/heartbeat?a=1&b=2",
            Taken,
        ),
        (
            "/v1/agent/heartbeat?a=%2F+%20",
            "/v1/agent/heartbeat?a=%2F+%20",
            Taken,
        ),
        (
            "/v1/agent/heartbeat?a=%0a",
            "/v1/agent/heartbeat?a=%0a",
            Taken,
        ),
        (
            "/v1/agent/heartbeat?a=1&a=1",
            "/v1/agent/heartbeat?a=1&a=1",
            Taken,
        ),
        (
            "/v1/agent/heartbeat?a=1&b=2",
            "/v1/agent/heartbeat?b=2&a=1",
            Silence,
        ),
        (
            "/v1/agent/heartbeat?a=1&a=1",
            "/v1/agent/heartbeat?a=1",
            Silence,
        ),
        (
            "/v1/agent/heartbeat?a=%2F",
            "/v1/agent/heartbeat?a=%2f",
            Silence,
        ),
        (
            "/v1/agent/heartbeat?a=/",
            "/v1/agent/heartbeat?a=%2F",
            Silence,
        ),
        (
            "/v1/agent/heartbeat?a=+",
            "/v1/agent/heartbeat?a=%20",
            Silence,
        ),
        (
            "/v1/agent/heartbeat?a=%0a",
            "/v1/agent/heartbeat?a=%0A",
            Silence,
        ),
        (
            "/v1/agent/heartbeat?a=~",
            "/v1/agent/heartbeat?a=%7e",
            Silence,
        ),
        ("/v1/agent/heartbeat", "/v1/agent/heartbeat?", Silence),
        ("/v1/agent/heartbeat?", "/v1/agent/heartbeat", Taken),
        ("/v1/agent/heartbeat", "/v1/agent/heartbeat?x", Silence),
        ("/v1/agent/heartbeat", "/v1/agent/activity", Silence),
        // These are routes of nothing, whether they were signed so or not.
        (
            "/v1/agent/heartbeat",
            "/v1/agent/%68eartbeat",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/%68eartbeat",
            "/v1/agent/%68eartbeat",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/heartbeat",
            "/v1/agent%2Fheartbeat",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/heartbeat",
            "/v1/agent/./heartbeat",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/./heartbeat",
            "/v1/agent/./heartbeat",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/heartbeat",
            "/v1/x/../agent/heartbeat",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/heartbeat",
            "//v1/agent/heartbeat",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/heartbeat",
            "/v1//agent/heartbeat",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/heartbeat",
            "/v1/agent/heartbeat/",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/heartbeat",
            "/V1/agent/heartbeat",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/heartbeat",
            "/v1/agent/heartbeat%00",
            Elsewhere(&[404]),
        ),
        (
            "/v1/agent/heartbeat",
            "/v1/agent/heartbeat;x",
            Elsewhere(&[404]),
        ),
        ("/", "*", Elsewhere(&[400, 404, 405])),
        ("/", "/\u{fc}", Elsewhere(&[400, 404])),
    ] {
        let mut request = world.heartbeat(if matches!(verdict, Taken) { IDLE } else { BUSY });
        request.signed_target = signed.to_owned();
        let (lines, tail) = (request.lines(), request.tail());
        world.resign(&mut request, &lines, &tail);
        request.target = sent.to_owned();
        rows.push((format!("{signed} sent as {sent}"), request, verdict));
    }
    let own = world.host();
    for (signed, sent, verdict) in [
        (
            format!("localhost:{port}"),
            format!("localhost:{port}"),
            Taken,
        ),
        (own.clone(), format!("localhost:{port}"), Silence),
        (format!("localhost:{port}"), own.clone(), Silence),
        (own.clone(), own.to_uppercase(), NoRequest),
        (own.to_uppercase(), own.to_uppercase(), NoRequest),
        (
            own.clone(),
            "katachi.localhost".to_owned(),
            Elsewhere(&[421]),
        ),
        (
            own.clone(),
            "katachi.localhost:443".to_owned(),
            Elsewhere(&[421]),
        ),
        (
            own.clone(),
            format!("katachi.localhost.:{port}"),
            Elsewhere(&[421]),
        ),
        (own.clone(), format!("[::1]:{port}"), Elsewhere(&[421])),
        (
            own.clone(),
            format!("k\u{e4}tachi.localhost:{port}"),
            Elsewhere(&[400, 421]),
        ),
        (
            own.clone(),
            format!("xn--ktachi-bua.localhost:{port}"),
            Elsewhere(&[421]),
        ),
        (
            own.clone(),
            format!("{own}@attacker.example"),
            Elsewhere(&[400, 421]),
        ),
    ] {
        let mut request = world.heartbeat(if matches!(verdict, Taken) { IDLE } else { BUSY });
        request.signed_host = signed.clone();
        let (lines, tail) = (request.lines(), request.tail());
        world.resign(&mut request, &lines, &tail);
        request.host = sent.clone();
        rows.push((format!("{signed} sent to {sent}"), request, verdict));
    }
    world.hold("S30", rows).await;
}

#[tokio::test]
async fn s34_both_versions_of_http_carry_the_same_signature_once() {
    let world = World::start().await;
    let tls = TlsConnector::from(std::sync::Arc::new(world.relay.tls(&[b"h2"])));
    let stream = TcpStream::connect(world.relay.address).await.unwrap();
    let name = ServerName::try_from("katachi.localhost").unwrap();
    let stream = TokioIo::new(tls.connect(name, stream).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut over_http_2 = async |sent: &Sent| {
        let uri = format!("https://{}{}", sent.host, sent.target);
        let mut request = Request::builder().method(sent.method.as_str()).uri(uri);
        for (name, value) in &sent.headers {
            request = request.header(name, value);
        }
        let body = Full::new(Bytes::from(sent.body.clone()));
        let answer = sender
            .send_request(request.body(body).unwrap())
            .await
            .unwrap();
        assert_eq!(answer.version(), http::Version::HTTP_2);
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        (
            status,
            body["error"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let taken = (200, String::new());
    let replayed = (401, "replayed".to_owned());
    let first = world.heartbeat(IDLE);
    let answer = world.send(&first).await;
    assert_eq!((answer.status, answer.error()), taken);
    assert_eq!(over_http_2(&first).await, replayed, "a copy over HTTP/2");
    let second = world.heartbeat(IDLE);
    assert_eq!(over_http_2(&second).await, taken);
    let answer = world.send(&second).await;
    assert_eq!(
        (answer.status, answer.error()),
        replayed,
        "a copy over HTTP/1.1"
    );
    // What belongs to the signature counts there too.
    let mut altered = world.heartbeat(BUSY);
    altered.target = "/v1/agent/heartbeat?x=1".to_owned();
    assert_eq!(over_http_2(&altered).await, (401, "refused".to_owned()));
}
