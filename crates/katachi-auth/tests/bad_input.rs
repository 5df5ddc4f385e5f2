//! Bad input at the endpoints of the device flow, as the example serves them: each status
//! stands where it belongs, with the headers and the error code that the standards ask
//! for. The same for signed calls is in `layer`, and the client's reading in `calls`.
#![cfg(feature = "reqwest")]
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

#[path = "../examples/device/server.rs"]
mod server;

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use katachi_auth::clock::{Clock as _, SystemClock, Timestamp};
use katachi_auth::device::dpop::ProofKey;
use katachi_auth::device::form::Form;
use katachi_auth::device::{
    DecideError, DeviceStore, Find, GRANT_TYPE, Grant, Inserted, MemoryDeviceStore,
};
use katachi_auth::replay::{Epoch, Limits, Nonce, Unavailable};
use katachi_crypto::Secret;
use server::Desk;
use tower::ServiceExt as _;

const BASE: &str = "http://127.0.0.1:8080";

async fn send(router: &Router, path: &str, proofs: &[&str], body: &str) -> Response<String> {
    let mut request = Request::post(path)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("content-length", body.len());
    for proof in proofs {
        request = request.header("dpop", *proof);
    }
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let (head, body) = router.clone().oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Response::from_parts(head, String::from_utf8(body.to_vec()).unwrap())
}

/// Status, `error`, and whether `Retry-After` is there.
fn verdict(response: &Response<String>) -> (u16, String, bool) {
    let body: serde_json::Value = serde_json::from_str(response.body()).unwrap_or_default();
    let error = body["error"].as_str().unwrap_or_default().to_owned();
    let status = response.status().as_u16();
    if status != 413 {
        assert_eq!(response.headers()["cache-control"], "no-store");
    }
    // Clients without a secret are no party to an authentication scheme.
    assert!(!response.headers().contains_key("www-authenticate"));
    (
        status,
        error,
        response.headers().contains_key("retry-after"),
    )
}

fn is(status: u16, error: &str, retry_after: bool) -> (u16, String, bool) {
    (status, error.to_owned(), retry_after)
}

fn poll(client: &str, code: &str) -> String {
    Form::default()
        .with("grant_type", GRANT_TYPE)
        .with("client_id", client)
        .with("device_code", code)
        .encode()
}

#[tokio::test]
async fn a_form_that_is_none_is_400_and_one_that_is_too_large_413() {
    let desk = Desk::new(BASE, MemoryDeviceStore::new(8), Limits::default()).unwrap();
    let router = desk.router();
    for path in ["/device", "/token"] {
        for body in [
            "",
            "client_id",
            "client_id=a&client_id=b",
            "client_id=%4",
            "client_id=%ff",
        ] {
            let found = verdict(&send(&router, path, &[], body).await);
            assert_eq!(found, is(400, "invalid_request", false), "{path} {body}");
        }
        let many: String = (0..33).map(|number| format!("k{number}=v&")).collect();
        let found = verdict(&send(&router, path, &[], &many).await);
        assert_eq!(found, is(413, "invalid_request", false));
        let long = format!("client_id={}", "a".repeat(Form::MAX_LEN));
        assert_eq!(verdict(&send(&router, path, &[], &long).await).0, 413);
    }
    let long = format!("client_id={}", "a".repeat(200));
    let found = verdict(&send(&router, "/device", &[], &long).await);
    assert_eq!(found, is(400, "invalid_request", false));
    let other = poll("a", "b").replace("device_code&", "implicit&");
    let found = verdict(&send(&router, "/token", &[], &other).await);
    assert_eq!(found, is(400, "unsupported_grant_type", false));
}

#[tokio::test]
async fn a_poll_hears_what_rfc_8628_says() {
    let desk = Desk::new(BASE, MemoryDeviceStore::new(8), Limits::default()).unwrap();
    let router = desk.router();
    let started = send(&router, "/device", &[], "client_id=terminal").await;
    assert_eq!(started.status(), 200);
    let started: serde_json::Value = serde_json::from_str(started.body()).unwrap();
    let code = started["device_code"].as_str().unwrap();
    let ask = async |client: &str, code: &str| {
        verdict(&send(&router, "/token", &[], &poll(client, code)).await)
    };
    assert_eq!(
        ask("terminal", "unknown").await,
        is(400, "invalid_grant", false)
    );
    assert_eq!(ask("other", code).await, is(400, "invalid_grant", false));
    assert_eq!(
        ask("terminal", code).await,
        is(400, "authorization_pending", false)
    );
    assert_eq!(ask("terminal", code).await, is(400, "slow_down", false));
    desk.approve(started["user_code"].as_str().unwrap())
        .unwrap();
    assert_eq!(ask("terminal", code).await, is(200, "", false));
    assert_eq!(ask("terminal", code).await, is(400, "invalid_grant", false));
}

#[tokio::test]
async fn d20_a_scope_that_is_added_at_the_poll_gives_nothing_more() {
    let answer_to = async |more: &str| {
        let desk = Desk::new(BASE, MemoryDeviceStore::new(8), Limits::default()).unwrap();
        let router = desk.router();
        let started = send(&router, "/device", &[], "client_id=terminal").await;
        let started: serde_json::Value = serde_json::from_str(started.body()).unwrap();
        desk.approve(started["user_code"].as_str().unwrap())
            .unwrap();
        let poll = poll("terminal", started["device_code"].as_str().unwrap());
        let answer = send(&router, "/token", &[], &format!("{poll}{more}")).await;
        assert_eq!(answer.status(), 200);
        answer.into_body()
    };
    let plain = answer_to("").await;
    assert_eq!(answer_to("&scope=admin").await, plain);
}

#[tokio::test]
async fn a_proof_that_is_none_is_400_and_one_without_the_nonce_is_sent_back_for_it() {
    let desk = Desk::new(BASE, MemoryDeviceStore::new(8), Limits::default()).unwrap();
    let router = desk.router();
    let key = ProofKey::from_seed(&Secret::new([2; 32]));
    let uri = format!("{BASE}/device");
    let prove = |epoch: Option<&Epoch>| {
        let id = Nonce::random().unwrap();
        key.prove("POST", &uri, SystemClock.now(), &id, epoch)
    };
    let body = "client_id=terminal";
    let found = verdict(&send(&router, "/device", &["nonsense"], body).await);
    assert_eq!(found, is(400, "invalid_dpop_proof", false));
    let sent_back = send(&router, "/device", &[&prove(None)], body).await;
    assert_eq!(verdict(&sent_back), is(400, "use_dpop_nonce", false));
    let nonce = sent_back.headers()["dpop-nonce"].to_str().unwrap();
    let epoch = Epoch::parse(nonce).unwrap();
    let (one, two) = (prove(Some(&epoch)), prove(Some(&epoch)));
    let found = verdict(&send(&router, "/device", &[&one, &two], body).await);
    assert_eq!(found, is(400, "invalid_dpop_proof", false), "two proofs");
    assert_eq!(send(&router, "/device", &[&one], body).await.status(), 200);
    let found = verdict(&send(&router, "/device", &[&one], body).await);
    assert_eq!(found, is(400, "invalid_dpop_proof", false), "used before");
}

#[tokio::test]
async fn no_room_is_429_and_says_when_to_come_back() {
    let few = Limits {
        entries_per_key: 1,
        ..Limits::default()
    };
    let desk = Desk::new(BASE, MemoryDeviceStore::new(1), few).unwrap();
    let router = desk.router();
    let body = "client_id=terminal";
    assert_eq!(send(&router, "/device", &[], body).await.status(), 200);
    let found = verdict(&send(&router, "/device", &[], body).await);
    assert_eq!(found, is(429, "temporarily_unavailable", true), "grants");

    let key = ProofKey::from_seed(&Secret::new([2; 32]));
    let uri = format!("{BASE}/token");
    let prove = |epoch: Option<&Epoch>| {
        let id = Nonce::random().unwrap();
        key.prove("POST", &uri, SystemClock.now(), &id, epoch)
    };
    let sent_back = send(&router, "/token", &[&prove(None)], &poll("a", "b")).await;
    let epoch = Epoch::parse(sent_back.headers()["dpop-nonce"].to_str().unwrap()).unwrap();
    let found = verdict(&send(&router, "/token", &[&prove(Some(&epoch))], &poll("a", "b")).await);
    assert_eq!(found, is(400, "invalid_grant", false));
    let found = verdict(&send(&router, "/token", &[&prove(Some(&epoch))], &poll("a", "b")).await);
    assert_eq!(found, is(429, "temporarily_unavailable", true), "proofs");
}

/// A store that is gone.
struct Gone;

impl DeviceStore for Gone {
    fn insert(&self, _: Grant, _: Timestamp) -> Result<Inserted, Unavailable> {
        Err(Unavailable::new("gone: secret reason"))
    }

    fn change(&self, _: &Find, _: &mut dyn FnMut(&mut Grant)) -> Result<bool, Unavailable> {
        Err(Unavailable::new("gone: secret reason"))
    }
}

#[tokio::test]
async fn a_store_that_is_gone_is_503_and_nobody_hears_why() {
    let router = Desk::new(BASE, Gone, Limits::default()).unwrap().router();
    for (path, body) in [
        ("/device", "client_id=a".to_owned()),
        ("/token", poll("a", "b")),
    ] {
        let response = send(&router, path, &[], &body).await;
        assert_eq!(verdict(&response), is(503, "temporarily_unavailable", true));
        assert!(!response.body().contains("secret reason"));
    }
}

#[test]
fn a_person_who_guesses_hears_404_and_then_429() {
    let desk = Desk::new(BASE, MemoryDeviceStore::new(8), Limits::default()).unwrap();
    for _ in 0..5 {
        let error = desk.look_up("BCDF-GHJK").unwrap_err();
        assert_eq!(error.status(), 404);
    }
    let error = desk.look_up("BCDF-GHJK").unwrap_err();
    assert_eq!(error.status(), 429);
    assert!(matches!(error, DecideError::TooMany(wait) if wait.retry_after.as_secs() > 0));
    let gone = Desk::new(BASE, Gone, Limits::default()).unwrap();
    assert_eq!(gone.approve("BCDF-GHJK").unwrap_err().status(), 503);
}
