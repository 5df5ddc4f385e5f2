//! What a dump of the database tells.

use std::sync::Arc;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::agent::{TestAgent, start_device};
use crate::input::process::Process;
use crate::relay::TestRelay;
use crate::server;

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_holds_nothing_that_was_told_in_confidence() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("canary-address@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    start_device(&relay).await;
    let config = json!({
        "command": ["canary-program", "canary-argument"],
        "env": {"LOG": "canary-variable"},
        "secrets": {"TOKEN": "canary-secret"},
        "released_to": [agent.id],
    });
    let stored = browser
        .send(Method::PUT, "/api/mcp/github", Some(config))
        .await;
    assert_eq!(stored.status(), StatusCode::OK);
    let host = browser.json("/api/agents").await["agents"][0]["host_name"].clone();
    let host = host.as_str().unwrap();
    assert!(!host.is_empty());

    let dump = server::dump(relay.state.path());
    let holds = |text: &str| {
        // A dump writes bytes as hexadecimal.
        let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        let dump = String::from_utf8_lossy(&dump);
        dump.contains(text) || dump.contains(&hex)
    };
    // The dump has the rows: closed words are plain, and so is the name.
    assert!(holds("mcp_changed") && holds("github") && holds(&agent.id));
    for private in ["canary", "example.org", "argon2id", host] {
        assert!(!holds(private), "{private}");
    }
    // The same search finds what is there as bytes.
    server::sql(
        relay.state.path(),
        "UPDATE katachi_relay.device_grants SET record = 'canary-address'",
    );
    let dump = server::dump(relay.state.path());
    let hex: String = b"canary".iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(String::from_utf8_lossy(&dump).contains(&hex));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_cell_opens_in_no_other_place() {
    let relay = TestRelay::start().await;
    let ana = relay.browser_of("ana@example.org").await;
    let bob = relay.browser_of("bob@example.org").await;
    assert_eq!(ana.json("/api/me").await["email"], "ana@example.org");
    server::sql(
        relay.state.path(),
        "ALTER TABLE katachi_relay.users DROP CONSTRAINT users_one_key;
         UPDATE katachi_relay.users SET address =
            (SELECT address FROM katachi_relay.users u WHERE u.id > users.id OR u.id < users.id LIMIT 1)",
    );
    for browser in [ana, bob] {
        let refused = browser.get("/api/me").await;
        assert_eq!(refused.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e16_a_sealed_secret_of_another_place_or_time_is_refused_and_noticed() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let process = Process::start(&state);
    let relay = &process.relay;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(relay, &browser).await;
    let put = async |name: &str, secret: &str| {
        let config = json!({
            "command": ["x"], "env": {}, "secrets": {"TOKEN": secret}, "released_to": [agent.id],
        });
        let path = format!("/api/mcp/{name}");
        let stored = browser.send(Method::PUT, &path, Some(config)).await;
        assert_eq!(stored.status(), StatusCode::OK);
    };
    let fetched = async || {
        agent
            .call(relay, http::Method::GET, "/v1/agent/mcp", None)
            .await
    };
    let sql = |text: &str| server::sql(state.path(), text);
    let sealed = |name: &str| {
        format!("(SELECT sealed FROM katachi_relay.mcp_secrets WHERE config = '{name}')")
    };
    put("github", "canary-old").await;
    sql("CREATE TABLE kept AS SELECT config, sealed FROM katachi_relay.mcp_secrets");
    put("github", "canary-new").await;
    put("gitlab", "canary-other").await;
    let good = fetched().await;
    assert_eq!((good.status, good.signed), (StatusCode::OK, true));
    assert!(good.body.to_string().contains("canary-new"));
    sql("CREATE TABLE good AS SELECT config, sealed FROM katachi_relay.mcp_secrets");
    let restore = "UPDATE katachi_relay.mcp_secrets m SET sealed = g.sealed
        FROM good g WHERE g.config = m.config";
    let swap = format!(
        "UPDATE katachi_relay.mcp_secrets SET sealed =
            CASE config WHEN 'github' THEN {} ELSE {} END",
        sealed("gitlab"),
        sealed("github"),
    );
    let back = "UPDATE katachi_relay.mcp_secrets m SET sealed = k.sealed
        FROM kept k WHERE k.config = m.config";
    for (what, attack) in [("swapped", swap.as_str()), ("an older one", back)] {
        sql(attack);
        let refused = fetched().await;
        assert_eq!(refused.status, StatusCode::INTERNAL_SERVER_ERROR, "{what}");
        assert!(!refused.body.to_string().contains("canary"), "{what}");
        sql(restore);
        assert_eq!(fetched().await.status, StatusCode::OK, "{what}, restored");
    }
    let log = process.stop();
    let noticed = log.lines().filter(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["level"] == "ERROR" && line["fields"]["message"] == "request failed"
    });
    assert_eq!(noticed.count(), 2, "the operator sees both");
    assert!(!log.contains("canary"));
}
