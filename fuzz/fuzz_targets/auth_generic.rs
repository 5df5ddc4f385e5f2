//! A message that any implementation may have signed: the verifier neither panics nor
//! accepts one whose covered bytes were not signed with the key.
#![no_main]

use katachi_auth::signature::generic::{Message, sign, verify};
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

fuzz_target!(|input: &str| {
    let key = || HmacKey::from_slice(b"a key of the fuzzer");
    let unsigned = Message::Request {
        request: &REQUEST,
        scheme: "https",
    };
    let Ok((input, signature)) = sign(&unsigned, "s", input, &SigningKey::from(key())) else {
        return;
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
    // What was signed verifies, unless it lies about its algorithm or covers the
    // signature headers, which signing added.
    let outcome = verify(&message, "s", &VerifyingKey::from(key()));
    if let Ok(signed) = &outcome {
        let method = signed.covers("@method");
        let other = RequestView {
            method: "PUT",
            ..request
        };
        let moved = Message::Request {
            request: &other,
            scheme: "https",
        };
        assert_eq!(
            verify(&moved, "s", &VerifyingKey::from(key())).is_ok(),
            !method
        );
    }
    let wrong = VerifyingKey::from(HmacKey::from_slice(b"another key"));
    assert!(verify(&message, "s", &wrong).is_err());
});
