//! What the fuzzers found worth keeping, and the laws that it must obey.
#![cfg(all(feature = "generic", feature = "password"))]
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::path::Path;

use katachi_auth::device::UserCode;
use katachi_auth::device::form::Form;
use katachi_auth::password::Record;
use katachi_auth::replay::{Epoch, Nonce};
use katachi_auth::session::cookie;
use katachi_auth::signature::generic::{Message, accept_signature, requested};
use katachi_auth::signature::{Profile, RequestInput, ResponseView};

/// Every input of one target, by name. A published crate comes without the corpora.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let Ok(files) = folder.read_dir() else {
        return Vec::new();
    };
    let inputs: Vec<_> = files
        .map(|file| {
            let file = file.unwrap();
            let name = file.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(file.path()).unwrap())
        })
        .collect();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    inputs
}

#[test]
fn signature_inputs_that_are_accepted_are_written_as_they_were() {
    for (name, value) in corpus("auth_signature_input") {
        let mut accepted = false;
        for profile in [Profile::AGENT_REQUEST, Profile::TUNNEL_REQUEST] {
            if let Ok(input) = RequestInput::parse(&profile, &value) {
                assert_eq!(input.serialise(&profile), value, "{name}");
                accepted = true;
            }
        }
        if matches!(name.as_str(), "agent-request" | "tunnel-request") {
            assert!(accepted, "{name}");
        }
        if matches!(
            name.as_str(),
            "escaped-nonce-trick" | "second-signature" | "leading-zero"
        ) {
            assert!(!accepted, "{name}");
        }
    }
}

#[test]
fn requests_for_signatures_are_written_as_they_were() {
    for (name, value) in corpus("auth_accept_signature") {
        let headers: [(&str, &[u8]); 1] = [("accept-signature", &value)];
        let response = ResponseView {
            status: 401,
            headers: &headers,
            body: b"",
        };
        let asked = requested(&Message::Response {
            response: &response,
            request: None,
        });
        if let Ok(asked) = &asked {
            assert_eq!(accept_signature(asked).as_bytes(), value, "{name}");
        }
        let refused = matches!(name.as_str(), "created-with-a-value" | "unknown-parameter");
        assert_eq!(asked.is_err(), refused, "{name}");
    }
}

#[test]
fn nonces_epochs_and_codes_print_as_they_were() {
    for (name, text) in corpus("auth_nonce") {
        let Ok(text) = String::from_utf8(text) else {
            continue;
        };
        if let Ok(nonce) = Nonce::parse(&text) {
            assert_eq!(nonce.to_string(), text, "{name}");
        }
        if let Ok(epoch) = Epoch::parse(&text) {
            assert_eq!(epoch.to_string(), text, "{name}");
        }
        if let Ok(code) = UserCode::parse(&text) {
            assert_eq!(UserCode::parse(&code.to_string()), Ok(code), "{name}");
        }
    }
}

#[test]
fn forms_and_records_are_read_again_as_they_were() {
    for (name, body) in corpus("auth_device_form") {
        if let Ok(form) = Form::parse(&body) {
            let written = form.encode();
            assert_eq!(Form::parse(written.as_bytes()), Ok(form), "{name}");
        }
    }
    for (name, text) in corpus("auth_record") {
        let Ok(text) = String::from_utf8(text) else {
            continue;
        };
        if let Ok(record) = Record::parse(&text) {
            assert_eq!(Record::parse(&record.to_string()), Ok(record), "{name}");
        }
        if let Some(value) = cookie(&text, "katachi") {
            assert!(text.contains(value), "{name}");
        }
    }
}

/// Which inputs of a target a parser accepts.
#[cfg(any(feature = "oauth", feature = "mail"))]
fn accepted(target: &str, accepts: impl Fn(&[u8]) -> bool) -> Vec<String> {
    let mut names: Vec<_> = corpus(target)
        .into_iter()
        .filter(|(_, input)| accepts(input))
        .map(|(name, _)| name)
        .collect();
    names.sort();
    names
}

#[cfg(feature = "oauth")]
#[test]
fn of_redirects_those_that_a_provider_would_send_are_read() {
    use katachi_auth::oauth::Callback;

    let read = accepted("auth_callback", |query| {
        Callback::parse(std::str::from_utf8(query).unwrap()).is_ok()
    });
    if !read.is_empty() {
        assert_eq!(read, ["denied", "granted"]);
    }
}

#[cfg(feature = "oauth")]
#[test]
fn of_id_tokens_the_signed_one_is_believed_and_of_keys_the_usable_ones_are_read() {
    use katachi_auth::clock::Timestamp;
    use katachi_auth::oauth::id_token::{Expected, KeySet, verify};

    // The public half of the fuzzer's key, whose seed is 32 times 3.
    let keys = KeySet::parse(
        br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"7UkoxijRwsbq6QM4kFmVYSlZJzpcY_k2NsFGFKyHN9E"}]}"#,
    );
    let keys = keys.unwrap();
    let expected = Expected {
        issuer: "https://id.example",
        client_id: "us",
        nonce: "n-0S6",
    };
    let believed = accepted("auth_id_token", |text| {
        let now = Timestamp::from_unix(1_800_000_000);
        verify(std::str::from_utf8(text).unwrap(), &keys, &expected, now).is_ok()
    });
    if believed.is_empty() {
        return;
    }
    assert_eq!(believed, ["good-token"]);
    let usable = accepted("auth_key_set", |json| {
        KeySet::parse(json).is_ok_and(|keys| !keys.is_empty())
    });
    assert_eq!(usable, ["forty-keys", "same-name-three-kinds", "true-key"]);
}

#[cfg(feature = "mail")]
#[test]
fn of_addresses_the_plain_ones_are_read() {
    use katachi_auth::mail::Address;

    let read = accepted("auth_mail_address", |text| {
        Address::parse(std::str::from_utf8(text).unwrap()).is_ok()
    });
    if !read.is_empty() {
        assert_eq!(read, ["odd-atoms", "plain", "plus-and-capitals"]);
    }
}
