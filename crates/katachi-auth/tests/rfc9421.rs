//! The examples of RFC 9421, byte for byte, and other implementations' habits.
#![cfg(feature = "generic")]
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use katachi_auth::signature::generic::{GenericError, Message, sign, signature_base, verify};
use katachi_auth::signature::{RequestView, ResponseView, SigningKey, VerifyingKey};
use katachi_crypto::Secret;
use katachi_crypto::mac::HmacKey;

/// Appendix B.1.5.
fn shared_secret() -> HmacKey {
    let text =
        "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";
    HmacKey::from_slice(&STANDARD.decode(text).unwrap())
}

/// Appendix B.1.4, from its JWK form.
fn ed25519() -> SigningKey {
    let seed = URL_SAFE_NO_PAD
        .decode("n4Ni-HpISpVObnQMW0wOhCKROaIKqKtW_2ZYb2p9KcU")
        .unwrap();
    SigningKey::ed25519(&Secret::new(seed.try_into().unwrap()))
}

const DIGEST: &[u8] = b"sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:";

/// Appendix B.2, "test-request", with more headers.
fn with_request<T>(more: &[(&'static str, &[u8])], act: impl FnOnce(&Message<'_>) -> T) -> T {
    let mut headers: Vec<(&str, &[u8])> = vec![
        ("Host", b"example.com"),
        ("Date", b"Tue, 20 Apr 2021 02:07:55 GMT"),
        ("Content-Type", b"application/json"),
        ("Content-Digest", DIGEST),
        ("Content-Length", b"18"),
    ];
    headers.extend_from_slice(more);
    let request = RequestView {
        method: "POST",
        authority: "example.com",
        path: "/foo",
        query: Some("param=Value&Pet=dog"),
        headers: &headers,
        body: b"{\"hello\": \"world\"}",
    };
    act(&Message::Request {
        request: &request,
        scheme: "https",
    })
}

#[test]
fn s01_b_2_5_hmac_sha256_over_the_base_of_the_standard() {
    let input =
        r#"("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret""#;
    let signature = "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=";
    let signing = SigningKey::from(shared_secret());
    let made = with_request(&[], |message| sign(message, "sig-b25", input, &signing)).unwrap();
    assert_eq!(made.1, format!("sig-b25=:{signature}:"));

    let headers: [(&str, &[u8]); 2] = [
        ("Signature-Input", made.0.as_bytes()),
        ("Signature", made.1.as_bytes()),
    ];
    with_request(&headers, |message| {
        assert_eq!(
            signature_base(message, "sig-b25").unwrap(),
            "\"date\": Tue, 20 Apr 2021 02:07:55 GMT\n\
             \"@authority\": example.com\n\
             \"content-type\": application/json\n\
             \"@signature-params\": (\"date\" \"@authority\" \"content-type\")\
             ;created=1618884473;keyid=\"test-shared-secret\""
        );
        let key = VerifyingKey::from(shared_secret());
        let signed = verify(message, "sig-b25", &key).unwrap();
        assert_eq!(signed.key_id(), Some("test-shared-secret"));
        assert_eq!(signed.created(), Some(1_618_884_473));
        assert!(signed.covers("date") && !signed.covers("@method"));
        assert_eq!(
            verify(message, "other", &key).unwrap_err(),
            GenericError::NoSuchLabel
        );
        let wrong = VerifyingKey::from(HmacKey::from_slice(b"another secret"));
        assert_eq!(
            verify(message, "sig-b25", &wrong).unwrap_err(),
            GenericError::Signature
        );
    });
}

#[test]
fn b_2_6_ed25519_over_the_base_of_the_standard() {
    let input = r#"("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519""#;
    let signature =
        "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==";
    let made = with_request(&[], |message| sign(message, "sig-b26", input, &ed25519())).unwrap();
    assert_eq!(made.1, format!("sig-b26=:{signature}:"));
    let headers: [(&str, &[u8]); 2] = [
        ("Signature-Input", made.0.as_bytes()),
        ("Signature", made.1.as_bytes()),
    ];
    let key = ed25519().public_key().unwrap();
    with_request(&headers, |message| verify(message, "sig-b26", &key)).unwrap();
}

#[test]
fn derived_components_have_the_values_of_section_2_2() {
    let all = r#"("@method" "@target-uri" "@authority" "@scheme" "@request-target" "@path" "@query" "@query-param";name="Pet" "content-digest";key="sha-512" "content-type";bs)"#;
    let input = format!("s={all}");
    let headers: [(&str, &[u8]); 1] = [("Signature-Input", input.as_bytes())];
    let base = with_request(&headers, |message| signature_base(message, "s")).unwrap();
    let expected = [
        r#""@method": POST"#,
        r#""@target-uri": https://example.com/foo?param=Value&Pet=dog"#,
        r#""@authority": example.com"#,
        r#""@scheme": https"#,
        r#""@request-target": /foo?param=Value&Pet=dog"#,
        r#""@path": /foo"#,
        r#""@query": ?param=Value&Pet=dog"#,
        r#""@query-param";name="Pet": dog"#,
        &format!(
            r#""content-digest";key="sha-512": {}"#,
            std::str::from_utf8(&DIGEST[8..]).unwrap()
        ),
        r#""content-type";bs: :YXBwbGljYXRpb24vanNvbg==:"#,
        &format!(r#""@signature-params": {all}"#),
    ];
    assert_eq!(base, expected.join("\n"));
}

#[test]
fn a_response_is_bound_to_parts_of_its_request() {
    let key = SigningKey::from(shared_secret());
    let headers: [(&str, &[u8]); 1] = [("Signature", b"sig1=:AAAA:")];
    let request = RequestView {
        method: "POST",
        authority: "example.com",
        path: "/foo",
        query: None,
        headers: &headers,
        body: b"",
    };
    let input = r#"("@status" "@method";req "signature";req;key="sig1");created=1"#;
    let response = ResponseView {
        status: 503,
        headers: &[],
        body: b"",
    };
    let message = Message::Response {
        response: &response,
        request: Some((&request, "https")),
    };
    let (made_input, made) = sign(&message, "r", input, &key).unwrap();
    let headers: [(&str, &[u8]); 2] = [
        ("signature-input", made_input.as_bytes()),
        ("signature", made.as_bytes()),
    ];
    let response = ResponseView {
        status: 503,
        headers: &headers,
        body: b"",
    };
    let check = |request| {
        let message = Message::Response {
            response: &response,
            request,
        };
        verify(&message, "r", &VerifyingKey::from(shared_secret())).map(drop)
    };
    check(Some((&request, "https"))).unwrap();
    let other = RequestView {
        method: "GET",
        ..request
    };
    assert_eq!(check(Some((&other, "https"))), Err(GenericError::Signature));
    assert!(matches!(check(None), Err(GenericError::Component(_))));
}

#[test]
fn refuses_what_other_verifiers_let_through() {
    let key = VerifyingKey::from(shared_secret());
    let signing = SigningKey::from(shared_secret());
    let input = r#"("@method");created=1;nonce="N1";keyid="k";tag="t""#;
    let (good_input, good) = with_request(&[], |m| sign(m, "s", input, &signing)).unwrap();
    let check = |input: &str, signature: &str| {
        let headers: [(&str, &[u8]); 2] = [
            ("Signature-Input", input.as_bytes()),
            ("Signature", signature.as_bytes()),
        ];
        with_request(&headers, |message| verify(message, "s", &key).map(drop))
    };
    check(&good_input, &good).unwrap();
    // The escaped nonce, repeated parameters, other spellings of the same bytes.
    for other in [
        good_input.replace("N1\";keyid=\"k\"", "N1\\\";keyid=\\\"k\""),
        format!("{good_input};created=1"),
        format!("{good_input};extra"),
        good_input.replace(";created", "; created"),
        format!("{good_input},other=()"),
        format!("s=(), {good_input}"),
        good_input.replace("(\"@method\")", "(\"@method\" \"@method\")"),
        good_input.replace("@method", "@METHOD"),
        good_input.replace("(\"@method\")", "(\"@method\";req)"),
        good_input.replace("(\"@method\")", "(\"content-type\";sf)"),
        good_input.replace("(\"@method\")", "(\"x-absent\")"),
    ] {
        assert!(check(&other, &good).is_err(), "{other}");
    }
    // An `alg` that is not the key's, under a valid MAC.
    let lying = r#"("@method");alg="ed25519""#;
    let (lying_input, lying) = with_request(&[], |m| sign(m, "s", lying, &signing)).unwrap();
    assert_eq!(check(&lying_input, &lying), Err(GenericError::Algorithm));
    for other in [
        good.replace("s=:", "s=:AAAA"),
        "s=::".into(),
        "s=\"x\"".into(),
        format!("{good};a"),
    ] {
        assert!(check(&good_input, &other).is_err(), "{other}");
    }
}

#[test]
fn s35_a_thousand_labels_and_components_take_no_time() {
    let key = VerifyingKey::from(shared_secret());
    let labels: Vec<String> = (0..1000).map(|n| format!("l{n}=(\"@method\")")).collect();
    let components: Vec<String> = (0..1000).map(|n| format!("\"x-{n}\"")).collect();
    for input in [
        labels.join(", "),
        format!("s=({})", components.join(" ")),
        "s=(".repeat(5000),
        "\"".repeat(65_536),
    ] {
        let headers: [(&str, &[u8]); 2] = [
            ("Signature-Input", input.as_bytes()),
            ("Signature", b"s=:AAAA:"),
        ];
        let time = || {
            let start = std::time::Instant::now();
            assert!(with_request(&headers, |message| verify(message, "s", &key)).is_err());
            start.elapsed()
        };
        // The machine may be busy with other things four times of five.
        let quickest = (0..5).map(|_| time()).min().unwrap();
        assert!(
            quickest < std::time::Duration::from_millis(50),
            "{quickest:?}"
        );
    }
}

proptest::proptest! {
    /// What is signed verifies, and a signature protects exactly what it covers.
    #[test]
    fn a_signature_protects_what_it_covers(
        mask in 1_u16..1024, created in 0_u32.., key_id in "[a-z0-9\\\\\"]{0,12}"
    ) {
        let all = [
            r#""@method""#, r#""@path""#, r#""@query""#, r#""@authority""#, r#""@scheme""#,
            r#""@target-uri""#, r#""@request-target""#, r#""@query-param";name="Pet""#,
            r#""content-type""#, r#""content-digest";key="sha-512""#,
        ];
        let covered: Vec<&str> =
            all.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0).map(|(_, id)| *id).collect();
        let key_id = key_id.replace('\\', "\\\\").replace('"', "\\\"");
        let input = format!("({});created={created};keyid=\"{key_id}\"", covered.join(" "));
        let signing = SigningKey::from(shared_secret());
        let (input, signature) = with_request(&[], |m| sign(m, "s", &input, &signing)).unwrap();
        let headers: [(&str, &[u8]); 4] = [
            ("Content-Type", b"application/json"),
            ("Content-Digest", DIGEST),
            ("Signature-Input", input.as_bytes()),
            ("Signature", signature.as_bytes()),
        ];
        let whole = RequestView {
            method: "POST",
            authority: "example.com",
            path: "/foo",
            query: Some("param=Value&Pet=dog"),
            headers: &headers,
            body: b"",
        };
        let key = VerifyingKey::from(shared_secret());
        let accepts = |request: &RequestView<'_>, scheme| {
            verify(&Message::Request { request, scheme }, "s", &key).is_ok()
        };
        let covers = |bits: &[u16]| bits.iter().any(|bit| mask & (1 << bit) != 0);
        proptest::prop_assert!(accepts(&whole, "https"));
        let other = RequestView { method: "PUT", ..whole };
        proptest::prop_assert_eq!(accepts(&other, "https"), !covers(&[0]));
        let other = RequestView { path: "/bar", ..whole };
        proptest::prop_assert_eq!(accepts(&other, "https"), !covers(&[1, 5, 6]));
        let other = RequestView { query: Some("param=Value&Pet=cat"), ..whole };
        proptest::prop_assert_eq!(accepts(&other, "https"), !covers(&[2, 5, 6, 7]));
        let other = RequestView { authority: "example.org", ..whole };
        proptest::prop_assert_eq!(accepts(&other, "https"), !covers(&[3, 5]));
        proptest::prop_assert_eq!(accepts(&whole, "http"), !covers(&[4, 5]));
        let fewer = RequestView { headers: &headers[2..], ..whole };
        proptest::prop_assert_eq!(accepts(&fewer, "https"), !covers(&[8, 9]));
    }
}
