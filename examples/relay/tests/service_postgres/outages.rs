//! The database stops, another relay comes, the vault is another's.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use katachi_relay::{Config, DatabaseSource, KeychainUse, PostgresUrl, Relay};
use reqwest::StatusCode;
use serde_json::Value;
use tempfile::TempDir;

use crate::postgres::Postgres;
use crate::relay::TestRelay;
use crate::server::local_url;

fn source(postgres: &Postgres) -> DatabaseSource {
    DatabaseSource::Postgres(Box::new(PostgresUrl::parse(&local_url(postgres)).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_calls_fail_closed_and_then_go_on() {
    let mut postgres = Postgres::start(&[]);
    let state = Arc::new(tempfile::tempdir().unwrap());
    let relay = TestRelay::start_with(state, |config| config.database = source(&postgres)).await;
    let browser = relay.browser_of("ana@example.org").await;
    assert_eq!(browser.get("/readyz").await.status(), StatusCode::OK);

    postgres.kill();
    for path in ["/api/me", "/api/agents", "/readyz"] {
        let asked = Instant::now();
        let refused = browser.get(path).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(asked.elapsed() < Duration::from_secs(2), "{path}");
        if path != "/readyz" {
            assert_eq!(refused.headers()["retry-after"], "1", "{path}");
        }
    }
    // What needs no database goes on.
    assert_eq!(browser.get("/healthz").await.status(), StatusCode::OK);

    postgres.run();
    let recovered = Instant::now();
    while browser.get("/api/me").await.status() != StatusCode::OK {
        assert!(recovered.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let audit = browser.json("/api/audit").await;
    assert_eq!(audit["intact"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_has_a_deadline() {
    let postgres = Postgres::start(&[]);
    let state = Arc::new(tempfile::tempdir().unwrap());
    let relay = TestRelay::start_with(state, |config| config.database = source(&postgres)).await;
    let browser = relay.browser_of("ana@example.org").await;
    postgres.signal("-STOP");
    let asked = Instant::now();
    let refused = browser.get("/api/me").await.status();
    let waited = asked.elapsed();
    postgres.signal("-CONT");
    assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE);
    assert!(waited < Duration::from_secs(15), "{waited:?}");
    assert_eq!(browser.get("/api/me").await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_with_another_vault_is_refused() {
    let postgres = Postgres::start(&[]);
    let bind = async |state: &Path| {
        let mut config = Config::local(state);
        config.keychain = KeychainUse::Never;
        config.database = source(&postgres);
        Relay::bind(config).await
    };
    let (ours, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    bind(ours.path()).await.unwrap();
    let refused = bind(other.path()).await.unwrap_err().to_string();
    assert!(refused.contains("belongs to another relay"), "{refused}");
    bind(ours.path()).await.unwrap();
}

/// A relay as a process of its own, and what it says when it listens.
fn process(state: &Path, url: &str) -> (Child, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_katachi-relay"))
        .args(["serve", "--listen", "127.0.0.1:0", "--no-keychain"])
        .args(["--ready-json", "--state-dir"])
        .arg(state)
        .env("KATACHI_RELAY_DATABASE", url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    (child, serde_json::from_str(&line).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_takes_the_service_over_and_the_first_one_ends() {
    let postgres = Postgres::start(&[]);
    let state = Arc::new(tempfile::tempdir().unwrap());
    let (mut first, ready) = process(state.path(), &local_url(&postgres));
    let relay = TestRelay::of_process(&ready, Arc::clone(&state));
    relay.browser_of("ana@example.org").await;

    let (mut second, ready) = process(state.path(), &local_url(&postgres));
    let ended = wait(&mut first);
    assert!(!ended.success());
    let mut said = String::new();
    first
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(
        said.contains("another relay has taken the database over"),
        "{said}"
    );
    let relay = TestRelay::of_process(&ready, state);
    relay.signed_in("ana@example.org").await;
    second.kill().unwrap();
    second.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_sign_ups_nothing_confirmed_is_lost() {
    let postgres = Postgres::start(&[]);
    let state: Arc<TempDir> = Arc::new(tempfile::tempdir().unwrap());
    let (mut child, ready) = process(state.path(), &local_url(&postgres));
    let relay = Arc::new(TestRelay::of_process(&ready, Arc::clone(&state)));
    let (confirm, mut confirmed) = tokio::sync::mpsc::unbounded_channel();
    let signing_up = tokio::spawn(async move {
        for number in 0.. {
            let email = format!("user-{number}@example.org");
            relay.browser_of(&email).await;
            confirm.send(email).unwrap();
        }
    });
    let mut accounts = Vec::new();
    for _ in 0..3 {
        accounts.push(confirmed.recv().await.unwrap());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(signing_up.await.is_err(), "it went on without a relay");
    while let Ok(email) = confirmed.try_recv() {
        accounts.push(email);
    }
    let (mut child, ready) = process(state.path(), &local_url(&postgres));
    let relay = TestRelay::of_process(&ready, state);
    for email in accounts {
        let browser = relay.signed_in(&email).await;
        assert_eq!(browser.json("/api/audit").await["intact"], true);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

fn wait(child: &mut Child) -> std::process::ExitStatus {
    let asked = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(asked.elapsed() < Duration::from_secs(15), "it goes on");
        std::thread::sleep(Duration::from_millis(50));
    }
}
