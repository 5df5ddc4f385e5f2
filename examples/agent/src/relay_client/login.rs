//! Registering this machine: the device authorization grant (RFC 8628).
//!
//! A person approves a short code in the browser. Whoever approves can use this
//! machine, so the terminal shows which account did, and nothing is kept until
//! the person here agrees. Every poll proves possession of a key made for this
//! flow (RFC 9449), so that a device code read by somebody else is worth nothing.

use std::io::IsTerminal as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use katachi_auth::clock::{Clock as _, SystemClock, Timestamp};
use katachi_auth::device::dpop::ProofKey;
use katachi_auth::device::{Next, PollAnswer, Polling};
use katachi_auth::replay::{Epoch, NonceSequence};
use katachi_crypto::Secret;
use katachi_protocol::device::{
    CLIENT_ID, DeviceAuthorizationRequest, DeviceAuthorizationResponse, GRANT_TYPE, TokenRequest,
    TokenResponse,
};
use katachi_protocol::routes;
use serde::Serialize;

use super::call::{self, Answer};
use super::{Endpoint, Registration, RelayClient};
use crate::mistake::Mistake;
use crate::output::{self, BOLD, note, paint, printable};
use crate::{qr, time};

/// Longest time for one answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// By how many seconds a clock may be off before that explains a refusal.
const PUNCTUAL: u64 = 3;

/// A flow that a person has to approve.
#[derive(Debug)]
pub(crate) struct Flow {
    door: Door,
    codes: DeviceAuthorizationResponse,
    began: Instant,
}

impl Flow {
    /// Asks the relay for a code.
    ///
    /// # Errors
    ///
    /// Returns an error if the relay cannot be reached or refuses.
    pub(crate) async fn begin(endpoint: &Endpoint) -> anyhow::Result<Self> {
        let door = Door::new(endpoint)?;
        let request = DeviceAuthorizationRequest {
            client_id: CLIENT_ID.to_owned(),
            scope: None,
            host_name: Some(host_name()),
            os: Some(operating_system()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        };
        let response = door
            .post(routes::DEVICE_AUTHORIZATION, &request)
            .await
            .with_context(|| format!("cannot reach the relay {}", endpoint.url))?;
        let status = response.status;
        if !status.is_success() {
            let said = String::from_utf8_lossy(&response.body).into_owned();
            bail!(
                "the relay does not start a login: {status} {}",
                printable(said.trim())
            );
        }
        Ok(Self {
            codes: serde_json::from_slice(&response.body).context("the relay's codes")?,
            door,
            began: Instant::now(),
        })
    }

    /// The same codes in the hands of somebody who read them and lacks the key.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no randomness.
    pub(crate) fn overheard(&self) -> anyhow::Result<Self> {
        Ok(Self {
            door: Door::new(&self.door.endpoint)?,
            codes: self.codes.clone(),
            began: self.began,
        })
    }

    /// What the person compares, `XXXX-XXXX`.
    pub(crate) fn user_code(&self) -> String {
        printable(&self.codes.user_code)
    }

    /// Where the person goes.
    pub(crate) fn link(&self) -> String {
        let link = &self.codes.verification_uri_complete;
        printable(link.as_ref().unwrap_or(&self.codes.verification_uri))
    }

    /// Polls once, without waiting.
    ///
    /// # Errors
    ///
    /// Returns an error if the answer cannot be read.
    pub(crate) async fn poll(&self) -> anyhow::Result<Poll> {
        let request = TokenRequest {
            grant_type: GRANT_TYPE.to_owned(),
            device_code: self.codes.device_code.clone(),
            client_id: CLIENT_ID.to_owned(),
        };
        let response = match self.door.post(routes::TOKEN, &request).await {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!("a poll got no answer: {error:#}");
                return Ok(Poll::Answer(PollAnswer::Unreachable));
            }
        };
        if response.status.is_success() {
            let token = serde_json::from_slice(&response.body).context("the relay's token")?;
            return Ok(Poll::Token(token));
        }
        let error = response.token_error();
        Ok(Poll::Answer(PollAnswer::from_status(
            response.status.as_u16(),
            error.as_deref(),
        )))
    }

    /// Waits until somebody approved.
    ///
    /// # Errors
    ///
    /// Returns an error if it was denied, expired or refused.
    pub(crate) async fn wait(&self) -> anyhow::Result<TokenResponse> {
        let mut polling = Polling::new(Some(self.codes.interval), self.codes.expires_in);
        let mut told = false;
        let mut pause = polling.wait();
        loop {
            tokio::time::sleep(pause).await;
            let answer = match self.poll().await? {
                Poll::Token(token) => return Ok(token),
                Poll::Answer(answer) => answer,
            };
            pause = match polling.answered(answer, self.began.elapsed()) {
                Next::Wait(pause) => pause,
                Next::Stop(failure) => {
                    return Err(failure).context("this machine was not registered");
                }
                Next::Done => bail!("the relay's token cannot be read"),
            };
            if polling.clock_runs_fast() && !told {
                note("the relay finds us too fast; this machine's clock probably runs fast");
                told = true;
            }
        }
    }
}

/// Requests of one flow, each with a proof of its key.
#[derive(Debug)]
struct Door {
    http: reqwest::Client,
    endpoint: Endpoint,
    key: ProofKey,
    nonces: NonceSequence,
    wanted: Mutex<Wanted>,
}

/// What the relay wants to see in proofs.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    nonce: Option<Epoch>,
    /// By how many seconds its clock is ahead of ours.
    ahead: i64,
}

impl Wanted {
    /// Whether a refusal says what the proof should have said, so that another may pass.
    fn learn(&mut self, refused: &Answer) -> bool {
        let header = |name| refused.headers.get(name)?.to_str().ok();
        let nonce = header("dpop-nonce").and_then(|nonce| Epoch::parse(nonce).ok());
        match refused.token_error().as_deref() {
            Some("use_dpop_nonce") => {
                self.nonce = nonce;
                true
            }
            // The date is the relay's own word, over TLS and for a proof that is good at
            // this relay alone: nothing else of this machine goes by it.
            Some("invalid_dpop_proof") => {
                let date = header("date").and_then(time::of_http);
                let ahead = date.map(|date| date.cast_signed() - now().cast_signed());
                let is_other = |ahead: &i64| ahead.abs_diff(self.ahead) > PUNCTUAL;
                let Some(ahead) = ahead.filter(is_other) else {
                    return false;
                };
                tracing::debug!("the relay's clock is {ahead} s ahead of ours");
                *self = Self { nonce, ahead };
                true
            }
            _ => false,
        }
    }
}

/// Seconds since 1970 by our own clock.
fn now() -> u64 {
    SystemClock.now().as_unix()
}

impl Door {
    fn new(endpoint: &Endpoint) -> anyhow::Result<Self> {
        Ok(Self {
            http: endpoint.http()?.timeout(PATIENCE).build()?,
            endpoint: endpoint.clone(),
            key: ProofKey::from_seed(&Secret::random()?),
            nonces: NonceSequence::start()?,
            wanted: Mutex::default(),
        })
    }

    /// Sends a form; once more if the relay asks for another nonce, or another time.
    async fn post(&self, path: &str, form: &impl Serialize) -> anyhow::Result<Answer> {
        let answer = self.post_once(path, form).await?;
        let another = self.wanted().learn(&answer);
        match another {
            true => self.post_once(path, form).await,
            false => Ok(answer),
        }
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn post_once(&self, path: &str, form: &impl Serialize) -> anyhow::Result<Answer> {
        let url = format!("{}{path}", self.endpoint.url);
        let Wanted { nonce, ahead } = *self.wanted();
        let now = Timestamp::from_unix(now().saturating_add_signed(ahead));
        let id = self.nonces.draw();
        let proof = self.key.prove("POST", &url, now, &id, nonce.as_ref());
        let response = self
            .http
            .post(&url)
            .header("dpop", proof)
            .form(form)
            .send()
            .await?;
        call::read(response).await
    }
}

/// The answer to one poll.
#[derive(Debug)]
pub(crate) enum Poll {
    /// Approved.
    Token(TokenResponse),
    /// Not yet, or never.
    Answer(PollAnswer),
}

/// Whom the terminal asks to approve, and how.
#[derive(Debug)]
pub(crate) struct Invitation<'a> {
    /// The account that must approve; asks at the terminal where absent.
    pub(crate) expected: Option<&'a str>,
    /// What stands behind the link, for the browser alone.
    pub(crate) pairing: &'a str,
    /// Show the link as text alone.
    pub(crate) no_qr: bool,
}

/// Logs in with a person at the terminal. The browser that opens the link is paired as
/// well.
///
/// # Errors
///
/// Returns an error if nobody approves, another account than `expected` does,
/// or the person at the terminal says no.
pub(crate) async fn with_person(
    endpoint: &Endpoint,
    embedded: bool,
    invitation: &Invitation<'_>,
) -> anyhow::Result<Registration> {
    let expected = invitation.expected;
    if expected.is_none() && !std::io::stdin().is_terminal() {
        return Err(Mistake::new(
            "login",
            "there is no terminal to ask whether the right account approved",
            "give --expect-account EMAIL",
        )
        .into());
    }
    let flow = Flow::begin(endpoint).await?;
    note("Open this link, compare the code and approve:");
    note("");
    let link = format!("{}{}", flow.link(), invitation.pairing);
    note(format_args!("    {}", paint(BOLD, &link)));
    if !invitation.no_qr {
        qr::show(&link);
        note("");
    }
    note(format_args!("    code {}", paint(BOLD, flow.user_code())));
    note("");
    let token = flow.wait().await?;
    let account = printable(&token.approved_by);
    let registration = Registration::new(endpoint, embedded, token);
    let agreed = match expected {
        Some(expected) => expected.eq_ignore_ascii_case(&account),
        None => output::confirm(&format!(
            "{} approved this machine and will be able to use it. Is that you?",
            paint(BOLD, &account)
        ))?,
    };
    if agreed {
        return Ok(registration);
    }
    // The relay believes that we belong to that account; tell it that we do not.
    let taken_back = RelayClient::new(&registration, None)?.unregister().await;
    if let Err(error) = taken_back {
        tracing::warn!("the relay could not be told: {error:#}");
    }
    bail!("{account} approved, which is not the account expected here; nothing was kept");
}

/// What this machine calls itself.
pub(crate) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_default();
    let name: String = printable(name.trim()).chars().take(64).collect();
    match name.is_empty() {
        true => "this machine".to_owned(),
        false => name,
    }
}

fn operating_system() -> String {
    format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)
}
