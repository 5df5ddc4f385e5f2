//! The `tower` layer before an axum router.
#![cfg(feature = "tower")]
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::routing::post;
use axum::{Extension, Router};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use katachi_auth::clock::{Clock as _, ManualClock};
use katachi_auth::replay::{Epoch, Limits, MemoryReplay, NonceSequence, ReplayStore as _};
use katachi_auth::signature::layer::{Caller, Gate, VerifyLayer};
use katachi_auth::signature::{
    Freshness, KnownKey, Profile, RequestBinding, Signer, SigningKey, Verifier, VerifyingKey,
    derive_key, verify_response,
};
use support::{NOW, at, key_id, secret};
use tower::ServiceExt as _;

struct Served {
    app: Router,
    store: Arc<MemoryReplay>,
    clock: Arc<ManualClock>,
    nonces: NonceSequence,
    effects: Arc<AtomicUsize>,
}

fn serve() -> Served {
    let store = Arc::new(MemoryReplay::new(Limits::default()).unwrap());
    let clock = Arc::new(ManualClock::new(at(NOW)));
    let effects = Arc::new(AtomicUsize::new(0));
    let key = derive_key(&secret(), "agent-1", &Profile::AGENT_REQUEST);
    let answers = SigningKey::from(derive_key(&secret(), "agent-1", &Profile::RELAY_RESPONSE));
    let answers = Arc::new(answers);
    let gate = Gate::new(
        Verifier::new(Profile::AGENT_REQUEST, ["api.example"]),
        Arc::new(KnownKey::new(key_id(), "agent-1", key)),
        store.clone(),
    )
    .clock(clock.clone())
    .max_body(1024)
    .sign_answers(Profile::RELAY_RESPONSE, move |_: &KnownKey| {
        Some(answers.clone())
    });
    let counted = effects.clone();
    let handler = move |Extension(caller): Extension<Caller>, body: String| async move {
        counted.fetch_add(1, Ordering::SeqCst);
        format!("{} said {body}", caller.owner())
    };
    let app = Router::new()
        .route("/v1/run", post(handler))
        .layer(VerifyLayer::new(gate));
    Served {
        app,
        store,
        clock,
        nonces: NonceSequence::start().unwrap(),
        effects,
    }
}

impl Served {
    fn sign(&self, body: &str, now: u64, epoch: Epoch) -> (Request<String>, RequestBinding) {
        let key = derive_key(&secret(), "agent-1", &Profile::AGENT_REQUEST);
        let signer = Signer::new(Profile::AGENT_REQUEST, key_id(), key);
        let mut request = Request::post("https://api.example/v1/run")
            .body(body.to_owned())
            .unwrap();
        let freshness = Freshness::new(at(now), self.nonces.draw(), epoch);
        let signed = signer.sign(&request, &freshness).unwrap();
        signed.apply(request.headers_mut());
        (request, signed.binding().clone())
    }

    fn good(&self, body: &str) -> (Request<String>, RequestBinding) {
        self.sign(body, NOW, self.store.epoch().unwrap())
    }

    async fn send(&self, request: Request<String>) -> Response<Vec<u8>> {
        let response = self
            .app
            .clone()
            .oneshot(request.map(Body::from))
            .await
            .unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Response::from_parts(head, body)
    }
}

fn believed(response: &Response<Vec<u8>>, binding: &RequestBinding) -> bool {
    let key = VerifyingKey::from(derive_key(&secret(), "agent-1", &Profile::RELAY_RESPONSE));
    verify_response(&Profile::RELAY_RESPONSE, &key_id(), &key, response, binding).is_ok()
}

fn error(response: &Response<Vec<u8>>) -> String {
    let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    body["error"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_verified_request_reaches_its_handler_and_the_answer_is_signed() {
    let served = serve();
    let (request, binding) = served.good("hello");
    let response = served.send(request).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.body(), b"agent-1 said hello");
    assert!(believed(&response, &binding));
}

#[tokio::test]
async fn of_many_copies_at_once_one_has_an_effect() {
    let served = serve();
    let (request, binding) = served.good("once");
    let copies = (0..64).map(|_| served.send(request.clone()));
    let responses = futures_util::future::join_all(copies).await;
    assert_eq!(served.effects.load(Ordering::SeqCst), 1);
    let refused: Vec<_> = responses
        .iter()
        .filter(|response| response.status() == StatusCode::UNAUTHORIZED)
        .collect();
    assert_eq!(refused.len(), 63);
    assert!(refused.iter().all(|response| error(response) == "replayed"));
    assert!(refused.iter().all(|response| believed(response, &binding)));
}

#[tokio::test]
async fn strangers_all_hear_the_same() {
    let served = serve();
    let (signed, binding) = served.good("x");
    let unsigned = Request::post("https://api.example/v1/run")
        .body("x".to_owned())
        .unwrap();
    let mut altered = signed.clone();
    *altered.body_mut() = "y".into();
    let mut other_key = signed.clone();
    let input = other_key.headers()["signature-input"]
        .to_str()
        .unwrap()
        .replace("k-7", "k-8");
    other_key
        .headers_mut()
        .insert("signature-input", input.parse().unwrap());
    let mut wrong = signed;
    wrong
        .headers_mut()
        .insert("content-type", "text/html".parse().unwrap());
    let mut heard = Vec::new();
    for request in [unsigned, other_key, wrong] {
        let response = served.send(request).await;
        assert!(!response.headers().contains_key("signature"));
        assert_eq!(response.headers()["www-authenticate"], "Signature");
        heard.push((
            response.status(),
            format!("{:?}", response.headers()),
            response.into_body(),
        ));
    }
    assert_eq!(heard[0], heard[1]);
    assert_eq!(heard[1], heard[2]);
    let response = served.send(altered).await;
    assert_eq!(
        (response.status().as_u16(), error(&response).as_str()),
        (401, "refused")
    );
    assert!(
        believed(&response, &binding),
        "its signer learns that somebody altered it"
    );
    assert_eq!(served.effects.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_holder_of_the_key_learns_what_to_mend() {
    let served = serve();
    let (late, binding) = served.sign("x", NOW - 600, served.store.epoch().unwrap());
    let response = served.send(late).await;
    assert_eq!(error(&response), "skew");
    assert!(believed(&response, &binding));

    let (stale, binding) = served.sign("x", NOW, Epoch::from_bytes([0; 16]));
    let response = served.send(stale).await;
    assert_eq!(error(&response), "stale_epoch");
    assert!(believed(&response, &binding));
    let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    let epoch = Epoch::parse(body["epoch"].as_str().unwrap()).unwrap();
    let (again, _) = served.sign("x", served.clock.now().as_unix(), epoch);
    assert_eq!(served.send(again).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_413() {
    let served = serve();
    let (request, _) = served.good(&"x".repeat(1025));
    let response = served.send(request).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let (request, _) = served.good(&"x".repeat(1000));
    assert_eq!(served.send(request).await.status(), StatusCode::OK);
}
