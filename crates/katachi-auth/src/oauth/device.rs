//! The device flow's client (RFC 8628), with its own requests.

use std::fmt;
use std::sync::Mutex;

use http::{Method, Request, Response, header};
use serde::Deserialize;

use super::discovery::check_url;
use super::exchange::{MAX_LEN, TokenAnswer, tokens};
use super::{Fetch, FetchError, SetUpError, Tokens, fetch};
use crate::clock::Timestamp;
use crate::device::dpop::ProofKey;
use crate::device::form::Form;
use crate::device::{AuthorizationResponse, GRANT_TYPE, PollAnswer};
use crate::replay::{Nonce, Unavailable};

/// A program that asks for authorization by device flow. It waits for nobody: the caller
/// sleeps as [`crate::device::Polling`] says, and calls [`Self::poll`].
pub struct DeviceClient {
    client_id: String,
    authorization_endpoint: String,
    token_endpoint: String,
    key: Option<ProofKey>,
    /// The nonce that the server last asked to see in a proof (RFC 9449 section 8).
    nonce: Mutex<Option<String>>,
}

/// The answer to a poll.
#[derive(Debug)]
pub enum Polled {
    /// The tokens.
    Granted(Tokens),
    /// Anything else, for [`crate::device::Polling::answered`].
    Answer(PollAnswer),
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl DeviceClient {
    /// A client for a server with these two endpoints.
    ///
    /// # Errors
    ///
    /// Returns [`SetUpError::Url`] unless both are `https`, or both on this machine.
    pub fn new(
        client_id: impl Into<String>,
        authorization_endpoint: impl Into<String>,
        token_endpoint: impl Into<String>,
    ) -> Result<Self, SetUpError> {
        let (authorization_endpoint, token_endpoint) =
            (authorization_endpoint.into(), token_endpoint.into());
        // Whoever configures a plain loopback address means this machine.
        check_url(
            "the device authorization endpoint",
            &authorization_endpoint,
            true,
        )?;
        check_url("the token endpoint", &token_endpoint, true)?;
        Ok(Self {
            client_id: client_id.into(),
            authorization_endpoint,
            token_endpoint,
            key: None,
            nonce: Mutex::default(),
        })
    }

    /// Proves possession of `key` with every request, so that nobody else can use the
    /// codes and tokens.
    #[must_use]
    pub fn with_key(mut self, key: ProofKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Asks for the two codes.
    ///
    /// # Errors
    ///
    /// Returns [`FetchError`] if the server gives none.
    pub async fn start(
        &self,
        http: &impl Fetch,
        scope: &str,
        now: Timestamp,
    ) -> Result<AuthorizationResponse, FetchError> {
        let form = Form::default()
            .with("client_id", &self.client_id)
            .with("scope", scope);
        let response = self
            .post(http, &self.authorization_endpoint, &form, now)
            .await?;
        if response.status() != 200 {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        serde_json::from_slice(response.body()).map_err(|_| FetchError::Malformed)
    }

    /// Polls once.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the operating system gives no randomness. A server that
    /// gives no answer is [`PollAnswer::Unreachable`].
    pub async fn poll(
        &self,
        http: &impl Fetch,
        device_code: &str,
        now: Timestamp,
    ) -> Result<Polled, Unavailable> {
        let form = Form::default()
            .with("grant_type", GRANT_TYPE)
            .with("device_code", device_code)
            .with("client_id", &self.client_id);
        let response = match self.post(http, &self.token_endpoint, &form, now).await {
            Ok(response) => response,
            Err(_) => return Ok(Polled::Answer(PollAnswer::Unreachable)),
        };
        if response.status() == 200 {
            let answer = serde_json::from_slice::<TokenAnswer>(response.body());
            return Ok(match answer {
                Ok(answer) => Polled::Granted(tokens(&answer)),
                Err(_) => Polled::Answer(PollAnswer::Other("no token in the answer".into())),
            });
        }
        let refusal = serde_json::from_slice::<Refusal>(response.body()).ok();
        Ok(Polled::Answer(PollAnswer::from_status(
            response.status().as_u16(),
            refusal.as_ref().map(|refusal| refusal.error.as_str()),
        )))
    }

    /// Sends a form; once more with the server's nonce if it asks for one.
    async fn post(
        &self,
        http: &impl Fetch,
        url: &str,
        form: &Form<'_>,
        now: Timestamp,
    ) -> Result<Response<Vec<u8>>, FetchError> {
        let response = self.post_once(http, url, form, now).await?;
        let asks = matches!(response.status().as_u16(), 400 | 401)
            && serde_json::from_slice::<Refusal>(response.body())
                .is_ok_and(|refusal| refusal.error == "use_dpop_nonce");
        if asks && self.key.is_some() {
            return self.post_once(http, url, form, now).await;
        }
        Ok(response)
    }

    async fn post_once(
        &self,
        http: &impl Fetch,
        url: &str,
        form: &Form<'_>,
        now: Timestamp,
    ) -> Result<Response<Vec<u8>>, FetchError> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::USER_AGENT, "katachi-auth");
        if let Some(key) = &self.key {
            let id = Nonce::random().map_err(|error| FetchError::Unreachable(error.to_string()))?;
            let nonce = self.nonce.lock().ok().and_then(|nonce| nonce.clone());
            let proof = key.prove_with(Method::POST.as_str(), url, now, &id, nonce.as_deref());
            request = request.header("dpop", proof);
        }
        let request = request
            .body(form.encode().into_bytes())
            .map_err(|_| FetchError::Unreachable("the URL is malformed".into()))?;
        let response = fetch::bounded(http, request, MAX_LEN).await?;
        let nonce = response.headers().get("dpop-nonce");
        if let Some(nonce) = nonce.and_then(|nonce| nonce.to_str().ok())
            && nonce.len() <= 512
            && let Ok(mut kept) = self.nonce.lock()
        {
            *kept = Some(nonce.to_owned());
        }
        Ok(response)
    }
}

impl fmt::Debug for DeviceClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceClient")
            .field("client_id", &self.client_id)
            .field("token_endpoint", &self.token_endpoint)
            .finish_non_exhaustive()
    }
}
