//! GitHub, by a stand-in with the endpoints that its documentation describes:
//! `/login/oauth/authorize`, `/login/oauth/access_token`, `/user`, `/user/emails`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Json, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode, header};
use katachi_auth::device::form::Form;
use reqwest::StatusCode as Status;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Outcome;
use crate::peer::{Place, agree, me, parameter, provider, refused, start};
use crate::relay::{Browser, TestRelay};

const SECRET: &str = "a secret of the web client, long enough";
const TOKEN: &str = "gho_16C7e42F292c6912E7710c838347Ae178B4a";

struct GitHub {
    host: String,
    user: Mutex<Value>,
    emails: Mutex<Value>,
    /// Each code, and the challenge that it is bound to.
    codes: Mutex<HashMap<String, String>>,
}

type Parameters = HashMap<String, String>;

impl GitHub {
    async fn start() -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let github = Arc::new(Self {
            host: format!("http://{}", listener.local_addr().unwrap()),
            // The public profile: anybody may write any address here.
            user: Mutex::new(
                json!({"id": 583_231, "login": "octocat", "name": "Octo Cat",
                "email": "somebody@else.example"}),
            ),
            emails: Mutex::new(json!([
                {"email": "old@example.com", "primary": false, "verified": true, "visibility": null},
                {"email": "octo@example.com", "primary": true, "verified": true, "visibility": "private"},
            ])),
            codes: Mutex::default(),
        });
        let app = Router::new()
            .route("/login/oauth/authorize", get(authorize))
            .route("/login/oauth/access_token", post(access_token))
            .route("/api/v3/user", get(user))
            .route("/api/v3/user/emails", get(emails))
            .with_state(github.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        github
    }

    async fn relay(&self, place: &Place) -> TestRelay {
        let spec = format!("github,issuer={},client-id=Iv1.8a61f9b3a7aba766", self.host);
        place
            .relay_with(|config| config.providers.push(provider(&spec)))
            .await
    }
}

async fn authorize(State(github): State<Arc<GitHub>>, Query(asked): Query<Parameters>) -> Redirect {
    assert_eq!(asked["client_id"], "Iv1.8a61f9b3a7aba766");
    assert_eq!(asked["scope"], "read:user user:email");
    assert_eq!(asked["code_challenge_method"], "S256");
    assert!(asked["redirect_uri"].ends_with("/signin/github"));
    let code = format!("code{}", asked["state"]);
    let challenge = asked["code_challenge"].clone();
    github.codes.lock().unwrap().insert(code.clone(), challenge);
    Redirect::to(&format!(
        "{}?code={code}&state={}",
        asked["redirect_uri"], asked["state"]
    ))
}

async fn access_token(
    State(github): State<Arc<GitHub>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let sent = Form::parse(&body).unwrap();
    let sent = |name| sent.get(name).unwrap_or_default();
    assert_eq!(headers[header::ACCEPT], "application/json");
    assert_eq!(sent("client_secret"), SECRET);
    let bound = github.codes.lock().unwrap().remove(sent("code"));
    let digest = Sha256::digest(sent("code_verifier").as_bytes());
    let proved = bound.is_some_and(|challenge| challenge == base64_url(&digest));
    // With status 200, as the documentation shows.
    Json(if proved {
        json!({"access_token": TOKEN, "scope": "read:user,user:email", "token_type": "bearer"})
    } else {
        json!({"error": "bad_verification_code",
            "error_description": "The code passed is incorrect or expired.",
            "error_uri": "https://docs.github.com/"})
    })
    .into_response()
}

fn base64_url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

async fn user(State(github): State<Arc<GitHub>>, headers: HeaderMap) -> Response {
    api(&headers, &github.user)
}

async fn emails(State(github): State<Arc<GitHub>>, headers: HeaderMap) -> Response {
    api(&headers, &github.emails)
}

fn api(headers: &HeaderMap, answer: &Mutex<Value>) -> Response {
    // GitHub refuses programs that do not name themselves.
    if !headers.contains_key(header::USER_AGENT) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let sent = headers.get(header::AUTHORIZATION);
    if sent.is_none_or(|sent| sent != &format!("Bearer {TOKEN}")) {
        return (
            StatusCode::UNAUTHORIZED,
            Json(json!({"message": "Bad credentials"})),
        )
            .into_response();
    }
    assert_eq!(headers["x-github-api-version"], "2022-11-28");
    Json(answer.lock().unwrap().clone()).into_response()
}

async fn leave(browser: &Browser) -> String {
    let started = start(browser, "github", json!({})).await;
    let started: Value = started.json().await.unwrap();
    agree(started["url"].as_str().unwrap()).await
}

pub(crate) async fn a_person_of_github_is_known_by_number(place: Place) -> Outcome {
    let github = GitHub::start().await;
    let relay = github.relay(&place).await;
    let browser = relay.browser();
    let label = browser.json("/api/signin").await["providers"][2]["label"].clone();
    assert_eq!(label, "GitHub");
    let answer = browser.get(&leave(&browser).await).await;
    assert_eq!(answer.status(), Status::SEE_OTHER);
    let octo = me(&browser).await;
    assert_eq!(
        octo["email"], "octo@example.com",
        "the verified one, not the profile's"
    );
    let linked = browser.json("/api/identities").await;
    assert_eq!(linked["identities"][0]["provider"], "GitHub");
    // Another login, another address: the same person.
    *github.user.lock().unwrap() = json!({"id": 583_231, "login": "renamed", "name": null});
    *github.emails.lock().unwrap() = json!([]);
    let again = relay.browser();
    again.get(&leave(&again).await).await;
    assert_eq!(me(&again).await["id"], octo["id"]);
    // The same login, another number: somebody else.
    *github.user.lock().unwrap() = json!({"id": 7, "login": "octocat", "name": "Octo Cat"});
    let other = relay.browser();
    let answer = other.get(&leave(&other).await).await;
    refused(&other, answer, 403, "GitHub does not vouch").await;
    Ok(())
}

pub(crate) async fn l06_an_unverified_address_at_github_opens_nothing(place: Place) -> Outcome {
    let github = GitHub::start().await;
    let relay = github.relay(&place).await;
    relay.browser_of("victim@example.com").await;
    for (verified, status) in [(false, 403), (true, 409)] {
        *github.emails.lock().unwrap() = json!([
            {"email": "victim@example.com", "primary": true, "verified": verified, "visibility": null},
            {"email": "mine@example.com", "primary": false, "verified": true, "visibility": null},
        ]);
        let browser = relay.browser();
        let answer = browser.get(&leave(&browser).await).await;
        refused(&browser, answer, status, "GitHub").await;
    }
    Ok(())
}

pub(crate) async fn l02_a_code_of_github_is_bound_to_its_sign_in(place: Place) -> Outcome {
    let github = GitHub::start().await;
    let relay = github.relay(&place).await;
    let (victim, thief) = (relay.browser(), relay.browser());
    let stolen = leave(&victim).await;
    let own = leave(&thief).await;
    let injected = own.replace(
        &format!("code={}", parameter(&own, "code")),
        &format!("code={}", parameter(&stolen, "code")),
    );
    let answer = thief.get(&injected).await;
    refused(&thief, answer, 400, "could not be verified").await;
    // And an issuer that is not GitHub's is refused before anything is sent.
    let own = leave(&thief).await;
    let answer = thief.get(&format!("{own}&iss=https://evil.example")).await;
    refused(&thief, answer, 400, "not from GitHub").await;
    Ok(())
}
