//! The same signature over the `http` crate's types, whichever version carries it.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

mod support;

use std::sync::Arc;

use http::{HeaderValue, Request, Response, Version};
use katachi_auth::replay::{Limits, MemoryReplay, NonceSequence, ReplayStore as _};
use katachi_auth::signature::{
    Answer, Authentic, AuthenticHead, Context, Freshness, KeyId, KnownKey, Profile, Reason,
    Refusal, RequestParts, ResponseParts, SignedRequest, Signer, SigningKey, Verifier,
    VerifyingKey, apply_headers, derive_key, sign_response, verify_response,
};
use proptest::prelude::*;
use support::{NOW, at, key_id, secret};

struct Relay {
    verifier: Verifier,
    keys: Arc<KnownKey>,
    store: MemoryReplay,
    nonces: NonceSequence,
    signer: Signer,
}

impl Relay {
    fn new() -> Self {
        let key = || derive_key(&secret(), "agent-1", &Profile::AGENT_REQUEST);
        Self {
            verifier: Verifier::new(Profile::AGENT_REQUEST, ["katachi.localhost:8443"]),
            keys: Arc::new(KnownKey::new(key_id(), "agent-1", key())),
            store: MemoryReplay::new(Limits::default()).unwrap(),
            nonces: NonceSequence::start().unwrap(),
            signer: Signer::new(Profile::AGENT_REQUEST, key_id(), key()),
        }
    }

    /// What a client makes: a full URI, and no `Host` yet.
    fn signed(&self) -> (Request<Vec<u8>>, SignedRequest) {
        let mut request =
            Request::post("https://katachi.localhost:8443/v1/agent/activity?kind=run&x=%2F")
                .header("Content-Type", "application/json")
                .body(b"{\"kind\":\"run\"}".to_vec())
                .unwrap();
        let epoch = self.store.epoch().unwrap();
        let freshness = Freshness::new(at(NOW), self.nonces.draw(), epoch);
        let signed = self.signer.sign(&request, &freshness).unwrap();
        signed.apply(request.headers_mut());
        (request, signed)
    }

    fn accept(&self, request: Request<Vec<u8>>) -> Result<Request<Vec<u8>>, Answer> {
        let context = Context::new(at(NOW), self.store.epoch().unwrap());
        self.verifier
            .check(request, &self.keys, &context)
            .and_then(|authentic| authentic.spend(&self.store, at(NOW)))
            .map(katachi_auth::signature::Verified::into_request)
            .map_err(|refusal| refusal.answer())
    }

    /// Checks the head, and nothing of the body.
    fn head(&self, request: &Request<Vec<u8>>, now: u64) -> Result<AuthenticHead, Refusal> {
        let context = Context::new(at(now), self.store.epoch().unwrap());
        let (head, _) = request.clone().into_parts();
        self.verifier.check_head(head, &self.keys, &context)
    }
}

/// As a server sees it over HTTP/1.1: the path alone, and `Host`.
fn over_http1(mut request: Request<Vec<u8>>) -> Request<Vec<u8>> {
    let host = request.uri().authority().unwrap().to_string();
    let path = request.uri().path_and_query().unwrap().to_string();
    request.headers_mut().insert("host", host.parse().unwrap());
    *request.uri_mut() = path.parse().unwrap();
    request
}

fn over_http2(mut request: Request<Vec<u8>>) -> Request<Vec<u8>> {
    *request.version_mut() = Version::HTTP_2;
    request
}

#[test]
fn s34_one_signer_for_both_versions() {
    let relay = Relay::new();
    let body = relay
        .accept(over_http1(relay.signed().0))
        .unwrap()
        .into_body();
    assert_eq!(body, b"{\"kind\":\"run\"}");
    relay.accept(over_http2(relay.signed().0)).unwrap();
}

#[test]
fn s34_a_copy_over_the_other_version_is_still_a_copy() {
    let relay = Relay::new();
    let (request, _) = relay.signed();
    relay.accept(over_http1(request.clone())).unwrap();
    assert_eq!(
        relay.accept(over_http2(request)).unwrap_err(),
        Answer::Replayed
    );
}

#[test]
fn s31_ambiguous_names_are_a_bad_request() {
    let relay = Relay::new();
    let mut two_hosts = over_http1(relay.signed().0);
    two_hosts
        .headers_mut()
        .append("host", "evil.example".parse().unwrap());
    assert_eq!(relay.accept(two_hosts).unwrap_err(), Answer::BadRequest);
    let mut other_host = over_http2(relay.signed().0);
    other_host
        .headers_mut()
        .insert("host", "evil.example".parse().unwrap());
    assert_eq!(relay.accept(other_host).unwrap_err(), Answer::BadRequest);
    let mut full_uri = relay.signed().0;
    full_uri
        .headers_mut()
        .insert("host", "katachi.localhost:8443".parse().unwrap());
    assert_eq!(relay.accept(full_uri).unwrap_err(), Answer::BadRequest);
}

#[test]
fn parts_and_body_apart_are_signed_and_checked_alike() {
    let relay = Relay::new();
    let (request, _) = relay.signed();
    let (head, body) = over_http1(request).into_parts();
    let parts = RequestParts {
        head: &head,
        body: &body,
    };
    let context = Context::new(at(NOW), relay.store.epoch().unwrap());
    let authentic = relay.verifier.check(parts, &relay.keys, &context).unwrap();
    assert_eq!(authentic.key().owner, "agent-1");
    let short = RequestParts {
        head: &head,
        body: &body[1..],
    };
    assert!(relay.verifier.check(short, &relay.keys, &context).is_err());
}

#[test]
fn an_answer_in_http_types_is_signed_and_believed() {
    let relay = Relay::new();
    let (_, signed) = relay.signed();
    let key = || derive_key(&secret(), "agent-1", &Profile::RELAY_RESPONSE);
    let mut response = Response::builder()
        .status(202)
        .body(b"ok".to_vec())
        .unwrap();
    let headers = sign_response(
        &Profile::RELAY_RESPONSE,
        &key_id(),
        &SigningKey::from(key()),
        &response,
        signed.binding(),
        at(NOW),
    );
    apply_headers(response.headers_mut(), headers);
    let key = VerifyingKey::from(key());
    let check = |response: &Response<Vec<u8>>| {
        verify_response(
            &Profile::RELAY_RESPONSE,
            &key_id(),
            &key,
            response,
            signed.binding(),
        )
    };
    assert_eq!(check(&response).unwrap().created(), NOW);
    let (head, body) = response.clone().into_parts();
    let parts = ResponseParts {
        head: &head,
        body: &body,
    };
    let verified = verify_response(
        &Profile::RELAY_RESPONSE,
        &key_id(),
        &key,
        &parts,
        signed.binding(),
    );
    assert!(verified.is_ok());
    *response.status_mut() = http::StatusCode::OK;
    assert!(check(&response).is_err());
}

// The head before the body.

#[test]
fn a_head_is_believed_and_its_body_compared_later() {
    let relay = Relay::new();
    let (request, _) = relay.signed();
    let body = request.body().clone();
    let head = relay.head(&over_http1(request.clone()), NOW).unwrap();
    assert_eq!(head.head().uri.path(), "/v1/agent/activity");
    assert!(
        !format!("{head:?}").contains("activity"),
        "nothing is shown"
    );
    let authentic = head.with_body(body.clone(), at(NOW + 5)).unwrap();
    assert_eq!(authentic.key().owner, "agent-1");
    let verified = authentic.spend(&relay.store, at(NOW + 5)).unwrap();
    assert_eq!(verified.request().body(), &body);
    // Its copy passes as far as that, and no further.
    let copy = relay.head(&over_http2(request), NOW).unwrap();
    let copy = copy.with_body(body, at(NOW)).unwrap();
    let refusal = copy.spend(&relay.store, at(NOW)).unwrap_err();
    assert_eq!(refusal.answer(), Answer::Replayed);
}

#[test]
fn a_head_that_is_checked_and_left_spends_nothing() {
    let relay = Relay::new();
    let (request, _) = relay.signed();
    for _ in 0..100 {
        let _ = relay.head(&request, NOW).unwrap();
    }
    assert!(relay.store.is_empty());
    relay.accept(request).unwrap();
}

#[test]
fn a_stranger_s_head_is_refused_before_its_body() {
    let relay = Relay::new();
    let (good, _) = relay.signed();
    let set = |name: &'static str, value: &'static str| {
        let mut request = good.clone();
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
        request
    };
    let moved = |to: &str| {
        let mut request = good.clone();
        *request.uri_mut() = to.parse().unwrap();
        request
    };
    let mut got = good.clone();
    *got.method_mut() = http::Method::GET;
    let mut bare = good.clone();
    bare.headers_mut().remove("signature");
    let mut twice = good.clone();
    let digest = twice.headers()["content-digest"].clone();
    twice.headers_mut().append("content-digest", digest);
    for (what, request) in [
        ("another method", got),
        ("no signature", bare),
        (
            "another path",
            moved("https://katachi.localhost:8443/v1/agent/mcp?kind=run&x=%2F"),
        ),
        (
            "another query",
            moved("https://katachi.localhost:8443/v1/agent/activity"),
        ),
        ("another type", set("content-type", "text/plain")),
        ("an encoding", set("content-encoding", "gzip")),
        ("a signature of nobody", set("signature", "katachi=:AAAA:")),
        (
            "another digest",
            set(
                "content-digest",
                "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
            ),
        ),
        ("two digests", twice),
        (
            "another epoch",
            set("katachi-epoch", "AAAAAAAAAAAAAAAAAAAAAA"),
        ),
    ] {
        let refusal = relay.head(&request, NOW).expect_err(what);
        assert_eq!(refusal.answer(), Answer::Refused, "{what}");
        assert!(refusal.authenticated().is_none(), "{what}");
    }
    let elsewhere = moved("https://evil.example/v1/agent/activity?kind=run&x=%2F");
    let refusal = relay.head(&elsewhere, NOW).unwrap_err();
    assert_eq!(refusal.answer(), Answer::BadRequest);
    assert!(relay.store.is_empty());
}

#[test]
fn the_holder_of_a_key_hears_why_its_head_is_refused() {
    let mut relay = Relay::new();
    let (request, _) = relay.signed();
    let told = |relay: &Relay, now, answer| {
        let refusal = relay.head(&request, now).unwrap_err();
        assert_eq!(refusal.answer(), answer);
        let (key, binding) = refusal.authenticated().expect("the key is known");
        (key.id.clone(), binding.clone())
    };
    let _ = relay.head(&request, NOW - 5).unwrap();
    let _ = relay.head(&request, NOW + 60).unwrap();
    let (key, binding) = told(&relay, NOW - 6, Answer::Skew);
    assert_eq!(key, key_id());
    assert_eq!(told(&relay, NOW + 61, Answer::Skew).1, binding);
    relay.store.start_new_epoch().unwrap();
    assert_eq!(told(&relay, NOW, Answer::StaleEpoch).1, binding);
    let key = derive_key(&secret(), "agent-1", &Profile::AGENT_REQUEST);
    let mut revoked = KnownKey::new(key_id(), "agent-1", key);
    revoked.revoked = true;
    relay.keys = Arc::new(revoked);
    assert_eq!(told(&relay, NOW, Answer::Revoked).1, binding);
    // Whoever does not hold it is told nothing of that.
    let other = Signer::new(
        Profile::AGENT_REQUEST,
        key_id(),
        derive_key(&secret(), "agent-2", &Profile::AGENT_REQUEST),
    );
    let mut forged = Request::get("https://katachi.localhost:8443/v1/agent/mcp")
        .body(Vec::new())
        .unwrap();
    let freshness = Freshness::new(at(NOW), relay.nonces.draw(), relay.store.epoch().unwrap());
    let signed = other.sign(&forged, &freshness).unwrap();
    signed.apply(forged.headers_mut());
    let refusal = relay.head(&forged, NOW).unwrap_err();
    assert_eq!(refusal.answer(), Answer::Refused);
    let unknown = KnownKey::new(
        KeyId::parse("another").unwrap(),
        "agent-1",
        derive_key(&secret(), "agent-1", &Profile::AGENT_REQUEST),
    );
    relay.keys = Arc::new(unknown);
    let refusal = relay.head(&request, NOW).unwrap_err();
    assert_eq!(refusal.answer(), Answer::Refused);
    assert!(refusal.authenticated().is_none());
}

#[test]
fn what_becomes_of_a_body_is_told_to_the_one_who_signed_its_head() {
    let relay = Relay::new();
    let (request, signed) = relay.signed();
    let head = || relay.head(&request, NOW).unwrap();
    let body = request.body();
    let other = || [&body[..], b" "].concat();
    let early = || relay.head(&request, NOW + 60).unwrap();
    let refusals = [
        (
            head()
                .with_body(&body[1..], at(NOW))
                .map(drop::<Authentic<_>>)
                .unwrap_err(),
            Answer::Refused,
        ),
        (
            head().with_body(other(), at(NOW)).map(drop).unwrap_err(),
            Answer::Refused,
        ),
        (
            head().with_body(b"", at(NOW)).map(drop).unwrap_err(),
            Answer::Refused,
        ),
        // The right one, that took its time.
        (
            early()
                .with_body(body.clone(), at(NOW + 61))
                .map(drop)
                .unwrap_err(),
            Answer::Skew,
        ),
        (head().refuse(Reason::TooLarge), Answer::TooLarge),
        (head().refuse(Reason::Unreadable), Answer::BadRequest),
        (head().refuse(Reason::Digest), Answer::Refused),
    ];
    for (refusal, answer) in refusals {
        assert_eq!(refusal.answer(), answer, "{refusal}");
        let (key, binding) = refusal.authenticated().expect("the key is known");
        assert_eq!((&key.id, binding), (&key_id(), signed.binding()));
    }
    assert!(relay.store.is_empty());
    // The store began anew while the body was under way.
    let late = head().with_body(body.clone(), at(NOW)).unwrap();
    relay.store.start_new_epoch().unwrap();
    let refusal = late.spend(&relay.store, at(NOW)).unwrap_err();
    assert_eq!(refusal.answer(), Answer::StaleEpoch);
}

#[test]
fn a_head_that_is_bound_to_a_connection_is_good_on_that_one() {
    let profile = Profile::TUNNEL_REQUEST;
    let key = || derive_key(&secret(), "agent-1", &profile);
    let verifier = Verifier::new(profile, ["katachi.localhost:8443"]);
    let keys = Arc::new(KnownKey::new(key_id(), "agent-1", key()));
    let store = MemoryReplay::new(Limits::default()).unwrap();
    let mut request = Request::get("https://katachi.localhost:8443/v1/tunnel")
        .body(Vec::new())
        .unwrap();
    let nonces = NonceSequence::start().unwrap();
    let mut freshness = Freshness::new(at(NOW), nonces.draw(), store.epoch().unwrap());
    freshness.channel = Some(&[7; 32]);
    let signer = Signer::new(profile, key_id(), key());
    let signed = signer.sign(&request, &freshness).unwrap();
    signed.apply(request.headers_mut());
    let answer = |channel: Option<&[u8; 32]>| {
        let mut context = Context::new(at(NOW), store.epoch().unwrap());
        context.channel = channel;
        let (head, body) = request.clone().into_parts();
        let head = verifier.check_head(head, &keys, &context);
        head.and_then(|head| head.with_body(body, at(NOW)).map(drop))
            .map_err(|refusal| refusal.answer())
    };
    assert_eq!(answer(Some(&[7; 32])), Ok(()));
    assert_eq!(answer(Some(&[8; 32])), Err(Answer::Refused));
    assert_eq!(answer(None), Err(Answer::Misconfigured));
}

/// What may happen to a request on its way.
#[derive(Clone, Debug)]
enum Change {
    Nothing,
    Header(prop::sample::Index, prop::sample::Index, u8),
    Dropped(prop::sample::Index),
    Added(&'static str),
    Path,
    Body(prop::sample::Index, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        Just(Change::Nothing),
        (index(), index(), 0x20_u8..0x7f).prop_map(|(h, at, to)| Change::Header(h, at, to)),
        index().prop_map(Change::Dropped),
        prop::sample::select(vec![
            "idempotency-key",
            "content-encoding",
            "authorization",
            "x-other"
        ])
        .prop_map(Change::Added),
        Just(Change::Path),
        (index(), any::<u8>()).prop_map(|(at, to)| Change::Body(at, to)),
    ]
}

impl Change {
    fn apply(&self, request: &mut Request<Vec<u8>>) {
        let names: Vec<_> = request.headers().keys().cloned().collect();
        match self {
            Self::Nothing => {}
            Self::Header(header, at, to) => {
                let name = header.get(&names);
                let mut value = request.headers()[name].as_bytes().to_vec();
                let at = at.index(value.len());
                value[at] = *to;
                let value = HeaderValue::from_bytes(&value).unwrap();
                request.headers_mut().insert(name, value);
            }
            Self::Dropped(header) => {
                request.headers_mut().remove(header.get(&names));
            }
            Self::Added(name) => {
                let value = HeaderValue::from_static("a");
                request.headers_mut().insert(*name, value);
            }
            Self::Path => *request.uri_mut() = "/v1/agent/other".parse().unwrap(),
            Self::Body(at, to) => {
                let at = at.index(request.body().len());
                request.body_mut()[at] = *to;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever is altered, whenever it comes: in two steps as in one.
    #[test]
    fn the_head_and_then_the_body_is_the_whole(
        changes in prop::collection::vec(change(), 1..3),
        is_http1 in any::<bool>(),
        now in NOW - 8..NOW + 64,
    ) {
        let relay = Relay::new();
        let (request, _) = relay.signed();
        let mut request = if is_http1 { over_http1(request) } else { over_http2(request) };
        let original = request.clone();
        for change in &changes {
            change.apply(&mut request);
        }
        let context = Context::new(at(now), relay.store.epoch().unwrap());
        let whole = relay.verifier.check(request.clone(), &relay.keys, &context);
        let head = relay.head(&request, now);
        let is_head_altered = request.headers() != original.headers()
            || request.uri() != original.uri();
        if head.is_err() {
            prop_assert!(whole.is_err());
        }
        let body = request.body().clone();
        let steps = head.and_then(|head| head.with_body(body, at(now)));
        match (whole, steps) {
            (Ok(whole), Ok(steps)) => {
                let in_time = (NOW - 5..=NOW + 60).contains(&now);
                prop_assert!(in_time && request.body() == original.body());
                let unsigned = changes.iter().any(|change| matches!(change, Change::Added("x-other")));
                prop_assert!(!is_head_altered || unsigned);
                steps.spend(&relay.store, at(now)).unwrap();
                let copy = whole.spend(&relay.store, at(now)).unwrap_err();
                prop_assert_eq!(copy.answer(), Answer::Replayed);
            }
            (Err(whole), Err(steps)) => {
                prop_assert_eq!(whole.answer(), steps.answer());
                prop_assert_eq!(whole.to_string(), steps.to_string());
                prop_assert_eq!(
                    whole.authenticated().map(|(key, binding)| (&key.id, binding)),
                    steps.authenticated().map(|(key, binding)| (&key.id, binding))
                );
                prop_assert!(relay.store.is_empty());
            }
            (whole, steps) => prop_assert!(false, "{whole:?}, {steps:?}"),
        }
    }
}
