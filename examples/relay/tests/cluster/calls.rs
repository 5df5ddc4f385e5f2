//! What is counted once, whichever nodes it reaches.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::json;

use crate::agent::{TestAgent, start_device};
use crate::nodes::Cluster;
use crate::relay::PASSWORD;

#[tokio::test(flavor = "multi_thread")]
async fn of_64_copies_of_one_call_over_three_nodes_one_is_accepted() {
    let cluster = Arc::new(Cluster::start(3));
    let browser = cluster.node(0).browser_of("ana@example.org").await;
    let agent = Arc::new(TestAgent::approved(cluster.node(0), &browser).await);
    for round in 1..=3_u64 {
        let activity = json!({"kind": "message_received", "milliseconds": round});
        let mut request = TestAgent::request(
            cluster.node(0),
            Method::POST,
            "/v1/agent/activity",
            Some(&activity),
        );
        let binding = agent.sign(&mut request);
        let mut calls = tokio::task::JoinSet::new();
        for copy in 0..64 {
            let (cluster, agent) = (Arc::clone(&cluster), Arc::clone(&agent));
            let (request, binding) = (request.clone(), binding.clone());
            calls.spawn(async move {
                let node = cluster.node(copy % 3);
                let answer = agent.send(node, request, &binding).await;
                assert!(answer.signed);
                (answer.status, answer.body["error"].clone())
            });
        }
        let answers = calls.join_all().await;
        let accepted = answers.iter().filter(|answer| answer.0 == StatusCode::OK);
        assert_eq!(accepted.count(), 1, "{answers:?}");
        let replayed = answers.iter().filter(|answer| answer.1 == "replayed");
        assert_eq!(replayed.count(), 63, "{answers:?}");
        let noted = cluster
            .sql("SELECT count(*) FROM katachi_relay.audit WHERE action = 'message_received'");
        assert_eq!(noted, round.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_ins_to_one_account_are_counted_over_all_nodes() {
    let cluster = Arc::new(Cluster::start(3));
    cluster.node(0).browser_of("ana@example.org").await;
    let mut tries = tokio::task::JoinSet::new();
    for number in 0..30 {
        let cluster = Arc::clone(&cluster);
        tries.spawn(async move {
            let browser = cluster.node(number % 3).browser();
            let wrong =
                json!({"email": "ana@example.org", "password": format!("wrong {PASSWORD}")});
            browser.post("/api/login", wrong).await.status()
        });
    }
    let answers = tries.join_all().await;
    // The account has ten at once; from one address there may be twenty.
    let tried = answers
        .iter()
        .filter(|status| **status == StatusCode::UNAUTHORIZED);
    assert_eq!(tried.count(), 10, "{answers:?}");
    let refused = answers
        .iter()
        .filter(|status| **status == StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.count(), 20, "{answers:?}");
    // Who tried is in no table: tags alone.
    let rows = cluster.sql("SELECT encode(who, 'escape') FROM katachi_relay.throttles");
    assert!(
        !rows.contains("example") && !rows.contains("127.0.0"),
        "{rows}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_at_a_device_s_code_are_counted_over_all_nodes() {
    let cluster = Cluster::start(3);
    let mut browsers = vec![cluster.node(0).browser_of("ana@example.org").await];
    for node in 1..3 {
        browsers.push(cluster.node(node).signed_in("ana@example.org").await);
    }
    // Each browser is a session of its own, with five; the account has twenty.
    let started = start_device(cluster.node(0)).await;
    let mut guessed = 0;
    'guessing: for round in 0.. {
        assert!(round < 40, "nothing stops it");
        for (node, browser) in browsers.iter().enumerate() {
            let code = json!({"user_code": "BCDF-GHJK"});
            match browser.post("/api/device/approve", code).await.status() {
                StatusCode::NOT_FOUND => guessed += 1,
                StatusCode::TOO_MANY_REQUESTS if round >= 5 => break 'guessing,
                status => panic!("{status} at node {node} in round {round}"),
            }
        }
    }
    assert_eq!(guessed, 15);
    // More sessions, over all nodes, do not get past the account's twenty.
    for number in 0..7 {
        let browser = cluster.node(number % 3).signed_in("ana@example.org").await;
        let code = json!({"user_code": "BCDF-GHJK"});
        let status = browser.post("/api/device/approve", code).await.status();
        let expected = match number {
            0..5 => StatusCode::NOT_FOUND,
            _ => StatusCode::TOO_MANY_REQUESTS,
        };
        assert_eq!(status, expected, "{number}");
    }
    // Another account is let in: the code is known on every node.
    let other = cluster.node(2).browser_of("ben@example.org").await;
    let code = json!({"user_code": started["user_code"]});
    let approved = other.post("/api/device/approve", code).await.status();
    assert_eq!(approved, StatusCode::NO_CONTENT);
}
