//! Writers at once, which the embedded database never has.

use std::collections::BTreeSet;
use std::sync::Arc;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::relay::TestRelay;

#[tokio::test(flavor = "multi_thread")]
async fn writers_at_once_lose_nothing_and_the_log_stays_a_chain() {
    let relay = TestRelay::start().await;
    let browser = Arc::new(relay.browser_of("ana@example.org").await);
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let browser = Arc::clone(&browser);
        writers.spawn(async move {
            let config = json!({"command": ["x"], "env": {}, "secrets": {}, "released_to": []});
            let stored = browser
                .send(Method::PUT, "/api/mcp/shared", Some(config))
                .await;
            assert_eq!(stored.status(), StatusCode::OK);
            let stored: Value = stored.json().await.unwrap();
            stored["version"].as_u64().unwrap()
        });
    }
    let versions: BTreeSet<u64> = writers.join_all().await.into_iter().collect();
    assert_eq!(versions, (1..=40).collect());
    let audit = browser.json("/api/audit").await;
    assert_eq!(audit["intact"], true);
    let changes = audit["entries"].as_array().unwrap().iter();
    let changes = changes.filter(|entry| entry["action"] == "mcp_changed");
    assert_eq!(changes.count(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_accounts_for_one_address_at_once_one_is_made() {
    let relay = Arc::new(TestRelay::start().await);
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let relay = Arc::clone(&relay);
        writers.spawn(async move {
            let account = json!({"email": "ana@example.org", "password": crate::relay::PASSWORD});
            relay.browser().post("/api/signup", account).await.status()
        });
    }
    let answers = writers.join_all().await;
    let made = answers.iter().filter(|status| status.is_success()).count();
    assert_eq!(made, 1, "{answers:?}");
}
