//! Sign up, sign in, sign out, and requests that other sites make.

use std::sync::Arc;

use katachi_crypto::password::Params;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tempfile::TempDir;

use crate::relay::{PASSWORD, TestRelay, headers};

#[tokio::test]
async fn a_person_signs_up_out_and_in_again() {
    let relay = TestRelay::start().await;
    let browser = relay.browser();
    assert_eq!(
        browser.get("/api/me").await.status(),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(browser.json("/api/session").await, json!({"me": null}));
    let body = json!({"email": "Ana@Example.org", "password": PASSWORD});
    assert_eq!(
        browser.post("/api/signup", body.clone()).await.status(),
        StatusCode::CREATED
    );
    assert_eq!(browser.json("/api/me").await["email"], "ana@example.org");
    let state = browser.json("/api/session").await;
    assert_eq!(state["me"]["email"], "ana@example.org");
    assert_eq!(
        browser
            .send(Method::POST, "/api/logout", None)
            .await
            .status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        browser.get("/api/me").await.status(),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        browser.post("/api/login", body.clone()).await.status(),
        StatusCode::OK
    );
    assert_eq!(browser.json("/api/me").await["email"], "ana@example.org");
    assert_eq!(
        relay.browser().post("/api/signup", body).await.status(),
        StatusCode::CONFLICT
    );
}

#[tokio::test]
async fn the_session_cookie_is_bound_to_host_and_transport() {
    let relay = TestRelay::start().await;
    let answer = relay
        .browser()
        .post(
            "/api/signup",
            json!({"email": "a@b.c", "password": PASSWORD}),
        )
        .await;
    let cookie = answer.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.starts_with("__Host-katachi="));
    for part in ["; Secure", "; HttpOnly", "; SameSite=Lax", "; Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Domain"));
}

#[tokio::test]
async fn signing_out_ends_the_session_on_the_relay_too() {
    let relay = TestRelay::start().await;
    let browser = relay.browser();
    let answer = browser
        .post(
            "/api/signup",
            json!({"email": "a@b.c", "password": PASSWORD}),
        )
        .await;
    let cookie = answer.headers()["set-cookie"]
        .to_str()
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let with_cookie = || relay.browser();
    let stolen = with_cookie()
        .raw(Method::GET, "/api/me", headers(&[("cookie", &cookie)]), "")
        .await;
    assert_eq!(stolen.status(), StatusCode::OK);
    browser.send(Method::POST, "/api/logout", None).await;
    let stolen = with_cookie()
        .raw(Method::GET, "/api/me", headers(&[("cookie", &cookie)]), "")
        .await;
    assert_eq!(stolen.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn signing_in_again_ends_the_session_that_the_browser_had() {
    let relay = TestRelay::start().await;
    let browser = relay.browser();
    let body = json!({"email": "a@b.c", "password": PASSWORD});
    let answer = browser.post("/api/signup", body.clone()).await;
    let cookie = answer.headers()["set-cookie"].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let with_old_cookie = async || {
        relay
            .browser()
            .raw(Method::GET, "/api/me", headers(&[("cookie", &cookie)]), "")
            .await
            .status()
    };
    let elsewhere = relay.browser();
    elsewhere.post("/api/login", body.clone()).await;
    assert_eq!(with_old_cookie().await, StatusCode::OK);
    let wrong = json!({"email": "a@b.c", "password": "not the password"});
    browser.post("/api/login", wrong).await;
    assert_eq!(with_old_cookie().await, StatusCode::OK);
    browser.post("/api/login", body).await;
    assert_eq!(with_old_cookie().await, StatusCode::UNAUTHORIZED);
    assert_eq!(browser.get("/api/me").await.status(), StatusCode::OK);
    assert_eq!(elsewhere.get("/api/me").await.status(), StatusCode::OK);
}

/// Whoever approves a device is shown to its owner by address alone.
#[tokio::test]
async fn no_two_accounts_have_addresses_that_look_alike() {
    let relay = TestRelay::start().await;
    relay.browser_of("ana@example.org").await;
    for alike in [
        "ana@example.org\u{200b}",
        "a\u{2060}na@example.org",
        "ana@exam\u{ad}ple.org",
        "\u{430}na@example.org",
        "ana@example.org\u{202e}",
        "\u{ff41}na@example.org",
    ] {
        let body = json!({"email": alike, "password": PASSWORD});
        let answer = relay.browser().post("/api/signup", body).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{alike:?}");
    }
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_address_look_the_same() {
    let relay = TestRelay::start().await;
    relay.browser_of("a@b.c").await;
    let mut answers = Vec::new();
    for email in ["a@b.c", "nobody@b.c", "not an address"] {
        let answer = relay
            .browser()
            .post(
                "/api/login",
                json!({"email": email, "password": "wrong password"}),
            )
            .await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert!(answer.headers().get("set-cookie").is_none());
        answers.push(answer.text().await.unwrap());
    }
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
}

#[tokio::test]
async fn weak_and_endless_passwords_are_refused_before_hashing() {
    let relay = TestRelay::start().await;
    for (password, status) in [
        ("short".to_owned(), 400),
        ("x".repeat(1025), 413),
        ("x".repeat(1024), 201),
    ] {
        let answer = relay
            .browser()
            .post(
                "/api/signup",
                json!({"email": "a@b.c", "password": password}),
            )
            .await;
        assert_eq!(answer.status().as_u16(), status);
    }
}

#[tokio::test]
async fn a_closed_relay_opens_no_account_and_keeps_those_it_has() {
    let relay = TestRelay::start().await;
    relay.browser_of("ana@example.org").await;
    let state = relay.stop().await;
    let closed = |config: &mut katachi_relay::Config| {
        config.sign_up = katachi_relay::SignUpPolicy::Closed;
    };
    let relay = TestRelay::start_with(state, closed).await;
    let ben = json!({"email": "ben@example.org", "password": PASSWORD});
    let answer = relay.browser().post("/api/signup", ben).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let ana = json!({"email": "ana@example.org", "password": PASSWORD});
    let answer = relay.browser().post("/api/login", ana).await;
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn guessing_a_password_is_slowed_down_for_the_account() {
    let relay = TestRelay::start().await;
    relay.browser_of("a@b.c").await;
    let mut last = StatusCode::OK;
    for _ in 0..11 {
        let answer = relay
            .browser()
            .post("/api/login", json!({"email": "a@b.c", "password": "wrong"}))
            .await;
        last = answer.status();
        if last == StatusCode::TOO_MANY_REQUESTS {
            let wait: u64 = answer.headers()["retry-after"]
                .to_str()
                .unwrap()
                .parse()
                .unwrap();
            assert!((1..=60).contains(&wait));
        }
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    // A forged header does not make another address of it.
    let forged = headers(&[
        ("origin", &relay.url),
        ("content-type", "application/json"),
        ("x-forwarded-for", "203.0.113.9"),
        ("forwarded", "for=203.0.113.9"),
    ]);
    let body = json!({"email": "a@b.c", "password": PASSWORD}).to_string();
    let answer = relay
        .browser()
        .raw(Method::POST, "/api/login", forged, body)
        .await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn another_site_cannot_act_with_the_session() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("a@b.c").await;
    let origin = relay.url.as_str();
    let cases: &[(&[(&'static str, &str)], u16)] = &[
        (&[("origin", origin)], 204),
        (
            &[("sec-fetch-site", "same-origin"), ("origin", origin)],
            204,
        ),
        (
            &[
                ("sec-fetch-site", "cross-site"),
                ("origin", "https://attacker.example"),
            ],
            403,
        ),
        (
            &[
                ("sec-fetch-site", "same-site"),
                ("origin", "https://localhost"),
            ],
            403,
        ),
        (&[("sec-fetch-site", "none")], 403),
        (&[("origin", "null")], 403),
        (&[("origin", "https://katachi.localhost")], 403),
        (&[], 403),
    ];
    for (given, expected) in cases {
        let answer = browser
            .raw(Method::DELETE, "/api/mcp/none", headers(given), "")
            .await;
        // There is no such configuration: 404 says that the request was let in.
        let expected = if *expected == 204 { 404 } else { *expected };
        assert_eq!(answer.status().as_u16(), expected, "{given:?}");
    }
    let framed = headers(&[
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "iframe"),
    ]);
    assert_eq!(
        browser
            .raw(Method::GET, "/api/me", framed, "")
            .await
            .status(),
        StatusCode::FORBIDDEN
    );
}

#[tokio::test]
async fn accounts_survive_a_restart_and_the_database_is_not_readable() {
    let relay = TestRelay::start().await;
    relay.browser_of("canary-address@example.org").await;
    let state = relay.stop().await;
    for entry in walk(state.path()) {
        let bytes = std::fs::read(&entry).unwrap();
        for plain in [
            &b"canary-address"[..],
            b"argon2id",
            b"SQLite format 3",
            b"BEGIN PRIVATE KEY",
        ] {
            assert!(
                !bytes.windows(plain.len()).any(|window| window == plain),
                "{}",
                entry.display()
            );
        }
    }
    let relay = TestRelay::start_with(state, |_| {}).await;
    let body = json!({"email": "canary-address@example.org", "password": PASSWORD});
    assert_eq!(
        relay.browser().post("/api/login", body).await.status(),
        StatusCode::OK
    );
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| {
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// A record of former years, as a relay of a lower cost wrote it.
#[tokio::test]
async fn l14_a_sign_in_replaces_the_record_of_a_lower_cost_and_no_other() {
    let record = |state: &TempDir| {
        let mut tables = crate::tables(state.path());
        let users = tables.iter_mut().find(|(table, _)| table == "users");
        users.unwrap().1[0]["password"].take()
    };
    let state = Arc::new(tempfile::tempdir().unwrap());
    let relay = TestRelay::start_with(Arc::clone(&state), |_| {}).await;
    relay.browser_of("ana@example.org").await;
    let old = record(&state);
    relay.signed_in("ana@example.org").await;
    assert_eq!(record(&state), old, "its cost is what it should be");
    drop(relay.stop().await);
    let raised = Params::new(20 * 1024, 3, 1).unwrap();
    let relay = TestRelay::start_with(Arc::clone(&state), |config| {
        config.limits.password = raised;
    })
    .await;
    let wrong = json!({"email": "ana@example.org", "password": format!("not {PASSWORD}")});
    let refused = relay.browser().post("/api/login", wrong).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(record(&state), old, "a wrong password replaces nothing");
    // The old record lets its owner in, and the new one, once and from then on.
    relay.signed_in("ana@example.org").await;
    let new = record(&state);
    assert_ne!(new, old);
    let costs = new
        .as_str()
        .filter(|record| record.starts_with("$argon2id$"));
    // Sealed where a database is not the relay's own.
    assert!(costs.is_none_or(|record| record.contains("$m=20480,t=3,p=1$")));
    relay.signed_in("ana@example.org").await;
    assert_eq!(record(&state), new);
    drop(relay.stop().await);
    let relay = TestRelay::start_with(Arc::clone(&state), |_| {}).await;
    relay.signed_in("ana@example.org").await;
    assert_eq!(record(&state), new, "no record becomes a cheaper one");
}
