//! The authorization server: three endpoints on axum, and the page's two questions.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::device::dpop::{self, ProofError};
use katachi_auth::device::form::Form;
use katachi_auth::device::{
    Config, DecideError, DeviceStore, GRANT_TYPE, GuessLimits, Guesser, Guesses, Metadata, Server,
    Start, Waiting,
};
use katachi_auth::replay::{Limits, MemoryReplay, ReplayStore as _, Unavailable};
use katachi_crypto::Secret;
use serde_json::{Value, json};

/// How long clients that found no room should wait, in seconds.
const RETRY_AFTER: u32 = 5;

/// What the server keeps.
pub(crate) struct Desk<S> {
    base: String,
    server: Server,
    grants: S,
    guesses: Guesses,
    proofs: MemoryReplay,
}

impl<S: DeviceStore + 'static> Desk<S> {
    /// A server that is reached at `base`.
    pub(crate) fn new(base: &str, grants: S, proofs: Limits) -> Result<Arc<Self>, Unavailable> {
        let pepper = Secret::random().map_err(Unavailable::new)?;
        Ok(Arc::new(Self {
            base: base.to_owned(),
            server: Server::new(Config::new(format!("{base}/approve")), &pepper),
            grants,
            guesses: Guesses::new(GuessLimits::default()),
            proofs: MemoryReplay::new(proofs)?,
        }))
    }

    pub(crate) fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/device", post(start::<S>))
            .route("/token", post(token::<S>))
            .route(
                "/.well-known/oauth-authorization-server",
                get(metadata::<S>),
            )
            // More is answered by 413 before it is read.
            .layer(DefaultBodyLimit::max(Form::MAX_LEN))
            .with_state(Arc::clone(self))
    }

    /// What the page shows to the person before it asks.
    pub(crate) fn look_up(&self, code: &str) -> Result<Waiting, DecideError> {
        let now = SystemClock.now();
        self.server
            .look_up(&self.grants, &self.guesses, &ANA, code, now)
    }

    /// What their click on "yes" does.
    pub(crate) fn approve(&self, code: &str) -> Result<Waiting, DecideError> {
        let now = SystemClock.now();
        self.server
            .approve(&self.grants, &self.guesses, &ANA, code, now)
    }

    /// The thumbprint of the key that a request proves, if it carries a proof.
    fn proved(&self, headers: &HeaderMap, path: &str) -> Result<Option<String>, ProofError> {
        let mut proofs = headers.get_all("dpop").iter();
        let Some(proof) = proofs.next() else {
            return Ok(None);
        };
        let text = proof.to_str().map_err(|_| ProofError::Invalid)?;
        if proofs.next().is_some() {
            return Err(ProofError::Invalid);
        }
        let (uri, now) = (format!("{}{path}", self.base), SystemClock.now());
        dpop::verify(text, "POST", &uri, &self.proofs, now).map(Some)
    }

    fn refuse_proof(&self, error: &ProofError) -> Response {
        let mut response = refuse(error.status(), error.code());
        if let (ProofError::UseNonce, Ok(epoch)) = (error, self.proofs.epoch())
            && let Ok(nonce) = epoch.to_string().parse()
        {
            response.headers_mut().insert("dpop-nonce", nonce);
        }
        response
    }
}

/// Who sits before the page: signed in, from this address.
const ANA: Guesser<'static> = Guesser {
    session: "session-1",
    account: "ana",
    address: IpAddr::V4(Ipv4Addr::LOCALHOST),
};

/// RFC 8628 section 3.1.
async fn start<S: DeviceStore + 'static>(
    State(desk): State<Arc<Desk<S>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let form = match Form::parse(&body) {
        Ok(form) => form,
        Err(error) => return refuse(error.status(), "invalid_request"),
    };
    let Some(client_id) = form.get("client_id") else {
        return refuse(400, "invalid_request");
    };
    let thumbprint = match desk.proved(&headers, "/device") {
        Ok(thumbprint) => thumbprint,
        Err(error) => return desk.refuse_proof(&error),
    };
    let agent = headers.get(header::USER_AGENT);
    let start = Start {
        client_id,
        thumbprint: thumbprint.as_deref(),
        details: agent.and_then(|agent| agent.to_str().ok()).unwrap_or(""),
    };
    match desk.server.start(&desk.grants, &start, SystemClock.now()) {
        Ok(started) => answer(200, &json!(started)),
        Err(error) => refuse(error.status(), error.code()),
    }
}

/// RFC 8628 section 3.4.
async fn token<S: DeviceStore + 'static>(
    State(desk): State<Arc<Desk<S>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let form = match Form::parse(&body) {
        Ok(form) => form,
        Err(error) => return refuse(error.status(), "invalid_request"),
    };
    if form
        .get("grant_type")
        .is_some_and(|kind| kind != GRANT_TYPE)
    {
        return refuse(400, "unsupported_grant_type");
    }
    let parts = (
        form.get("grant_type"),
        form.get("client_id"),
        form.get("device_code"),
    );
    let (Some(_), Some(client_id), Some(device_code)) = parts else {
        return refuse(400, "invalid_request");
    };
    let thumbprint = match desk.proved(&headers, "/token") {
        Ok(thumbprint) => thumbprint,
        Err(error) => return desk.refuse_proof(&error),
    };
    let now = SystemClock.now();
    let thumbprint = thumbprint.as_deref();
    let polled = desk
        .server
        .poll(&desk.grants, client_id, device_code, thumbprint, now);
    match polled {
        // A real server makes a token here and keeps its digest.
        Ok(approval) => {
            let kind = match approval.thumbprint {
                Some(_) => "DPoP",
                None => "Bearer",
            };
            let token = format!("token-of-{}", approval.account);
            answer(
                200,
                &json!({"access_token": token, "token_type": kind, "expires_in": 600}),
            )
        }
        Err(error) => refuse(error.status(), error.code()),
    }
}

/// RFC 8414.
async fn metadata<S: DeviceStore + 'static>(State(desk): State<Arc<Desk<S>>>) -> Response {
    let metadata = Metadata::for_device_flow(&desk.base, "/device", "/token");
    answer(200, &json!(metadata))
}

fn refuse(status: u16, error: &str) -> Response {
    let mut response = answer(status, &json!({ "error": error }));
    if matches!(status, 429 | 503) {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, RETRY_AFTER.into());
    }
    response
}

fn answer(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        // RFC 6749 section 5.1.
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, body.to_string()).into_response()
}
