//! The client's layer against the server's: what is signed, believed, mended and repeated.
#![cfg(all(feature = "tower", feature = "testing"))]
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

mod support;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use katachi_auth::clock::ManualClock;
use katachi_auth::replay::{
    Epoch, Limits, MemoryReplay, ReplayStore, Spend, Spending, Unavailable,
};
use katachi_auth::signature::layer::{CallError, CallSigner, Gate, SignLayer, VerifyLayer};
use katachi_auth::signature::{
    Answer, KeyId, Keys, KnownKey, Profile, ResponseError, Signer, SigningKey, Verifier, derive_key,
};
use katachi_crypto::Secret;
use katachi_crypto::mac::HmacKey;
use support::{NOW, at};
use tower::util::BoxCloneService;
use tower::{Layer as _, ServiceExt as _};

type Plain = Request<Full<Bytes>>;
type Wire = BoxCloneService<Plain, Response<Full<Bytes>>, std::io::Error>;

const URL: &str = "https://api.example/v1/run";

/// Keys that a test adds and revokes while calls are made.
#[derive(Clone, Default)]
struct Table(Arc<Mutex<HashMap<String, Arc<KnownKey>>>>);

impl Table {
    fn put(&self, name: &str, revoked: bool) {
        let mut known = KnownKey::new(id(name), "agent-1", key(name, Profile::AGENT_REQUEST));
        known.revoked = revoked;
        self.0.lock().unwrap().insert(name.into(), known.into());
    }
}

impl Keys for Table {
    fn find(&self, id: &str) -> Option<Arc<KnownKey>> {
        self.0.lock().unwrap().get(id).cloned()
    }
}

fn id(name: &str) -> KeyId {
    KeyId::parse(name).unwrap()
}

/// The key of one purpose under the secret that goes by `name`.
fn key(name: &str, profile: Profile) -> HmacKey {
    let mut secret = [0; 32];
    secret[..name.len()].copy_from_slice(name.as_bytes());
    derive_key(&Secret::new(secret), "agent-1", &profile)
}

fn signer(name: &str) -> Signer {
    Signer::new(
        Profile::AGENT_REQUEST,
        id(name),
        key(name, Profile::AGENT_REQUEST),
    )
}

struct World {
    keys: Table,
    store: Arc<MemoryReplay>,
    server_clock: Arc<ManualClock>,
    client_clock: Arc<ManualClock>,
    /// Requests on the wire, and runs of the handler.
    sent: Arc<AtomicUsize>,
    effects: Arc<AtomicUsize>,
    server: Wire,
}

impl World {
    fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    fn with_limits(limits: Limits) -> Self {
        let store = Arc::new(MemoryReplay::new(limits).unwrap());
        Self::over(store.clone(), store)
    }

    fn over(store: Arc<MemoryReplay>, asked: impl ReplayStore + 'static) -> Self {
        let keys = Table::default();
        keys.put("k1", false);
        let server_clock = Arc::new(ManualClock::new(at(NOW)));
        let gate = Gate::new(
            Verifier::new(Profile::AGENT_REQUEST, ["api.example"]),
            keys.clone(),
            asked,
        )
        .clock(server_clock.clone())
        .max_body(1024)
        .sign_answers(Profile::RELAY_RESPONSE, |known: &KnownKey| {
            let key = key(known.id.as_str(), Profile::RELAY_RESPONSE);
            Some(Arc::new(SigningKey::from(key)))
        });
        let (sent, effects) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counted = effects.clone();
        let run = move |body: String| async move {
            counted.fetch_add(1, Ordering::SeqCst);
            match body.as_str() {
                // What the server's own words look like when a service says them.
                "deny" => (
                    StatusCode::UNAUTHORIZED,
                    r#"{"error":"stale_epoch"}"#.into(),
                ),
                "fail" => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "{\"error\":\"busy\"}".into(),
                ),
                _ => (StatusCode::OK, format!("did {body}")),
            }
        };
        let router = Router::new()
            .route("/v1/run", post(run))
            .layer(VerifyLayer::new(gate));
        let counted = sent.clone();
        let server = tower::service_fn(move |request: Plain| {
            counted.fetch_add(1, Ordering::SeqCst);
            let router = router.clone();
            async move {
                let (head, body) = router.oneshot(request).await.unwrap().into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                Ok(Response::from_parts(head, Full::new(body)))
            }
        });
        Self {
            keys,
            store,
            server_clock,
            client_clock: Arc::new(ManualClock::new(at(NOW))),
            sent,
            effects,
            server: BoxCloneService::new(server),
        }
    }

    fn calls(&self) -> CallSigner {
        CallSigner::new(
            signer("k1"),
            Profile::RELAY_RESPONSE,
            key("k1", Profile::RELAY_RESPONSE),
        )
        .unwrap()
        .clock(self.client_clock.clone())
        .epoch(self.store.epoch().unwrap())
    }

    async fn call(&self, calls: &Arc<CallSigner>, body: &str) -> Result<Vec<u8>, CallError> {
        call(calls, self.server.clone(), body).await
    }

    fn counts(&self) -> (usize, usize) {
        (
            self.sent.load(Ordering::SeqCst),
            self.effects.load(Ordering::SeqCst),
        )
    }

    /// A way to the server on which `change` happens to every answer.
    fn altered(
        &self,
        change: impl Fn(Response<Full<Bytes>>) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
    ) -> Wire {
        BoxCloneService::new(self.server.clone().map_response(change))
    }
}

async fn call(calls: &Arc<CallSigner>, wire: Wire, body: &str) -> Result<Vec<u8>, CallError> {
    let client = SignLayer::new(calls.clone()).layer(wire);
    let request = Request::post(URL).body(body.to_owned()).unwrap();
    let response = client.oneshot(request).await?;
    let body = response.into_body().collect().await;
    Ok(body
        .unwrap_or_else(|never: Infallible| match never {})
        .to_bytes()
        .to_vec())
}

#[tokio::test]
async fn a_signed_call_is_done_once_and_its_answer_believed() {
    let world = World::new();
    let calls = Arc::new(world.calls());
    assert_eq!(world.call(&calls, "it").await.unwrap(), b"did it");
    assert_eq!(world.call(&calls, "more").await.unwrap(), b"did more");
    assert_eq!(world.counts(), (2, 2));
}

#[tokio::test]
async fn a_client_without_an_epoch_learns_it_from_the_first_answer() {
    let world = World::new();
    let calls = Arc::new(world.calls().epoch(Epoch::from_bytes([0; 16])));
    world.call(&calls, "it").await.unwrap();
    assert_eq!(world.counts(), (2, 1));
    world.call(&calls, "it").await.unwrap();
    assert_eq!(world.counts(), (3, 2), "known from then on");
}

#[tokio::test]
async fn a_stale_epoch_costs_one_repetition_and_no_second_effect() {
    let world = World::new();
    let calls = Arc::new(world.calls());
    world.call(&calls, "it").await.unwrap();
    world.store.start_new_epoch().unwrap();
    world.call(&calls, "it").await.unwrap();
    assert_eq!(world.counts(), (3, 2));
}

#[tokio::test]
async fn an_epoch_that_always_changes_is_given_up_after_one_repetition() {
    let world = World::new();
    let calls = Arc::new(world.calls());
    let (store, server) = (world.store.clone(), world.server.clone());
    let restless = BoxCloneService::new(tower::service_fn(move |request: Plain| {
        store.start_new_epoch().unwrap();
        server.clone().oneshot(request)
    }));
    let error = call(&calls, restless, "it").await.unwrap_err();
    assert!(matches!(error, CallError::StaleEpoch), "{error}");
    assert!(error.nothing_was_done());
    assert_eq!(world.counts(), (2, 0));
}

#[tokio::test]
async fn s38_a_wrong_clock_costs_one_repetition() {
    for wrong in [NOW - 600, NOW + 600] {
        let world = World::new();
        world.client_clock.set(at(wrong));
        // Without an epoch as well: one signed refusal teaches both.
        let calls = Arc::new(world.calls().epoch(Epoch::from_bytes([0; 16])));
        world.call(&calls, "it").await.unwrap();
        assert_eq!(world.counts(), (2, 1));
        let learnt = i64::try_from(NOW).unwrap() - i64::try_from(wrong).unwrap();
        assert!((calls.offset_millis() - learnt * 1000).abs() <= 1000);
        world.call(&calls, "it").await.unwrap();
        assert_eq!(world.counts(), (3, 2));
    }
}

#[tokio::test]
async fn s38_an_unsigned_date_teaches_nothing() {
    let world = World::new();
    world.client_clock.set(at(NOW + 600));
    let calls = Arc::new(world.calls());
    let stripped = world.altered(|mut answer| {
        answer.headers_mut().remove("signature");
        let date = "Fri, 15 Jan 2027 08:00:00 GMT".parse().unwrap();
        answer.headers_mut().insert("date", date);
        answer
    });
    let error = call(&calls, stripped, "it").await.unwrap_err();
    let unsigned = matches!(
        error,
        CallError::Unverified {
            status: StatusCode::UNAUTHORIZED,
            error: ResponseError::Unsigned
        }
    );
    assert!(unsigned, "{error}");
    assert!(!error.nothing_was_done());
    assert_eq!(calls.offset_millis(), 0);
    assert_eq!(
        world.counts(),
        (1, 0),
        "nothing is repeated on a stranger's word"
    );
}

#[tokio::test]
async fn a_stale_epoch_that_is_not_signed_teaches_nothing() {
    let world = World::new();
    let calls = Arc::new(world.calls());
    let forged = Epoch::from_bytes([9; 16]);
    let lying = world.altered(move |_| {
        let body = format!(r#"{{"error":"stale_epoch","epoch":"{forged}"}}"#);
        let mut answer = Response::new(Full::from(body));
        *answer.status_mut() = StatusCode::UNAUTHORIZED;
        answer
    });
    let error = call(&calls, lying, "it").await.unwrap_err();
    assert!(matches!(error, CallError::Unverified { .. }), "{error}");
    assert_eq!(world.counts(), (1, 1));
    // The epoch is still the right one.
    world.call(&calls, "it").await.unwrap();
    assert_eq!(world.counts(), (2, 2));
}

#[tokio::test]
async fn an_altered_answer_and_one_to_another_call_are_not_believed() {
    let world = World::new();
    let calls = Arc::new(world.calls());
    let altered = world.altered(|answer| answer.map(|_| Full::from("did nothing")));
    let error = call(&calls, altered, "it").await.unwrap_err();
    assert!(matches!(
        error,
        CallError::Unverified {
            error: ResponseError::Digest,
            ..
        }
    ));

    let kept = Arc::new(Mutex::new(None));
    let keeping = kept.clone();
    let swapped = world.altered(move |answer| {
        let mut kept = keeping.lock().unwrap();
        let first = kept.get_or_insert_with(|| answer.clone());
        first.clone()
    });
    call(&calls, swapped.clone(), "it").await.unwrap();
    let error = call(&calls, swapped, "it").await.unwrap_err();
    assert!(matches!(
        error,
        CallError::Unverified {
            error: ResponseError::Signature,
            ..
        }
    ));
}

#[tokio::test]
async fn a_revoked_key_is_told_apart_and_not_repeated() {
    let world = World::new();
    let calls = Arc::new(world.calls());
    world.keys.put("k1", true);
    let error = world.call(&calls, "it").await.unwrap_err();
    assert!(matches!(error, CallError::Revoked), "{error}");
    assert!(error.nothing_was_done());
    assert_eq!(world.counts(), (1, 0));
}

#[tokio::test]
async fn keys_rotate_under_a_running_client_while_both_identifiers_live() {
    let world = World::new();
    world.keys.put("k2", false);
    let calls = Arc::new(world.calls());
    world.call(&calls, "it").await.unwrap();
    calls.rotate(signer("k2"), key("k2", Profile::RELAY_RESPONSE));
    world.call(&calls, "it").await.unwrap();
    // Another client of the same owner still signs with the old key.
    let late = Arc::new(world.calls());
    world.call(&late, "it").await.unwrap();
    world.keys.put("k1", true);
    world.call(&calls, "it").await.unwrap();
    let error = world.call(&late, "it").await.unwrap_err();
    assert!(matches!(error, CallError::Revoked), "{error}");
    assert_eq!(world.counts(), (5, 4));
}

#[tokio::test]
async fn a_call_under_way_while_keys_rotate_is_verified_with_its_own() {
    let world = World::new();
    world.keys.put("k2", false);
    let calls = Arc::new(world.calls());
    let (rotating, server) = (calls.clone(), world.server.clone());
    let wire = BoxCloneService::new(tower::service_fn(move |request: Plain| {
        rotating.rotate(signer("k2"), key("k2", Profile::RELAY_RESPONSE));
        server.clone().oneshot(request)
    }));
    assert_eq!(call(&calls, wire, "it").await.unwrap(), b"did it");
}

#[tokio::test]
async fn a_busy_server_says_when_to_come_back() {
    let world = World::with_limits(Limits {
        sessions_per_key: 1,
        ..Limits::default()
    });
    world.call(&Arc::new(world.calls()), "it").await.unwrap();
    // A client that starts anew is another session.
    let error = world
        .call(&Arc::new(world.calls()), "it")
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Busy { .. }), "{error}");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(5)));
    assert!(error.nothing_was_done());
    assert_eq!(world.counts(), (2, 1));
}

/// A store that knows its epoch and cannot remember.
struct Forgetful(Arc<MemoryReplay>);

impl ReplayStore for Forgetful {
    fn epoch(&self) -> Result<Epoch, Unavailable> {
        self.0.epoch()
    }
    fn spend(&self, _: &Spending<'_>) -> Result<Spend, Unavailable> {
        Err(Unavailable::new("gone"))
    }
}

#[tokio::test]
async fn an_unavailable_store_is_told_apart_and_nothing_is_done() {
    let store = Arc::new(MemoryReplay::new(Limits::default()).unwrap());
    let world = World::over(store.clone(), Forgetful(store));
    let error = world
        .call(&Arc::new(world.calls()), "it")
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Unavailable { .. }), "{error}");
    assert!(error.nothing_was_done());
    assert_eq!(world.counts(), (1, 0));
}

#[tokio::test]
async fn a_call_whose_copy_came_first_may_have_had_its_effect() {
    let world = World::new();
    let server = world.server.clone();
    let doubling = BoxCloneService::new(tower::service_fn(move |request: Plain| {
        let server = server.clone();
        async move {
            server.clone().oneshot(request.clone()).await?;
            server.oneshot(request).await
        }
    }));
    let error = call(&Arc::new(world.calls()), doubling, "it")
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Replayed), "{error}");
    assert!(!error.nothing_was_done());
    assert_eq!(world.counts(), (2, 1));
}

#[tokio::test]
async fn a_broken_connection_is_not_repeated() {
    let world = World::new();
    let sent = world.sent.clone();
    let broken = BoxCloneService::new(tower::service_fn(move |_: Plain| {
        sent.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Err::<Response<Full<Bytes>>, _>(std::io::Error::other(
            "reset",
        )))
    }));
    let error = call(&Arc::new(world.calls()), broken, "it")
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Transport(_)), "{error}");
    assert!(!error.nothing_was_done());
    assert_eq!(world.counts(), (1, 0));
}

#[tokio::test]
async fn a_body_that_the_server_does_not_collect_is_a_signed_refusal() {
    let world = World::new();
    let body = "x".repeat(1025);
    let error = world
        .call(&Arc::new(world.calls()), &body)
        .await
        .unwrap_err();
    assert!(
        matches!(error, CallError::Refused(Answer::TooLarge)),
        "{error}"
    );
    assert_eq!(world.counts(), (1, 0));
    let small = Arc::new(world.calls().max_body(10));
    let error = world.call(&small, "eleven bytes").await.unwrap_err();
    assert!(matches!(error, CallError::Body(_)), "{error}");
    assert_eq!(world.counts(), (1, 0), "not even sent");
}

#[tokio::test]
async fn a_request_altered_on_the_way_is_refused_and_not_repeated() {
    let world = World::new();
    let altering = world.server.clone().map_request(|request: Plain| {
        let (head, _) = request.into_parts();
        Request::from_parts(head, Full::from("something else"))
    });
    let altering = BoxCloneService::new(altering);
    let error = call(&Arc::new(world.calls()), altering, "it")
        .await
        .unwrap_err();
    assert!(
        matches!(error, CallError::Refused(Answer::Refused)),
        "{error}"
    );
    assert_eq!(world.counts(), (1, 0));
}

#[tokio::test]
async fn what_a_service_answers_is_not_taken_for_a_refusal() {
    let world = World::new();
    let calls = Arc::new(world.calls());
    for (body, answer) in [
        ("deny", &br#"{"error":"stale_epoch"}"#[..]),
        ("fail", br#"{"error":"busy"}"#),
    ] {
        assert_eq!(world.call(&calls, body).await.unwrap(), answer);
    }
    assert_eq!(world.counts(), (2, 2));
}

#[tokio::test]
async fn a_request_that_no_verifier_accepts_is_not_sent() {
    let world = World::new();
    let client = SignLayer::new(world.calls()).layer(world.server.clone());
    let relative = Request::post("/v1/run").body(String::new()).unwrap();
    let error = client.oneshot(relative).await.unwrap_err();
    assert!(matches!(error, CallError::Request(_)), "{error}");
    assert_eq!(world.counts(), (0, 0));
}

#[tokio::test]
async fn many_calls_at_once_share_what_one_learns() {
    let world = World::new();
    world.server_clock.set(at(NOW + 600));
    let calls = Arc::new(world.calls().epoch(Epoch::from_bytes([0; 16])));
    let all = (0..64).map(|_| world.call(&calls, "it"));
    let answers = futures_util::future::join_all(all).await;
    assert!(answers.iter().all(Result::is_ok));
    let (sent, effects) = world.counts();
    assert_eq!(effects, 64);
    assert!(sent <= 128, "each repeats once at most: {sent}");
}
