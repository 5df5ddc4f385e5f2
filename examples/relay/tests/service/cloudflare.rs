//! Tunnels at Cloudflare: made once, handed to their agent alone, removed with it.

use std::sync::Arc;
use std::time::Duration;

use katachi_protocol::Sensitive;
use katachi_relay::CloudflareConfig;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::agent::TestAgent;
use crate::cloudflare_api::{ACCOUNT, API_TOKEN, Api, Mood, ZONE};
use crate::relay::TestRelay;

const PROVIDE: &str = "/v1/agent/cloudflare";

async fn relay(api: &Api) -> TestRelay {
    let url = api.url();
    TestRelay::start_with(Arc::new(tempfile::tempdir().unwrap()), |config| {
        config.cloudflare = Some(CloudflareConfig {
            token: Sensitive::new(API_TOKEN),
            account: ACCOUNT.to_owned(),
            zone: ZONE.to_owned(),
            domain: "tunnels.example".to_owned(),
            api: url,
            edge: Some(([127, 0, 0, 1], 1).into()),
            authority: None,
        });
    })
    .await
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what} did not come");
}

#[tokio::test]
async fn a_tunnel_is_made_once_and_mended() {
    let api = Api::start().await;
    let relay = relay(&api).await;
    let browser = relay.browser_of("cloud@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let first = agent.call(&relay, Method::POST, PROVIDE, None).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.body);
    assert!(first.signed);
    let (hostname, token) = api.only();
    assert_eq!(first.body, json!({ "hostname": hostname, "token": token }));
    assert!(hostname.ends_with(".tunnels.example"), "{hostname}");
    assert!(!hostname.contains(&agent.id), "the name tells of the agent");

    api.lose_records();
    let second = agent.call(&relay, Method::POST, PROVIDE, None).await;
    assert_eq!(second.body, first.body, "another tunnel, or none");
    assert_eq!(api.left(), (1, 1));
    relay.stop().await;
}

#[tokio::test]
async fn what_the_api_refuses_is_told_without_its_secrets_and_its_wait_is_kept() {
    let api = Api::start().await;
    let relay = relay(&api).await;
    let browser = relay.browser_of("cloud@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    api.set(Mood::Away);
    let away = agent.call(&relay, Method::POST, PROVIDE, None).await;
    assert_eq!(away.status, StatusCode::BAD_GATEWAY, "{}", away.body);
    for secret in [ACCOUNT, API_TOKEN, "127.0.0.1"] {
        assert!(!away.body.to_string().contains(secret), "{}", away.body);
    }
    api.set(Mood::OutOfPatience);
    let limited = agent.call(&relay, Method::POST, PROVIDE, None).await;
    assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS);
    let calls = api.calls().len();
    api.set(Mood::Well);
    let still = agent.call(&relay, Method::POST, PROVIDE, None).await;
    assert_eq!(still.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(api.calls().len(), calls, "the API was not left in peace");
    tokio::time::sleep(Duration::from_secs(7)).await;
    let made = agent.call(&relay, Method::POST, PROVIDE, None).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.body);
    relay.stop().await;
}

#[tokio::test]
async fn an_agent_that_goes_takes_its_tunnel_along_even_if_the_api_is_away() {
    let api = Api::start().await;
    let relay = relay(&api).await;
    let browser = relay.browser_of("cloud@example.org").await;
    let gone = TestAgent::approved(&relay, &browser).await;
    let removed = TestAgent::approved(&relay, &browser).await;
    for agent in [&gone, &removed] {
        let made = agent.call(&relay, Method::POST, PROVIDE, None).await;
        assert_eq!(made.status, StatusCode::OK, "{}", made.body);
    }
    assert_eq!(api.left(), (2, 2));
    let unregistered = gone.call(&relay, Method::DELETE, "/v1/agent", None).await;
    assert_eq!(unregistered.status, StatusCode::NO_CONTENT);
    until("the end of one tunnel", || api.left() == (1, 1)).await;

    api.set(Mood::Away);
    let calls = api.calls().len();
    let path = format!("/api/agents/{}", removed.id);
    let answer = browser.send(Method::DELETE, &path, None).await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    until("a vain try", || api.calls().len() > calls).await;
    assert_eq!(api.left(), (1, 1));
    // Another process goes on with it.
    let state = relay.stop().await;
    api.set(Mood::Well);
    let url = api.url();
    let relay = TestRelay::start_with(state, |config| {
        config.cloudflare = Some(CloudflareConfig {
            token: Sensitive::new(API_TOKEN),
            account: ACCOUNT.to_owned(),
            zone: ZONE.to_owned(),
            domain: "tunnels.example".to_owned(),
            api: url,
            edge: None,
            authority: None,
        });
    })
    .await;
    // The row is looked at after the wait, or when something else happens.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let browser = relay.signed_in("cloud@example.org").await;
    let other = TestAgent::approved(&relay, &browser).await;
    let made = other.call(&relay, Method::POST, PROVIDE, None).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.body);
    until("the end of the other tunnel", || api.left() == (1, 1)).await;
    let refused = removed.call(&relay, Method::POST, PROVIDE, None).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{}", refused.body);
    assert_eq!(refused.body["error"], "revoked");
    assert_eq!(api.left(), (1, 1));
    relay.stop().await;
}

#[tokio::test]
async fn a_relay_without_an_account_says_so() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("cloud@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let answer = agent.call(&relay, Method::POST, PROVIDE, None).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert!(
        answer.body.to_string().contains("tunnel.carrier"),
        "{}",
        answer.body
    );
    relay.stop().await;
}
