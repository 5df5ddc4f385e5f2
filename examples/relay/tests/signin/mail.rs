//! Links in mail: what they open, once, and for whom.

use std::path::Path;
use std::time::Duration;

use katachi_relay::{MailConfig, MailRoute};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::Outcome;
use crate::agent::start_device;
use crate::peer::{Place, link, me, sign_in};
use crate::relay::{Browser, PASSWORD, TestRelay, headers};

const NEW: &str = "a new battery staple";

/// Every mail to `address` that holds `part`, once there are `count`.
async fn mails(relay: &TestRelay, address: &str, part: &str, count: usize) -> Vec<String> {
    let folder = relay.state.path().join("mail");
    for _ in 0..200 {
        let found: Vec<_> = read(&folder)
            .into_iter()
            .filter(|mail| mail.contains(&format!("To: {address}")) && mail.contains(part))
            .collect();
        assert!(found.len() <= count, "{found:?}");
        if found.len() == count {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("no mail to {address}: {:?}", read(&folder));
}

fn read(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "eml"))
        .map(|path| plain(&std::fs::read_to_string(path).unwrap()))
        .collect()
}

/// Without the soft line breaks of quoted-printable.
fn plain(mail: &str) -> String {
    mail.replace("=\r\n", "").replace("=3D", "=")
}

/// The token of the one link of this kind that was sent to `address`.
async fn token(relay: &TestRelay, address: &str, kind: &str) -> String {
    let part = format!("/#{kind}/");
    let mail = &mails(relay, address, &part, 1).await[0];
    let token = mail.split_once(&part).unwrap().1;
    let token: String = token.chars().take(43).collect();
    assert!(!token.contains(char::is_whitespace), "{mail}");
    token
}

/// Signs up; a relay that sends mail answers everybody alike, and then sends some.
async fn sign_up(relay: &TestRelay, email: &str) -> Response {
    let body = json!({"email": email, "password": PASSWORD});
    let answer = relay.browser().post("/api/signup", body).await;
    let status = answer.status();
    assert_eq!(
        status,
        StatusCode::ACCEPTED,
        "the relay refused to sign {email} up, so that no mail will come"
    );
    answer
}

/// A browser signed in to a new account, by the link that was sent.
async fn opened(relay: &TestRelay, email: &str) -> Browser {
    sign_up(relay, email).await;
    let sent = token(relay, email, "verify").await;
    relay.confirmed(email, &sent).await
}

/// Browsers signed in since before the relay sent mail: nobody confirmed the addresses.
async fn unconfirmed<const N: usize>(
    place: &Place,
    emails: [&str; N],
) -> (TestRelay, Vec<Browser>) {
    let relay = place.relay().await;
    let mut browsers = Vec::new();
    for email in emails {
        browsers.push(relay.browser_of(email).await);
    }
    let relay = place.relay_with_mail_in(relay.stop().await).await;
    let moved = browsers.into_iter().map(|browser| browser.moved_to(&relay));
    let moved = moved.collect();
    (relay, moved)
}

async fn send_link(browser: &Browser) {
    let sent = browser.post("/api/verify/send", json!({})).await;
    assert_eq!(sent.status(), StatusCode::ACCEPTED);
}

async fn verify(browser: &Browser, token: &str) -> StatusCode {
    browser
        .post("/api/verify", json!({"token": token}))
        .await
        .status()
}

async fn forgot(browser: &Browser, email: &str) -> Response {
    browser
        .post("/api/password/forgot", json!({"email": email}))
        .await
}

async fn reset(browser: &Browser, token: &str, password: &str) -> StatusCode {
    let body = json!({"token": token, "password": password});
    browser.post("/api/password/reset", body).await.status()
}

async fn log_in(relay: &TestRelay, email: &str, password: &str) -> StatusCode {
    let body = json!({"email": email, "password": password});
    relay.browser().post("/api/login", body).await.status()
}

pub(crate) async fn a_new_account_opens_by_its_link_and_its_password(place: Place) -> Outcome {
    let relay = place.relay_with_mail().await;
    let answer = sign_up(&relay, "ana@example.com").await;
    assert!(answer.headers().get("set-cookie").is_none());
    let sent = token(&relay, "ana@example.com", "verify").await;
    sign_up(&relay, "eve@example.com").await;
    let eves = token(&relay, "eve@example.com", "verify").await;
    let log_in = async |password: &str, token: Option<&str>| {
        let mut body = json!({"email": "ana@example.com", "password": password});
        if let Some(token) = token {
            body["token"] = token.into();
        }
        relay.browser().post("/api/login", body).await
    };
    // The password alone opens nothing, and neither does the link; what is said is
    // what anybody hears of an address that has no account.
    let nobody = json!({"email": "nobody@example.com", "password": PASSWORD});
    let nobody = relay.browser().post("/api/login", nobody).await;
    let nobody = (nobody.status(), nobody.text().await?);
    let wrong = "A".repeat(43);
    for (password, token) in [
        (PASSWORD, None),
        (PASSWORD, Some(wrong.as_str())),
        (PASSWORD, Some(&eves)),
        (NEW, Some(&sent)),
    ] {
        let refused = log_in(password, token).await;
        assert_eq!((refused.status(), refused.text().await?), nobody);
    }
    let answer = log_in(PASSWORD, Some(&sent)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let answer: Value = answer.json().await?;
    assert_eq!(answer["verified"], true);
    // From now on the password is enough.
    assert_eq!(log_in(PASSWORD, None).await.status(), StatusCode::OK);
    Ok(())
}

pub(crate) async fn an_address_is_verified_by_who_opened_the_account(place: Place) -> Outcome {
    let (relay, browsers) = unconfirmed(&place, ["ana@example.com", "eve@example.com"]).await;
    let [ana, eve] = &browsers[..] else {
        unreachable!()
    };
    send_link(ana).await;
    let sent = token(&relay, "ana@example.com", "verify").await;
    assert_eq!(me(ana).await["verified"], false);
    // Until then the address is a name that anybody could have taken.
    let started = start_device(&relay).await;
    let approve = async || {
        let body = json!({"user_code": started["user_code"]});
        ana.post("/api/device/approve", body).await.status()
    };
    assert_eq!(approve().await, StatusCode::FORBIDDEN);
    // Not from outside, not by another account, not with another token.
    assert_eq!(
        verify(&relay.browser(), &sent).await,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(verify(eve, &sent).await, StatusCode::BAD_REQUEST);
    for wrong in ["", "short", &"A".repeat(43)] {
        assert_eq!(verify(ana, wrong).await, StatusCode::BAD_REQUEST);
    }
    assert_eq!(me(ana).await["verified"], false);
    assert_eq!(verify(ana, &sent).await, StatusCode::NO_CONTENT);
    assert_eq!(me(ana).await["verified"], true);
    assert_eq!(me(eve).await["verified"], false);
    assert_eq!(verify(ana, &sent).await, StatusCode::BAD_REQUEST, "used up");
    assert_eq!(approve().await, StatusCode::NO_CONTENT);
    Ok(())
}

pub(crate) async fn a_forgotten_password_is_reset_once_and_ends_every_session(
    place: Place,
) -> Outcome {
    let (relay, mut browsers) = unconfirmed(&place, ["ben@example.com"]).await;
    let ben = browsers.remove(0);
    let ana = opened(&relay, "ana@example.com").await;
    let stranger = relay.browser();
    // A link is good for its purpose alone.
    send_link(&ben).await;
    let verifying = token(&relay, "ben@example.com", "verify").await;
    assert_eq!(
        reset(&stranger, &verifying, NEW).await,
        StatusCode::BAD_REQUEST
    );
    forgot(&stranger, "ben@example.com").await;
    let resetting = token(&relay, "ben@example.com", "reset").await;
    assert_eq!(verify(&ben, &resetting).await, StatusCode::BAD_REQUEST);
    assert_eq!(me(&ben).await["verified"], false);
    assert_eq!(
        forgot(&stranger, "Ana@Example.com").await.status(),
        StatusCode::ACCEPTED
    );
    let sent = token(&relay, "ana@example.com", "reset").await;
    // Within a minute of the last one no other mail goes out.
    let again = forgot(&stranger, "ana@example.com").await;
    assert_eq!(again.status(), StatusCode::ACCEPTED);
    // A refused password leaves the link good.
    assert_eq!(
        reset(&stranger, &sent, "short").await,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        log_in(&relay, "ana@example.com", PASSWORD).await,
        StatusCode::OK
    );
    assert_eq!(reset(&stranger, &sent, NEW).await, StatusCode::NO_CONTENT);
    assert_eq!(me(&ana).await, Value::Null, "signed out");
    assert_eq!(me(&stranger).await, Value::Null, "a reset signs nobody in");
    assert_eq!(
        log_in(&relay, "ana@example.com", PASSWORD).await,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(log_in(&relay, "ana@example.com", NEW).await, StatusCode::OK);
    assert_eq!(me(&ben).await["email"], "ben@example.com");
    assert_eq!(
        reset(&stranger, &sent, "yet another one").await,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(log_in(&relay, "ana@example.com", NEW).await, StatusCode::OK);
    // Who reads the mail has shown it, and hears that it happened.
    let body = json!({"email": "ana@example.com", "password": NEW});
    let ana = relay.browser();
    let answer: Value = ana.post("/api/login", body).await.json().await?;
    assert_eq!(answer["verified"], true);
    mails(&relay, "ana@example.com", "was changed", 1).await;
    Ok(())
}

pub(crate) async fn asking_tells_nobody_who_has_an_account(place: Place) -> Outcome {
    let relay = place.relay_with_mail().await;
    opened(&relay, "ana@example.com").await;
    let browser = relay.browser();
    let mut answers = Vec::new();
    for email in ["ana@example.com", "nobody@example.com"] {
        answers.push(said(forgot(&browser, email).await).await?);
    }
    assert_eq!(answers[0], answers[1]);
    token(&relay, "ana@example.com", "reset").await;
    mails(&relay, "nobody@example.com", "", 0).await;
    // The limit counts what is asked, not what is sent.
    for email in ["ana@example.com", "nobody@example.com"] {
        let mut last = StatusCode::OK;
        for _ in 0..5 {
            last = forgot(&relay.browser(), email).await.status();
        }
        assert_eq!(last, StatusCode::TOO_MANY_REQUESTS, "{email}");
        if email == "ana@example.com" {
            // One client, many addresses: its own limit is not reached yet.
            let other = forgot(&browser, "somebody@example.com").await;
            assert_eq!(other.status(), StatusCode::ACCEPTED);
        }
    }
    mails(&relay, "ana@example.com", "/#reset/", 1).await;
    let forged = headers(&[
        ("origin", &relay.url),
        ("content-type", "application/json"),
        ("x-forwarded-for", "203.0.113.9"),
    ]);
    let body = json!({"email": "third@example.com"}).to_string();
    let answer = browser
        .raw(Method::POST, "/api/password/forgot", forged, body)
        .await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    Ok(())
}

/// Everything that an answer says but the time of day.
async fn said(answer: Response) -> reqwest::Result<(StatusCode, Vec<String>, String)> {
    let status = answer.status();
    let mut headers: Vec<_> = answer
        .headers()
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    headers.sort();
    Ok((status, headers, answer.text().await?))
}

pub(crate) async fn guessing_a_token_is_throttled(place: Place) -> Outcome {
    let relay = place.relay_with_mail().await;
    let mut last = StatusCode::OK;
    for _ in 0..11 {
        last = reset(&relay.browser(), &"A".repeat(43), NEW).await;
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    Ok(())
}

/// Somebody opens an account in another's name, and leaves a second way in behind.
pub(crate) async fn who_opened_an_account_in_anothers_name_keeps_no_way_in(
    place: Place,
) -> Outcome {
    let (relay, mut browsers) = unconfirmed(&place, ["victim@example.com"]).await;
    let attacker = browsers.remove(0);
    assert_eq!(link(&attacker, "eve").await.status(), StatusCode::SEE_OTHER);
    // The control: it is a way in.
    let eve = relay.browser();
    assert_eq!(sign_in(&eve, "eve").await.status(), StatusCode::SEE_OTHER);
    assert_eq!(me(&eve).await["email"], "victim@example.com");
    forgot(&relay.browser(), "victim@example.com").await;
    let sent = token(&relay, "victim@example.com", "reset").await;
    assert_eq!(
        reset(&relay.browser(), &sent, NEW).await,
        StatusCode::NO_CONTENT
    );
    assert_eq!(me(&attacker).await, Value::Null);
    assert_eq!(me(&eve).await, Value::Null);
    let eve = relay.browser();
    assert_eq!(sign_in(&eve, "eve").await.status(), StatusCode::SEE_OTHER);
    assert_eq!(
        me(&eve).await["email"],
        "eve@example.com",
        "an account of their own"
    );
    Ok(())
}

pub(crate) async fn an_account_of_a_provider_can_be_given_a_password(place: Place) -> Outcome {
    let relay = place.relay_with_mail().await;
    let ana = relay.browser();
    sign_in(&ana, "ana").await;
    assert_eq!(ana.json("/api/identities").await["password"], false);
    forgot(&relay.browser(), "ana@example.com").await;
    let sent = token(&relay, "ana@example.com", "reset").await;
    assert_eq!(
        reset(&relay.browser(), &sent, NEW).await,
        StatusCode::NO_CONTENT
    );
    assert_eq!(log_in(&relay, "ana@example.com", NEW).await, StatusCode::OK);
    // The address was its owner's before, and so is what they linked.
    assert_eq!(
        sign_in(&relay.browser(), "ana").await.status(),
        StatusCode::SEE_OTHER
    );
    Ok(())
}

pub(crate) async fn without_mail_nothing_is_promised(place: Place) -> Outcome {
    let relay = place.relay().await;
    let ana = relay.browser_of("ana@example.com").await;
    assert_eq!(ana.json("/api/signin").await["mail"], false);
    let started = start_device(&relay).await;
    let body = json!({"user_code": started["user_code"]});
    let approved = ana.post("/api/device/approve", body).await;
    assert_eq!(approved.status(), StatusCode::NO_CONTENT);
    let answer = forgot(&ana, "ana@example.com").await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert!(answer.text().await?.contains("sends no mail"));
    Ok(())
}

/// What a thief of the database, or whoever reads it, has of all this.
#[cfg(target_os = "linux")]
pub(crate) async fn postgres_holds_digests_and_sealed_columns(place: Place) -> Outcome {
    let relay = place.relay_with_mail().await;
    let ben = opened(&relay, "canary-ben@example.com").await;
    sign_up(&relay, "canary-cara@example.com").await;
    let verifying = token(&relay, "canary-cara@example.com", "verify").await;
    forgot(&relay.browser(), "canary-ben@example.com").await;
    let resetting = token(&relay, "canary-ben@example.com", "reset").await;
    link(&ben, "canary").await;
    let waiting =
        crate::peer::leave(&ben, "work", "eve", json!({"return_to": "/canary-path"})).await;
    let state = crate::peer::parameter(&waiting, "state");
    let dump = crate::server::dump(relay.state.path());
    let dump = String::from_utf8_lossy(&dump).to_lowercase();
    assert!(dump.contains("mail_tokens") && dump.contains(&place.peer.issuers[0]));
    let hex = |text: &str| -> String { text.bytes().map(|b| format!("{b:02x}")).collect() };
    for secret in [verifying.as_str(), &resetting, &state, "canary"] {
        assert!(!dump.contains(&secret.to_lowercase()), "{secret}");
        assert!(!dump.contains(&hex(secret)), "{secret}");
    }
    // A link that is too old opens nothing.
    let late = "UPDATE katachi_relay.mail_tokens SET expires_ms = 1";
    crate::server::sql(relay.state.path(), late);
    assert_eq!(
        reset(&relay.browser(), &resetting, NEW).await,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        log_in(&relay, "canary-ben@example.com", PASSWORD).await,
        StatusCode::OK
    );
    Ok(())
}

/// Through a real SMTP server, PyPI aiosmtpd.
pub(crate) async fn mail_goes_through_a_server_over_tls(place: Place) -> Outcome {
    let mut server = crate::smtp::Server::start();
    let (port, root) = (server.port, server.root.clone());
    let relay = place
        .relay_with(|config| {
            let route = MailRoute::Smtp {
                host: "127.0.0.1".to_owned(),
                port,
                starttls: true,
                credentials: Some((
                    "katachi".to_owned(),
                    katachi_protocol::Sensitive::new("mail password"),
                )),
                root: Some(root),
            };
            config.mail = Some(MailConfig::new("relay@example.com", route).unwrap());
        })
        .await;
    sign_up(&relay, "ana@example.com").await;
    let mail = server.next();
    assert_eq!(
        (&mail["tls"], &mail["to"]),
        (&json!(true), &json!(["ana@example.com"]))
    );
    let text = plain(mail["content"].as_str().unwrap());
    let token = &text.split_once("/#verify/").unwrap().1[..43];
    assert_eq!(
        me(&relay.confirmed("ana@example.com", token).await).await["verified"],
        true
    );
    // Signing up tells nobody that there is an account, but its owner by mail.
    let mut heard = Vec::new();
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..4 {
        let new = format!("new{round}@example.com");
        for (at, email) in ["ana@example.com", &new].into_iter().enumerate() {
            let asked = std::time::Instant::now();
            let answer = sign_up(&relay, email).await;
            took[at].push(asked.elapsed());
            heard.push(said(answer).await?);
            let mail = server.next();
            assert_eq!(mail["to"], json!([email]));
            let text = plain(mail["content"].as_str().unwrap());
            assert_eq!(text.contains("has one"), at == 0, "{text}");
            assert_eq!(text.contains("/#verify/"), at == 1, "{text}");
        }
    }
    assert!(heard.iter().all(|one| one == &heard[0]), "{heard:#?}");
    assert_eq!(heard[0].0, StatusCode::ACCEPTED);
    let [known, new] = took.map(|mut times| {
        times.sort();
        times[2].as_secs_f64()
    });
    // A password is hashed for both: what leaves that out is twenty times quicker.
    assert!((0.25..4.0).contains(&(known / new)), "{known} s, {new} s");
    Ok(())
}
