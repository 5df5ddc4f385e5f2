//! ID tokens. As a token, a text is believed only if it is the one that was signed. As a
//! header and claims on two lines, which the provider's key then really signs, it is
//! believed only if a twin that reads it as plain JSON finds it made for us, for this
//! sign-in and for now.
#![no_main]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_auth::clock::Timestamp;
use katachi_auth::oauth::id_token::{Expected, KeySet, SKEW, verify};
use libfuzzer_sys::fuzz_target;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::Value;

const NOW: u64 = 1_800_000_000;
const EXPECTED: Expected<'static> = Expected {
    issuer: "https://id.example",
    client_id: "us",
    nonce: "n-0S6",
};
const HEADER: &str = r#"{"alg":"EdDSA","kid":"1"}"#;
const CLAIMS: &str = r#"{"iss":"https://id.example","sub":"ana","aud":"us","exp":1800000600,"iat":1800000000,"nonce":"n-0S6"}"#;

static PAIR: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[3; 32]).expect("32 bytes are a seed"));

static KEYS: LazyLock<KeySet> = LazyLock::new(|| {
    let x = URL_SAFE_NO_PAD.encode(PAIR.public_key());
    let set = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"1","x":"{x}"}}]}}"#);
    KeySet::parse(set.as_bytes()).expect("a key set")
});

static GOOD: LazyLock<String> = LazyLock::new(|| sign(HEADER, CLAIMS));

fn sign(header: &str, claims: &str) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = PAIR.sign(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// OpenID Connect Core section 3.1.3.7, read by somebody else.
fn is_for_us(claims: &str) -> bool {
    let claims: Value = serde_json::from_str(claims).expect("what was believed is JSON");
    let seconds = |name: &str| claims[name].as_f64();
    let audience = match &claims["aud"] {
        Value::Array(many) => !many.is_empty() && many.iter().all(|one| one == "us"),
        one => one == "us",
    };
    claims["iss"] == EXPECTED.issuer
        && audience
        && (claims["azp"].is_null() || claims["azp"] == "us")
        && claims["nonce"] == EXPECTED.nonce
        && claims["sub"].as_str().is_some_and(|sub| !sub.is_empty())
        && seconds("exp").is_some_and(|exp| exp + SKEW as f64 > NOW as f64)
        && seconds("iat").is_some_and(|iat| iat <= (NOW + SKEW) as f64)
}

fuzz_target!(|text: &str| {
    let now = Timestamp::from_unix(NOW);
    let as_token = verify(text, &KEYS, &EXPECTED, now);
    assert_eq!(as_token.is_ok(), text == *GOOD);

    let Some((header, claims)) = text.split_once('\n') else {
        return;
    };
    let Ok(believed) = verify(&sign(header, claims), &KEYS, &EXPECTED, now) else {
        assert!((header, claims) != (HEADER, CLAIMS));
        return;
    };
    assert!(is_for_us(claims));
    let header: Value = serde_json::from_str(header).expect("it was read");
    assert!(header["alg"] == "EdDSA" || header["alg"] == "Ed25519");
    assert!(header["crit"].is_null());
    let claims: Value = serde_json::from_str(claims).expect("it was read");
    assert_eq!(claims["sub"], believed.subject);
    let vouched = &claims["email_verified"];
    let verified = *vouched == true || *vouched == "true";
    assert_eq!(believed.email_verified, verified);
});
