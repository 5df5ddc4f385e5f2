//! The examples of RFC 9421, byte for byte, and other implementations' habits.
#![cfg(feature = "generic")]
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use katachi_auth::signature::generic::{
    GenericError, Message, WithTrailers, sign, signature_base, verify,
};
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

/// Appendix B.2, "test-response", signed in B.2.4 with a key of another algorithm: the
/// base is held against that signature.
#[test]
fn b_2_4_the_base_of_a_response_is_the_one_that_was_signed() {
    let input = r#"sig-b24=("@status" "content-type" "content-digest" "content-length");created=1618884473;keyid="test-key-ecc-p256""#;
    let headers: [(&str, &[u8]); 5] = [
        ("Date", b"Tue, 20 Apr 2021 02:07:56 GMT"),
        ("Content-Type", b"application/json"),
        ("Content-Digest", b"sha-512=:mEWXIS7MaLRuGgxOBdODa3xqM1XdEvxoYhvlCFJ41QJgJc4GTsPp29l5oGX69wWdXymyU0rjJuahq4l5aGgfLQ==:"),
        ("Content-Length", b"23"),
        ("Signature-Input", input.as_bytes()),
    ];
    let response = ResponseView {
        status: 200,
        headers: &headers,
        body: b"{\"message\": \"good dog\"}",
    };
    let message = Message::Response {
        response: &response,
        request: None,
    };
    let base = signature_base(&message, "sig-b24").unwrap();
    let mut point = vec![4];
    for half in [
        "qIVYZVLCrPZHGHjP17CTW0_-D9Lfw0EkjqF7xB4FivA",
        "Mc4nN9LTDOBhfoUeg8Ye9WedFRhnZXZJA12Qp0zZ6F0",
    ] {
        point.extend(URL_SAFE_NO_PAD.decode(half).unwrap());
    }
    let signature = STANDARD
        .decode("wNmSUAhwb5LxtOtOpNa6W5xj067m5hFrj0XQ4fvpaCLx0NKocgPquLgyahnzDnDAUy5eCdlYUEkLIj+32oiasw==")
        .unwrap();
    let key =
        ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point);
    key.verify(base.as_bytes(), &signature).unwrap();
    assert!(key.verify(&base.as_bytes()[1..], &signature).is_err());
}

/// Appendix B.4: what a proxy may change under an ed25519 signature, and what not.
#[test]
fn b_4_a_signature_survives_the_harmless_transformations_alone() {
    let input = r#"transform=("@method" "@path" "@authority" "accept");created=1618884473;keyid="test-key-ed25519""#;
    let signature = "transform=:ZT1kooQsEHpZ0I1IjCqtQppOmIqlJPeo7DHR3SoMn0s5JZ1eRGS0A+vyYP9t/LXlh5QMFFQ6cpLt2m0pmj3NDA==:";
    let original: [(&str, &[u8]); 5] = [
        ("Date", b"Fri, 15 Jul 2022 14:24:55 GMT"),
        ("Accept", b"application/json"),
        ("Accept", b"*/*"),
        ("Signature-Input", input.as_bytes()),
        ("Signature", signature.as_bytes()),
    ];
    let request = RequestView {
        method: "GET",
        authority: "example.org",
        path: "/demo",
        query: Some("name1=Value1&Name2=value2"),
        headers: &original,
        body: b"",
    };
    let key = ed25519().public_key().unwrap();
    let accepts = |request: &RequestView<'_>| {
        let message = Message::Request {
            request,
            scheme: "https",
        };
        verify(&message, "transform", &key).is_ok()
    };
    assert!(accepts(&request));
    let with = |headers: &[(&str, &[u8])]| accepts(&RequestView { headers, ..request });
    let mut added = original.to_vec();
    added.insert(1, ("Accept-Language", b"en-US,en;q=0.5"));
    assert!(accepts(&RequestView {
        query: Some("name1=Value1&Name2=value2&param=added"),
        headers: &added,
        ..request
    }));
    let mut joined = original.to_vec();
    joined[1].1 = b"application/json, */*";
    joined.remove(2);
    joined.remove(0);
    assert!(with(&joined), "one line, and no date");
    let mut swapped = original;
    swapped.swap(1, 2);
    assert!(!with(&swapped), "another order");
    assert!(!accepts(&RequestView {
        method: "POST",
        ..request
    }));
    assert!(!accepts(&RequestView {
        authority: "example.com",
        ..request
    }));
}

/// The value of one component of a request.
fn value_of(request: &RequestView<'_>, scheme: &str, id: &str) -> Option<String> {
    let input = format!("s=({id})");
    let mut headers = request.headers.to_vec();
    headers.push(("Signature-Input", input.as_bytes()));
    let request = RequestView {
        headers: &headers,
        ..*request
    };
    let message = Message::Request {
        request: &request,
        scheme,
    };
    let base = signature_base(&message, "s").ok()?;
    let line = base.lines().next().unwrap();
    Some(line.strip_prefix(&format!("{id}: ")).unwrap().to_owned())
}

fn plain<'a>(query: Option<&'a str>, headers: &'a [(&'a str, &'a [u8])]) -> RequestView<'a> {
    RequestView {
        method: "GET",
        authority: "www.example.com",
        path: "/path",
        query,
        headers,
        body: b"",
    }
}

#[test]
fn query_parameters_are_read_as_a_form_and_encoded_again() {
    // The examples of section 2.2.8.
    let query = "var=this%20is%20a%20big%0Amultiline%20value&bar=with+plus+whitespace&fa%C3%A7ade%22%3A%20=something&qux=&twice=1&twice=2&low=%2f&tilde=~";
    let request = plain(Some(query), &[]);
    for (name, value) in [
        ("var", Some("this%20is%20a%20big%0Amultiline%20value")),
        ("bar", Some("with%20plus%20whitespace")),
        ("fa%C3%A7ade%22%3A%20", Some("something")),
        ("qux", Some("")),
        ("low", Some("%2F")),
        ("tilde", Some("%7E")),
        ("twice", None),
        ("absent", None),
        ("fa\u{e7}ade", None),
    ] {
        let id = format!("\"@query-param\";name=\"{name}\"");
        assert_eq!(value_of(&request, "https", &id).as_deref(), value, "{name}");
    }
    assert_eq!(value_of(&request, "https", "\"@query-param\""), None);
}

#[test]
fn targets_are_written_as_section_2_2_says() {
    let value = |request: RequestView<'_>, scheme, id: &str| {
        value_of(&request, scheme, &format!("\"{id}\"")).unwrap()
    };
    let with = |authority| RequestView {
        authority,
        ..plain(None, &[])
    };
    assert_eq!(
        value(with("WWW.Example.com:443"), "https", "@authority"),
        "www.example.com"
    );
    assert_eq!(
        value(with("www.example.com:443"), "http", "@authority"),
        "www.example.com:443"
    );
    assert_eq!(value(with("www.example.com:80"), "HTTP", "@scheme"), "http");
    assert_eq!(
        value(with("www.example.com:80"), "HTTP", "@target-uri"),
        "http://www.example.com/path"
    );
    assert_eq!(value(plain(None, &[]), "https", "@query"), "?");
    assert_eq!(value(plain(Some(""), &[]), "https", "@query"), "?");
    assert_eq!(
        value(plain(Some(""), &[]), "https", "@request-target"),
        "/path?"
    );
    let bare = RequestView {
        path: "",
        ..plain(None, &[])
    };
    assert_eq!(value(bare, "https", "@path"), "/");
    let connect = RequestView {
        method: "CONNECT",
        authority: "www.example.com:80",
        ..bare
    };
    assert_eq!(
        value(connect, "http", "@request-target"),
        "www.example.com:80"
    );
    let options = RequestView {
        method: "OPTIONS",
        path: "*",
        ..bare
    };
    assert_eq!(value(options, "https", "@request-target"), "*");
    assert_eq!(
        value_of(&bare, "https", "\"@status\""),
        None,
        "of a request"
    );
    assert_eq!(value_of(&bare, "https", "\"@signature-params\""), None);
    assert_eq!(value_of(&bare, "https", "\"@unknown\""), None);
}

#[test]
fn fields_are_written_as_section_2_1_says() {
    // The examples of sections 2.1, 2.1.1, 2.1.2 and 2.1.3.
    let headers: [(&str, &[u8]); 9] = [
        ("X-OWS-Header", b"   Leading and trailing whitespace.   "),
        ("Cache-Control", b"max-age=60"),
        ("Cache-Control", b"   must-revalidate"),
        ("Example-Dict", b"  a=1,    b=2;x=1;y=2,   c=(a   b   c), d"),
        ("X-Empty", b""),
        ("Example-Header", b"value, with, lots"),
        ("Example-Header", b"of, commas"),
        ("Example-Item", b"1.50;  q=1"),
        ("Example-Twice", b"a=1, a=2"),
    ];
    let request = plain(None, &headers);
    for (id, value) in [
        ("\"x-ows-header\"", Some("Leading and trailing whitespace.")),
        ("\"cache-control\"", Some("max-age=60, must-revalidate")),
        ("\"x-empty\"", Some("")),
        (
            "\"example-dict\"",
            Some("a=1,    b=2;x=1;y=2,   c=(a   b   c), d"),
        ),
        (
            "\"example-dict\";sf",
            Some("a=1, b=2;x=1;y=2, c=(a b c), d"),
        ),
        ("\"example-dict\";key=\"a\"", Some("1")),
        ("\"example-dict\";key=\"b\"", Some("2;x=1;y=2")),
        ("\"example-dict\";key=\"c\"", Some("(a b c)")),
        ("\"example-dict\";key=\"d\"", Some("?1")),
        ("\"example-dict\";key=\"e\"", None),
        ("\"example-item\";sf", Some("1.5;q=1")),
        (
            "\"example-header\";bs",
            Some(":dmFsdWUsIHdpdGgsIGxvdHM=:, :b2YsIGNvbW1hcw==:"),
        ),
        ("\"example-header\";bs;sf", None),
        ("\"example-dict\";sf;key=\"a\"", None),
        ("\"example-dict\";name=\"a\"", None),
        ("\"x-ows-header\";sf", None),
        ("\"Cache-Control\"", None),
        ("\"x-absent\"", None),
        ("\"cache-control\";req", None),
        ("\"cache-control\";tr", None),
        ("\"cache-control\";x", None),
    ] {
        assert_eq!(value_of(&request, "https", id).as_deref(), value, "{id}");
    }
}

#[test]
fn trailers_are_covered_by_tr() {
    // The example of section 2.1.4.
    let headers: [(&str, &[u8]); 1] = [("Trailer", b"Expires")];
    let trailers: [(&str, &[u8]); 1] = [("Expires", b"Wed, 9 Nov 2022 07:28:00 GMT")];
    let key = SigningKey::from(shared_secret());
    let request = plain(None, &[]);
    let signed = |expires: &[u8]| {
        let trailers = [("Expires", expires)];
        let response = WithTrailers {
            message: ResponseView {
                status: 200,
                headers: &headers,
                body: b"",
            },
            trailers: &trailers,
        };
        let message = Message::Response {
            response: &response,
            request: Some((&request, "https")),
        };
        let input = r#"("@status" "trailer" "expires";tr "@query";req)"#;
        sign(&message, "s", input, &key)
    };
    let (input, signature) = signed(trailers[0].1).unwrap();
    assert_ne!(
        signature,
        signed(b"Wed, 9 Nov 2033 07:28:00 GMT").unwrap().1
    );
    let fields: [(&str, &[u8]); 3] = [
        headers[0],
        ("Signature-Input", input.as_bytes()),
        ("Signature", signature.as_bytes()),
    ];
    let message = ResponseView {
        status: 200,
        headers: &fields,
        body: b"",
    };
    let response = WithTrailers {
        message,
        trailers: &trailers,
    };
    let request = Some((&request as &dyn katachi_auth::signature::Request, "https"));
    let whole = Message::Response {
        response: &response,
        request,
    };
    assert_eq!(
        signature_base(&whole, "s").unwrap().lines().nth(2).unwrap(),
        "\"expires\";tr: Wed, 9 Nov 2022 07:28:00 GMT"
    );
    let key = VerifyingKey::from(shared_secret());
    verify(&whole, "s", &key).unwrap();
    let cut = Message::Response {
        response: &message,
        request,
    };
    assert!(verify(&cut, "s", &key).is_err(), "a header is no trailer");
}

#[test]
fn the_same_component_with_its_parameters_in_another_order_is_a_repetition() {
    let key = SigningKey::from(shared_secret());
    let headers: [(&str, &[u8]); 1] = [("x-dict", b"a=1")];
    let request = plain(None, &headers);
    let response = ResponseView {
        status: 200,
        headers: &[],
        body: b"",
    };
    let message = Message::Response {
        response: &response,
        request: Some((&request, "https")),
    };
    let once = r#"("x-dict";req;key="a")"#;
    sign(&message, "s", once, &key).unwrap();
    let twice = r#"("x-dict";req;key="a" "x-dict";key="a";req)"#;
    assert!(matches!(
        sign(&message, "s", twice, &key),
        Err(GenericError::Component(_))
    ));
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
fn s35_refuses_a_thousand_labels_and_components() {
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
        assert!(with_request(&headers, |message| verify(message, "s", &key)).is_err());
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
