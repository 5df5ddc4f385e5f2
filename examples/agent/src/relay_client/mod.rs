//! This machine's voice towards the relay: signed calls outside the tunnel.
//!
//! Every call is signed (RFC 9421) with a key that only this machine and the
//! relay hold, and only a signed answer is believed: the relay's clock and
//! epoch are learnt from nothing else.

mod call;
pub(crate) mod login;
mod registration;
mod tls;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::Method;
use katachi_auth::clock::{Clock as _, SystemClock, Timestamp};
use katachi_auth::replay::{Epoch, NonceSequence};
use katachi_auth::signature::{
    ClockOffset, Freshness, KeyId, KnownKey, Profile, RequestBinding, RequestView, ResponseError,
    Signer, VerifiedResponse, VerifyingKey, derive_key,
};
use katachi_protocol::agent::{Activity, ActivityAnswer, AgentState, Heartbeat, HeartbeatAnswer};
use katachi_protocol::cloudflare::{CloudflareTunnel, DialIn};
use katachi_protocol::mcp::AgentMcp;
use katachi_protocol::problem::{Problem, codes};
use katachi_protocol::routes;
use katachi_relay::carrier::{ORIGIN_REQUEST, WEBSOCKET_REQUEST};
use katachi_store::vault::{Vault, VaultError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::audit::{AuditLog, Call, Direction};

pub(crate) use call::{Answer, Prepared};
pub(crate) use registration::{Registration, RegistrationFile};
pub(crate) use tls::{Endpoint, public_http};

/// A connection that was idle for longer is not used again: it may be gone without
/// either end knowing, and a call on it would wait for its deadline.
const IDLE: Duration = Duration::from_secs(2);
/// Waits before a report to the relay is tried again.
const REPORT_WAITS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// Makes a call again after a while where the relay gives no answer or cannot serve:
/// one that is lost is no reason to end what runs in the tunnel, whose own
/// keep-alive notices sooner when the relay is gone.
///
/// # Errors
///
/// As the call, once no attempt is left.
pub(crate) async fn patiently<T, Calling>(call: impl Fn() -> Calling) -> anyhow::Result<T>
where
    Calling: Future<Output = anyhow::Result<T>>,
{
    for wait in REPORT_WAITS {
        match call().await {
            Err(error) if call::may_pass(&error) => {
                tracing::debug!("a report is tried again in {wait:?}: {error:#}");
                tokio::time::sleep(wait).await;
            }
            settled => return settled,
        }
    }
    call().await
}

/// A registered machine's client.
#[derive(Debug)]
pub(crate) struct RelayClient {
    endpoint: Endpoint,
    http: reqwest::Client,
    agent_id: String,
    account: String,
    key_id: KeyId,
    api: Signer,
    tunnel: Signer,
    websocket: Signer,
    response_key: VerifyingKey,
    /// With which the relay signs where it reaches us through Cloudflare.
    origin: Arc<KnownKey>,
    nonces: NonceSequence,
    offset: ClockOffset,
    epoch: RwLock<Epoch>,
    audit: Option<Arc<AuditLog>>,
    /// The relay remembers how often it was saved.
    witnessed: Option<Arc<Vault>>,
}

impl RelayClient {
    /// A client for `registration`; calls are recorded in `audit` if given.
    ///
    /// # Errors
    ///
    /// Returns an error if the registration is damaged or TLS cannot be set up.
    pub(crate) fn new(
        registration: &Registration,
        audit: Option<Arc<AuditLog>>,
    ) -> anyhow::Result<Self> {
        let secret = registration.secret()?;
        let key_id = KeyId::parse(&registration.key_id)?;
        let key = |profile: Profile| derive_key(&secret, &registration.agent_id, &profile);
        let signer = |profile: Profile| Signer::new(profile, key_id.clone(), key(profile));
        let endpoint = registration.endpoint();
        Ok(Self {
            http: endpoint.http()?.pool_idle_timeout(IDLE).build()?,
            api: signer(Profile::AGENT_REQUEST),
            tunnel: signer(Profile::TUNNEL_REQUEST),
            websocket: signer(WEBSOCKET_REQUEST),
            response_key: key(Profile::RELAY_RESPONSE).into(),
            origin: Arc::new(KnownKey::new(key_id.clone(), "relay", key(ORIGIN_REQUEST))),
            nonces: NonceSequence::start()?,
            offset: ClockOffset::new(),
            epoch: RwLock::new(Epoch::parse(&registration.epoch)?),
            agent_id: registration.agent_id.clone(),
            account: registration.account.clone(),
            endpoint,
            key_id,
            audit,
            witnessed: None,
        })
    }

    /// The same, with the relay as a witness of `vault`: [`Self::heartbeat`] fails if
    /// the relay remembers a newer one.
    pub(crate) fn witnessing(self, vault: Arc<Vault>) -> Self {
        Self {
            witnessed: Some(vault),
            ..self
        }
    }

    /// The relay.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The identifier that the relay gave this machine.
    pub(crate) fn agent_id(&self) -> &str {
        &self.agent_id
    }

    /// The account that approved this machine.
    pub(crate) fn account(&self) -> &str {
        &self.account
    }

    /// The relay's clock minus ours in milliseconds, as far as it is known.
    pub(crate) fn clock_offset(&self) -> i64 {
        self.offset.as_millis()
    }

    /// Tells the relay that this machine lives.
    ///
    /// # Errors
    ///
    /// Returns an error if the relay cannot be reached or refuses, and a
    /// [`Mistake`](crate::mistake::Mistake) if
    /// it remembers a newer vault.
    pub(crate) async fn heartbeat(&self, state: AgentState) -> anyhow::Result<HeartbeatAnswer> {
        let said = self.witnessed.as_deref().map(generation);
        let beat = Heartbeat {
            state,
            vault_generation: said,
        };
        let answer: HeartbeatAnswer = self
            .call(Method::POST, routes::HEARTBEAT, Some(&beat))
            .await?;
        match (said, answer.vault_generation) {
            (Some(found), Some(expected)) if expected > found => {
                let error = VaultError::RolledBack { found, expected };
                Err(crate::home::rolled_back("the relay remembers", &error).into())
            }
            _ => Ok(answer),
        }
    }

    /// Tells the relay what happened, in closed words.
    ///
    /// # Errors
    ///
    /// Returns an error if the relay cannot be reached or refuses.
    pub(crate) async fn activity(&self, activity: &Activity) -> anyhow::Result<ActivityAnswer> {
        self.call(Method::POST, routes::ACTIVITY, Some(activity))
            .await
    }

    /// Fetches the MCP configurations that were released to this machine.
    ///
    /// # Errors
    ///
    /// Returns an error if the relay cannot be reached or refuses.
    pub(crate) async fn mcp(&self) -> anyhow::Result<AgentMcp> {
        self.call(Method::GET, routes::AGENT_MCP, None::<&()>).await
    }

    /// The tunnel at Cloudflare that the relay has, or makes, for this machine.
    ///
    /// # Errors
    ///
    /// Returns an error if the relay cannot be reached, has no account there, or
    /// Cloudflare refuses.
    #[cfg(unix)]
    pub(crate) async fn cloudflare(&self) -> anyhow::Result<CloudflareTunnel> {
        self.call(Method::POST, routes::CLOUDFLARE, None::<&()>)
            .await
    }

    /// Has the relay open the tunnel through Cloudflare, signed for `epoch`.
    ///
    /// # Errors
    ///
    /// Returns an error if the relay cannot be reached, or does not reach us.
    #[cfg(unix)]
    pub(crate) async fn dial_in(&self, epoch: Epoch) -> anyhow::Result<()> {
        let body = serde_json::to_vec(&DialIn {
            epoch: epoch.to_string(),
        })?;
        let answer = self
            .exchange(&Method::POST, routes::CLOUDFLARE_DIAL, body)
            .await;
        self.record(&Method::POST, routes::CLOUDFLARE_DIAL, &answer)?;
        answer.map(drop)
    }

    /// The key with which the relay signs where it reaches us through Cloudflare.
    #[cfg(unix)]
    pub(crate) fn origin_key(&self) -> Arc<KnownKey> {
        Arc::clone(&self.origin)
    }

    /// Has the relay forget this machine.
    ///
    /// # Errors
    ///
    /// Returns an error if the relay cannot be reached or refuses.
    pub(crate) async fn unregister(&self) -> anyhow::Result<()> {
        let body = self
            .exchange(&Method::DELETE, routes::UNREGISTER, Vec::new())
            .await;
        self.record(&Method::DELETE, routes::UNREGISTER, &body)?;
        body.map(drop)
    }

    /// Signs a call as it would be sent at `at`, without sending it.
    ///
    /// # Errors
    ///
    /// Returns an error if the request cannot be signed.
    pub(crate) fn prepare(
        &self,
        method: &Method,
        path: &str,
        body: Vec<u8>,
        at: Timestamp,
    ) -> anyhow::Result<Prepared> {
        let content_type = (!body.is_empty()).then_some(("content-type", "application/json"));
        let plain: Vec<(&str, &[u8])> = content_type
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        let request = RequestView {
            method: method.as_str(),
            authority: self.endpoint.authority(),
            path,
            query: None,
            headers: &plain,
            body: &body,
        };
        let signed = self.api.sign(&request, &self.freshness(at))?;
        let headers = content_type
            .into_iter()
            .chain(signed.headers())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Ok(Prepared {
            method: method.clone(),
            path: path.to_owned(),
            headers,
            body,
            binding: signed.binding().clone(),
        })
    }

    /// Sends a prepared call exactly as it stands.
    ///
    /// # Errors
    ///
    /// Returns an error if the relay cannot be reached.
    pub(crate) async fn send(&self, prepared: &Prepared) -> anyhow::Result<Answer> {
        let sent = SystemClock.now();
        let mut request = self
            .http
            .request(
                prepared.method.clone(),
                format!("{}{}", self.endpoint.url, prepared.path),
            )
            .timeout(call::PATIENCE)
            .body(prepared.body.clone());
        for (name, value) in &prepared.headers {
            request = request.header(name, value);
        }
        let response = request
            .send()
            .await
            .with_context(|| format!("cannot reach the relay {}", self.endpoint.url))?;
        let answer = call::read(response).await?;
        if let Ok(verified) = self.verify(&answer, &prepared.binding) {
            self.offset.learn(&verified, sent, SystemClock.now());
            return Ok(answer.believed());
        }
        Ok(answer)
    }

    /// The relay's time, as far as we know it.
    pub(crate) fn now(&self) -> Timestamp {
        self.offset.apply(SystemClock.now())
    }

    /// Signs the upgrade that opens the tunnel, bound to the TLS connection
    /// that exported `channel`.
    ///
    /// # Errors
    ///
    /// Returns an error if the request cannot be signed.
    pub(crate) fn sign_tunnel<B>(
        &self,
        request: &mut http::Request<B>,
        channel: &[u8; routes::TLS_EXPORTER_LEN],
    ) -> anyhow::Result<RequestBinding> {
        self.sign_opening(&self.tunnel, request, Some(channel))
    }

    /// Signs the request that opens the tunnel inside of a WebSocket. It is bound to no
    /// TLS connection: a proxy may end that.
    ///
    /// # Errors
    ///
    /// Returns an error if the request cannot be signed.
    pub(crate) fn sign_websocket<B>(
        &self,
        request: &mut http::Request<B>,
    ) -> anyhow::Result<RequestBinding> {
        self.sign_opening(&self.websocket, request, None)
    }

    fn sign_opening<B>(
        &self,
        signer: &Signer,
        request: &mut http::Request<B>,
        channel: Option<&[u8; routes::TLS_EXPORTER_LEN]>,
    ) -> anyhow::Result<RequestBinding> {
        let view = RequestView {
            method: request.method().as_str(),
            authority: self.endpoint.authority(),
            path: request.uri().path(),
            query: request.uri().query(),
            headers: &[],
            body: &[],
        };
        let mut freshness = self.freshness(self.now());
        freshness.channel = channel;
        let signed = signer.sign(&view, &freshness)?;
        for (name, value) in signed.headers() {
            request.headers_mut().insert(name, value.parse()?);
        }
        Ok(signed.binding().clone())
    }

    /// Takes what a refusal says, if it is signed and says that trying again helps.
    ///
    /// # Errors
    ///
    /// Returns the refusal as an error if trying again would not help.
    pub(crate) fn learn(
        &self,
        answer: &Answer,
        binding: &RequestBinding,
        sent: Timestamp,
    ) -> anyhow::Result<()> {
        let refusal = answer.problem();
        let Ok(verified) = self.verify(answer, binding) else {
            bail!(
                "the relay {} refuses this machine ({}); if it was removed there, run \
                 `katachi-agent unregister --local-only` and `katachi-agent login`",
                self.endpoint.url,
                answer.status
            );
        };
        self.offset.learn(&verified, sent, SystemClock.now());
        match refusal {
            Some(Problem {
                error,
                epoch: Some(epoch),
                ..
            }) if error == codes::STALE_EPOCH => {
                let epoch = Epoch::parse(&epoch)?;
                *self.epoch.write().unwrap_or_else(PoisonError::into_inner) = epoch;
                Ok(())
            }
            Some(Problem { error, .. }) if error == codes::SKEW => Ok(()),
            Some(Problem { error, message, .. }) => {
                bail!("the relay refuses the call: {message} ({error})")
            }
            None => bail!("the relay answered {}", answer.status),
        }
    }

    /// Whether the relay gave `answer` to the request of `binding`, and to no other.
    pub(crate) fn verify(
        &self,
        answer: &Answer,
        binding: &RequestBinding,
    ) -> Result<VerifiedResponse, ResponseError> {
        answer.verify(&self.key_id, &self.response_key, binding)
    }

    fn freshness(&self, at: Timestamp) -> Freshness<'static> {
        let epoch = *self.epoch.read().unwrap_or_else(PoisonError::into_inner);
        Freshness::new(at, self.nonces.draw(), epoch)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<T> {
        let body = match body {
            Some(body) => serde_json::to_vec(body)?,
            None => Vec::new(),
        };
        let answer = self.exchange(&method, path, body).await;
        self.record(&method, path, &answer)?;
        serde_json::from_slice(&answer?)
            .with_context(|| format!("the relay's answer to {method} {path}"))
    }

    /// Sends a call; once more if a signed refusal taught us something.
    async fn exchange(
        &self,
        method: &Method,
        path: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<bytes::Bytes> {
        for _ in 0..2 {
            let sent = SystemClock.now();
            let prepared = self.prepare(method, path, body.clone(), self.now())?;
            let answer = self.send(&prepared).await?;
            if answer.status.is_success() {
                if !answer.is_believed() {
                    bail!("the relay's answer to {method} {path} is not signed by the relay");
                }
                return Ok(answer.body);
            }
            if let Some(unable) = call::Unable::of(&answer) {
                return Err(unable.into());
            }
            self.learn(&answer, &prepared.binding, sent)?;
        }
        bail!("the relay refuses {method} {path} twice; see `katachi-agent doctor` for the clock")
    }

    fn record(
        &self,
        method: &Method,
        path: &str,
        result: &anyhow::Result<bytes::Bytes>,
    ) -> anyhow::Result<()> {
        let Some(audit) = &self.audit else {
            return Ok(());
        };
        audit.record(Call {
            direction: Direction::Out,
            call: format!("{method} {path}"),
            detail: String::new(),
            outcome: match result {
                Ok(_) => "answered".to_owned(),
                Err(error) => format!("failed: {error}"),
            },
            denial: None,
        })
    }
}

/// How often the vault was saved, by this process or another.
fn generation(vault: &Vault) -> u64 {
    let saved = Vault::status(vault.path()).map_or(0, |status| status.generation);
    saved.max(vault.generation())
}
