//! Signed calls over real sockets, by HTTP/1.1 and by HTTP/2.
#![cfg(feature = "tower")]
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

mod support;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use http::{Request, Version};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use katachi_auth::replay::{Limits, MemoryReplay};
use katachi_auth::signature::layer::{CallSigner, Gate, SignLayer, VerifyLayer};
use katachi_auth::signature::{KnownKey, Profile, Signer, SigningKey, Verifier, derive_key};
use support::{key_id, secret};
use tokio::net::TcpListener;
use tower::{Layer as _, ServiceExt as _};

#[tokio::test]
async fn s34_signed_calls_are_accepted_over_both_versions() {
    let key = |profile| derive_key(&secret(), "agent-1", &profile);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let answers = Arc::new(SigningKey::from(key(Profile::RELAY_RESPONSE)));
    let gate = Gate::new(
        Verifier::new(Profile::AGENT_REQUEST, [authority.clone()]),
        Arc::new(KnownKey::new(
            key_id(),
            "agent-1",
            key(Profile::AGENT_REQUEST),
        )),
        MemoryReplay::new(Limits::default()).unwrap(),
    )
    .sign_answers(Profile::RELAY_RESPONSE, move |_: &KnownKey| {
        Some(answers.clone())
    });
    let seen: Arc<Mutex<Vec<Version>>> = Arc::default();
    let run = |State(seen): State<Arc<Mutex<Vec<Version>>>>, request: axum::extract::Request| async move {
        seen.lock().unwrap().push(request.version());
    };
    let app = Router::new()
        .route("/v1/run", post(run))
        .with_state(seen.clone())
        .layer(VerifyLayer::new(gate));
    tokio::spawn(async move { axum::serve(listener, app).await });

    for http2 in [false, true] {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build_http();
        let signer = Signer::new(
            Profile::AGENT_REQUEST,
            key_id(),
            key(Profile::AGENT_REQUEST),
        );
        let answer_key = key(Profile::RELAY_RESPONSE);
        let calls = CallSigner::new(signer, Profile::RELAY_RESPONSE, answer_key).unwrap();
        let request = Request::post(format!("http://{authority}/v1/run?a=%2F"))
            .body("the same".to_owned())
            .unwrap();
        // Believed as well: an answer that is not signed for this call is an error.
        let answer = SignLayer::new(calls).layer(client).oneshot(request).await;
        assert_eq!(answer.unwrap().status(), 200);
    }
    assert_eq!(*seen.lock().unwrap(), [Version::HTTP_11, Version::HTTP_2]);
}
