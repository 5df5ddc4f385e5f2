//! The `tower` layer before an axum router.
#![cfg(all(feature = "tower", feature = "testing"))]
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
use katachi_auth::replay::{
    AsyncReplayStore, Epoch, Limits, MemoryReplay, NonceSequence, ReplayStore as _, Spend,
    Spending, Unavailable,
};
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
    serve_with(Limits::default())
}

fn serve_with(limits: Limits) -> Served {
    let store = Arc::new(MemoryReplay::new(limits).unwrap());
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
        self.sign_with(&self.nonces, body, now, epoch)
    }

    fn sign_with(
        &self,
        nonces: &NonceSequence,
        body: &str,
        now: u64,
        epoch: Epoch,
    ) -> (Request<String>, RequestBinding) {
        let key = derive_key(&secret(), "agent-1", &Profile::AGENT_REQUEST);
        let signer = Signer::new(Profile::AGENT_REQUEST, key_id(), key);
        let mut request = Request::post("https://api.example/v1/run")
            .body(body.to_owned())
            .unwrap();
        let freshness = Freshness::new(at(now), nonces.draw(), epoch);
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

/// A body that counts how often it was asked for more.
fn watched(body: String, asked: &Arc<AtomicUsize>) -> Body {
    let asked = asked.clone();
    let mut parts = vec![body];
    Body::from_stream(futures_util::stream::poll_fn(move |_| {
        asked.fetch_add(1, Ordering::SeqCst);
        std::task::Poll::Ready(parts.pop().map(Ok::<_, std::io::Error>))
    }))
}

#[tokio::test]
async fn of_a_stranger_s_body_nothing_is_read() {
    let served = serve();
    let (signed, _) = served.good("x");
    let with = |name: &'static str, from: &str, to: &str| {
        let mut request = signed.clone();
        let value = request.headers()[name].to_str().unwrap().replace(from, to);
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let unknown_key = with("signature-input", "k-7Qm2", "k-8888");
    let wrong_mac = with("signature", "katachi=:", "katachi=:AAAA");
    let unsigned = Request::post("https://api.example/v1/run")
        .body("x".to_owned())
        .unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    for request in [unknown_key, wrong_mac, unsigned] {
        let request = request.map(|_| watched("x".repeat(1 << 20), &asked));
        let response = served.app.clone().oneshot(request).await.unwrap();
        // Larger than the bound as well, and that is nobody's business.
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(asked.load(Ordering::SeqCst), 0);
    }
    let request = signed.map(|body| watched(body, &asked));
    let response = served.app.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(asked.load(Ordering::SeqCst) > 0, "the watch can see");
}

/// A store that counts who asks it, and can be taken away.
struct Watched {
    store: Arc<MemoryReplay>,
    asked: Arc<AtomicUsize>,
    gone: bool,
}

impl Watched {
    fn ask(&self) -> Result<(), Unavailable> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.gone {
            return Err(Unavailable::new("gone"));
        }
        Ok(())
    }
}

impl AsyncReplayStore for Watched {
    async fn epoch(&self) -> Result<Epoch, Unavailable> {
        self.ask()?;
        self.store.epoch()
    }

    async fn spend(&self, spending: &Spending<'_>) -> Result<Spend, Unavailable> {
        self.ask()?;
        self.store.spend(spending)
    }
}

fn shared(gone: bool) -> (Served, Arc<AtomicUsize>) {
    let mut served = serve();
    let asked = Arc::new(AtomicUsize::new(0));
    let store = Watched {
        store: served.store.clone(),
        asked: asked.clone(),
        gone,
    };
    let key = derive_key(&secret(), "agent-1", &Profile::AGENT_REQUEST);
    let answers = Arc::new(SigningKey::from(derive_key(
        &secret(),
        "agent-1",
        &Profile::RELAY_RESPONSE,
    )));
    let gate = Gate::shared(
        Verifier::new(Profile::AGENT_REQUEST, ["api.example"]),
        Arc::new(KnownKey::new(key_id(), "agent-1", key)),
        store,
    )
    .clock(served.clock.clone())
    .sign_answers(Profile::RELAY_RESPONSE, move |_: &KnownKey| {
        Some(answers.clone())
    });
    served.app = Router::new()
        .route("/v1/run", post(|body: String| async { body }))
        .layer(VerifyLayer::new(gate));
    (served, asked)
}

#[tokio::test]
async fn a_store_that_nodes_share_is_asked_for_genuine_requests_alone() {
    let (served, asked) = shared(false);
    let (good, _) = served.good("x");
    let mut forged = good.clone();
    *forged.uri_mut() = "https://api.example/v1/other".parse().unwrap();
    assert_eq!(served.send(forged).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(asked.load(Ordering::SeqCst), 0, "a stranger costs no query");
    assert_eq!(served.send(good.clone()).await.status(), StatusCode::OK);
    assert_eq!(error(&served.send(good).await), "replayed");
}

#[tokio::test]
async fn a_store_that_is_gone_is_503_to_the_holder_and_401_to_strangers() {
    let (served, _) = shared(true);
    let (good, binding) = served.good("x");
    let mut forged = good.clone();
    *forged.uri_mut() = "https://api.example/v1/other".parse().unwrap();
    assert_eq!(served.send(forged).await.status(), StatusCode::UNAUTHORIZED);
    let response = served.send(good).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "5");
    assert_eq!(error(&response), "unavailable");
    assert!(believed(&response, &binding));
}

#[tokio::test]
async fn each_status_stands_where_it_belongs_and_says_what_the_standards_ask() {
    let served = serve_with(Limits {
        sessions_per_key: 1,
        ..Limits::default()
    });
    let headers = |response: &Response<Vec<u8>>| {
        let has = |name| response.headers().contains_key(name);
        (
            response.status().as_u16(),
            has("www-authenticate"),
            has("retry-after"),
        )
    };
    let (good, _) = served.good("x");
    assert_eq!(
        headers(&served.send(good.clone()).await),
        (200, false, false)
    );
    // 401 with a challenge: spent before.
    assert_eq!(
        headers(&served.send(good.clone()).await),
        (401, true, false)
    );
    // 400: two names.
    let mut two_hosts = good.clone();
    let host = "evil.example".parse().unwrap();
    two_hosts.headers_mut().insert("host", host);
    assert_eq!(headers(&served.send(two_hosts).await), (400, false, false));
    // 400: larger than any request.
    let mut huge = good;
    let input = "a".repeat(60_000).parse().unwrap();
    huge.headers_mut().insert("signature-input", input);
    assert_eq!(headers(&served.send(huge).await), (400, false, false));
    // 413, to the holder of a key alone.
    let (large, _) = served.good(&"x".repeat(2000));
    assert_eq!(headers(&served.send(large).await), (413, false, false));
    // 429: no room for another session of this key.
    let nonces = NonceSequence::start().unwrap();
    let epoch = served.store.epoch().unwrap();
    let (busy, _) = served.sign_with(&nonces, "x", NOW, epoch);
    assert_eq!(headers(&served.send(busy).await), (429, false, true));
    // 400: a body that broke off.
    let (cut, _) = served.good("x");
    let broken = futures_util::stream::iter([Err::<String, _>(std::io::Error::other("cut"))]);
    let request = cut.map(|_| Body::from_stream(broken));
    let response = served.app.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_operator_sees_each_refusal_with_its_rule() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = seen.clone();
    let key = derive_key(&secret(), "agent-1", &Profile::AGENT_REQUEST);
    let gate = Gate::new(
        Verifier::new(Profile::AGENT_REQUEST, ["api.example"]),
        Arc::new(KnownKey::new(key_id(), "agent-1", key)),
        MemoryReplay::new(Limits::default()).unwrap(),
    )
    .on_refusal(move |refusal| log.lock().unwrap().push(refusal.to_string()));
    let app = Router::new()
        .route("/v1/run", post(|| async {}))
        .layer(VerifyLayer::new(gate));
    let request = Request::post("https://api.example/v1/run").body(Body::empty());
    app.oneshot(request.unwrap()).await.unwrap();
    let rule = "request refused (fault: peer): signature-input is absent";
    assert_eq!(*seen.lock().unwrap(), [rule]);
}

#[tokio::test]
async fn a_refused_head_request_has_the_digest_of_no_body() {
    let served = serve();
    let key = derive_key(&secret(), "agent-1", &Profile::AGENT_REQUEST);
    let signer = Signer::new(Profile::AGENT_REQUEST, key_id(), key);
    let mut request = Request::head("https://api.example/v1/run")
        .body(String::new())
        .unwrap();
    let epoch = served.store.epoch().unwrap();
    let freshness = Freshness::new(at(NOW - 600), served.nonces.draw(), epoch);
    let signed = signer.sign(&request, &freshness).unwrap();
    signed.apply(request.headers_mut());
    let response = served.send(request).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(response.body().is_empty());
    assert!(believed(&response, signed.binding()));
}
