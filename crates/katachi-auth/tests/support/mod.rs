//! What the signature tests share: one agent, one relay, and requests that can be bent.
#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::Arc;

use katachi_auth::clock::Timestamp;
use katachi_auth::replay::{Epoch, Limits, MemoryReplay, Nonce, ReplayStore};
use katachi_auth::signature::{
    Authentic, Context, Freshness, KeyId, KnownKey, Profile, Refusal, RequestView, Signer,
    Verified, Verifier, derive_key,
};
use katachi_crypto::Secret;

pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const AUTHORITY: &str = "relay.example:8443";

pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix(seconds)
}

pub(crate) fn secret() -> Secret<32> {
    Secret::new([0x5a; 32])
}

pub(crate) fn key_id() -> KeyId {
    KeyId::parse("k-7Qm2").unwrap()
}

/// A request with owned parts, so that a test can change any of them after signing.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) method: String,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl Sent {
    pub(crate) fn post(path: &str, body: &[u8]) -> Self {
        Self {
            method: "POST".into(),
            authority: AUTHORITY.into(),
            path: path.into(),
            query: Some("a=1&b=%2F".into()),
            headers: vec![("content-type".into(), b"application/json".to_vec())],
            body: body.into(),
        }
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&RequestView<'_>) -> T) -> T {
        let headers: Vec<(&str, &[u8])> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()))
            .collect();
        act(&RequestView {
            method: &self.method,
            authority: &self.authority,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &headers,
            body: &self.body,
        })
    }

    pub(crate) fn header(&self, name: &str) -> String {
        let (_, value) = self
            .headers
            .iter()
            .find(|(found, _)| found == name)
            .unwrap();
        String::from_utf8(value.clone()).unwrap()
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.remove(name);
        self.headers.push((name.into(), value.into()));
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.headers.retain(|(found, _)| found != name);
    }

    /// Changes the text of one header.
    pub(crate) fn edit(&mut self, name: &str, from: &str, to: &str) {
        let value = self.header(name);
        assert!(value.contains(from), "{name} has no {from}: {value}");
        self.set(name, value.replacen(from, to, 1));
    }
}

impl katachi_auth::signature::Request for Sent {
    fn method(&self) -> &str {
        &self.method
    }

    fn authority(&self) -> Option<&str> {
        Some(&self.authority)
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    fn each_header<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        for (found, value) in &self.headers {
            if found.eq_ignore_ascii_case(name) {
                visit(value);
            }
        }
    }

    fn body(&self) -> &[u8] {
        &self.body
    }
}

/// A relay that knows one key, and the agent that holds it.
pub(crate) struct World {
    pub(crate) profile: Profile,
    pub(crate) verifier: Verifier,
    pub(crate) signer: Signer,
    pub(crate) keys: Arc<KnownKey>,
    pub(crate) store: MemoryReplay,
    pub(crate) epoch: Epoch,
}

impl World {
    pub(crate) fn new(profile: Profile) -> Self {
        let key = || derive_key(&secret(), "agent-1", &profile);
        let store = MemoryReplay::new(Limits::default()).unwrap();
        Self {
            profile,
            verifier: Verifier::new(profile, ["other.example", AUTHORITY]),
            signer: Signer::new(profile, key_id(), key()),
            keys: Arc::new(KnownKey::new(key_id(), "agent-1", key())),
            epoch: store.epoch().unwrap(),
            store,
        }
    }

    pub(crate) fn agent() -> Self {
        Self::new(Profile::AGENT_REQUEST)
    }

    /// Signs at `now` with a random nonce.
    pub(crate) fn sign_at(&self, mut sent: Sent, now: u64) -> Sent {
        let nonce = Nonce::random().unwrap();
        let freshness = Freshness::new(at(now), nonce, self.epoch);
        let signed = sent
            .with(|view| self.signer.sign(view, &freshness))
            .unwrap();
        for (name, value) in signed.headers() {
            sent.set(name, value);
        }
        sent
    }

    pub(crate) fn sign(&self, sent: Sent) -> Sent {
        self.sign_at(sent, NOW)
    }

    /// A signed request that is accepted as it is.
    pub(crate) fn good(&self) -> Sent {
        self.sign(Sent::post("/v1/agent/heartbeat", b"{\"state\":\"idle\"}"))
    }

    pub(crate) fn check_at(&self, sent: &Sent, now: u64) -> Result<(), Refusal> {
        let context = Context::new(at(now), self.epoch);
        sent.with(|view| {
            self.verifier
                .check(view, &self.keys, &context)
                .map(drop::<Authentic<_>>)
        })
    }

    pub(crate) fn check(&self, sent: &Sent) -> Result<(), Refusal> {
        self.check_at(sent, NOW)
    }

    /// Checks and spends.
    pub(crate) fn accept_at(&self, sent: &Sent, now: u64) -> Result<(), Refusal> {
        let context = Context::new(at(now), self.epoch);
        sent.with(|view| {
            self.verifier
                .check(view, &self.keys, &context)?
                .spend(&self.store, at(now))
                .map(drop::<Verified<_>>)
        })
    }

    pub(crate) fn accept(&self, sent: &Sent) -> Result<(), Refusal> {
        self.accept_at(sent, NOW)
    }
}

/// Hostile values of `Signature-Input` that grow with `n`.
pub(crate) fn hostile(n: usize, input: &str) -> Vec<String> {
    let labels: String = (0..n).map(|n| format!("l{n}=(), ")).collect();
    vec![
        "a".repeat(64 * n),
        format!("{labels}{input}"),
        format!("katachi=({});created=1", "\"@method\" ".repeat(n)),
        "\"".repeat(64 * n),
        "katachi=".repeat(8 * n),
        "katachi=(".repeat(8 * n),
        format!("katachi=(){}", ";a".repeat(16 * n)),
    ]
}
