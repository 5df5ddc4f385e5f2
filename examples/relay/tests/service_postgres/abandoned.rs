//! Requests whose sender goes away in the middle: what was begun is done to its end.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde_json::json;

use crate::agent::TestAgent;
use crate::relay::TestRelay;
use crate::server;

/// Keeps everybody from writing to a table.
struct Held<'a> {
    state: &'a Path,
    session: Child,
}

impl<'a> Held<'a> {
    fn writers_of(state: &'a Path, table: &str) -> Self {
        let hold = format!("BEGIN; LOCK TABLE {table} IN SHARE MODE; SELECT pg_sleep(60)");
        let session = server::psql(state, &hold);
        let locks = format!(
            "SELECT count(*) FROM pg_locks WHERE relation = '{table}'::regclass
             AND mode = 'ShareLock' AND granted"
        );
        let began = Instant::now();
        while server::sql(state, &locks).trim() == "0" {
            assert!(began.elapsed() < Duration::from_secs(30));
        }
        Self { state, session }
    }

    async fn until_somebody_waits(&self) {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        while server::sql(self.state, waiting).trim() == "0" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn let_go(mut self) {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE query LIKE '%pg_sleep(60)' AND pid <> pg_backend_pid()
            AND datname = current_database()";
        server::sql(self.state, end);
        let _ = self.session.wait();
    }
}

/// Sends a request that has to wait for `table`, and goes away before its answer.
async fn abandon(relay: &TestRelay, table: &str, request: impl Future<Output = reqwest::Response>) {
    let held = Held::writers_of(relay.state.path(), table);
    tokio::select! {
        biased;
        answer = request => panic!("it was answered: {}", answer.status()),
        () = held.until_somebody_waits() => {}
    }
    // The relay sees that the other end is gone; then it can go on.
    tokio::time::sleep(Duration::from_millis(300)).await;
    held.let_go();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_removed_though_whoever_removed_it_did_not_wait() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let call = async || {
        let body = Some(json!({"state": "busy"}));
        let path = katachi_protocol::routes::HEARTBEAT;
        agent.call(&relay, Method::POST, path, body).await
    };
    assert_eq!(call().await.status, StatusCode::OK);
    let path = format!("/api/agents/{}", agent.id);
    let removal = browser.send(Method::DELETE, &path, None);
    abandon(&relay, "katachi_relay.agents", removal).await;

    let began = Instant::now();
    while !browser.json("/api/audit").await["entries"]
        .to_string()
        .contains("agent_removed")
    {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "the log does not say so"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = call().await;
    assert_eq!(
        (refused.status, refused.signed),
        (StatusCode::UNAUTHORIZED, true)
    );
    assert_eq!(refused.body["error"], "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_in_the_log_though_whoever_made_it_did_not_wait() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let config = json!({"command": ["x"], "env": {}, "secrets": {}, "released_to": []});
    let change = browser.send(Method::PUT, "/api/mcp/one", Some(config));
    abandon(&relay, "katachi_relay.mcp_configs", change).await;

    let began = Instant::now();
    while !browser.json("/api/audit").await["entries"]
        .to_string()
        .contains("mcp_changed")
    {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "the log does not say so"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(browser.json("/api/mcp/one").await["version"], 1);
}
