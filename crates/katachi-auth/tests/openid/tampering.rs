//! ID tokens, keys and userinfo that are wrong in one way only.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use katachi_auth::oauth::id_token::IdTokenError;
use katachi_auth::oauth::{Fetch, FetchError, LoginError, Provider, SignedIn};
use serde_json::{Value, json};

use crate::Outcome;
use crate::provider::{Peer, Returned, Step, http, middle, now, web};

/// What the provider itself said in the token of this sign-in.
fn decode(part: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// The token of a fresh sign-in, taken from the answer before our client reads it.
async fn honest_token(provider: &Provider, returned: &Returned) -> (Value, String) {
    let seen = Mutex::new(None);
    let watching = middle(|path, step| {
        if let ("/token", Step::After(answer)) = (path, step) {
            let body: Value = serde_json::from_slice(answer.body()).unwrap();
            *seen.lock().unwrap() = Some(body);
            // Our client must not use the code up for itself.
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
    });
    let _ = returned.finish(provider, &watching).await;
    let body = seen.lock().unwrap().take().expect("the code was exchanged");
    let token = body["id_token"].as_str().unwrap().to_owned();
    (body, token)
}

/// Ends a sign-in with `token` in the place of the provider's own.
async fn finish_with(
    provider: &Provider,
    returned: &Returned,
    make: impl Fn(&str) -> String + Send + Sync,
) -> Result<SignedIn, LoginError> {
    let replacing = middle(|path, step| {
        if let ("/token", Step::After(answer)) = (path, step) {
            let mut body: Value = serde_json::from_slice(answer.body()).unwrap();
            body["id_token"] = make(body["id_token"].as_str().unwrap()).into();
            *answer.body_mut() = body.to_string().into_bytes();
        }
    });
    returned.finish(provider, &replacing).await
}

fn nonce_of(returned: &Returned) -> String {
    let url: reqwest::Url = returned.begun.url.parse().unwrap();
    let found = url.query_pairs().find(|(name, _)| name == "nonce");
    found.unwrap().1.into_owned()
}

pub(crate) async fn l05_a_token_that_is_wrong_in_one_way_is_refused(peer: &Peer) -> Outcome {
    let provider = peer.provider("web-rs256").await;
    let seconds = now().as_unix();
    // Algorithm, header, changes to the claims, and the verdict.
    let cases = [
        ("the control", "RS256", json!({}), json!({}), None),
        (
            "wrong nonce",
            "RS256",
            json!({}),
            json!({"nonce": "other"}),
            Some(IdTokenError::Nonce),
        ),
        (
            "no nonce",
            "RS256",
            json!({}),
            json!({"nonce": null}),
            Some(IdTokenError::Nonce),
        ),
        (
            "wrong aud",
            "RS256",
            json!({}),
            json!({"aud": "other"}),
            Some(IdTokenError::Audience),
        ),
        (
            "aud of two",
            "RS256",
            json!({}),
            json!({"aud": ["web-rs256", "other"]}),
            Some(IdTokenError::Audience),
        ),
        (
            "aud of none",
            "RS256",
            json!({}),
            json!({"aud": []}),
            Some(IdTokenError::Audience),
        ),
        (
            "wrong azp",
            "RS256",
            json!({}),
            json!({"azp": "other"}),
            Some(IdTokenError::Audience),
        ),
        (
            "wrong iss",
            "RS256",
            json!({}),
            json!({"iss": "https://evil.example"}),
            Some(IdTokenError::Issuer),
        ),
        (
            "expired",
            "RS256",
            json!({}),
            json!({"exp": seconds - 61}),
            Some(IdTokenError::Expired),
        ),
        (
            "exp is text",
            "RS256",
            json!({}),
            json!({"exp": "9999999999"}),
            Some(IdTokenError::Malformed),
        ),
        (
            "no exp",
            "RS256",
            json!({}),
            json!({"exp": null}),
            Some(IdTokenError::Malformed),
        ),
        (
            "from the future",
            "RS256",
            json!({}),
            json!({"iat": seconds + 90}),
            Some(IdTokenError::Future),
        ),
        (
            "not yet",
            "RS256",
            json!({}),
            json!({"nbf": seconds + 90}),
            Some(IdTokenError::Future),
        ),
        (
            "nobody",
            "RS256",
            json!({}),
            json!({"sub": ""}),
            Some(IdTokenError::Subject),
        ),
        (
            "unknown kid",
            "RS256",
            json!({"kid": "rsa-2"}),
            json!({}),
            Some(IdTokenError::UnknownKey),
        ),
        (
            "kid of another algorithm",
            "RS256",
            json!({"kid": "ec-1"}),
            json!({}),
            Some(IdTokenError::UnknownKey),
        ),
        (
            "HS256 with the public key",
            "HS256",
            json!({"kid": "rsa-1"}),
            json!({}),
            Some(IdTokenError::Algorithm),
        ),
        (
            "another kind of token",
            "RS256",
            json!({"typ": "at+jwt"}),
            json!({}),
            Some(IdTokenError::Malformed),
        ),
    ];
    for (name, alg, header, changes, verdict) in cases {
        let returned = Returned::from(&provider).await;
        let mut claims = json!({
            "iss": peer.issuer(), "sub": "ana", "aud": "web-rs256", "nonce": nonce_of(&returned),
            "exp": seconds + 600, "iat": seconds,
        });
        for (key, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => claims.as_object_mut().unwrap().remove(key),
                value => claims
                    .as_object_mut()
                    .unwrap()
                    .insert(key.clone(), value.clone()),
            };
        }
        let token = peer.sign(alg, &header, &claims).await;
        let outcome = finish_with(&provider, &returned, |_| token.clone()).await;
        match (outcome, verdict) {
            (Ok(_), None) => {}
            (Err(LoginError::IdToken(found)), Some(expected)) => {
                assert_eq!(found, expected, "{name}")
            }
            (outcome, _) => return Err(format!("{name}: {outcome:?}").into()),
        }
    }
    Ok(())
}

pub(crate) async fn l05_a_token_altered_in_any_part_is_refused(peer: &Peer) -> Outcome {
    let provider = peer.provider("web-es256").await;
    type Change = fn(&str) -> String;
    let header = |header: Value| URL_SAFE_NO_PAD.encode(header.to_string());
    let none = header(json!({"alg": "none"}));
    let changes: [(&str, Change, IdTokenError); 6] = [
        (
            "no signature",
            |token| token[..=token.rfind('.').unwrap()].into(),
            IdTokenError::Signature,
        ),
        (
            "another subject",
            |token| {
                let parts: Vec<_> = token.split('.').collect();
                let mut claims = decode(parts[1]);
                claims["sub"] = "ben".into();
                let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
                format!("{}.{claims}.{}", parts[0], parts[2])
            },
            IdTokenError::Signature,
        ),
        (
            "a crit header",
            |token| {
                let parts: Vec<_> = token.split('.').collect();
                let mut header = decode(parts[0]);
                header["crit"] = json!(["b64"]);
                let header = URL_SAFE_NO_PAD.encode(header.to_string());
                format!("{header}.{}.{}", parts[1], parts[2])
            },
            IdTokenError::Malformed,
        ),
        (
            "padded",
            |token| format!("{token}="),
            IdTokenError::Malformed,
        ),
        (
            "four parts",
            |token| format!("{token}.AAAA"),
            IdTokenError::Malformed,
        ),
        (
            "a megabyte",
            |_| "a".repeat(20_000),
            IdTokenError::Malformed,
        ),
    ];
    for (name, change, verdict) in changes {
        let returned = Returned::from(&provider).await;
        match finish_with(&provider, &returned, change).await {
            Err(LoginError::IdToken(found)) => assert_eq!(found, verdict, "{name}"),
            outcome => return Err(format!("{name}: {outcome:?}").into()),
        }
    }
    // `none`, with and without what was the signature.
    for keep in [true, false] {
        let returned = Returned::from(&provider).await;
        let unsigned = |token: &str| {
            let parts: Vec<_> = token.split('.').collect();
            format!("{none}.{}.{}", parts[1], if keep { parts[2] } else { "" })
        };
        let outcome = finish_with(&provider, &returned, unsigned).await;
        assert!(matches!(
            outcome,
            Err(LoginError::IdToken(IdTokenError::Algorithm))
        ));
    }
    // And no token at all, or one of another sign-in.
    let returned = Returned::from(&provider).await;
    let without = middle(|path, step| {
        if let ("/token", Step::After(answer)) = (path, step) {
            let mut body: Value = serde_json::from_slice(answer.body()).unwrap();
            body.as_object_mut().unwrap().remove("id_token");
            *answer.body_mut() = body.to_string().into_bytes();
        }
    });
    let outcome = returned.finish(&provider, &without).await;
    assert!(matches!(outcome, Err(LoginError::Answer(_))));
    let (_, other) = honest_token(&provider, &Returned::from(&provider).await).await;
    let returned = Returned::from(&provider).await;
    let outcome = finish_with(&provider, &returned, |_| other.clone()).await;
    assert!(matches!(
        outcome,
        Err(LoginError::IdToken(IdTokenError::Nonce))
    ));
    Ok(())
}

pub(crate) async fn a_new_key_is_fetched_once_and_an_unknown_one_refused(peer: &Peer) -> Outcome {
    let provider = peer.provider("web-rs256").await;
    let fetched = AtomicUsize::new(0);
    // The provider's keys before it rotated.
    let before = middle(|path, step| {
        if let ("/jwks", Step::After(answer)) = (path, step) {
            fetched.fetch_add(1, Ordering::SeqCst);
            *answer.body_mut() = br#"{"keys":[]}"#.to_vec();
        }
    });
    let returned = Returned::from(&provider).await;
    let outcome = returned.finish(&provider, &before).await;
    assert!(matches!(
        outcome,
        Err(LoginError::IdToken(IdTokenError::UnknownKey))
    ));
    assert_eq!(
        fetched.load(Ordering::SeqCst),
        1,
        "a set just fetched is not fetched again"
    );

    // Half a minute later an unknown key is worth another look.
    let returned = Returned::from(&provider).await;
    let later = now().after(Duration::from_secs(40));
    let cookie = returned.begun.cookie.expose_secret();
    let signed_in = provider
        .finish(
            &http(),
            &returned.logins,
            &returned.callback(),
            cookie,
            later,
        )
        .await?;
    assert_eq!(signed_in.identity.subject, "ana");
    Ok(())
}

pub(crate) async fn the_keys_are_remembered_for_an_hour(peer: &Peer) -> Outcome {
    let provider = peer.provider("web-rs256").await;
    let fetched = AtomicUsize::new(0);
    let counting = middle(|path, step| {
        if let ("/jwks", Step::Before(_)) = (path, step) {
            fetched.fetch_add(1, Ordering::SeqCst);
        }
    });
    for _ in 0..3 {
        let _ = Returned::from(&provider)
            .await
            .finish(&provider, &counting)
            .await?;
        assert_eq!(fetched.load(Ordering::SeqCst), 1);
    }
    Ok(())
}

pub(crate) async fn an_answer_that_is_too_large_or_late_is_refused(peer: &Peer) -> Outcome {
    let provider = peer.provider("web-rs256").await;
    // An implementation of `Fetch` that keeps no limit is held to it.
    let endless = middle(|path, step| {
        if let ("/token", Step::After(answer)) = (path, step) {
            answer.body_mut().resize(1 << 20, b' ');
        }
    });
    let outcome = Returned::from(&provider)
        .await
        .finish(&provider, &endless)
        .await;
    assert!(matches!(
        outcome,
        Err(LoginError::Fetch(FetchError::TooLarge))
    ));
    // Ours keeps it while it reads.
    let url = format!("{}/.well-known/openid-configuration", peer.issuer());
    let request = http::Request::get(url).body(Vec::new())?;
    let outcome = http().fetch(request, 100).await;
    assert!(matches!(outcome, Err(FetchError::TooLarge)));
    // Somebody who accepts connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let issuer = format!("http://{}", silent.local_addr()?);
    let started = std::time::Instant::now();
    let outcome = Provider::discover(&http(), &issuer, web("web-rs256")).await;
    assert!(outcome.is_err());
    assert!(started.elapsed() < Duration::from_secs(15));
    Ok(())
}

pub(crate) async fn l06_userinfo_about_somebody_else_or_unverified_is_not_believed(
    peer: &Peer,
) -> Outcome {
    let provider = peer.provider("web-rs256").await;
    let swapped = middle(|path, step| {
        if let ("/me", Step::After(answer)) = (path, step) {
            let info = json!({"sub": "ben", "email": "ben@example.com", "email_verified": true});
            *answer.body_mut() = info.to_string().into_bytes();
        }
    });
    let outcome = Returned::from(&provider)
        .await
        .finish(&provider, &swapped)
        .await;
    assert!(matches!(outcome, Err(LoginError::Answer(_))));
    let doubtful = middle(|path, step| {
        if let ("/me", Step::After(answer)) = (path, step) {
            let info = json!({"sub": "ana", "email": "ana@example.com", "email_verified": "yes"});
            *answer.body_mut() = info.to_string().into_bytes();
        }
    });
    let signed_in = Returned::from(&provider)
        .await
        .finish(&provider, &doubtful)
        .await?;
    assert_eq!(signed_in.identity.verified_email(), None, "l06");
    Ok(())
}
