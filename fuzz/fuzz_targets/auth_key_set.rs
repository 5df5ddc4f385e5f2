//! A provider's key set: what stands beside a key neither hides it nor signs in its
//! place, and a set is bounded however long it is.
#![no_main]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_auth::clock::Timestamp;
use katachi_auth::oauth::id_token::{Expected, IdTokenError, KeySet, verify};
use libfuzzer_sys::fuzz_target;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

const EXPECTED: Expected<'static> = Expected {
    issuer: "https://id.example",
    client_id: "us",
    nonce: "n",
};

/// A token, and the public key of whoever signed it.
static SIGNED: LazyLock<(String, String)> = LazyLock::new(|| {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[5; 32]).expect("32 bytes are a seed");
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let header = part(json!({"alg": "EdDSA", "kid": "k"}));
    let claims = part(json!({
        "iss": "https://id.example", "sub": "ana", "aud": "us", "nonce": "n",
        "exp": 1_800_000_600, "iat": 1_800_000_000,
    }));
    let signed = format!("{header}.{claims}");
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes()));
    let x = URL_SAFE_NO_PAD.encode(pair.public_key());
    (format!("{signed}.{signature}"), x)
});

fuzz_target!(|json: &[u8]| {
    let Ok(set) = KeySet::parse(json) else {
        return;
    };
    let value: Value = serde_json::from_slice(json).expect("a set is JSON");
    let written = value["keys"].as_array().expect("a set has keys").len();
    assert!(set.len() <= written.min(32));

    let (token, x) = &*SIGNED;
    let now = Timestamp::from_unix(1_800_000_000);
    let outcome = verify(token, &set, &EXPECTED, now);
    match outcome {
        Ok(_) => assert!(value.to_string().contains(x.as_str()), "another key signed"),
        Err(error) => assert!(matches!(
            error,
            IdTokenError::UnknownKey | IdTokenError::Signature
        )),
    }
    // The true key, before whatever else stands there.
    let mut keys = vec![json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x})];
    keys.extend_from_slice(value["keys"].as_array().expect("seen above"));
    let set = KeySet::parse(json!({"keys": keys}).to_string().as_bytes()).expect("still a set");
    verify(token, &set, &EXPECTED, now).expect("its key is there");
});
