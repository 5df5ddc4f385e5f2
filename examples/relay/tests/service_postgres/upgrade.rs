//! An upgrade as the operator's guide has it: `migrate` before the start, with tables of an
//! older version and of a newer one.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::agent::TestAgent;
use crate::relay::TestRelay;
use crate::server;

/// Runs the program on the database of this state directory.
fn program(state: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_katachi-relay"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KATACHI_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).args(crate::arguments(state));
    command.output().unwrap()
}

/// Columns, constraints and indexes.
fn schema(state: &Path) -> String {
    server::sql(
        state,
        "SELECT table_name, column_name, data_type, is_nullable, column_default,
                generation_expression
            FROM information_schema.columns WHERE table_schema = 'katachi_relay' ORDER BY 1, 2;
         SELECT conrelid::regclass, conname, pg_get_constraintdef(oid)
            FROM pg_constraint WHERE connamespace = 'katachi_relay'::regnamespace ORDER BY 1, 2;
         SELECT indexdef FROM pg_indexes WHERE schemaname = 'katachi_relay' ORDER BY 1;
         SELECT step FROM katachi_relay.migrations ORDER BY 1",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_brings_older_tables_up_to_date_and_newer_ones_are_refused() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let relay = TestRelay::start_with(Arc::clone(&state), |_| {}).await;
    let browser = relay.browser_of("ana@example.org").await;
    let mut agent = TestAgent::approved(&relay, &browser).await;
    let config = json!({
        "command": ["x"], "env": {}, "secrets": {"T": "kept"}, "released_to": [agent.id],
    });
    let stored = browser
        .send(Method::PUT, "/api/mcp/kept", Some(config))
        .await;
    assert_eq!(stored.status(), StatusCode::OK);
    drop(relay.stop().await);

    let current = schema(state.path());
    server::sql(state.path(), include_str!("older.sql"));
    let older = schema(state.path());
    assert!(!older.contains("key_made_ms") && older != current);
    // Once, and once more with nothing to do.
    for _ in 0..2 {
        let done = program(state.path(), &["migrate"]);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}");
        assert_eq!(schema(state.path()), current);
    }
    // Everything is there for the relay of this version.
    let relay = TestRelay::start_with(Arc::clone(&state), |_| {}).await;
    let browser = relay.signed_in("ana@example.org").await;
    let epoch = browser.json("/v1/epoch").await;
    agent.set_epoch(epoch["epoch"].as_str().unwrap());
    let mcp = agent.call(&relay, Method::GET, "/v1/agent/mcp", None).await;
    assert_eq!(
        mcp.body["configs"][0]["secrets"]["T"], "kept",
        "{}",
        mcp.body
    );
    assert_eq!(browser.json("/api/audit").await["intact"], true);
    drop(relay.stop().await);

    server::sql(
        state.path(),
        "INSERT INTO katachi_relay.migrations VALUES (1000)",
    );
    let (tables, newer) = (server::tables(state.path()), schema(state.path()));
    let directory = state.path().to_str().unwrap();
    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--no-keychain",
        "--state-dir",
        directory,
    ];
    for arguments in [&["migrate"][..], &serve] {
        let refused = program(state.path(), arguments);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success(), "{arguments:?}");
        assert!(
            said.contains("this database was made by a newer version"),
            "{arguments:?}: {said}"
        );
    }
    assert_eq!(server::tables(state.path()), tables);
    assert_eq!(schema(state.path()), newer);
}
