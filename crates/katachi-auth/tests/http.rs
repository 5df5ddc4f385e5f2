//! The same signature over the `http` crate's types, whichever version carries it.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

mod support;

use std::sync::Arc;

use http::{Request, Response, Version};
use katachi_auth::replay::{Limits, MemoryReplay, NonceSequence, ReplayStore as _};
use katachi_auth::signature::{
    Answer, Context, Freshness, KnownKey, Profile, RequestParts, ResponseParts, SignedRequest,
    Signer, SigningKey, Verifier, VerifyingKey, apply_headers, derive_key, sign_response,
    verify_response,
};
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
