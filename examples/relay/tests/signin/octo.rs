//! A stand-in for GitHub with the endpoints that its documentation describes:
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
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What the stand-in expects of its client.
pub(crate) const SECRET: &str = "a secret of the web client, long enough";
const TOKEN: &str = "gho_16C7e42F292c6912E7710c838347Ae178B4a";

/// What the stand-in answers.
pub(crate) struct GitHub {
    pub(crate) host: String,
    pub(crate) user: Mutex<Value>,
    pub(crate) emails: Mutex<Value>,
    /// Each code, and the challenge that it is bound to.
    codes: Mutex<HashMap<String, String>>,
}

type Parameters = HashMap<String, String>;

impl GitHub {
    pub(crate) async fn start() -> Arc<Self> {
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
