//! `Accept-Signature` (RFC 9421 section 5): asking, reading, making, and holding to it.
#![cfg(feature = "generic")]
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use katachi_auth::signature::generic::{
    GenericError, Message, Requested, Terms, accept_signature, requested, verify,
};
use katachi_auth::signature::{RequestView, ResponseView, SigningKey, VerifyingKey};
use katachi_crypto::Secret;
use katachi_crypto::mac::HmacKey;
use proptest::prelude::*;

/// The example of section 5.1, with the components that a request has.
const ASKED: &str = r#"sig1=("@method" "@target-uri" "@authority" "content-digest" "cache-control");keyid="test-key";created;tag="app-123""#;

const TERMS: Terms<'static> = Terms {
    created: 1_800_000_000,
    lifetime: 60,
    key_id: "test-key",
};

fn key() -> HmacKey {
    HmacKey::from_slice(&[7; 32])
}

fn read(value: &str) -> Result<Vec<Requested>, GenericError> {
    let headers: [(&str, &[u8]); 1] = [("Accept-Signature", value.as_bytes())];
    let response = ResponseView {
        status: 401,
        headers: &headers,
        body: b"",
    };
    requested(&Message::Response {
        response: &response,
        request: None,
    })
}

const HEADERS: [(&str, &[u8]); 2] = [
    ("content-digest", b"sha-256=:AAAA:"),
    ("cache-control", b"no-store"),
];

fn view<'a>(headers: &'a [(&'a str, &'a [u8])]) -> RequestView<'a> {
    RequestView {
        method: "POST",
        authority: "example.com",
        path: "/foo",
        query: None,
        headers,
        body: b"",
    }
}

fn fulfil(asked: &Requested, key: &SigningKey) -> Result<(String, String), GenericError> {
    let request = view(&HEADERS);
    let message = Message::Request {
        request: &request,
        scheme: "https",
    };
    asked.fulfil(&message, &TERMS, key)
}

#[test]
fn what_is_asked_for_is_made_and_recognised() {
    let asked = read(ASKED).unwrap();
    assert_eq!(accept_signature(&asked), ASKED, "read and written alike");
    let [one] = asked.as_slice() else {
        panic!("one signature was asked for")
    };
    assert_eq!((one.label(), one.key_id()), ("sig1", Some("test-key")));
    assert_eq!((one.tag(), one.components().count()), (Some("app-123"), 5));
    let (input, signature) = fulfil(one, &key().into()).unwrap();
    assert_eq!(
        input,
        ASKED.replace(";created", ";created=1800000000"),
        "parameters stand in the order in which they were asked for"
    );
    let mut headers = HEADERS.to_vec();
    headers.push(("signature-input", input.as_bytes()));
    headers.push(("signature", signature.as_bytes()));
    let request = view(&headers);
    let message = Message::Request {
        request: &request,
        scheme: "https",
    };
    let signed = verify(&message, one.label(), &VerifyingKey::from(key())).unwrap();
    assert!(one.is_met_by(&signed));
    // Asked for more, or for something else, the same signature does not do.
    for other in [
        ASKED.replace("\"cache-control\"", "\"cache-control\" \"@path\""),
        ASKED.replace("\"cache-control\"", "\"cache-control\";bs"),
        ASKED.replace("app-123", "app-124"),
        ASKED.replace(";created", ";created;expires"),
        ASKED.replace(";created", ";created;nonce=\"n\""),
        ASKED.replace("test-key", "other-key"),
    ] {
        assert!(!read(&other).unwrap()[0].is_met_by(&signed), "{other}");
    }
    let less = ASKED.replace(" \"cache-control\"", "");
    assert!(read(&less).unwrap()[0].is_met_by(&signed));
}

#[test]
fn every_parameter_that_can_be_asked_for_is_given() {
    let asked = r#"("@method");nonce="n-1";expires;alg="ed25519";created;tag="t""#;
    let asked = Requested::parse("s", asked).unwrap();
    let key = SigningKey::ed25519(&Secret::new([1; 32]));
    let (input, _) = fulfil(&asked, &key).unwrap();
    assert_eq!(
        input,
        r#"s=("@method");nonce="n-1";expires=1800000060;alg="ed25519";created=1800000000;tag="t";keyid="test-key""#
    );
}

#[test]
fn what_cannot_be_given_is_an_error() {
    let hmac = SigningKey::from(key());
    for (asked, error) in [
        (r#"("@method");alg="ed25519""#, GenericError::Algorithm),
        (
            r#"("@method");alg="rsa-pss-sha512""#,
            GenericError::Algorithm,
        ),
        (
            r#"("@method");keyid="another""#,
            GenericError::Parameter("keyid".into()),
        ),
        (
            r#"("@status")"#,
            GenericError::Component("\"@status\"".into()),
        ),
        (
            r#"("x-absent")"#,
            GenericError::Component("\"x-absent\"".into()),
        ),
    ] {
        let asked = Requested::parse("s", asked).unwrap();
        assert_eq!(fulfil(&asked, &hmac), Err(error), "{asked}");
    }
}

#[test]
fn several_signatures_may_be_asked_for_and_not_too_many() {
    let two = r#"a=("@method");created, b=("@path")"#;
    let asked = read(two).unwrap();
    assert_eq!(asked.len(), 2);
    assert_eq!(accept_signature(&asked), two);
    let many: Vec<String> = (0..9).map(|n| format!("l{n}=()")).collect();
    assert!(read(&many.join(", ")).is_err());
    assert_eq!(read(&many[..8].join(", ")).unwrap().len(), 8);
    let request = view(&[]);
    let message = Message::Request {
        request: &request,
        scheme: "https",
    };
    assert_eq!(requested(&message), Ok(Vec::new()), "nothing was asked for");
}

#[test]
fn what_is_no_request_for_a_signature_is_refused() {
    for bad in [
        "",
        "sig1",
        "sig1=1",
        "sig1=\"@method\"",
        r#"sig1=("@method");created=1"#,
        r#"sig1=("@method");created=?0"#,
        r#"sig1=("@method");expires=1"#,
        r#"sig1=("@method");nonce"#,
        r#"sig1=("@method");keyid=k"#,
        r#"sig1=("@method");unknown"#,
        r#"sig1=("@method"),sig2=()"#,
        r#"sig1=( "@method")"#,
        r#"sig1=("@method"); created"#,
        r#"sig1=("@method");created, sig1=()"#,
        r#"Sig1=("@method")"#,
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
    assert!(read(&format!("s=({})", "\"a\" ".repeat(10_000))).is_err());
    assert!(Requested::parse("a", "(), b=()").is_err());
    assert!(Requested::parse("", "()").is_err());
}

proptest! {
    #[test]
    fn what_is_read_is_written_as_it_was(value in r#"[a-z]{1,4}=\(("@?[a-z-]{1,9}"( "[a-z]{1,9}")?)?\)(;(created|expires|nonce="[a-z]*"|tag="x"|alg="y"))*"#) {
        if let Ok(asked) = read(&value) {
            prop_assert_eq!(accept_signature(&asked), value);
        }
    }
}
