//! An agent's key in two places: its tunnels take each other's place, and both are kept
//! out until the owner has decided. And an agent that moves more than it may.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::agent::{TestAgent, wait_until_online};
use crate::relay::{Browser, TestRelay};

async fn actions(browser: &Browser) -> Vec<String> {
    let audit = browser.json("/api/audit").await;
    assert_eq!(audit["intact"], true);
    let entries = audit["entries"].as_array().unwrap().iter();
    entries
        .map(|entry| entry["action"].as_str().unwrap().to_owned())
        .collect()
}

fn count(actions: &[String], word: &str) -> usize {
    actions.iter().filter(|action| *action == word).count()
}

async fn until(browser: &Browser, word: &str, times: usize) {
    let began = Instant::now();
    while count(&actions(browser).await, word) < times {
        assert!(began.elapsed() < Duration::from_secs(30), "no {word}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_copied_key_is_refused_to_both_until_the_owner_lets_it_in() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let stranger = relay.browser_of("ben@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let spared = TestAgent::approved(&relay, &browser).await;
    let router = || Router::new().route("/v1/channel", post(|| async { "here" }));
    let mut open = vec![agent.open_tunnel(&relay, router(), None).await.unwrap()];
    open.push(spared.open_tunnel(&relay, router(), None).await.unwrap());
    // One that moves three times in a minute is an agent that moves.
    for flip in 1..=3 {
        wait_until_online(&browser, &agent.id, true).await;
        open.push(agent.open_tunnel(&relay, router(), None).await.unwrap());
        until(&browser, "tunnel_replaced", flip).await;
    }
    assert_eq!(count(&actions(&browser).await, "agent_quarantined"), 0);
    wait_until_online(&browser, &agent.id, true).await;
    open.push(agent.open_tunnel(&relay, router(), None).await.unwrap());
    until(&browser, "agent_quarantined", 1).await;
    wait_until_online(&browser, &agent.id, false).await;

    // Neither place has anything of it, and each is told.
    let refused = agent.try_open_tunnel(&relay, router(), None).await;
    let (status, body) = refused.unwrap_err().unwrap();
    assert_eq!(
        (status, &body["error"]),
        (StatusCode::FORBIDDEN, &json!("quarantined"))
    );
    let secrets = agent.call(&relay, Method::GET, "/v1/agent/mcp", None).await;
    assert_eq!(
        (secrets.status, secrets.signed),
        (StatusCode::FORBIDDEN, true)
    );
    let list = browser.json("/api/agents").await;
    let of = |id: &str| -> Value {
        let all = list["agents"].as_array().unwrap();
        all.iter().find(|agent| agent["id"] == id).unwrap().clone()
    };
    assert!(of(&agent.id)["quarantined_at"].is_u64());
    assert_eq!(of(&spared.id)["quarantined_at"], Value::Null);
    assert_eq!(of(&spared.id)["online"], true);

    // It outlives the relay, and nobody but the owner ends it.
    let port = relay.address.port();
    let state = relay.stop().await;
    let relay = TestRelay::start_with(state, |config| config.listen.set_port(port)).await;
    let release = format!("/api/agents/{}/release", agent.id);
    let answer = stranger.send(Method::POST, &release, None).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    let mut agent = agent;
    let stale = agent.call(&relay, Method::GET, "/v1/agent/mcp", None).await;
    agent.set_epoch(stale.body["epoch"].as_str().unwrap());
    let still = agent.call(&relay, Method::GET, "/v1/agent/mcp", None).await;
    assert_eq!(
        (still.status, &still.body["error"]),
        (StatusCode::FORBIDDEN, &json!("quarantined"))
    );
    let answer = browser.send(Method::POST, &release, None).await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    let answer = browser.send(Method::POST, &release, None).await;
    assert_eq!(
        answer.status(),
        StatusCode::NOT_FOUND,
        "it is not kept out any more"
    );
    let _open = agent.open_tunnel(&relay, router(), None).await.unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    assert_eq!(count(&actions(&browser).await, "agent_released"), 1);
}

/// Bytes that a browser gets of an agent that sends as much as it is let, and for how long.
async fn streamed(bytes_per_second: u64, enough: usize) -> (usize, Duration) {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let relay = TestRelay::start_with(state, |config| {
        config.limits.agent_bytes_per_second = bytes_per_second;
    })
    .await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let flood = || async {
        let piece = Bytes::from(vec![b'x'; 16 * 1024]);
        let pieces =
            futures_util::stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone()));
        Response::new(Body::from_stream(pieces))
    };
    let router = Router::new().route("/v1/channel", post(flood));
    let _open = agent.open_tunnel(&relay, router, None).await.unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    let began = Instant::now();
    let mut carried = browser.carry(&agent.id, "x").await.unwrap();
    let got = AtomicUsize::new(0);
    let read = async {
        while got.load(Ordering::SeqCst) < enough
            && let Some(piece) = carried.next().await
        {
            got.fetch_add(piece.len(), Ordering::SeqCst);
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(3), read).await;
    (got.into_inner(), began.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_moves_no_more_bytes_in_a_second_than_it_may() {
    const RATE: usize = 128 * 1024;
    let (got, took) = streamed(RATE as u64, 8 << 20).await;
    // A second's worth at once, then the rate, and the frame that was taken last.
    let most = RATE as f64 * (1.0 + took.as_secs_f64()) + 64.0 * 1024.0;
    assert!(
        got > RATE / 2 && (got as f64) < most,
        "{got} bytes in {took:?}"
    );
    let (free, _) = streamed(1 << 40, 4 << 20).await;
    assert!(free >= 4 << 20, "{free} bytes where nothing holds it back");
}
