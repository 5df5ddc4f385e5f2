//! An agent that registered by the device flow and signs its calls.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::device::dpop::ProofKey;
use katachi_auth::replay::{Epoch, NonceSequence};
use katachi_auth::signature::{Freshness, KeyId, Profile, RequestView, Signer, derive_key};
use katachi_crypto::Secret;
use katachi_protocol::account::SignUp;
use katachi_protocol::device::{
    CLIENT_ID, DeviceAuthorizationRequest, DeviceAuthorizationResponse, GRANT_TYPE, TokenRequest,
    TokenResponse, UserCodeBody,
};
use katachi_protocol::{Sensitive, routes};
use reqwest::{Client, Response};
use serde::Serialize;

use super::Failure;

/// A client for certificates that were made a moment ago.
pub(super) fn client() -> Result<Client, Failure> {
    let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    Ok(Client::builder()
        // Browsers know this name, resolvers need not.
        .resolve("katachi.localhost", loopback)
        .tls_danger_accept_invalid_certs(true)
        .cookie_store(true)
        .http1_only()
        .build()?)
}

pub(super) struct Agent {
    http: Client,
    url: String,
    signer: Signer,
    nonces: NonceSequence,
    epoch: Epoch,
}

impl Agent {
    /// Opens an account at the relay `url` and connects an agent to it.
    pub(super) async fn register(url: &str) -> Result<Self, Failure> {
        let http = client()?;
        let page = |path: &str| {
            http.post(format!("{url}{path}"))
                .header("sec-fetch-site", "same-origin")
                .header("origin", url)
        };
        let account = SignUp {
            email: "bench@katachi.example".to_owned(),
            password: Sensitive::new("a long enough password"),
        };
        let signed_up = page(routes::SIGN_UP).json(&account).send().await?;
        signed_up.error_for_status()?;

        let device = Device::new(&http, url)?;
        let begun = device
            .post(
                routes::DEVICE_AUTHORIZATION,
                &DeviceAuthorizationRequest {
                    client_id: CLIENT_ID.to_owned(),
                    ..Default::default()
                },
            )
            .await?;
        let codes: DeviceAuthorizationResponse = begun.error_for_status()?.json().await?;
        let approval = UserCodeBody {
            user_code: codes.user_code,
        };
        let approved = page(routes::DEVICE_APPROVE).json(&approval).send().await?;
        approved.error_for_status()?;
        tokio::time::sleep(Duration::from_secs(codes.interval)).await;
        let redeemed = device
            .post(
                routes::TOKEN,
                &TokenRequest {
                    grant_type: GRANT_TYPE.to_owned(),
                    device_code: codes.device_code,
                    client_id: CLIENT_ID.to_owned(),
                },
            )
            .await?;
        let token: TokenResponse = redeemed.error_for_status()?.json().await?;

        let secret = URL_SAFE_NO_PAD.decode(token.hmac_secret.expose_secret())?;
        let secret: Secret<32> = Secret::from_slice(&secret)?;
        let key = derive_key(&secret, &token.agent_id, &Profile::AGENT_REQUEST);
        Ok(Self {
            signer: Signer::new(Profile::AGENT_REQUEST, KeyId::parse(&token.key_id)?, key),
            nonces: NonceSequence::start()?,
            epoch: Epoch::parse(&token.epoch)?,
            url: url.to_owned(),
            http,
        })
    }

    /// One signed call.
    pub(super) async fn call(&self) -> Result<(), Failure> {
        let plain = RequestView {
            method: "GET",
            authority: self.url.trim_start_matches("https://"),
            path: routes::AGENT_MCP,
            query: None,
            headers: &[],
            body: b"",
        };
        let freshness = Freshness::new(SystemClock.now(), self.nonces.draw(), self.epoch);
        let signed = self.signer.sign(&plain, &freshness)?;
        let mut request = self.http.get(format!("{}{}", self.url, routes::AGENT_MCP));
        for (name, value) in signed.headers() {
            request = request.header(name, value);
        }
        request.send().await?.error_for_status()?.bytes().await?;
        Ok(())
    }
}

/// The requests of one device flow, each with a proof of its key.
struct Device<'a> {
    http: &'a Client,
    url: &'a str,
    key: ProofKey,
    nonces: NonceSequence,
}

impl<'a> Device<'a> {
    fn new(http: &'a Client, url: &'a str) -> Result<Self, Failure> {
        Ok(Self {
            http,
            url,
            key: ProofKey::from_seed(&Secret::random()?),
            nonces: NonceSequence::start()?,
        })
    }

    /// Sends a form, and again with the nonce that the relay asks for.
    async fn post(&self, path: &str, form: &impl Serialize) -> Result<Response, Failure> {
        let first = self.post_with(path, form, None).await?;
        let asked = first
            .headers()
            .get("dpop-nonce")
            .and_then(|nonce| nonce.to_str().ok())
            .and_then(|nonce| Epoch::parse(nonce).ok());
        match asked {
            Some(epoch) if !first.status().is_success() => {
                self.post_with(path, form, Some(&epoch)).await
            }
            _ => Ok(first),
        }
    }

    async fn post_with(
        &self,
        path: &str,
        form: &impl Serialize,
        epoch: Option<&Epoch>,
    ) -> Result<Response, Failure> {
        let url = format!("{}{path}", self.url);
        let now = SystemClock.now();
        let proof = self
            .key
            .prove("POST", &url, now, &self.nonces.draw(), epoch);
        Ok(self
            .http
            .post(&url)
            .header("dpop", proof)
            .form(form)
            .send()
            .await?)
    }
}
