//! Registering this machine: the device authorization grant (RFC 8628).
//!
//! A person approves a short code in the browser. Whoever approves can use this
//! machine, so the terminal shows which account did, and nothing is kept until
//! the person here agrees.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use katachi_auth::device::{Next, PollAnswer, Polling};
use katachi_protocol::device::{
    CLIENT_ID, DeviceAuthorizationRequest, DeviceAuthorizationResponse, GRANT_TYPE, TokenError,
    TokenRequest, TokenResponse,
};
use katachi_protocol::routes;

use super::{Endpoint, Registration, RelayClient};
use crate::mistake::Mistake;
use crate::output::{self, BOLD, note, paint, printable};

/// Longest time for one answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// A flow that a person has to approve.
#[derive(Debug)]
pub(crate) struct Flow {
    http: reqwest::Client,
    endpoint: Endpoint,
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
        let http = endpoint.http()?.timeout(PATIENCE).build()?;
        let request = DeviceAuthorizationRequest {
            client_id: CLIENT_ID.to_owned(),
            scope: None,
            host_name: Some(host_name()),
            os: Some(operating_system()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        };
        let response = http
            .post(format!("{}{}", endpoint.url, routes::DEVICE_AUTHORIZATION))
            .form(&request)
            .send()
            .await
            .with_context(|| format!("cannot reach the relay {}", endpoint.url))?;
        let status = response.status();
        if !status.is_success() {
            let said = response.text().await.unwrap_or_default();
            bail!("the relay does not start a login: {status} {}", printable(said.trim()));
        }
        Ok(Self {
            codes: response.json().await.context("the relay's codes")?,
            http,
            endpoint: endpoint.clone(),
            began: Instant::now(),
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
        let sent = self
            .http
            .post(format!("{}{}", self.endpoint.url, routes::TOKEN))
            .form(&request)
            .send()
            .await;
        let response = match sent {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!("a poll got no answer: {error}");
                return Ok(Poll::Answer(PollAnswer::Unreachable));
            }
        };
        let status = response.status();
        if status.is_success() {
            return Ok(Poll::Token(response.json().await.context("the relay's token")?));
        }
        let error = response.json::<TokenError>().await.ok();
        Ok(Poll::Answer(PollAnswer::from_status(
            status.as_u16(),
            error.as_ref().map(|error| error.error.as_str()),
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
                Next::Stop(failure) => return Err(failure.into()),
                Next::Done => bail!("the relay's token cannot be read"),
            };
            if polling.clock_runs_fast() && !told {
                note("the relay finds us too fast; this machine's clock probably runs fast");
                told = true;
            }
        }
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

/// Logs in with a person at the terminal.
///
/// # Errors
///
/// Returns an error if nobody approves, another account than `expected` does,
/// or the person at the terminal says no.
pub(crate) async fn with_person(
    endpoint: &Endpoint,
    embedded: bool,
    expected: Option<&str>,
) -> anyhow::Result<Registration> {
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
    note(format_args!("    {}", paint(BOLD, flow.link())));
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
