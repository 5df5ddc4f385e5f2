//! MCP configurations and their secrets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::agent::TestAgent;
use crate::relay::TestRelay;

const SECRET: &str = "canary-token-4f1c";

fn github(released_to: &[&str]) -> Value {
    json!({
        "command": ["npx", "server-github"],
        "env": {"LOG": "info"},
        "secrets": {"GITHUB_TOKEN": SECRET},
        "released_to": released_to,
    })
}

#[tokio::test]
async fn a_secret_goes_in_and_only_its_ciphertext_comes_out() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let stored = browser
        .send(Method::PUT, "/api/mcp/github", Some(github(&[])))
        .await;
    assert_eq!(stored.status(), StatusCode::OK);
    let stored: Value = stored.json().await.unwrap();
    assert_eq!(stored["version"], 1);
    let list = browser.json("/api/mcp").await;
    assert_eq!(list["configs"][0]["secret_names"], json!(["GITHUB_TOKEN"]));
    let sealed = browser.json("/api/mcp/github/sealed").await;
    let cell = &sealed["cells"][0];
    assert_eq!(cell["context"]["table"], "mcp_secrets");
    assert_eq!(cell["context"]["row"], "github/GITHUB_TOKEN");
    let envelope = STANDARD.decode(cell["sealed"].as_str().unwrap()).unwrap();
    assert_eq!(&envelope[..4], b"KTC\x01");
    for text in [stored.to_string(), list.to_string(), sealed.to_string()] {
        assert!(!text.contains(SECRET));
    }
    assert!(
        !envelope
            .windows(SECRET.len())
            .any(|window| window == SECRET.as_bytes())
    );
}

#[tokio::test]
async fn a_signature_reaches_the_agent_it_is_for_and_is_sealed() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let other = TestAgent::approved(&relay, &browser).await;
    let signature = json!({ "device": "d".repeat(43), "signed_at": 1_800_000_000, "signature": "s".repeat(86) });
    let mut config = github(&[&agent.id, &other.id]);
    config["signatures"] = json!({ &agent.id: signature });
    let stored = browser
        .send(Method::PUT, "/api/mcp/github", Some(config.clone()))
        .await;
    let stored: Value = stored.json().await.unwrap();
    assert_eq!(stored["signed_for"], json!([agent.id]));
    assert_eq!(stored["secret_names"], json!(["GITHUB_TOKEN"]));
    for (one, expected) in [(&agent, signature), (&other, Value::Null)] {
        let answer = one
            .call(&relay, http::Method::GET, "/v1/agent/mcp", None)
            .await;
        assert_eq!(answer.body["configs"][0]["signature"], expected);
        let secrets = &answer.body["configs"][0]["secrets"];
        assert_eq!(secrets.as_object().unwrap().len(), 1);
    }
    let sealed = browser.json("/api/mcp/github/sealed").await.to_string();
    assert!(sealed.contains("signature/") && !sealed.contains(&"s".repeat(86)));

    config["released_to"] = json!([other.id]);
    let refused = browser
        .send(Method::PUT, "/api/mcp/github", Some(config))
        .await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_agent_receives_a_secret_only_once_it_was_released_to_it() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let other = TestAgent::approved(&relay, &browser).await;
    browser
        .send(Method::PUT, "/api/mcp/github", Some(github(&[])))
        .await;
    let answer = agent
        .call(&relay, http::Method::GET, "/v1/agent/mcp", None)
        .await;
    assert!(answer.signed);
    assert_eq!(answer.body["configs"][0]["released"], false);
    assert!(!answer.body.to_string().contains(SECRET));

    browser
        .send(Method::PUT, "/api/mcp/github", Some(github(&[&agent.id])))
        .await;
    let answer = agent
        .call(&relay, http::Method::GET, "/v1/agent/mcp", None)
        .await;
    assert_eq!(answer.body["configs"][0]["secrets"]["GITHUB_TOKEN"], SECRET);
    assert_eq!(answer.body["configs"][0]["version"], 2);
    let answer = other
        .call(&relay, http::Method::GET, "/v1/agent/mcp", None)
        .await;
    assert!(!answer.body.to_string().contains(SECRET));
}

#[tokio::test]
async fn another_account_sees_nothing_of_it() {
    let relay = TestRelay::start().await;
    let ana = relay.browser_of("ana@example.org").await;
    let ben = relay.browser_of("ben@example.org").await;
    ana.send(Method::PUT, "/api/mcp/github", Some(github(&[])))
        .await;
    assert_eq!(ben.json("/api/mcp").await["configs"], json!([]));
    for path in ["/api/mcp/github", "/api/mcp/github/sealed"] {
        assert_eq!(ben.get(path).await.status(), StatusCode::NOT_FOUND);
    }
    assert_eq!(
        ben.send(Method::DELETE, "/api/mcp/github", None)
            .await
            .status(),
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        relay.browser().get("/api/mcp").await.status(),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        ana.send(Method::DELETE, "/api/mcp/github", None)
            .await
            .status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(ana.json("/api/mcp").await["configs"], json!([]));
}

#[tokio::test]
async fn what_is_not_a_configuration_changes_nothing() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let with = |change: fn(&mut Value)| {
        let mut config = github(&[]);
        change(&mut config);
        config
    };
    for (name, config) in [
        ("Bad%20Name", github(&[])),
        ("-x", github(&[])),
        ("x", with(|c| c["command"] = json!([]))),
        ("x", with(|c| c["command"] = json!([""]))),
        ("x", with(|c| c["env"] = json!({"1X": "y"}))),
        ("x", with(|c| c["env"] = json!({"GITHUB_TOKEN": "y"}))),
        ("x", with(|c| c["secrets"] = json!({"A=B": "y"}))),
        ("x", with(|c| c["secrets"] = json!({"A": "y".repeat(9000)}))),
        ("x", with(|c| c["unknown"] = json!(1))),
    ] {
        let answer = browser
            .send(
                Method::PUT,
                &format!("/api/mcp/{name}"),
                Some(config.clone()),
            )
            .await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{name} {config}");
    }
    assert_eq!(browser.json("/api/mcp").await["configs"], json!([]));
    let variables: serde_json::Map<_, _> = (0..5)
        .map(|n| (format!("V{n}"), json!("y".repeat(8000))))
        .collect();
    let mut config = github(&[]);
    config["env"] = Value::Object(variables);
    let answer = browser.send(Method::PUT, "/api/mcp/x", Some(config)).await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
}
