//! Signed calls: accepted once, as they were signed, while the key holds.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode};
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::signature::{Profile, RequestBinding};
use serde_json::{Value, json};

use crate::agent::TestAgent;
use crate::relay::{Browser, TestRelay};

async fn set_up() -> (TestRelay, Browser, TestAgent) {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    (relay, browser, agent)
}

fn heartbeat(relay: &TestRelay) -> Request<Bytes> {
    TestAgent::request(
        relay,
        Method::POST,
        "/v1/agent/heartbeat",
        Some(&json!({"state": "busy"})),
    )
}

/// The same request once more, byte for byte.
fn copy(request: &Request<Bytes>) -> Request<Bytes> {
    request.clone()
}

#[tokio::test]
async fn a_heartbeat_is_accepted_and_the_answer_is_signed() {
    let (relay, browser, agent) = set_up().await;
    let answer = agent
        .call(
            &relay,
            Method::POST,
            "/v1/agent/heartbeat",
            Some(json!({"state": "busy"})),
        )
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.signed);
    assert!(answer.body["next_seconds"].as_u64().unwrap() > 0);
    let agents = browser.json("/api/agents").await;
    assert_eq!(agents["agents"][0]["state"], "busy");
    assert!(agents["agents"][0]["last_seen"].is_u64());
}

#[tokio::test]
async fn activity_is_chained_into_the_account_s_log() {
    let (relay, browser, agent) = set_up().await;
    let activity =
        json!({"kind": "action_denied", "outcome": "denied", "control": "read", "milliseconds": 3});
    let answer = agent
        .call(&relay, Method::POST, "/v1/agent/activity", Some(activity))
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    let audit = browser.json("/api/audit").await;
    assert_eq!(audit["intact"], true);
    let newest = &audit["entries"][0];
    assert_eq!(newest["hash"], answer.body["head"]);
    assert_eq!(newest["sequence"], answer.body["sequence"]);
    assert_eq!(newest["action"], "action_denied");
    assert_eq!(
        newest["detail"],
        "outcome=denied control=read milliseconds=3"
    );
    let free_text = json!({"kind": "run_started", "path": "/home/ana/secret-plan"});
    let answer = agent
        .call(&relay, Method::POST, "/v1/agent/activity", Some(free_text))
        .await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_same_bytes_are_accepted_once() {
    let (relay, _, agent) = set_up().await;
    let mut request = heartbeat(&relay);
    let binding = agent.sign(&mut request);
    let copies = (0..32).map(|_| agent.send(&relay, copy(&request), &binding));
    let answers = futures_util::future::join_all(copies).await;
    assert_eq!(
        answers
            .iter()
            .filter(|answer| answer.status == StatusCode::OK)
            .count(),
        1
    );
    for answer in answers
        .iter()
        .filter(|answer| answer.status != StatusCode::OK)
    {
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer.body["error"], "replayed");
        assert!(answer.signed, "who holds the key may know");
    }
}

#[tokio::test]
async fn a_request_of_another_time_is_refused() {
    let (relay, _, agent) = set_up().await;
    let now = SystemClock.now();
    for (at, accepted) in [
        (now.before(Duration::from_secs(55)), true),
        (now.before(Duration::from_secs(70)), false),
        (now.after(Duration::from_secs(3)), true),
        (now.after(Duration::from_secs(30)), false),
    ] {
        let mut request = heartbeat(&relay);
        let binding = agent.sign_as(&mut request, Profile::AGENT_REQUEST, at, None);
        let answer = agent.send(&relay, request, &binding).await;
        assert_eq!(answer.status == StatusCode::OK, accepted, "{at}");
        if !accepted {
            assert_eq!(answer.body["error"], "skew");
            assert!(answer.signed);
            let server = answer.body["server_time"].as_u64().unwrap();
            assert!(server.abs_diff(now.as_unix()) <= 30);
        }
    }
}

#[tokio::test]
async fn whatever_is_altered_the_answer_is_the_same_silence() {
    let (relay, _, agent) = set_up().await;
    type Alter = fn(&mut Request<Bytes>);
    let alterations: &[(&str, Alter)] = &[
        ("method", |request| *request.method_mut() = Method::DELETE),
        ("path", |request| {
            *request.uri_mut() = "/v1/agent/activity".parse().unwrap()
        }),
        ("query", |request| {
            *request.uri_mut() = "/v1/agent/heartbeat?x=1".parse().unwrap()
        }),
        ("no signature", |request| {
            drop(request.headers_mut().remove("signature"))
        }),
        ("no input", |request| {
            drop(request.headers_mut().remove("signature-input"))
        }),
        ("no digest", |request| {
            drop(request.headers_mut().remove("content-digest"))
        }),
        ("no epoch", |request| {
            drop(request.headers_mut().remove("katachi-epoch"))
        }),
        ("a header that changes the meaning", |request| {
            request
                .headers_mut()
                .insert("content-encoding", HeaderValue::from_static("gzip"));
        }),
        ("a bearer token instead", |request| {
            request.headers_mut().remove("signature");
            request
                .headers_mut()
                .insert("authorization", HeaderValue::from_static("Bearer x"));
        }),
        ("another key", |request| {
            let input = request.headers()["signature-input"].to_str().unwrap();
            let input = input.replace("keyid=\"", "keyid=\"0");
            request
                .headers_mut()
                .insert("signature-input", input.parse().unwrap());
        }),
        ("a parameter more", |request| {
            let input = format!(
                "{};x=1",
                request.headers()["signature-input"].to_str().unwrap()
            );
            request
                .headers_mut()
                .insert("signature-input", input.parse().unwrap());
        }),
        ("a shorter signature", |request| {
            request
                .headers_mut()
                .insert("signature", HeaderValue::from_static("katachi=:AAAA:"));
        }),
    ];
    let mut silence = None;
    for (what, alter) in alterations {
        let mut request = heartbeat(&relay);
        let binding = agent.sign(&mut request);
        alter(&mut request);
        let answer = agent.send(&relay, request, &binding).await;
        if *what == "method" {
            // Another method of this path is no route at all.
            assert!(answer.status.is_client_error());
            continue;
        }
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{what}");
        assert!(!answer.signed, "{what}");
        let said = answer.body.to_string();
        assert_eq!(*silence.get_or_insert(said.clone()), said, "{what}");
    }
    // A body that was exchanged fails after the signature, which is told.
    let mut request = heartbeat(&relay);
    let binding = agent.sign(&mut request);
    *request.body_mut() = Bytes::from_static(b"{\"state\":\"idle\"}");
    let answer = agent.send(&relay, request, &binding).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_signature_for_another_host_is_refused() {
    let (relay, _, agent) = set_up().await;
    let mut request = heartbeat(&relay);
    request
        .headers_mut()
        .insert("host", HeaderValue::from_static("attacker.example"));
    let binding = agent.sign(&mut request);
    let answer = agent.send(&relay, request, &binding).await;
    assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test]
async fn a_restarted_relay_refuses_what_was_signed_before_and_says_for_what_to_sign() {
    let (relay, _, mut agent) = set_up().await;
    let port = relay.address.port();
    let mut request = heartbeat(&relay);
    let binding = agent.sign(&mut request);
    assert_eq!(
        agent.send(&relay, copy(&request), &binding).await.status,
        StatusCode::OK
    );
    let state = relay.stop().await;
    let relay = TestRelay::start_with(state, |config| config.listen.set_port(port)).await;
    let answer = agent.send(&relay, request, &binding).await;
    assert_eq!(answer.body["error"], "stale_epoch");
    assert!(answer.signed);
    agent.set_epoch(answer.body["epoch"].as_str().unwrap());
    let answer = agent
        .call(
            &relay,
            Method::POST,
            "/v1/agent/heartbeat",
            Some(json!({"state": "idle"})),
        )
        .await;
    assert_eq!(answer.status, StatusCode::OK, "the key survived");
}

#[tokio::test]
async fn an_agent_that_was_removed_is_told_so_and_a_stranger_is_not() {
    let (relay, browser, agent) = set_up().await;
    let path = format!("/api/agents/{}", agent.id);
    let stranger = relay.browser_of("ben@example.org").await;
    let answer = stranger.send(reqwest::Method::DELETE, &path, None).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert_eq!(
        browser
            .send(reqwest::Method::DELETE, &path, None)
            .await
            .status(),
        StatusCode::NO_CONTENT
    );
    let answer = agent
        .call(
            &relay,
            Method::POST,
            "/v1/agent/heartbeat",
            Some(json!({"state": "idle"})),
        )
        .await;
    assert_eq!(
        (answer.status, answer.signed),
        (StatusCode::UNAUTHORIZED, true)
    );
    assert_eq!(answer.body["error"], "revoked");
}

#[tokio::test]
async fn an_agent_that_unregisters_leaves_nothing() {
    let (relay, browser, agent) = set_up().await;
    let answer = agent.call(&relay, Method::DELETE, "/v1/agent", None).await;
    assert_eq!(
        (answer.status, answer.signed),
        (StatusCode::NO_CONTENT, true)
    );
    assert_eq!(
        browser.json("/api/agents").await["agents"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    let answer = agent
        .call(
            &relay,
            Method::POST,
            "/v1/agent/heartbeat",
            Some(json!({"state": "idle"})),
        )
        .await;
    assert_eq!(
        (answer.status, answer.signed),
        (StatusCode::UNAUTHORIZED, false)
    );
    assert_eq!(answer.body["error"], "refused");
    let actions: Vec<Value> = browser.json("/api/audit").await["entries"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(actions[0]["action"], "agent_unregistered");
}

#[tokio::test]
async fn a_key_for_calls_opens_no_tunnel() {
    let (relay, _, agent) = set_up().await;
    let mut request = TestAgent::request(&relay, Method::GET, "/v1/tunnel", None);
    request
        .headers_mut()
        .insert("connection", HeaderValue::from_static("Upgrade"));
    request
        .headers_mut()
        .insert("upgrade", HeaderValue::from_static("katachi-tunnel/1"));
    let binding: RequestBinding = agent.sign(&mut request);
    let answer = agent.send(&relay, request, &binding).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}
