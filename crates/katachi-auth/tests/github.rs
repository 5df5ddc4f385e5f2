//! Sign-in at GitHub, against a stand-in with GitHub's documented endpoints and habits:
//! a form where no JSON was asked for, errors with status 200, an API that refuses
//! whoever sends no `User-Agent`. Everything that it is sent is looked at.
#![cfg(feature = "reqwest")]
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::device::form::Form;
use katachi_auth::oauth::{
    Begun, Callback, Client, FetchError, LoginError, MemoryLogins, Provider, Reqwest, ReturnTo,
    SignedIn,
};
use katachi_crypto::SecretString;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

const SECRET: &str = "a secret of the web client";
const TOKEN: &str = "gho_16C7e42F292c6912E7710c838347Ae178B4a";

/// What the stand-in answers, and what it was asked.
struct GitHub {
    host: String,
    /// PKCE challenge of the last authorization; it is bound to the code `ok`.
    challenge: Mutex<Option<String>>,
    user: Mutex<Value>,
    emails: Mutex<(u16, Value)>,
    seen: Mutex<Vec<String>>,
}

impl GitHub {
    async fn start() -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let github = Arc::new(Self {
            host: format!("http://{}", listener.local_addr().unwrap()),
            challenge: Mutex::default(),
            user: Mutex::new(
                json!({"id": 583_231, "login": "octocat", "name": "Octo Cat",
                // Public profile only: anybody may write anything here.
                "email": "somebody@else.example"}),
            ),
            emails: Mutex::new((
                200,
                json!([
                    {"email": "old@example.com", "primary": false, "verified": true, "visibility": null},
                    {"email": "octo@example.com", "primary": true, "verified": true, "visibility": "private"},
                ]),
            )),
            seen: Mutex::default(),
        });
        let app = Router::new()
            .route("/login/oauth/access_token", post(access_token))
            .route("/api/v3/user", get(api))
            .route("/api/v3/user/emails", get(api))
            .with_state(github.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        github
    }

    fn provider(&self) -> Provider {
        let client = Client::confidential(
            "Iv1.8a61f9b3a7aba766",
            SecretString::new(SECRET.into()),
            "https://relay.example/login/github",
        );
        let api = format!("{}/api/v3", self.host);
        Provider::github_at(&self.host, &api, client).unwrap()
    }

    /// The person agrees in their browser: the query that it brings back.
    fn agree(&self, begun: &Begun, code: &str) -> String {
        let uri: Uri = begun.url.parse().unwrap();
        assert!(
            begun
                .url
                .starts_with(&format!("{}/login/oauth/authorize?", self.host))
        );
        let query = Form::parse(uri.query().unwrap().as_bytes()).unwrap();
        assert_eq!(query.get("client_id"), Some("Iv1.8a61f9b3a7aba766"));
        assert_eq!(query.get("response_type"), Some("code"));
        assert_eq!(
            query.get("redirect_uri"),
            Some("https://relay.example/login/github")
        );
        assert_eq!(query.get("scope"), Some("read:user user:email"));
        assert_eq!(query.get("code_challenge_method"), Some("S256"));
        *self.challenge.lock().unwrap() = query.get("code_challenge").map(str::to_owned);
        format!("code={code}&state={}", query.get("state").unwrap())
    }

    async fn sign_in(&self, code: &str) -> Result<SignedIn, LoginError> {
        self.sign_in_with(code, "").await
    }

    async fn sign_in_with(&self, code: &str, more: &str) -> Result<SignedIn, LoginError> {
        let (provider, logins) = (self.provider(), MemoryLogins::new(1));
        let now = SystemClock.now();
        let begun = provider.begin(&logins, ReturnTo::root(), now).unwrap();
        let query = self.agree(&begun, code) + more;
        let callback = Callback::parse(&query).unwrap();
        let cookie = begun.cookie.expose_secret();
        let http = Reqwest::new().unwrap();
        provider
            .finish(&http, &logins, &callback, cookie, now)
            .await
    }
}

async fn access_token(
    State(github): State<Arc<GitHub>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let form = Form::parse(&body).unwrap();
    github
        .seen
        .lock()
        .unwrap()
        .push("/login/oauth/access_token".into());
    // The secret travels in the body and nowhere else.
    assert!(!headers.contains_key(header::AUTHORIZATION));
    assert_eq!(form.get("client_secret"), Some(SECRET));
    assert_eq!(form.get("grant_type"), Some("authorization_code"));
    assert_eq!(
        form.get("redirect_uri"),
        Some("https://relay.example/login/github")
    );
    let verifier = form.get("code_verifier").unwrap_or_default();
    let challenge = base64_url(digest(&SHA256, verifier.as_bytes()).as_ref());
    let proved = github.challenge.lock().unwrap().as_deref() == Some(challenge.as_str());
    let answer = match form.get("code") {
        Some("ok") if proved => vec![
            ("access_token", TOKEN),
            ("scope", "read:user,user:email"),
            ("token_type", "bearer"),
        ],
        // With status 200, as the documentation shows.
        _ => vec![
            ("error", "bad_verification_code"),
            (
                "error_description",
                "The code passed is incorrect or expired.",
            ),
            ("error_uri", "https://docs.github.com/"),
        ],
    };
    let wants_json = headers
        .get(header::ACCEPT)
        .is_some_and(|accept| accept.to_str().unwrap().contains("application/json"));
    if wants_json {
        let json: serde_json::Map<String, Value> = answer
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        return (
            [(header::CONTENT_TYPE, "application/json; charset=utf-8")],
            Value::from(json).to_string(),
        )
            .into_response();
    }
    let form = answer.iter().fold(Form::default(), |form, (name, value)| {
        form.with(name, value)
    });
    let kind = "application/x-www-form-urlencoded; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], form.encode()).into_response()
}

async fn api(State(github): State<Arc<GitHub>>, uri: Uri, headers: HeaderMap) -> Response {
    github.seen.lock().unwrap().push(uri.path().to_owned());
    let sent = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if sent(header::USER_AGENT).is_none() {
        return (
            StatusCode::FORBIDDEN,
            "Request forbidden by administrative rules.",
        )
            .into_response();
    }
    if sent(header::AUTHORIZATION) != Some(&format!("Bearer {TOKEN}")) {
        let body = json!({"message": "Bad credentials", "status": "401"});
        return (StatusCode::UNAUTHORIZED, body.to_string()).into_response();
    }
    assert_eq!(sent(header::ACCEPT), Some("application/vnd.github+json"));
    // Without a version GitHub answers in whichever is the oldest that it supports.
    let version = HeaderMap::get(&headers, "x-github-api-version");
    assert_eq!(version.unwrap(), "2022-11-28");
    let (status, body) = match uri.path().ends_with("/emails") {
        false => (200, github.user.lock().unwrap().clone()),
        true => github.emails.lock().unwrap().clone(),
    };
    let status = StatusCode::from_u16(status).unwrap();
    (status, body.to_string()).into_response()
}

fn base64_url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[tokio::test]
async fn a_person_is_known_by_their_number_and_their_verified_address() {
    let github = GitHub::start().await;
    let signed_in = github.sign_in("ok").await.unwrap();
    let identity = &signed_in.identity;
    assert_eq!(identity.issuer, github.host);
    assert_eq!(
        identity.subject, "583231",
        "a login can be renamed and taken"
    );
    assert_eq!(identity.verified_email(), Some("octo@example.com"));
    assert_eq!(identity.name.as_deref(), Some("Octo Cat"));
    assert_eq!(signed_in.tokens.access.expose_secret(), TOKEN);
    let asked = [
        "/login/oauth/access_token",
        "/api/v3/user",
        "/api/v3/user/emails",
    ];
    assert_eq!(*github.seen.lock().unwrap(), asked);
}

/// A server's runtime moves a handler from thread to thread.
#[tokio::test]
async fn a_sign_in_is_finished_on_any_thread() {
    let github = GitHub::start().await;
    let finished = tokio::spawn(async move { github.sign_in("ok").await.map(drop) });
    finished.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_error_with_status_200_is_an_error() {
    let github = GitHub::start().await;
    let outcome = github.sign_in("stale").await;
    assert!(matches!(outcome, Err(LoginError::Code(code)) if code == "bad_verification_code"));
    // Nobody went on to ask who that is.
    assert_eq!(github.seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_code_is_worth_nothing_without_the_verifier_of_its_own_sign_in() {
    let github = GitHub::start().await;
    let (provider, logins) = (github.provider(), MemoryLogins::new(2));
    let now = SystemClock.now();
    let mine = provider.begin(&logins, ReturnTo::root(), now).unwrap();
    let query = github.agree(&mine, "ok");
    // The code belongs to another person's sign-in.
    let theirs = provider.begin(&logins, ReturnTo::root(), now).unwrap();
    github.agree(&theirs, "ok");
    let callback = Callback::parse(&query).unwrap();
    let cookie = mine.cookie.expose_secret();
    let http = Reqwest::new().unwrap();
    let outcome = provider
        .finish(&http, &logins, &callback, cookie, now)
        .await;
    assert!(matches!(outcome, Err(LoginError::Code(_))));
}

#[tokio::test]
async fn l06_an_unverified_primary_address_is_vouched_for_by_nobody() {
    let github = GitHub::start().await;
    github.emails.lock().unwrap().1 = json!([
        {"email": "victim@example.com", "primary": true, "verified": false, "visibility": null},
        {"email": "mine@example.com", "primary": false, "verified": true, "visibility": null},
    ]);
    let identity = github.sign_in("ok").await.unwrap().identity;
    assert_eq!(identity.verified_email(), None);
    let email = identity.email.unwrap();
    assert_eq!(
        (email.address.as_str(), email.verified),
        ("victim@example.com", false)
    );
}

#[tokio::test]
async fn a_person_who_keeps_their_addresses_back_still_signs_in() {
    let github = GitHub::start().await;
    for (status, body) in [
        (404, json!({"message": "Not Found"})),
        (
            403,
            json!({"message": "Resource not accessible by integration"}),
        ),
        (200, json!([])),
    ] {
        *github.emails.lock().unwrap() = (status, body);
        *github.user.lock().unwrap() = json!({"id": 7, "login": "octocat", "name": null});
        let identity = github.sign_in("ok").await.unwrap().identity;
        assert_eq!(
            (identity.subject.as_str(), identity.email.as_ref()),
            ("7", None)
        );
        assert_eq!(identity.name.as_deref(), Some("octocat"));
    }
    *github.emails.lock().unwrap() = (500, json!({}));
    let outcome = github.sign_in("ok").await;
    assert!(matches!(
        outcome,
        Err(LoginError::Fetch(FetchError::Status(500)))
    ));
}

#[tokio::test]
async fn a_user_who_is_none_is_nobody() {
    let github = GitHub::start().await;
    for user in [
        json!({"login": "octocat"}),
        json!({"id": -1, "login": "a"}),
        json!([]),
    ] {
        *github.user.lock().unwrap() = user;
        let outcome = github.sign_in("ok").await;
        assert!(matches!(
            outcome,
            Err(LoginError::Fetch(FetchError::Malformed))
        ));
    }
}

#[tokio::test]
async fn the_sender_that_github_names_in_its_redirects_is_checked() {
    let github = GitHub::start().await;
    let from = |issuer: &str| format!("&iss={issuer}");
    let ours = from(&format!("{}/login/oauth", github.host));
    assert!(github.sign_in_with("ok", &ours).await.is_ok());
    for other in [
        from("https://evil.example/login/oauth"),
        from(&format!("{}/login", github.host)),
        from(&github.host),
    ] {
        let outcome = github.sign_in_with("ok", &other).await;
        assert!(matches!(outcome, Err(LoginError::MixedUp)), "{other}");
    }
}
