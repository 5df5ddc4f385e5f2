//! Coming in by an OpenID provider, and every way that must not work.

use std::time::{Duration, Instant};

use katachi_relay::SignUpPolicy;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::Outcome;
use crate::peer::{Place, agree, leave, me, parameter, provider, refused, sign_in, start};
use crate::relay::{PASSWORD, headers};

pub(crate) async fn a_person_comes_in_and_is_known_again(place: Place) -> Outcome {
    let relay = place.relay().await;
    let browser = relay.browser();
    let offered = browser.json("/api/signin").await;
    assert_eq!(
        offered["providers"][0],
        json!({"name": "work", "label": "work"})
    );
    let body = json!({"return_to": "/device?user_code=BCDF-GHJK"});
    let started = start(&browser, "work", body.clone()).await;
    // L08: what ties the sign-in to this browser.
    let cookie = started.headers()["set-cookie"].to_str()?.to_owned();
    assert!(cookie.starts_with("__Host-katachi-signin="));
    for part in [
        "; Secure",
        "; HttpOnly",
        "; SameSite=Lax",
        "; Path=/",
        "; Max-Age=600",
    ] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let url = started.json::<Value>().await?["url"].to_string();
    assert!(url.contains("code_challenge_method=S256") && url.contains("nonce="));

    let back = leave(&browser, "work", "ana", body).await;
    let answer = browser.get(&back).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert_eq!(answer.headers()["location"], "/device?user_code=BCDF-GHJK");
    let cookies: Vec<_> = answer.headers().get_all("set-cookie").iter().collect();
    assert!(cookies[0].to_str()?.starts_with("__Host-katachi="));
    assert!(cookies[1].to_str()?.starts_with("__Host-katachi-signin=;"));
    let ana = me(&browser).await;
    assert_eq!(ana["email"], "ana@example.com");
    assert_eq!(ana["verified"], true);

    let again = relay.browser();
    assert_eq!(sign_in(&again, "ana").await.status(), StatusCode::SEE_OTHER);
    assert_eq!(me(&again).await["id"], ana["id"]);
    // Not by a password, which there is none of, whatever is tried.
    for password in ["", PASSWORD] {
        let body = json!({"email": "ana@example.com", "password": password});
        let answer = relay.browser().post("/api/login", body).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }
    Ok(())
}

pub(crate) async fn l01_a_state_is_good_once_in_its_own_browser(place: Place) -> Outcome {
    let relay = place.relay().await;
    let browser = relay.browser();
    let begun = "not begun in this browser";
    // Missing, wrong, and never made here.
    for path in [
        "/signin/work".to_owned(),
        "/signin/work?code=a".to_owned(),
        "/signin/work?code=a&state=short".to_owned(),
        format!("/signin/work?code=a&state={}", "A".repeat(43)),
    ] {
        refused(&browser, browser.get(&path).await, 400, begun).await;
    }
    let back = leave(&browser, "work", "ana", json!({})).await;
    let wrong = back.replace(&parameter(&back, "state"), &"B".repeat(43));
    refused(&browser, browser.get(&wrong).await, 400, begun).await;
    // From another browser: the attacker's own answer, sent to a victim.
    let back = leave(&browser, "work", "ana", json!({})).await;
    let victim = relay.browser();
    refused(&victim, victim.get(&back).await, 400, begun).await;
    let other = leave(&victim, "work", "ben", json!({})).await;
    assert_ne!(other, back);
    let attacker = leave(&browser, "work", "ana", json!({})).await;
    refused(&victim, victim.get(&attacker).await, 400, begun).await;
    // The control, and then once more, with the cookie that was cleared.
    let started = start(&browser, "work", json!({})).await;
    let cookie = started.headers()["set-cookie"].to_str()?;
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let url = started.json::<Value>().await?["url"]
        .as_str()
        .unwrap()
        .to_owned();
    let back = agree(&url).await;
    assert_eq!(browser.get(&back).await.status(), StatusCode::SEE_OTHER);
    let other = relay.browser();
    let with_cookie = headers(&[("cookie", &cookie)]);
    let again = other.raw(Method::GET, &back, with_cookie, "").await;
    refused(&other, again, 400, begun).await;
    Ok(())
}

pub(crate) async fn l01_of_two_answers_at_once_one_comes_in(place: Place) -> Outcome {
    let relay = place.relay().await;
    let browser = relay.browser();
    let back = leave(&browser, "work", "ana", json!({})).await;
    let (one, two) = tokio::join!(browser.get(&back), browser.get(&back));
    let (came, stayed) = match one.status() {
        StatusCode::SEE_OTHER => (one, two),
        _ => (two, one),
    };
    assert_eq!(came.status(), StatusCode::SEE_OTHER);
    assert_eq!(stayed.status(), StatusCode::BAD_REQUEST);
    // It did not get as far as the provider.
    assert!(stayed.text().await?.contains("not begun in this browser"));
    Ok(())
}

pub(crate) async fn l02_l03_a_code_is_worth_nothing_in_another_sign_in(place: Place) -> Outcome {
    let relay = place.relay().await;
    let (victim, thief) = (relay.browser(), relay.browser());
    // A stolen code, in the thief's own sign-in: the PKCE verifier does not fit.
    let stolen = leave(&victim, "work", "ana", json!({})).await;
    let own = leave(&thief, "work", "eve", json!({})).await;
    let injected = own.replace(&parameter(&own, "code"), &parameter(&stolen, "code"));
    refused(
        &thief,
        thief.get(&injected).await,
        400,
        "could not be verified",
    )
    .await;
    // One that was used.
    let used = leave(&victim, "work", "ana", json!({})).await;
    assert_eq!(victim.get(&used).await.status(), StatusCode::SEE_OTHER);
    let own = leave(&thief, "work", "eve", json!({})).await;
    let replayed = own.replace(&parameter(&own, "code"), &parameter(&used, "code"));
    refused(
        &thief,
        thief.get(&replayed).await,
        400,
        "could not be verified",
    )
    .await;
    // A challenge that was weakened on the way.
    for (from, to) in [
        ("code_challenge_method=S256", "code_challenge_method=plain"),
        ("code_challenge=", "was="),
    ] {
        let started: Value = start(&thief, "work", json!({})).await.json().await?;
        let url = started["url"].as_str().unwrap().replace(from, to);
        let back = agree(&url).await;
        refused(&thief, thief.get(&back).await, 403, "work refused").await;
    }
    Ok(())
}

pub(crate) async fn d17_no_table_holds_what_a_sign_in_under_way_is_opened_by(
    place: Place,
) -> Outcome {
    let relay = place.relay().await;
    let browser = relay.browser();
    let under_way = |tables: &[(String, Vec<Value>)]| {
        let found = tables.iter().find(|(name, _)| name == "sign_ins");
        found.map(|(_, rows)| rows.len())
    };
    let started = start(&browser, "work", json!({})).await;
    let value = |cookie: &str| cookie.split(['=', ';']).nth(1).unwrap().to_owned();
    let cookie = value(started.headers()["set-cookie"].to_str()?);
    let started: Value = started.json().await?;
    let url = started["url"].as_str().unwrap();
    let begun = crate::tables(&place, relay.state.path());
    let back = agree(&format!("{url}&login_hint=ana")).await;
    let agreed = crate::tables(&place, relay.state.path());
    let answer = browser.get(&back).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let session = value(answer.headers()["set-cookie"].to_str()?);
    let ended = crate::tables(&place, relay.state.path());
    let counts = [&begun, &agreed, &ended].map(|tables| under_way(tables));
    assert_eq!(counts, [Some(1), Some(1), Some(0)]);

    let secrets = [
        cookie,
        session,
        parameter(url, "state"),
        parameter(url, "nonce"),
        parameter(url, "code_challenge"),
        parameter(&back, "code"),
        "a secret of the web client".to_owned(),
    ];
    for (_, rows) in begun.iter().chain(&agreed).chain(&ended) {
        let rows: String = rows.iter().map(Value::to_string).collect();
        let rows = rows.to_lowercase();
        for secret in &secrets {
            let hex: String = secret.bytes().map(|b| format!("{b:02x}")).collect();
            let plain = rows.contains(&secret.to_lowercase());
            assert!(!plain && !rows.contains(&hex), "{secret} stands in a table");
        }
    }
    // The search finds what does stand there.
    let id = me(&browser).await["id"].as_str().unwrap().to_owned();
    let all = ended.iter().flat_map(|(_, rows)| rows);
    assert!(all.map(Value::to_string).any(|row| row.contains(&id)));
    Ok(())
}

pub(crate) async fn l05_an_id_token_that_is_wrong_in_one_way_opens_nothing(
    place: Place,
) -> Outcome {
    let relay = place.relay().await;
    for fault in [
        "nonce", "audience", "issuer", "expired", "stranger", "none", "hmac",
    ] {
        let browser = relay.browser();
        let answer = sign_in(&browser, &format!("fault-{fault}")).await;
        refused(&browser, answer, 400, "could not be verified").await;
    }
    let control = sign_in(&relay.browser(), "fault-control").await;
    assert_eq!(control.status(), StatusCode::SEE_OTHER);
    Ok(())
}

pub(crate) async fn l09_another_site_can_begin_nothing(place: Place) -> Outcome {
    let relay = place.relay().await;
    let browser = relay.browser();
    let json = ("content-type", "application/json");
    let cases: [&[(&'static str, &str)]; 5] = [
        &[
            json,
            ("sec-fetch-site", "cross-site"),
            ("origin", "https://evil.example"),
        ],
        &[json, ("sec-fetch-site", "same-site")],
        &[json, ("origin", "https://evil.example")],
        &[json, ("origin", "null")],
        &[json],
    ];
    for path in ["/api/signin/work", "/api/password/forgot", "/api/verify"] {
        for given in cases {
            let answer = browser.raw(Method::POST, path, headers(given), "{}").await;
            assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path} {given:?}");
        }
    }
    // Nor bring an answer in a frame; a person who follows the redirect does.
    let back = leave(&browser, "work", "ana", json!({})).await;
    let with = |dest: &str| {
        headers(&[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", dest),
        ])
    };
    let framed = browser.raw(Method::GET, &back, with("iframe"), "").await;
    assert_eq!(framed.status(), StatusCode::FORBIDDEN);
    let followed = browser.raw(Method::GET, &back, with("document"), "").await;
    assert_eq!(followed.status(), StatusCode::SEE_OTHER);
    Ok(())
}

pub(crate) async fn l16_nobody_is_sent_elsewhere_afterwards(place: Place) -> Outcome {
    let relay = place.relay().await;
    let browser = relay.browser();
    for elsewhere in [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "/\t/evil.example",
        "javascript:alert(1)",
        "agents",
        "",
    ] {
        let answer = start(&browser, "work", json!({"return_to": elsewhere})).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{elsewhere:?}");
    }
    let back = leave(&browser, "work", "ana", json!({"return_to": "/#agents"})).await;
    // Nor by the provider's answer.
    let answer = browser
        .get(&format!("{back}&return_to=//evil.example"))
        .await;
    assert_eq!(answer.headers()["location"], "/#agents");
    Ok(())
}

pub(crate) async fn l17_the_pages_of_a_sign_in_carry_every_header(place: Place) -> Outcome {
    let relay = place.relay().await;
    let browser = relay.browser();
    let back = leave(&browser, "work", "ana", json!({})).await;
    for answer in [
        browser.get("/signin/work?code=a").await,
        browser.get(&back).await,
        browser.get("/api/signin").await,
    ] {
        let header = |name: &str| answer.headers()[name].to_str().unwrap();
        assert!(header("strict-transport-security").starts_with("max-age="));
        let policy = header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"));
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("cross-origin-opener-policy"), "same-origin");
        assert_eq!(header("cache-control"), "no-store");
    }
    Ok(())
}

pub(crate) async fn an_answer_of_another_provider_is_refused(place: Place) -> Outcome {
    let relay = place.relay().await;
    let browser = relay.browser();
    let mixed = "not from";
    // Begun at one, returned to the other's path (RFC 9700 section 4.4.1).
    let back = leave(&browser, "work", "ana", json!({})).await;
    let swapped = back.replace("/signin/work", "/signin/other");
    refused(&browser, browser.get(&swapped).await, 400, mixed).await;
    // Right path, and `iss` says that the other sent it, or nobody (RFC 9207).
    let ports: Vec<_> = place
        .peer
        .issuers
        .iter()
        .map(|i| i.rsplit_once(':').unwrap().1)
        .collect();
    let back = leave(&browser, "work", "ana", json!({})).await;
    let other = back.replace(ports[0], ports[1]);
    assert_ne!(other, back);
    refused(&browser, browser.get(&other).await, 400, mixed).await;
    let back = leave(&browser, "work", "ana", json!({})).await;
    let nobody = back.replace("iss=", "was=");
    refused(&browser, browser.get(&nobody).await, 400, mixed).await;
    let unknown = browser.get("/signin/nobody?code=a").await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    Ok(())
}

pub(crate) async fn a_refusal_is_said_in_plain_words(place: Place) -> Outcome {
    let relay = place.relay().await;
    let browser = relay.browser();
    for (error, said) in [
        ("access_denied", "did not agree"),
        ("%3Cimg+src%3Dx%3E", "work refused: &lt;img src=x&gt;"),
    ] {
        let back = leave(&browser, "work", "ana", json!({})).await;
        let code = format!("code={}", parameter(&back, "code"));
        let denied = back.replace(&code, &format!("error={error}"));
        refused(&browser, browser.get(&denied).await, 403, said).await;
    }
    Ok(())
}

pub(crate) async fn a_closed_relay_lets_in_whom_it_knows(place: Place) -> Outcome {
    let relay = place.relay().await;
    sign_in(&relay.browser(), "ana").await;
    let state = relay.stop().await;
    let relay = place
        .relay_in(state, |config| config.sign_up = SignUpPolicy::Closed)
        .await;
    let ben = relay.browser();
    refused(&ben, sign_in(&ben, "ben").await, 403, "opens no new ones").await;
    let ana = relay.browser();
    assert_eq!(sign_in(&ana, "ana").await.status(), StatusCode::SEE_OTHER);
    Ok(())
}

/// One port where nobody listens, and one where somebody does and says nothing.
pub(crate) async fn a_provider_that_is_down_keeps_nobody_else_out(place: Place) -> Outcome {
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let (mute_port, gone_port) = (mute.local_addr()?.port(), gone.local_addr()?.port());
    drop(gone);
    let relay = place
        .relay_with(|config| {
            for (name, port) in [("mute", mute_port), ("gone", gone_port)] {
                let spec = format!("{name},issuer=http://127.0.0.1:{port},client-id=web");
                config.providers.push(provider(&spec));
            }
        })
        .await;
    let browser = relay.browser();
    let began = Instant::now();
    let (silent, working) =
        tokio::join!(start(&browser, "mute", json!({})), sign_in(&browser, "ana"),);
    assert_eq!(working.status(), StatusCode::SEE_OTHER);
    assert_eq!(silent.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(began.elapsed() < Duration::from_secs(15));
    // And is not asked again at once.
    let began = Instant::now();
    let again = start(&browser, "mute", json!({})).await;
    assert_eq!(again.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(began.elapsed() < Duration::from_secs(1));
    let gone = start(&browser, "gone", json!({})).await;
    let said = gone.json::<Value>().await?["message"].to_string();
    assert!(said.contains("gone does not answer now"), "{said}");
    assert!(
        relay
            .browser_of("ben@example.com")
            .await
            .get("/api/me")
            .await
            .status()
            .is_success()
    );
    Ok(())
}

pub(crate) async fn a_provider_that_breaks_off_is_not_waited_for(place: Place) -> Outcome {
    let relay = place.relay().await;
    let (slow, broken) = (relay.browser(), relay.browser());
    let answer = sign_in(&broken, "fault-error").await;
    assert!(matches!(answer.status().as_u16(), 400 | 502));
    assert_eq!(me(&broken).await, Value::Null);
    let began = Instant::now();
    let answer = sign_in(&slow, "fault-slow").await;
    refused(&slow, answer, 502, "does not answer now").await;
    assert!(began.elapsed() < Duration::from_secs(20));
    Ok(())
}

pub(crate) async fn beginning_is_throttled_across_restarts(place: Place) -> Outcome {
    let relay = place.relay().await;
    let browser = relay.browser();
    let mut last = StatusCode::OK;
    for _ in 0..25 {
        last = start(&browser, "work", json!({})).await.status();
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    // What one relay counted, the next one knows.
    let state = relay.stop().await;
    let relay = place.relay_in(state, |_| ()).await;
    let mut refusals = 0;
    for _ in 0..10 {
        let status = start(&relay.browser(), "work", json!({})).await.status();
        refusals += usize::from(status == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(refusals >= 5, "{refusals}");
    Ok(())
}
