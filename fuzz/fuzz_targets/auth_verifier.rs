//! A signed request with anything done to it: the verifier accepts the bytes that were
//! signed, and nothing else.
#![no_main]

use std::sync::{Arc, LazyLock};

use katachi_auth::clock::Timestamp;
use katachi_auth::replay::{Epoch, Nonce};
use katachi_auth::signature::{
    Context, Freshness, KeyId, KnownKey, Profile, RequestView, Signer, Verifier, derive_key,
};
use katachi_crypto::Secret;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Change<'a> {
    /// Which part: a header, or one of the rest.
    part: u8,
    /// Where in it.
    at: u16,
    /// How many bytes go.
    cut: u8,
    /// What comes instead.
    paste: &'a [u8],
}

struct World {
    verifier: Verifier,
    keys: Arc<KnownKey>,
    /// Method, authority, path, query, body, then header values.
    parts: Vec<Vec<u8>>,
    names: Vec<&'static str>,
}

const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);
const EPOCH: Epoch = Epoch::from_bytes([7; 16]);
const FIXED: usize = 5;

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let secret = Secret::new([1; 32]);
    let key = || derive_key(&secret, "agent-1", &Profile::AGENT_REQUEST);
    let id = KeyId::parse("k-1").expect("a valid identifier");
    let signer = Signer::new(Profile::AGENT_REQUEST, id.clone(), key());
    let request = RequestView {
        method: "POST",
        authority: "relay.example",
        path: "/v1/agent/activity",
        query: Some("a=1"),
        headers: &[("content-type", b"application/json")],
        body: b"{\"kind\":\"idle\"}",
    };
    let freshness = Freshness::new(NOW, Nonce::Random([9; 16]), EPOCH);
    let signed = signer
        .sign(&request, &freshness)
        .expect("the request can be signed");
    let mut names = vec!["content-type"];
    let mut parts: Vec<Vec<u8>> = [
        &b"POST"[..],
        b"relay.example",
        b"/v1/agent/activity",
        b"a=1",
        request.body,
        b"application/json",
    ]
    .map(Vec::from)
    .into();
    for (name, value) in signed.headers() {
        names.push(name);
        parts.push(value.into());
    }
    World {
        verifier: Verifier::new(Profile::AGENT_REQUEST, ["relay.example"]),
        keys: Arc::new(KnownKey::new(id, "agent-1", key())),
        parts,
        names,
    }
});

fuzz_target!(|changes: Vec<Change<'_>>| {
    let world = &*WORLD;
    let mut parts = world.parts.clone();
    for change in changes.iter().take(4) {
        let part = usize::from(change.part) % parts.len();
        let bytes = &mut parts[part];
        let from = usize::from(change.at) % (bytes.len() + 1);
        let to = (from + usize::from(change.cut)).min(bytes.len());
        bytes.splice(from..to, change.paste.iter().copied());
    }
    let Ok(texts) = parts[..FIXED - 1]
        .iter()
        .map(|part| std::str::from_utf8(part))
        .collect::<Result<Vec<_>, _>>()
    else {
        return;
    };
    let headers: Vec<(&str, &[u8])> = world
        .names
        .iter()
        .zip(&parts[FIXED..])
        .map(|(name, value)| (*name, value.as_slice()))
        .collect();
    let view = RequestView {
        method: texts[0],
        authority: texts[1],
        path: texts[2],
        query: Some(texts[3]),
        headers: &headers,
        body: &parts[FIXED - 1],
    };
    let accepted = world
        .verifier
        .check(view, &world.keys, &Context::new(NOW, EPOCH))
        .is_ok();
    assert_eq!(accepted, parts == world.parts, "{parts:?}");
});
