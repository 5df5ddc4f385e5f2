//! The device authorization flow, and its abuse.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_auth::clock::{Clock as _, SystemClock, Timestamp};
use katachi_auth::replay::Epoch;
use katachi_protocol::device::GRANT_TYPE;
use katachi_protocol::routes::{DEVICE_AUTHORIZATION, TOKEN, TOKEN_OWNER};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::agent::{Device, START, TestAgent, poll, poll_form, start_device};
use crate::relay::{Browser, TestRelay, headers};

#[tokio::test]
async fn a_device_is_compared_approved_and_connected_once() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let started = start_device(&relay).await;
    let (user_code, device_code) = (
        started["user_code"].as_str().unwrap(),
        started["device_code"].as_str().unwrap(),
    );
    assert_eq!(started["interval"], 5);
    assert_eq!(started["verification_uri"], format!("{}/device", relay.url));
    assert!(
        started["verification_uri_complete"]
            .as_str()
            .unwrap()
            .ends_with(user_code)
    );

    let pending: Value = poll(&relay, device_code).await.json().await.unwrap();
    assert_eq!(pending["error"], "authorization_pending");

    let typed = user_code.to_lowercase().replace('-', "");
    let info = browser
        .json(&format!("/api/device?user_code={typed}"))
        .await;
    assert_eq!(info["user_code"], user_code);
    assert_eq!(info["host_name"], "testbox");
    assert_eq!(info["os"], "Linux");
    assert_eq!(info["address"], "127.0.0.1");
    assert!(info["age_seconds"].as_u64().unwrap() < 60);

    let approved = browser
        .post("/api/device/approve", json!({"user_code": typed}))
        .await;
    assert_eq!(approved.status(), StatusCode::NO_CONTENT);
    let token: Value = poll(&relay, device_code).await.json().await.unwrap();
    assert_eq!(token["approved_by"], "ana@example.org");
    let agent = TestAgent::from_token(&token);
    let agents = browser.json("/api/agents").await;
    assert_eq!(agents["agents"][0]["id"], agent.id.as_str());
    assert_eq!(agents["agents"][0]["online"], false);

    let again: Value = poll(&relay, device_code).await.json().await.unwrap();
    assert_eq!(again["error"], "invalid_grant");
}

#[tokio::test]
async fn of_fifty_polls_at_once_one_is_given_the_key() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let started = start_device(&relay).await;
    browser
        .post(
            "/api/device/approve",
            json!({"user_code": started["user_code"]}),
        )
        .await;
    let device_code = started["device_code"].as_str().unwrap();
    let polls = futures_util::future::join_all((0..50).map(|_| poll(&relay, device_code))).await;
    let mut given = 0;
    for answer in polls {
        match answer.status() {
            StatusCode::OK => given += 1,
            _ => assert_eq!(refused(answer).await, (400, "invalid_grant".to_owned())),
        }
    }
    assert_eq!(given, 1);
    assert_eq!(
        browser.json("/api/agents").await["agents"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_poll_that_comes_too_early_is_told_to_slow_down() {
    let relay = TestRelay::start().await;
    let started = start_device(&relay).await;
    let device_code = started["device_code"].as_str().unwrap();
    poll(&relay, device_code).await;
    let answer = poll(&relay, device_code).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(
        (body["error"].as_str(), body["interval"].as_u64()),
        (Some("slow_down"), Some(10))
    );
}

#[tokio::test]
async fn a_denied_device_learns_it_and_nothing_else() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let started = start_device(&relay).await;
    let code = json!({"user_code": started["user_code"]});
    assert_eq!(
        browser
            .post("/api/device/deny", code.clone())
            .await
            .status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        browser.post("/api/device/approve", code).await.status(),
        StatusCode::NOT_FOUND
    );
    let body: Value = poll(&relay, started["device_code"].as_str().unwrap())
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(body["error"], "access_denied");
    assert!(body.get("hmac_secret").is_none());
}

#[tokio::test]
async fn approving_needs_a_session_a_click_and_our_own_page() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let started = start_device(&relay).await;
    let code = json!({"user_code": started["user_code"]});
    assert_eq!(
        relay
            .browser()
            .post("/api/device/approve", code.clone())
            .await
            .status(),
        StatusCode::UNAUTHORIZED
    );
    let path = format!(
        "/api/device/approve?user_code={}",
        started["user_code"].as_str().unwrap()
    );
    assert_eq!(
        browser.get(&path).await.status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
    let foreign = headers(&[
        ("sec-fetch-site", "cross-site"),
        ("origin", "https://attacker.example"),
        ("content-type", "application/json"),
    ]);
    let answer = browser
        .raw(
            Method::POST,
            "/api/device/approve",
            foreign,
            code.to_string(),
        )
        .await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let body: Value = poll(&relay, started["device_code"].as_str().unwrap())
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(body["error"], "authorization_pending");
}

#[tokio::test]
async fn guessing_codes_ends_after_a_few() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(
            browser
                .get("/api/device?user_code=BBBB-BBBB")
                .await
                .status()
                .as_u16(),
        );
    }
    assert_eq!(statuses, [404, 404, 404, 404, 404, 429]);
}

/// The word of a refusal, under its status.
async fn refused(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    (
        status,
        body["error"].as_str().unwrap_or_default().to_owned(),
    )
}

#[tokio::test]
async fn d07_a_device_code_is_useless_without_the_key_that_started_it() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let (device, other) = (Device::new(&relay, 1), Device::new(&relay, 2));
    let started = device.post(DEVICE_AUTHORIZATION, &START).await;
    let started: Value = started.json().await.unwrap();
    let code = json!({"user_code": started["user_code"]});
    browser.post("/api/device/approve", code).await;
    let form = poll_form(started["device_code"].as_str().unwrap());

    let overheard = other.post(TOKEN, &form).await;
    assert_eq!(refused(overheard).await, (400, "invalid_grant".to_owned()));
    let agents = browser.json("/api/agents").await;
    assert_eq!(agents["agents"].as_array().unwrap().len(), 0);
    assert_eq!(
        device.post(TOKEN, &form).await.status(),
        StatusCode::OK,
        "it was not used up"
    );
}

#[tokio::test]
async fn d10_guesses_are_counted_by_where_they_come_from_whoever_makes_them() {
    let mut relay = TestRelay::start().await;
    let near = ["127.0.7.1", "127.0.7.200"].map(|address| address.parse().ok());
    let started = start_device(&relay).await;
    // Three accounts, each in four sessions: sixty guesses, within every other limit.
    let mut statuses = Vec::new();
    for person in ["ana@example.org", "ben@example.org", "cem@example.org"] {
        for session in 0..4 {
            relay.source = near[session % 2];
            let browser = match session {
                0 => relay.browser_of(person).await,
                _ => relay.signed_in(person).await,
            };
            for _ in 0..5 {
                let answer = browser.get("/api/device?user_code=BBBB-BBBB").await;
                statuses.push(answer.status().as_u16());
            }
        }
    }
    assert_eq!(statuses[..50], [404; 50]);
    assert_eq!(statuses[50..], [429; 10]);
    // A neighbour of theirs is not let in even with the right code; somebody else is.
    let right = json!({"user_code": started["user_code"]});
    let neighbour = relay.browser_of("dora@example.org").await;
    let answer = neighbour.post("/api/device/approve", right.clone()).await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    relay.source = Some("127.0.8.1".parse().unwrap());
    let elsewhere = relay.signed_in("dora@example.org").await;
    let answer = elsewhere.post("/api/device/approve", right).await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn d10_guesses_of_one_account_are_counted_wherever_it_signs_in() {
    let mut relay = TestRelay::start().await;
    relay.browser_of("ana@example.org").await;
    // Five sessions, each from another neighbourhood: within every other limit.
    let mut statuses = Vec::new();
    for place in 0..5 {
        relay.source = Some([127, 0, 40 + place, 1].into());
        let browser = relay.signed_in("ana@example.org").await;
        for _ in 0..5 {
            let answer = browser.get("/api/device?user_code=BBBB-BBBB").await;
            statuses.push(answer.status().as_u16());
        }
    }
    assert_eq!(statuses[..20], [404; 20]);
    assert_eq!(statuses[20..], [429; 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d10_of_guesses_from_everywhere_there_is_a_last_one() {
    let mut relay = TestRelay::start().await;
    let started = start_device(&relay).await;
    let right = json!({"user_code": started["user_code"]});
    // Fifty people, each at home elsewhere and in four sessions: a thousand guesses, within
    // every other limit.
    let mut crowd = tokio::task::JoinSet::new();
    for person in 0..50_u8 {
        relay.source = Some([127, 20, person, 1].into());
        let browsers: Vec<Browser> = (0..4).map(|_| relay.browser()).collect();
        crowd.spawn(async move {
            let account = json!({
                "email": format!("person-{person}@example.org"), "password": crate::relay::PASSWORD,
            });
            let mut unknown = 0;
            for (session, browser) in browsers.iter().enumerate() {
                let enter = ["/api/signup", "/api/login"][session.min(1)];
                // All places to hash a password may be taken for a while.
                while !browser
                    .post(enter, account.clone())
                    .await
                    .status()
                    .is_success()
                {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                for _ in 0..5 {
                    let answer = browser.get("/api/device?user_code=BBBB-BBBB").await;
                    unknown += usize::from(answer.status() == StatusCode::NOT_FOUND);
                }
            }
            unknown
        });
    }
    let unknown: usize = crowd.join_all().await.into_iter().sum();
    assert_eq!(unknown, 1000);
    // Whoever comes now, from wherever, even with the right code.
    relay.source = Some([127, 21, 0, 1].into());
    let late = relay.browser_of("late@example.org").await;
    let answer = late.post("/api/device/approve", right).await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait = answer.headers()["retry-after"].to_str().unwrap().to_owned();
    assert!((1..=3600).contains(&wait.parse::<u64>().unwrap()), "{wait}");
}

#[tokio::test]
async fn neither_a_start_nor_a_poll_passes_without_a_good_proof() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let device = Device::new(&relay, 1);
    let nonce = device.nonce().await;
    let started = device.post(DEVICE_AUTHORIZATION, &START).await;
    let started: Value = started.json().await.unwrap();
    let code = json!({"user_code": started["user_code"]});
    browser.post("/api/device/approve", code).await;
    let polling = poll_form(started["device_code"].as_str().unwrap());
    let now = SystemClock.now();
    let at = |when: Timestamp, path: &str| device.prove_as("POST", path, when, Some(&nonce));

    for (path, form, elsewhere) in [
        (DEVICE_AUTHORIZATION, &START[..], TOKEN),
        (TOKEN, &polling[..], DEVICE_AUTHORIZATION),
    ] {
        let good = device.prove(path, Some(&nonce));
        let (head, signature) = good.rsplit_once('.').unwrap();
        let flipped = if signature.starts_with('A') { "B" } else { "A" };
        let stale = Epoch::from_bytes([9; 16]);
        let used = device.prove(DEVICE_AUTHORIZATION, Some(&nonce));
        device
            .send(DEVICE_AUTHORIZATION, &START, [&used])
            .await
            .error_for_status()
            .unwrap();
        let bad = "invalid_dpop_proof";
        for (what, proofs, error) in [
            ("none", vec![], bad),
            (
                "two",
                vec![good.clone(), device.prove(path, Some(&nonce))],
                bad,
            ),
            ("one that is empty", vec![String::new()], bad),
            ("one that is long", vec!["a.".repeat(2000)], bad),
            (
                "one without nonce",
                vec![device.prove(path, None)],
                "use_dpop_nonce",
            ),
            (
                "one for another life",
                vec![device.prove(path, Some(&stale))],
                "use_dpop_nonce",
            ),
            (
                "one for another path",
                vec![device.prove(elsewhere, Some(&nonce))],
                bad,
            ),
            (
                "one for another method",
                vec![device.prove_as("GET", path, now, Some(&nonce))],
                bad,
            ),
            (
                "one of yesterday",
                vec![at(now.before(Duration::from_secs(70)), path)],
                bad,
            ),
            (
                "one of tomorrow",
                vec![at(now.after(Duration::from_secs(30)), path)],
                bad,
            ),
            (
                "one that is altered",
                vec![format!("{head}.{flipped}{}", &signature[1..])],
                bad,
            ),
            ("one without signature", vec![format!("{head}.")], bad),
            ("one that was used", vec![used.clone()], bad),
        ] {
            let answer = device.send(path, form, &proofs).await;
            let asked = answer.headers().get("dpop-nonce").cloned();
            assert_eq!(
                refused(answer).await,
                (400, error.to_owned()),
                "{path}: {what}"
            );
            // RFC 9449 section 8: what a proof has to carry next.
            assert_eq!(asked.unwrap(), nonce.to_string().as_str(), "{path}: {what}");
        }
    }
    let agents = browser.json("/api/agents").await;
    assert_eq!(agents["agents"].as_array().unwrap().len(), 0);
    assert_eq!(device.post(TOKEN, &polling).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_proof_is_remembered_only_where_something_depends_on_it() {
    let relay = TestRelay::start().await;
    let device = Device::new(&relay, 1);
    let nonce = device.nonce().await;
    // Of a code that nobody waits for the proof is not even used up.
    let nobody = poll_form("nobody-waits-for-this-code");
    let proof = device.prove(TOKEN, Some(&nonce));
    for _ in 0..2 {
        let answer = device.send(TOKEN, &nobody, [&proof]).await;
        assert_eq!(refused(answer).await, (400, "invalid_grant".to_owned()));
    }
    let started = device.post(DEVICE_AUTHORIZATION, &START).await;
    let started: Value = started.json().await.unwrap();
    let form = poll_form(started["device_code"].as_str().unwrap());
    for word in ["authorization_pending", "invalid_dpop_proof"] {
        let answer = device.send(TOKEN, &form, [&proof]).await;
        assert_eq!(refused(answer).await, (400, word.to_owned()));
    }
}

/// Whether a device starts, or finds no place among the others. All at once those with a
/// place can be more than a database takes; who is told so comes back until it has started.
async fn starts(device: &Device<'_>, nonce: &Epoch, began: Instant) -> bool {
    let mut had_a_place = false;
    loop {
        let proof = device.prove(DEVICE_AUTHORIZATION, Some(nonce));
        let answer = device.send(DEVICE_AUTHORIZATION, &START, [proof]).await;
        match answer.status().as_u16() {
            200 => return true,
            503 => had_a_place = true,
            429 if !had_a_place => return false,
            status => assert_eq!(status, 429),
        }
        assert!(began.elapsed() < Duration::from_secs(60), "no room for it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_who_make_keys_and_proofs_leave_room_for_agents() {
    let mut relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let mut crowd = Vec::new();
    for place in 0..75 {
        relay.source = Some([127, 30, place, 1].into());
        crowd.push((place, relay.client()));
    }
    let relay = &relay;
    // Each from an address of its own, within what that may start.
    let began = Instant::now();
    let all = crowd.iter().map(|(place, client)| async move {
        let device = Device::with(relay, *place, client.clone());
        let nonce = device.nonce().await;
        let mut started = 0_u64;
        for _ in 0..16 {
            started += u64::from(starts(&device, &nonce, began).await);
        }
        started
    });
    let all = futures_util::future::join_all(all).await;
    let started: u64 = all.into_iter().sum();
    let most = 512 + began.elapsed().as_secs() * 10 + 10;
    assert!(
        started <= most.min(1200),
        "{started} of 1200, at most {most}"
    );
    // So many have a place at once, and each of them starts.
    assert!(started >= 512, "{started} of 1200");
    let heartbeat = agent.call(
        relay,
        http::Method::POST,
        "/v1/agent/heartbeat",
        Some(json!({"state": "busy"})),
    );
    assert_eq!(heartbeat.await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_start_may_name_a_key_and_is_of_use_to_its_holder_alone() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let (device, other) = (Device::new(&relay, 1), Device::new(&relay, 2));
    let (own, theirs) = (device.thumbprint(), other.thumbprint());
    let with = |jkt: &'static str| [START.as_slice(), &[("dpop_jkt", jkt)]].concat();
    for (jkt, word) in [("", "invalid_dpop_proof"), ("x", "invalid_request")] {
        let answer = device.send(DEVICE_AUTHORIZATION, &with(jkt), [""; 0]).await;
        assert_eq!(refused(answer).await, (400, word.to_owned()));
    }
    let named = |jkt| [START.as_slice(), &[("dpop_jkt", jkt)]].concat();
    let answer = device.post(DEVICE_AUTHORIZATION, &named(&theirs)).await;
    assert_eq!(
        refused(answer).await,
        (400, "invalid_dpop_proof".to_owned())
    );
    let answer = device
        .send(DEVICE_AUTHORIZATION, &named(&own), [""; 0])
        .await;
    let started: Value = answer.json().await.unwrap();
    let code = json!({"user_code": started["user_code"]});
    browser.post("/api/device/approve", code).await;
    let form = poll_form(started["device_code"].as_str().unwrap());
    let answer = other.post(TOKEN, &form).await;
    assert_eq!(refused(answer).await, (400, "invalid_grant".to_owned()));
    let token: Value = device.post(TOKEN, &form).await.json().await.unwrap();
    assert_eq!(
        (&token["token_type"], &token["expires_in"]),
        (&json!("DPoP"), &json!(600))
    );
    assert!(!token["access_token"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn an_access_token_needs_a_proof_that_names_it() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let device = Device::new(&relay, 1);
    let started = device.post(DEVICE_AUTHORIZATION, &START).await;
    let started: Value = started.json().await.unwrap();
    let code = json!({"user_code": started["user_code"]});
    browser.post("/api/device/approve", code).await;
    let form = poll_form(started["device_code"].as_str().unwrap());
    let token: Value = device.post(TOKEN, &form).await.json().await.unwrap();
    let authorization = format!("DPoP {}", token["access_token"].as_str().unwrap());
    let nonce = device.nonce().await;
    // By the right key, in time, for the right address, and for no token.
    let proof = device.prove_as("GET", TOKEN_OWNER, SystemClock.now(), Some(&nonce));
    let with = headers(&[
        ("authorization", authorization.as_str()),
        ("dpop", proof.as_str()),
    ]);
    let without = headers(&[("authorization", authorization.as_str())]);
    for headers in [with, without] {
        let answer = relay
            .browser()
            .raw(Method::GET, TOKEN_OWNER, headers, "")
            .await;
        let challenge = answer.headers()["www-authenticate"]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(
            challenge.starts_with("DPoP error=\"invalid_dpop_proof\""),
            "{challenge}"
        );
        assert_eq!(
            refused(answer).await,
            (401, "invalid_dpop_proof".to_owned())
        );
    }
}

/// The short code is no part of the long one, and opens nothing at the token endpoint.
#[tokio::test]
async fn d08_the_short_code_tells_nothing_of_the_long_one() {
    let relay = TestRelay::start().await;
    let device = Device::new(&relay, 1);
    let mut all = Vec::new();
    for _ in 0..8 {
        let answer = device.post(DEVICE_AUTHORIZATION, &START).await;
        let started: Value = answer.json().await.unwrap();
        let text = |name: &str| started[name].as_str().unwrap().to_owned();
        let (short, long) = (text("user_code"), text("device_code"));
        let plain = short.replace('-', "");
        // 256 bits, of which eight letters are no part in whatever case.
        assert_eq!(URL_SAFE_NO_PAD.decode(&long).unwrap().len(), 32);
        assert!(!long.to_uppercase().contains(&plain), "{short} in {long}");
        for code in [&short, &plain, &plain.to_lowercase()] {
            let answer = device.post(TOKEN, &poll_form(code)).await;
            assert_eq!(refused(answer).await, (400, "invalid_grant".to_owned()));
        }
        all.push((short, long));
    }
    let (short, long): (BTreeSet<_>, BTreeSet<_>) = all.into_iter().unzip();
    assert_eq!((short.len(), long.len()), (8, 8), "a code was given twice");
}

#[tokio::test]
async fn d20_a_scope_changes_nothing() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let device = Device::new(&relay, 1);
    let wide = ("scope", "admin agents:all offline_access");
    let start = [START.as_slice(), &[wide]].concat();
    let started = device.post(DEVICE_AUTHORIZATION, &start).await;
    let started: Value = started.json().await.unwrap();
    let code = json!({"user_code": started["user_code"]});
    browser.post("/api/device/approve", code).await;
    let polling = poll_form(started["device_code"].as_str().unwrap());
    let token = device
        .post(TOKEN, &[polling.as_slice(), &[wide]].concat())
        .await;
    let token: Value = token.json().await.unwrap();
    let plain = start_device(&relay).await;
    let code = json!({"user_code": plain["user_code"]});
    browser.post("/api/device/approve", code).await;
    let answer = poll(&relay, plain["device_code"].as_str().unwrap()).await;
    let plain: Value = answer.json().await.unwrap();
    let members =
        |token: &Value| -> Vec<String> { token.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(members(&token), members(&plain), "no scope is given");
    assert_eq!(token["token_type"], plain["token_type"]);
}

#[tokio::test]
async fn d18_starts_without_end_are_bounded_by_where_they_come_from() {
    let mut relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let device = Device::new(&relay, 1);
    let nonce = device.nonce().await;
    let mut statuses = Vec::new();
    let mut wait = None;
    for _ in 0..40 {
        let proof = device.prove(DEVICE_AUTHORIZATION, Some(&nonce));
        let answer = device.send(DEVICE_AUTHORIZATION, &START, [proof]).await;
        statuses.push(answer.status().as_u16());
        wait = wait.or_else(|| answer.headers().get("retry-after").cloned());
    }
    // Twenty at once, and one more for each five seconds that this takes.
    let started = statuses.iter().filter(|status| **status == 200).count();
    assert!((20..30).contains(&started), "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429)));
    let wait: u64 = wait.unwrap().to_str().unwrap().parse().unwrap();
    assert!((1..=5).contains(&wait));
    // Somebody elsewhere is served meanwhile.
    relay.source = Some("127.0.0.9".parse().unwrap());
    let started = start_device(&relay).await;
    let code = json!({"user_code": started["user_code"]});
    let approved = browser.post("/api/device/approve", code).await;
    assert_eq!(approved.status(), StatusCode::NO_CONTENT);
    let answer = poll(&relay, started["device_code"].as_str().unwrap()).await;
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn forms_that_are_none_are_refused() {
    let relay = TestRelay::start().await;
    let browser = relay.browser();
    let form = headers(&[("content-type", "application/x-www-form-urlencoded")]);
    for (body, status, error) in [
        ("client_id=somebody-else", 400, "invalid_client"),
        ("", 400, "invalid_client"),
        ("client_id=a&client_id=b", 400, "invalid_request"),
        ("client_id=%ff", 400, "invalid_request"),
    ] {
        let answer = browser
            .raw(
                Method::POST,
                "/oauth/device_authorization",
                form.clone(),
                body,
            )
            .await;
        assert_eq!(answer.status().as_u16(), status, "{body}");
        assert_eq!(
            answer.json::<Value>().await.unwrap()["error"],
            error,
            "{body}"
        );
    }
    for (body, error) in [
        ("client_id=katachi-agent", "unsupported_grant_type"),
        (
            "grant_type=password&client_id=katachi-agent",
            "unsupported_grant_type",
        ),
        (
            "grant_type=urn:ietf:params:oauth:grant-type:device_code&client_id=katachi-agent",
            "invalid_request",
        ),
        (
            "grant_type=urn:ietf:params:oauth:grant-type:device_code&client_id=katachi-agent&device_code=x",
            "invalid_dpop_proof",
        ),
    ] {
        let answer = browser
            .raw(Method::POST, "/oauth/token", form.clone(), body)
            .await;
        assert_eq!(
            answer.json::<Value>().await.unwrap()["error"],
            error,
            "{body}"
        );
    }
}

#[tokio::test]
async fn the_metadata_names_the_endpoints() {
    let relay = TestRelay::start().await;
    let metadata = relay
        .browser()
        .json("/.well-known/oauth-authorization-server")
        .await;
    assert_eq!(metadata["issuer"], relay.url);
    assert_eq!(
        metadata["token_endpoint"],
        format!("{}/oauth/token", relay.url)
    );
    assert_eq!(metadata["grant_types_supported"][0], GRANT_TYPE);
    assert_eq!(metadata["dpop_signing_alg_values_supported"][0], "EdDSA");
}

#[tokio::test]
async fn a_restart_in_the_middle_loses_no_authorization() {
    let relay = TestRelay::start().await;
    let port = relay.address.port();
    relay.browser_of("ana@example.org").await;
    let started = start_device(&relay).await;
    let state = relay.stop().await;
    let relay = TestRelay::start_with(state, |config| config.listen.set_port(port)).await;
    let browser = relay.browser();
    let account = json!({"email": "ana@example.org", "password": crate::relay::PASSWORD});
    browser.post("/api/login", account).await;
    let code = json!({"user_code": started["user_code"]});
    assert_eq!(
        browser.post("/api/device/approve", code).await.status(),
        StatusCode::NO_CONTENT
    );
    let answer = poll(&relay, started["device_code"].as_str().unwrap()).await;
    assert_eq!(answer.status(), StatusCode::OK);
}
