//! The authorization server's state machine.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_crypto::mac::HmacKey;
use katachi_crypto::{Secret, random};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{
    DeviceStore, Find, Grant, GrantState, Guesser, Guesses, Inserted, TooManyGuesses, UserCode,
};
use crate::clock::Timestamp;
use crate::replay::Unavailable;

/// The `grant_type` of a poll.
pub const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// How the flow behaves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// The page where a person types the user code.
    pub verification_uri: String,
    /// How long a grant lives.
    pub lifetime: Duration,
    /// Seconds between polls.
    pub interval: u32,
    /// How much too early a poll may come unpunished: networks jitter.
    pub grace: Duration,
    /// Polls that may come too early before the grant is denied.
    pub strikes: u32,
}

impl Config {
    /// 10 minutes, 5 seconds, half a second of grace, ten strikes.
    pub fn new(verification_uri: impl Into<String>) -> Self {
        Self {
            verification_uri: verification_uri.into(),
            lifetime: Duration::from_secs(600),
            interval: 5,
            grace: Duration::from_millis(500),
            strikes: 10,
        }
    }
}

/// What a client says when it starts.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// Who it says it is.
    pub client_id: &'a str,
    /// Thumbprint of the key that it proved, if it registered one.
    pub thumbprint: Option<&'a str>,
    /// What the approving person should see.
    pub details: &'a str,
}

/// The answer to a device authorization request (RFC 8628 section 3.2), as JSON.
///
/// The client must keep `device_code` to itself and show the rest.
#[derive(Clone, Eq, PartialEq, Serialize, Deserialize)]
pub struct AuthorizationResponse {
    /// What the client polls with.
    pub device_code: String,
    /// What the person types.
    pub user_code: String,
    /// Where.
    pub verification_uri: String,
    /// The same with the code in it. The page must still show the code and ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification_uri_complete: Option<String>,
    /// Seconds until the grant ends.
    pub expires_in: u64,
    /// Seconds between polls; 5 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<u64>,
}

impl std::fmt::Debug for AuthorizationResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthorizationResponse")
            .field("verification_uri", &self.verification_uri)
            .field("expires_in", &self.expires_in)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

/// A grant that waits for a decision, as the approving page shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Waiting {
    /// The client that started it.
    pub client_id: String,
    /// What it said of itself.
    pub details: String,
    /// When it was started.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

/// An approval, handed out once.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use = "an approval is handed out once: mint the token now"]
pub struct Approval {
    /// The account that approved; the client should show it and ask.
    pub account: String,
    /// The client.
    pub client_id: String,
    /// What it said of itself.
    pub details: String,
    /// The key it proved, to bind the token to.
    pub thumbprint: Option<String>,
}

/// Why a grant could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// 429: too many grants are under way.
    #[error("too many device authorizations are under way")]
    Full,
    /// 400: a part is too long.
    #[error("client id or details are too long")]
    TooLong,
    /// 503: the store or the system's randomness gave no answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl StartError {
    /// The `error` member of the answer (RFC 6749 section 5.2).
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong => "invalid_request",
            Self::Full | Self::Unavailable(_) => "temporarily_unavailable",
        }
    }

    /// The status code of the answer. With 429 and 503 send `Retry-After`.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::TooLong => 400,
            Self::Full => 429,
            Self::Unavailable(_) => 503,
        }
    }
}

/// Why a person's code was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecideError {
    /// 404: no such code waits for a decision. Nothing more is told.
    #[error("no such code waits for a decision")]
    Unknown,
    /// 429.
    #[error(transparent)]
    TooMany(#[from] TooManyGuesses),
    /// 503.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl DecideError {
    /// The status code of the answer. With 429 send `Retry-After`.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Unknown => 404,
            Self::TooMany(_) => 429,
            Self::Unavailable(_) => 503,
        }
    }
}

/// Why a poll got no approval. [`Self::code`] is what the client hears.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PollError {
    /// Nobody has decided yet.
    #[error("nobody has decided yet")]
    Pending,
    /// The poll came too early; the interval is 5 s longer from here on.
    #[error("polled too early: wait {interval} s")]
    SlowDown {
        /// The interval from here on, in seconds.
        interval: u32,
    },
    /// Somebody said no.
    #[error("denied")]
    Denied,
    /// The time is over.
    #[error("expired")]
    Expired,
    /// Unknown, of another client, proved with another key, or used before.
    #[error("not a grant of this client, or used before")]
    InvalidGrant,
    /// The store gave no answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl PollError {
    /// The `error` member of the answer (RFC 8628 section 3.5, RFC 6749 section 5.2).
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Pending => "authorization_pending",
            Self::SlowDown { .. } => "slow_down",
            Self::Denied => "access_denied",
            Self::Expired => "expired_token",
            Self::InvalidGrant => "invalid_grant",
            Self::Unavailable(_) => "temporarily_unavailable",
        }
    }

    /// The status code of the answer. With 503 send `Retry-After`.
    #[must_use]
    pub const fn status(&self) -> u16 {
        if matches!(self, Self::Unavailable(_)) {
            503
        } else {
            400
        }
    }
}

/// The authorization server.
#[derive(Debug)]
pub struct Server {
    config: Config,
    pepper: HmacKey,
}

/// Longest client id and thumbprint, and longest details, in bytes.
const MAX_ID: usize = 128;
const MAX_DETAILS: usize = 2048;

impl Server {
    /// A server whose stored user codes mean nothing without `pepper`.
    #[must_use]
    pub fn new(config: Config, pepper: &Secret<32>) -> Self {
        Self {
            config,
            pepper: HmacKey::new(pepper),
        }
    }

    /// Starts a grant.
    ///
    /// # Errors
    ///
    /// Returns [`StartError`] if there is no room or no answer from the store.
    pub fn start(
        &self,
        store: &(impl DeviceStore + ?Sized),
        start: &Start<'_>,
        now: Timestamp,
    ) -> Result<AuthorizationResponse, StartError> {
        if start.client_id.len() > MAX_ID
            || start
                .thumbprint
                .is_some_and(|thumbprint| thumbprint.len() > MAX_ID)
            || start.details.len() > MAX_DETAILS
        {
            return Err(StartError::TooLong);
        }
        let secret: [u8; 32] = random::bytes().map_err(Unavailable::new)?;
        let device_code = URL_SAFE_NO_PAD.encode(secret);
        // Collisions among a few thousand live codes of 2^34.5 are rare; three in a
        // row mean that something else is wrong.
        for _ in 0..3 {
            let user_code = UserCode::generate()?;
            let grant = Grant {
                device_code: sha256(device_code.as_bytes()),
                user_code: self.tag(&user_code),
                client_id: start.client_id.to_owned(),
                thumbprint: start.thumbprint.map(str::to_owned),
                details: start.details.to_owned(),
                created: now,
                expires: now.after(self.config.lifetime),
                interval: self.config.interval,
                last_poll: None,
                strikes: 0,
                state: GrantState::Pending,
            };
            match store.insert(grant, now)? {
                Inserted::Stored => return Ok(self.response(device_code, &user_code)),
                Inserted::Full => return Err(StartError::Full),
                Inserted::Taken => {}
            }
        }
        Err(Unavailable::new("three user codes in a row were taken").into())
    }

    fn response(&self, device_code: String, user_code: &UserCode) -> AuthorizationResponse {
        let uri = &self.config.verification_uri;
        AuthorizationResponse {
            device_code,
            user_code: user_code.to_string(),
            verification_uri: uri.clone(),
            verification_uri_complete: Some(format!("{uri}?user_code={user_code}")),
            expires_in: self.config.lifetime.as_secs(),
            interval: Some(u64::from(self.config.interval)),
        }
    }

    /// Finds the grant that a person's code names, to show it before they decide.
    ///
    /// # Errors
    ///
    /// Returns [`DecideError`] if no such code waits, or `who` was wrong too often.
    pub fn look_up(
        &self,
        store: &(impl DeviceStore + ?Sized),
        guesses: &Guesses,
        who: &Guesser<'_>,
        typed: &str,
        now: Timestamp,
    ) -> Result<Waiting, DecideError> {
        self.decide(store, guesses, who, typed, now, None)
    }

    /// Approves a grant in the name of `who.account`.
    ///
    /// # Security
    ///
    /// Call it only for a person's own click on a page that showed what
    /// [`Self::look_up`] found, in a request that [`crate::origin::check`] passed.
    ///
    /// # Errors
    ///
    /// As [`Self::look_up`].
    pub fn approve(
        &self,
        store: &(impl DeviceStore + ?Sized),
        guesses: &Guesses,
        who: &Guesser<'_>,
        typed: &str,
        now: Timestamp,
    ) -> Result<Waiting, DecideError> {
        let state = GrantState::Approved {
            by: who.account.to_owned(),
        };
        self.decide(store, guesses, who, typed, now, Some(state))
    }

    /// Denies a grant.
    ///
    /// # Errors
    ///
    /// As [`Self::look_up`].
    pub fn deny(
        &self,
        store: &(impl DeviceStore + ?Sized),
        guesses: &Guesses,
        who: &Guesser<'_>,
        typed: &str,
        now: Timestamp,
    ) -> Result<Waiting, DecideError> {
        self.decide(store, guesses, who, typed, now, Some(GrantState::Denied))
    }

    fn decide(
        &self,
        store: &(impl DeviceStore + ?Sized),
        guesses: &Guesses,
        who: &Guesser<'_>,
        typed: &str,
        now: Timestamp,
        decision: Option<GrantState>,
    ) -> Result<Waiting, DecideError> {
        guesses.begin(who, now)?;
        let Ok(user_code) = UserCode::parse(typed) else {
            return Err(DecideError::Unknown);
        };
        let mut waiting = None;
        store.change(&Find::UserCode(self.tag(&user_code)), &mut |grant| {
            if grant.state != GrantState::Pending || grant.expires <= now {
                return;
            }
            waiting = Some(Waiting {
                client_id: grant.client_id.clone(),
                details: grant.details.clone(),
                created: grant.created,
                expires: grant.expires,
            });
            if let Some(decision) = &decision {
                grant.state = decision.clone();
            }
        })?;
        let waiting = waiting.ok_or(DecideError::Unknown)?;
        guesses.right(who);
        Ok(waiting)
    }

    /// Whether a poll with this code by the holder of this key would be about anything:
    /// a grant of theirs that was not used yet and has not run out.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store cannot be asked.
    pub fn is_waited_for(
        &self,
        store: &(impl DeviceStore + ?Sized),
        client_id: &str,
        device_code: &str,
        thumbprint: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, Unavailable> {
        let mut waited_for = false;
        let find = Find::DeviceCode(sha256(device_code.as_bytes()));
        store.change(&find, &mut |grant| {
            waited_for = is_theirs(grant, client_id, thumbprint)
                && grant.state != GrantState::Consumed
                && grant.expires > now;
        })?;
        Ok(waited_for)
    }

    /// Answers a poll. An approval is handed out once.
    ///
    /// `thumbprint` is that of the key in the poll's [`super::dpop`] proof, verified
    /// and spent.
    ///
    /// # Errors
    ///
    /// Returns [`PollError`] in every other case.
    pub fn poll(
        &self,
        store: &(impl DeviceStore + ?Sized),
        client_id: &str,
        device_code: &str,
        thumbprint: Option<&str>,
        now: Timestamp,
    ) -> Result<Approval, PollError> {
        let mut outcome = Err(PollError::InvalidGrant);
        let find = Find::DeviceCode(sha256(device_code.as_bytes()));
        store.change(&find, &mut |grant| {
            // Another client, or one without the key, learns and changes nothing.
            outcome = if is_theirs(grant, client_id, thumbprint) {
                self.advance(grant, now)
            } else {
                Err(PollError::InvalidGrant)
            };
        })?;
        outcome
    }

    fn advance(&self, grant: &mut Grant, now: Timestamp) -> Result<Approval, PollError> {
        if grant.state == GrantState::Consumed {
            return Err(PollError::InvalidGrant);
        }
        if grant.expires <= now {
            return Err(PollError::Expired);
        }
        match &grant.state {
            GrantState::Approved { by } => {
                let approval = Approval {
                    account: by.clone(),
                    client_id: grant.client_id.clone(),
                    details: grant.details.clone(),
                    thumbprint: grant.thumbprint.clone(),
                };
                grant.state = GrantState::Consumed;
                Ok(approval)
            }
            GrantState::Denied => Err(PollError::Denied),
            GrantState::Consumed => Err(PollError::InvalidGrant),
            GrantState::Pending => Err(self.wait(grant, now)),
        }
    }

    /// Keeps the client to its interval (RFC 8628 section 3.5: 5 s more each time).
    fn wait(&self, grant: &mut Grant, now: Timestamp) -> PollError {
        let interval = Duration::from_secs(u64::from(grant.interval));
        let early = grant
            .last_poll
            .is_some_and(|last| now.since(last) + self.config.grace < interval);
        grant.last_poll = Some(now);
        if !early {
            return PollError::Pending;
        }
        grant.strikes += 1;
        grant.interval = grant.interval.saturating_add(5);
        if grant.strikes >= self.config.strikes {
            grant.state = GrantState::Denied;
            return PollError::Denied;
        }
        PollError::SlowDown {
            interval: grant.interval,
        }
    }

    fn tag(&self, code: &UserCode) -> [u8; 32] {
        *self.pepper.sign(code.as_bytes()).as_bytes()
    }
}

fn is_theirs(grant: &Grant, client_id: &str, thumbprint: Option<&str>) -> bool {
    let by_key = grant.thumbprint.is_none() || grant.thumbprint.as_deref() == thumbprint;
    grant.client_id == client_id && by_key
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}
