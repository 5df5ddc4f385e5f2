//! The redirect to a server.

use std::time::Duration;

use katachi_auth::oauth::{Callback, LoginError, MemoryLogins, Provider, ReturnTo, SetUpError};
use katachi_auth::session::Token;

use crate::Outcome;
use crate::provider::{Browser, Peer, Returned, Step, http, middle, now, query, web};

pub(crate) async fn a_person_signs_in_and_is_known_by_issuer_and_subject(peer: &Peer) -> Outcome {
    for client in ["web-rs256", "web-es256", "web-eddsa"] {
        let provider = peer.provider(client).await;
        let returned = Returned::from(&provider).await;
        let signed_in = returned.finish(&provider, &http()).await?;
        let identity = &signed_in.identity;
        assert_eq!(
            (identity.issuer.as_str(), identity.subject.as_str()),
            (peer.issuer(), "ana")
        );
        // From userinfo: this provider keeps it out of ID tokens.
        assert_eq!(identity.verified_email(), Some("ana@example.com"));
        assert_eq!(identity.name.as_deref(), Some("Ana"));
        assert_eq!(signed_in.return_to.as_str(), "/agents");
        assert!(signed_in.tokens.expires_in.is_some());
        let shown = format!("{signed_in:?} {provider:?} {:?}", returned.begun);
        for secret in [
            signed_in.tokens.access.expose_secret(),
            returned.begun.cookie.expose_secret(),
        ] {
            assert!(!shown.contains(secret));
        }
    }
    Ok(())
}

pub(crate) async fn the_store_holds_digests_alone(peer: &Peer) -> Outcome {
    let provider = peer.provider("web-rs256").await;
    let logins = MemoryLogins::new(1);
    let begun = provider.begin(&logins, ReturnTo::root(), now())?;
    let shown = format!("{logins:?}");
    let url: reqwest::Url = begun.url.parse()?;
    for (name, value) in url.query_pairs() {
        if matches!(name.as_ref(), "state" | "nonce" | "code_challenge") {
            assert!(
                value.len() >= 43 && !shown.contains(value.as_ref()),
                "{name}"
            );
        }
    }
    assert!(!shown.contains(begun.cookie.expose_secret()));
    assert!(begun.url.contains("code_challenge_method=S256"));
    // And it is bounded.
    assert!(provider.begin(&logins, ReturnTo::root(), now()).is_err());
    let later = now().after(Duration::from_secs(601));
    assert!(provider.begin(&logins, ReturnTo::root(), later).is_ok());
    Ok(())
}

pub(crate) async fn l01_a_wrong_used_foreign_or_old_state_is_refused(peer: &Peer) -> Outcome {
    let provider = peer.provider("web-rs256").await;
    let refused = |outcome| assert!(matches!(outcome, Err(LoginError::State)));

    // Wrong.
    let returned = Returned::from(&provider).await;
    let state = returned.callback().state().to_owned();
    let wrong = returned
        .query
        .replace(&state, Token::generate()?.expose_secret());
    let wrong = Callback::parse(&wrong)?;
    let cookie = returned.begun.cookie.expose_secret();
    refused(
        provider
            .finish(&http(), &returned.logins, &wrong, cookie, now())
            .await
            .map(drop),
    );
    // Used.
    let _ = returned.finish(&provider, &http()).await?;
    refused(returned.finish(&provider, &http()).await.map(drop));
    // From another browser: the attacker's own answer, sent to a victim.
    let attacker = Returned::from(&provider).await;
    let callback = attacker.callback();
    let victim = Token::generate()?;
    for cookie in [victim.expose_secret(), ""] {
        let attempt = provider
            .finish(&http(), &attacker.logins, &callback, cookie, now())
            .await;
        refused(attempt.map(drop));
    }
    // Too old.
    let late = Returned::from(&provider).await;
    let later = now().after(Duration::from_secs(600));
    let cookie = late.begun.cookie.expose_secret();
    let attempt = provider
        .finish(&http(), &late.logins, &late.callback(), cookie, later)
        .await;
    let error = attempt.map(drop).unwrap_err();
    assert_eq!(error.status(), 400);
    refused(Err(error));
    Ok(())
}

/// The same answer with another sign-in's code in it.
fn inject(into: &Returned, from: &Returned) -> Callback {
    let state = into.callback().state().to_owned();
    let other = from.callback().state().to_owned();
    Callback::parse(&from.query.replace(&other, &state)).unwrap()
}

pub(crate) async fn l02_a_code_is_good_once_and_only_for_its_own_sign_in(peer: &Peer) -> Outcome {
    let provider = peer.provider("web-rs256").await;
    let first = Returned::from(&provider).await;
    // A stolen code, injected into the thief's own sign-in: PKCE does not fit.
    let thief = Returned::from(&provider).await;
    let cookie = thief.begun.cookie.expose_secret();
    let attempt = provider
        .finish(
            &http(),
            &thief.logins,
            &inject(&thief, &first),
            cookie,
            now(),
        )
        .await;
    assert!(matches!(attempt, Err(LoginError::Code(code)) if code == "invalid_grant"));

    let used = Returned::from(&provider).await;
    let _ = used.finish(&provider, &http()).await?;
    let again = Returned::from(&provider).await;
    let cookie = again.begun.cookie.expose_secret();
    let attempt = provider
        .finish(
            &http(),
            &again.logins,
            &inject(&again, &used),
            cookie,
            now(),
        )
        .await;
    assert!(matches!(attempt, Err(LoginError::Code(_))));
    Ok(())
}

pub(crate) async fn a_code_that_is_too_old_is_refused(peer: &Peer) -> Outcome {
    let provider = peer.provider("hasty").await;
    let returned = Returned::from(&provider).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let attempt = returned.finish(&provider, &http()).await;
    assert!(matches!(attempt, Err(LoginError::Code(code)) if code == "invalid_grant"));
    Ok(())
}

pub(crate) async fn l03_nothing_works_without_the_pkce_verifier_or_with_plain(
    peer: &Peer,
) -> Outcome {
    let provider = peer.provider("web-rs256").await;
    let returned = Returned::from(&provider).await;
    let without = middle(|path, step| {
        if let ("/token", Step::Before(body)) = (path, step) {
            let form = String::from_utf8(body.clone()).unwrap();
            assert!(form.contains("code_verifier="));
            *body = form.replace("code_verifier=", "was=").into_bytes();
        }
    });
    let attempt = returned.finish(&provider, &without).await;
    assert!(matches!(attempt, Err(LoginError::Code(_))));

    for change in [
        "code_challenge_method=plain",
        "code_challenge_method=S256&was",
    ] {
        let logins = MemoryLogins::new(1);
        let begun = provider.begin(&logins, ReturnTo::root(), now())?;
        let url = if change.ends_with("was") {
            begun.url.replace("code_challenge=", "was=")
        } else {
            begun.url.replace("code_challenge_method=S256", change)
        };
        let back = Browser::new().leave(&url).await;
        let callback = Callback::parse(query(&back))?;
        let cookie = begun.cookie.expose_secret();
        let attempt = provider
            .finish(&http(), &logins, &callback, cookie, now())
            .await;
        assert!(matches!(attempt, Err(LoginError::Denied(_))), "{change}");
    }
    Ok(())
}

pub(crate) async fn an_answer_of_another_provider_is_refused(peer: &Peer) -> Outcome {
    let honest = peer.provider("web-rs256").await;
    let other = Provider::discover(&http(), &peer.issuers[1], web("web-rs256")).await?;
    // Begun at one, returned to the other's path (RFC 9700 section 4.4.1).
    let returned = Returned::from(&honest).await;
    let attempt = returned.finish(&other, &http()).await;
    assert!(matches!(attempt, Err(LoginError::MixedUp)));
    // Right path, but `iss` says that the other sent it (RFC 9207).
    let returned = Returned::from(&honest).await;
    let port = |issuer: &str| issuer.rsplit_once(':').unwrap().1.to_owned();
    let (ours, theirs) = (port(honest.issuer()), port(other.issuer()));
    let query = returned.query.replace(&ours, &theirs);
    assert_ne!(query, returned.query);
    let cookie = returned.begun.cookie.expose_secret();
    let attempt = honest
        .finish(
            &http(),
            &returned.logins,
            &Callback::parse(&query)?,
            cookie,
            now(),
        )
        .await;
    assert!(matches!(attempt, Err(LoginError::MixedUp)));
    Ok(())
}

pub(crate) async fn an_answer_without_the_promised_issuer_is_refused(peer: &Peer) -> Outcome {
    let provider = peer.provider("web-rs256").await;
    let returned = Returned::from(&provider).await;
    let query = returned.query.replace("iss=", "was=");
    let cookie = returned.begun.cookie.expose_secret();
    let attempt = provider
        .finish(
            &http(),
            &returned.logins,
            &Callback::parse(&query)?,
            cookie,
            now(),
        )
        .await;
    assert!(matches!(attempt, Err(LoginError::MixedUp)));
    Ok(())
}

pub(crate) async fn of_two_answers_at_once_one_signs_in(peer: &Peer) -> Outcome {
    let provider = peer.provider("web-rs256").await;
    let returned = Returned::from(&provider).await;
    let http = http();
    let (one, two) = tokio::join!(
        returned.finish(&provider, &http),
        returned.finish(&provider, &http)
    );
    assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), 1);
    Ok(())
}

pub(crate) async fn a_person_who_refuses_is_not_signed_in(peer: &Peer) -> Outcome {
    let provider = peer.provider("web-rs256").await;
    let returned = Returned::from(&provider).await;
    let code = returned
        .callback()
        .code()
        .unwrap()
        .expose_secret()
        .to_owned();
    let query = returned
        .query
        .replace(&format!("code={code}"), "error=access_denied");
    let cookie = returned.begun.cookie.expose_secret();
    let attempt = provider
        .finish(
            &http(),
            &returned.logins,
            &Callback::parse(&query)?,
            cookie,
            now(),
        )
        .await;
    assert!(matches!(attempt, Err(LoginError::Denied(code)) if code == "access_denied"));
    Ok(())
}

pub(crate) async fn another_name_of_the_same_provider_is_refused(peer: &Peer) -> Outcome {
    let outcome =
        Provider::discover(&http(), &format!("{}/", peer.issuer()), web("web-rs256")).await;
    assert!(matches!(outcome, Err(SetUpError::Issuer { .. })));
    let plain = Provider::discover(&http(), "http://id.example", web("web-rs256")).await;
    assert!(matches!(plain, Err(SetUpError::Url { .. })));
    Ok(())
}
