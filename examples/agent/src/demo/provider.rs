//! An OpenID provider on loopback, for providers elsewhere: the code flow of OpenID
//! Connect Core 1.0 section 3.1 with PKCE.
//!
//! Nobody is asked here: whoever is sent to it agrees. To the relay it is like any
//! other, found by its issuer and believed by the keys that it publishes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderMap, StatusCode};
use katachi_auth::clock::{Clock as _, SystemClock};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The relay's name there.
const CLIENT_ID: &str = "katachi-demo";
/// The person's number there.
const SUBJECT: &str = "1001";
const KEY_ID: &str = "1";

/// A running provider, gone with this.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) issuer: String,
    secret: String,
    serving: JoinHandle<()>,
}

struct Issuer {
    name: String,
    secret: String,
    email: &'static str,
    key: Ed25519KeyPair,
    /// Codes that nobody has redeemed.
    codes: Mutex<HashMap<String, Asked>>,
}

/// What a code was asked for with.
struct Asked {
    redirect_uri: String,
    challenge: String,
    nonce: String,
}

type Parameters = BTreeMap<String, String>;

impl Provider {
    /// Starts one where a person with the address `email` has an account.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot listen.
    pub(super) async fn start(email: &'static str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let issuer = format!("http://{}", listener.local_addr()?);
        let secret = random_text()?;
        let seed = katachi_crypto::random::bytes::<32>()?;
        let key = Ed25519KeyPair::from_seed_unchecked(&seed).ok();
        let state = Arc::new(Issuer {
            name: issuer.clone(),
            secret: secret.clone(),
            email,
            key: key.context("32 bytes are a seed")?,
            codes: Mutex::default(),
        });
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(describe))
            .route("/keys", get(keys))
            .route("/authorize", get(authorize))
            .route("/token", post(token))
            .with_state(state);
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::warn!("the demo's provider ended: {error}");
            }
        });
        Ok(Self {
            issuer,
            secret,
            serving,
        })
    }

    /// Ends it, and its listening.
    pub(super) async fn stop(mut self) {
        self.serving.abort();
        // That it was ended is all there is to learn.
        let _ = (&mut self.serving).await;
    }

    /// The relay's option for it, and the variable with the secret.
    pub(super) fn registration(&self, name: &str) -> (String, [String; 2]) {
        let spec = format!("{name},issuer={},client-id={CLIENT_ID}", self.issuer);
        let variable = format!("KATACHI_RELAY_PROVIDER_{}_SECRET", name.to_uppercase());
        (spec, [variable, self.secret.clone()])
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn describe(State(issuer): State<Arc<Issuer>>) -> Json<Value> {
    let at = |path: &str| format!("{}{path}", issuer.name);
    Json(json!({
        "issuer": issuer.name,
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "jwks_uri": at("/keys"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["EdDSA"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic"],
        "authorization_response_iss_parameter_supported": true,
    }))
}

async fn keys(State(issuer): State<Arc<Issuer>>) -> Json<Value> {
    let public = URL_SAFE_NO_PAD.encode(issuer.key.public_key());
    // RFC 8037 section 2.
    let key = json!({
        "kty": "OKP", "crv": "Ed25519", "x": public, "alg": "EdDSA", "use": "sig", "kid": KEY_ID,
    });
    Json(json!({"keys": [key]}))
}

async fn authorize(
    State(issuer): State<Arc<Issuer>>,
    Query(asked): Query<Parameters>,
) -> Result<Response, StatusCode> {
    let named = |name: &str| asked.get(name).cloned().ok_or(StatusCode::BAD_REQUEST);
    let known = named("client_id")? == CLIENT_ID
        && named("response_type")? == "code"
        && named("code_challenge_method")? == "S256";
    if !known {
        return Err(StatusCode::BAD_REQUEST);
    }
    let code = random_text().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let redirect_uri = named("redirect_uri")?;
    let back = form_urlencoded::Serializer::new(format!("{redirect_uri}?"))
        .append_pair("code", &code)
        .append_pair("state", &named("state")?)
        .append_pair("iss", &issuer.name)
        .finish();
    let granted = Asked {
        redirect_uri,
        challenge: named("code_challenge")?,
        nonce: named("nonce")?,
    };
    let mut codes = issuer.codes.lock().unwrap_or_else(PoisonError::into_inner);
    codes.insert(code, granted);
    Ok((StatusCode::FOUND, [(LOCATION, back)]).into_response())
}

async fn token(
    State(issuer): State<Arc<Issuer>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, StatusCode> {
    let credentials = STANDARD.encode(format!("{CLIENT_ID}:{}", issuer.secret));
    let given = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
    if given != Some(format!("Basic {credentials}").as_bytes()) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let form: Parameters = form_urlencoded::parse(&body).into_owned().collect();
    let named = |name: &str| form.get(name).ok_or(StatusCode::BAD_REQUEST);
    let asked = {
        let mut codes = issuer.codes.lock().unwrap_or_else(PoisonError::into_inner);
        codes.remove(named("code")?)
    };
    let asked = asked.ok_or(StatusCode::BAD_REQUEST)?;
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(named("code_verifier")?));
    if challenge != asked.challenge || *named("redirect_uri")? != asked.redirect_uri {
        return Err(StatusCode::BAD_REQUEST);
    }
    Ok(Json(json!({
        "access_token": "opens nothing here",
        "token_type": "Bearer",
        "id_token": issuer.id_token(&asked.nonce),
    })))
}

impl Issuer {
    fn id_token(&self, nonce: &str) -> String {
        let now = SystemClock.now().as_unix();
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = part(json!({"alg": "EdDSA", "kid": KEY_ID}));
        let claims = part(json!({
            "iss": self.name, "aud": CLIENT_ID, "sub": SUBJECT,
            "iat": now, "exp": now + 300, "nonce": nonce,
            "email": self.email, "email_verified": true,
        }));
        let signed = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

fn random_text() -> anyhow::Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(katachi_crypto::random::bytes::<32>()?))
}
