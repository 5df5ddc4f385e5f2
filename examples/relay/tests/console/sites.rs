//! Other people's sites, in the browser of somebody who is signed in to the relay.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use http::StatusCode;
use libtest_mimic::Failed;
use serde_json::json;

use crate::agent::{TestAgent, start_device, wait_until_online};
use crate::chromium;
use crate::relay::{PASSWORD, TestRelay};

/// Plays `sites.cjs`, and looks at what came of it at the relay.
pub(crate) async fn try_everything() -> Result<(), Failed> {
    let relay = TestRelay::start().await;
    let ana = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &ana).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let listening = Router::new().fallback(move || async move {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let _tunnel = agent.open_tunnel(&relay, listening, None).await;
    wait_until_online(&ana, &agent.id, true).await;
    let waiting = start_device(&relay).await;
    let actions = async || {
        let audit = ana.json("/api/audit").await;
        let entries = audit["entries"].as_array().unwrap().clone();
        let actions = entries.iter().map(|entry| entry["action"].clone());
        actions
            .filter(|action| action != "signed_in" && action != "signed_out")
            .collect::<Vec<_>>()
    };
    let before = actions().await;

    let names = ["*.localhost", "localhost"].map(str::to_owned);
    let certificate = rcgen::generate_simple_self_signed(names)?;
    let profile = tempfile::tempdir()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/console/sites.cjs");
    let played = tokio::process::Command::new("node")
        .arg(script)
        .env("NODE_PATH", chromium::node_path().unwrap())
        .env("CHROMIUM", chromium::chromium().unwrap())
        .env("RELAY", &relay.url)
        .env("USER_CODE", waiting["user_code"].as_str().unwrap())
        .env("AGENT", &agent.id)
        .env("PASSWORD", PASSWORD)
        .env("PROFILE", profile.path())
        .env("CERTIFICATE", certificate.cert.pem())
        .env("KEY", certificate.signing_key.serialize_pem())
        .kill_on_drop(true)
        .output();
    let played = tokio::time::timeout(Duration::from_secs(120), played).await??;
    if !played.status.success() {
        let said = [played.stdout, played.stderr].concat();
        return Err(String::from_utf8_lossy(&said).into_owned().into());
    }
    // The device still waits, the agent is there, and nothing reached it.
    assert_eq!(actions().await, before);
    wait_until_online(&ana, &agent.id, true).await;
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    let code = json!({"user_code": waiting["user_code"]});
    let approved = ana.post("/api/device/approve", code).await;
    assert_eq!(approved.status(), StatusCode::NO_CONTENT);
    Ok(())
}
