//! Sessions that have become too old, by the rows that say how old they are: nothing of
//! theirs is answered any more, and what they had open ends.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::post;
use reqwest::StatusCode;

use crate::agent::{TestAgent, wait_until_online};
use crate::relay::TestRelay;
use crate::server;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_twelve_hours_after_its_last_use_and_after_thirty_days() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let relay = TestRelay::start_with(state, |config| {
        config.limits.session_check = Duration::from_millis(100);
    })
    .await;
    let owner = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &owner).await;
    let echo = post(async |body: Body| Response::new(Body::from_stream(body.into_data_stream())));
    let router = Router::new().route("/v1/channel", echo);
    let _open = agent.open_tunnel(&relay, router, None).await.unwrap();
    wait_until_online(&owner, &agent.id, true).await;
    // What ages, by how much, and whether the session lives on.
    for (aged, by, lives) in [
        ("seen_ms", 12 * HOUR - 5 * MINUTE, true),
        ("seen_ms", 12 * HOUR + MINUTE, false),
        ("created_ms", 30 * 24 * HOUR - 5 * MINUTE, true),
        ("created_ms", 30 * 24 * HOUR + MINUTE, false),
    ] {
        let browser = relay.signed_in("ana@example.org").await;
        let mut carried = browser.carry(&agent.id, "hello").await.unwrap();
        assert_eq!(carried.next().await.unwrap(), "hello");
        server::sql(
            relay.state.path(),
            &format!("UPDATE katachi_relay.sessions SET {aged} = {aged} - {by}"),
        );
        let what = format!("{aged} {by} ms ago");
        match lives {
            false => {
                let ended = async { while carried.next().await.is_some() {} };
                let ended = tokio::time::timeout(Duration::from_secs(30), ended).await;
                assert!(ended.is_ok(), "{what}: its channel goes on");
                let answer = browser.get("/api/agents").await;
                assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{what}");
                let opened = browser.carry(&agent.id, "hello").await;
                let Err((status, _)) = opened else {
                    panic!("{what}: it opens a channel");
                };
                assert_eq!(status, StatusCode::UNAUTHORIZED, "{what}");
            }
            true => {
                // It was looked at several times meanwhile.
                tokio::time::sleep(Duration::from_millis(500)).await;
                carried.send("still there").await;
                assert_eq!(carried.next().await.unwrap(), "still there", "{what}");
                let answer = browser.get("/api/agents").await;
                assert_eq!(answer.status(), StatusCode::OK, "{what}");
            }
        }
    }
}
