//! A proof of possession with anything done to it is accepted as it was made, once, for
//! its own request, and in no other case; and no refused proof leaves a trace.
#![no_main]

use std::sync::LazyLock;

use katachi_auth::clock::Timestamp;
use katachi_auth::device::dpop::{ProofKey, verify};
use katachi_auth::replay::{Limits, MemoryReplay, Nonce, ReplayStore as _};
use katachi_crypto::Secret;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Change<'a> {
    at: u16,
    cut: u8,
    /// Whether it is shown somewhere else.
    elsewhere: bool,
    paste: &'a str,
}

const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);
const URI: &str = "https://relay.example/token";

static STORE: LazyLock<MemoryReplay> =
    LazyLock::new(|| MemoryReplay::new(Limits::default()).expect("the system gives randomness"));
static KEY: LazyLock<ProofKey> = LazyLock::new(|| ProofKey::from_seed(&Secret::new([4; 32])));

fuzz_target!(|change: Change<'_>| {
    let epoch = STORE.start_new_epoch().expect("randomness");
    let id = Nonce::Random([8; 16]);
    let proof = KEY.prove("POST", URI, NOW, &id, Some(&epoch));
    let mut changed = proof.clone();
    let from = usize::from(change.at) % (changed.len() + 1);
    let to = (from + usize::from(change.cut)).min(changed.len());
    changed.replace_range(from..to, change.paste);
    let uri = match change.elsewhere {
        false => URI,
        true => "https://relay.example/other",
    };

    let outcome = verify(&changed, "POST", uri, &*STORE, NOW);
    if changed == proof && uri == URI {
        assert_eq!(outcome.ok(), Some(KEY.thumbprint()));
        assert_eq!(STORE.len(), 1);
        assert!(verify(&changed, "POST", uri, &*STORE, NOW).is_err(), "once");
    } else {
        assert!(outcome.is_err(), "{changed}");
        assert!(STORE.is_empty());
    }
    assert_eq!(STORE.epoch().ok(), Some(epoch));
});
