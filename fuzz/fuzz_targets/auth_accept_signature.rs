//! Any `Accept-Signature`: what is read is written as it was, and a signature made
//! for it verifies and is what was asked for.
#![no_main]

use katachi_auth::signature::generic::{Message, Terms, accept_signature, requested, verify};
use katachi_auth::signature::{RequestView, SigningKey, VerifyingKey};
use katachi_crypto::mac::HmacKey;
use libfuzzer_sys::fuzz_target;

const REQUEST: RequestView<'static> = RequestView {
    method: "POST",
    authority: "example.com",
    path: "/foo",
    query: Some("a=1&b=2"),
    headers: &[
        ("content-type", b"application/json"),
        ("x-dict", b"a=1, b=2;x"),
    ],
    body: b"",
};

const TERMS: Terms<'static> = Terms {
    created: 1_800_000_000,
    lifetime: 60,
    key_id: "k",
};

fuzz_target!(|value: &str| {
    let mut headers = REQUEST.headers.to_vec();
    headers.push(("accept-signature", value.as_bytes()));
    let asking = RequestView {
        headers: &headers,
        ..REQUEST
    };
    let asking = Message::Request {
        request: &asking,
        scheme: "https",
    };
    let Ok(asked) = requested(&asking) else {
        return;
    };
    assert_eq!(accept_signature(&asked), value.trim_ascii());
    let key = || HmacKey::from_slice(b"a key of the fuzzer");
    let plain = Message::Request {
        request: &REQUEST,
        scheme: "https",
    };
    for one in asked {
        let Ok((input, signature)) = one.fulfil(&plain, &TERMS, &SigningKey::from(key())) else {
            continue;
        };
        let mut headers = REQUEST.headers.to_vec();
        headers.push(("signature-input", input.as_bytes()));
        headers.push(("signature", signature.as_bytes()));
        let request = RequestView {
            headers: &headers,
            ..REQUEST
        };
        let message = Message::Request {
            request: &request,
            scheme: "https",
        };
        let signed = verify(&message, one.label(), &VerifyingKey::from(key()))
            .expect("what was made for a request verifies");
        assert!(one.is_met_by(&signed));
    }
});
