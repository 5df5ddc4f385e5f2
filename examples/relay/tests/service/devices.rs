//! The device authorization flow, and its abuse.

use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::device::dpop::ProofKey;
use katachi_auth::replay::{Epoch, Nonce};
use katachi_crypto::Secret;
use katachi_protocol::device::{CLIENT_ID, GRANT_TYPE};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::agent::{TestAgent, poll, start_device};
use crate::relay::{TestRelay, headers};

#[tokio::test]
async fn a_device_is_compared_approved_and_connected_once() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let started = start_device(&relay).await;
    let (user_code, device_code) = (
        started["user_code"].as_str().unwrap(),
        started["device_code"].as_str().unwrap(),
    );
    assert_eq!(started["interval"], 5);
    assert_eq!(started["verification_uri"], format!("{}/device", relay.url));
    assert!(
        started["verification_uri_complete"]
            .as_str()
            .unwrap()
            .ends_with(user_code)
    );

    let pending: Value = poll(&relay, device_code).await.json().await.unwrap();
    assert_eq!(pending["error"], "authorization_pending");

    let typed = user_code.to_lowercase().replace('-', "");
    let info = browser
        .json(&format!("/api/device?user_code={typed}"))
        .await;
    assert_eq!(info["user_code"], user_code);
    assert_eq!(info["host_name"], "testbox");
    assert_eq!(info["os"], "Linux");
    assert_eq!(info["address"], "127.0.0.1");
    assert!(info["age_seconds"].as_u64().unwrap() < 60);

    let approved = browser
        .post("/api/device/approve", json!({"user_code": typed}))
        .await;
    assert_eq!(approved.status(), StatusCode::NO_CONTENT);
    let token: Value = poll(&relay, device_code).await.json().await.unwrap();
    assert_eq!(token["approved_by"], "ana@example.org");
    let agent = TestAgent::from_token(&token);
    let agents = browser.json("/api/agents").await;
    assert_eq!(agents["agents"][0]["id"], agent.id.as_str());
    assert_eq!(agents["agents"][0]["online"], false);

    let again: Value = poll(&relay, device_code).await.json().await.unwrap();
    assert_eq!(again["error"], "invalid_grant");
}

#[tokio::test]
async fn of_fifty_polls_at_once_one_is_given_the_key() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let started = start_device(&relay).await;
    browser
        .post(
            "/api/device/approve",
            json!({"user_code": started["user_code"]}),
        )
        .await;
    let device_code = started["device_code"].as_str().unwrap();
    let polls = futures_util::future::join_all((0..50).map(|_| poll(&relay, device_code))).await;
    let given = polls
        .iter()
        .filter(|answer| answer.status() == StatusCode::OK)
        .count();
    assert_eq!(given, 1);
    assert_eq!(
        browser.json("/api/agents").await["agents"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_poll_that_comes_too_early_is_told_to_slow_down() {
    let relay = TestRelay::start().await;
    let started = start_device(&relay).await;
    let device_code = started["device_code"].as_str().unwrap();
    poll(&relay, device_code).await;
    let answer = poll(&relay, device_code).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(
        (body["error"].as_str(), body["interval"].as_u64()),
        (Some("slow_down"), Some(10))
    );
}

#[tokio::test]
async fn a_denied_device_learns_it_and_nothing_else() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let started = start_device(&relay).await;
    let code = json!({"user_code": started["user_code"]});
    assert_eq!(
        browser
            .post("/api/device/deny", code.clone())
            .await
            .status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        browser.post("/api/device/approve", code).await.status(),
        StatusCode::NOT_FOUND
    );
    let body: Value = poll(&relay, started["device_code"].as_str().unwrap())
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(body["error"], "access_denied");
    assert!(body.get("hmac_secret").is_none());
}

#[tokio::test]
async fn approving_needs_a_session_a_click_and_our_own_page() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let started = start_device(&relay).await;
    let code = json!({"user_code": started["user_code"]});
    assert_eq!(
        relay
            .browser()
            .post("/api/device/approve", code.clone())
            .await
            .status(),
        StatusCode::UNAUTHORIZED
    );
    let path = format!(
        "/api/device/approve?user_code={}",
        started["user_code"].as_str().unwrap()
    );
    assert_eq!(
        browser.get(&path).await.status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
    let foreign = headers(&[
        ("sec-fetch-site", "cross-site"),
        ("origin", "https://attacker.example"),
        ("content-type", "application/json"),
    ]);
    let answer = browser
        .raw(
            Method::POST,
            "/api/device/approve",
            foreign,
            code.to_string(),
        )
        .await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let body: Value = poll(&relay, started["device_code"].as_str().unwrap())
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(body["error"], "authorization_pending");
}

#[tokio::test]
async fn guessing_codes_ends_after_a_few() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(
            browser
                .get("/api/device?user_code=BBBB-BBBB")
                .await
                .status()
                .as_u16(),
        );
    }
    assert_eq!(statuses, [404, 404, 404, 404, 404, 429]);
}

#[tokio::test]
async fn a_device_code_is_useless_without_the_key_that_started_it() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let epoch: Value = relay.browser().json("/v1/epoch").await;
    let epoch = Epoch::parse(epoch["epoch"].as_str().unwrap()).unwrap();
    let key = ProofKey::from_seed(&Secret::new([7; 32]));
    let prove = |key: &ProofKey, path: &str, epoch: Option<&Epoch>| {
        let nonce = Nonce::random().unwrap();
        key.prove(
            "POST",
            &format!("{}{path}", relay.url),
            SystemClock.now(),
            &nonce,
            epoch,
        )
    };
    let send = async |path: &str, form: &[(&str, &str)], proof: Option<String>| {
        let mut request = relay
            .client()
            .post(format!("{}{path}", relay.url))
            .form(form);
        if let Some(proof) = proof {
            request = request.header("dpop", proof);
        }
        request.send().await.unwrap()
    };
    let start = [("client_id", CLIENT_ID)];
    let without_nonce = send(
        "/oauth/device_authorization",
        &start,
        Some(prove(&key, "/oauth/device_authorization", None)),
    )
    .await;
    assert_eq!(
        without_nonce.headers()["dpop-nonce"].to_str().unwrap(),
        epoch.to_string()
    );
    let body: Value = without_nonce.json().await.unwrap();
    assert_eq!(body["error"], "use_dpop_nonce");

    let proof = prove(&key, "/oauth/device_authorization", Some(&epoch));
    let started: Value = send("/oauth/device_authorization", &start, Some(proof))
        .await
        .json()
        .await
        .unwrap();
    browser
        .post(
            "/api/device/approve",
            json!({"user_code": started["user_code"]}),
        )
        .await;
    let form = [
        ("grant_type", GRANT_TYPE),
        ("device_code", started["device_code"].as_str().unwrap()),
        ("client_id", CLIENT_ID),
    ];
    let other = ProofKey::from_seed(&Secret::new([8; 32]));
    for proof in [None, Some(prove(&other, "/oauth/token", Some(&epoch)))] {
        let body: Value = send("/oauth/token", &form, proof)
            .await
            .json()
            .await
            .unwrap();
        assert_eq!(body["error"], "invalid_grant");
    }
    let proof = prove(&key, "/oauth/token", Some(&epoch));
    assert_eq!(
        send("/oauth/token", &form, Some(proof)).await.status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn forms_that_are_none_are_refused() {
    let relay = TestRelay::start().await;
    let browser = relay.browser();
    let form = headers(&[("content-type", "application/x-www-form-urlencoded")]);
    for (body, status, error) in [
        ("client_id=somebody-else", 400, "invalid_client"),
        ("", 400, "invalid_client"),
        ("client_id=a&client_id=b", 400, "invalid_request"),
        ("client_id=%ff", 400, "invalid_request"),
    ] {
        let answer = browser
            .raw(
                Method::POST,
                "/oauth/device_authorization",
                form.clone(),
                body,
            )
            .await;
        assert_eq!(answer.status().as_u16(), status, "{body}");
        assert_eq!(
            answer.json::<Value>().await.unwrap()["error"],
            error,
            "{body}"
        );
    }
    for (body, error) in [
        ("client_id=katachi-agent", "unsupported_grant_type"),
        (
            "grant_type=password&client_id=katachi-agent",
            "unsupported_grant_type",
        ),
        (
            "grant_type=urn:ietf:params:oauth:grant-type:device_code&client_id=katachi-agent",
            "invalid_request",
        ),
        (
            "grant_type=urn:ietf:params:oauth:grant-type:device_code&client_id=katachi-agent&device_code=x",
            "invalid_grant",
        ),
    ] {
        let answer = browser
            .raw(Method::POST, "/oauth/token", form.clone(), body)
            .await;
        assert_eq!(
            answer.json::<Value>().await.unwrap()["error"],
            error,
            "{body}"
        );
    }
}

#[tokio::test]
async fn the_metadata_names_the_endpoints() {
    let relay = TestRelay::start().await;
    let metadata = relay
        .browser()
        .json("/.well-known/oauth-authorization-server")
        .await;
    assert_eq!(metadata["issuer"], relay.url);
    assert_eq!(
        metadata["token_endpoint"],
        format!("{}/oauth/token", relay.url)
    );
    assert_eq!(metadata["grant_types_supported"][0], GRANT_TYPE);
    assert_eq!(metadata["dpop_signing_alg_values_supported"][0], "EdDSA");
}

#[tokio::test]
async fn a_restart_in_the_middle_loses_no_authorization() {
    let relay = TestRelay::start().await;
    let port = relay.address.port();
    relay.browser_of("ana@example.org").await;
    let started = start_device(&relay).await;
    let state = relay.stop().await;
    let relay = TestRelay::start_with(state, |config| config.listen.set_port(port)).await;
    let browser = relay.browser();
    let account = json!({"email": "ana@example.org", "password": crate::relay::PASSWORD});
    browser.post("/api/login", account).await;
    let code = json!({"user_code": started["user_code"]});
    assert_eq!(
        browser.post("/api/device/approve", code).await.status(),
        StatusCode::NO_CONTENT
    );
    let answer = poll(&relay, started["device_code"].as_str().unwrap()).await;
    assert_eq!(answer.status(), StatusCode::OK);
}
