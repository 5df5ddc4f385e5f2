//! One sign-in: the record between leaving and coming back.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_crypto::SecretString;
use katachi_crypto::mac::HmacKey;
use serde::{Deserialize, Serialize};

use super::id_token::IdTokenError;
use super::{Callback, FetchError};
use crate::clock::Timestamp;
use crate::replay::Unavailable;
use crate::session::{Token, TokenDigest};

/// How long a person has at the provider.
pub(super) const LIFETIME: Duration = Duration::from_secs(600);

/// A sign-in under way, as the server keeps it: digests alone, so a stolen table lets
/// nobody in.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// Digest of `state`.
    pub state: TokenDigest,
    /// Digest of the cookie that the browser got.
    pub cookie: TokenDigest,
    /// The provider, by issuer.
    pub provider: String,
    /// Where to go afterwards.
    pub return_to: ReturnTo,
    /// When it ends.
    pub expires: Timestamp,
}

/// Keeps sign-ins under way.
///
/// # Security
///
/// [`Self::take`] must be atomic: of two calls for one `state` only one gets the record.
/// In SQL it is `DELETE … RETURNING`.
pub trait LoginStore: Send + Sync {
    /// Stores a record; false if there is no room. `now` lets it drop expired ones.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store cannot be asked.
    fn insert(&self, pending: Pending, now: Timestamp) -> Result<bool, Unavailable>;

    /// Removes the record of `state` and hands it out.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store cannot be asked.
    fn take(&self, state: &TokenDigest) -> Result<Option<Pending>, Unavailable>;
}

/// Sign-ins under way in the memory of one process.
#[derive(Debug)]
pub struct MemoryLogins {
    capacity: usize,
    table: Mutex<HashMap<TokenDigest, Pending>>,
}

impl MemoryLogins {
    /// An empty store for at most `capacity` sign-ins at a time.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            table: Mutex::default(),
        }
    }

    fn lock(
        &self,
    ) -> Result<std::sync::MutexGuard<'_, HashMap<TokenDigest, Pending>>, Unavailable> {
        self.table
            .lock()
            .map_err(|_| Unavailable::new("a thread panicked inside the login store"))
    }
}

impl LoginStore for MemoryLogins {
    fn insert(&self, pending: Pending, now: Timestamp) -> Result<bool, Unavailable> {
        let mut table = self.lock()?;
        if table.len() >= self.capacity {
            table.retain(|_, pending| pending.expires > now);
        }
        let room = table.len() < self.capacity;
        if room {
            table.insert(pending.state, pending);
        }
        Ok(room)
    }

    fn take(&self, state: &TokenDigest) -> Result<Option<Pending>, Unavailable> {
        Ok(self.lock()?.remove(state))
    }
}

/// A path of our own to return to: never another site's page.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReturnTo(String);

/// Not a path of ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a path of this site: `/…` in printable ASCII was expected")]
pub struct ReturnToError;

impl ReturnTo {
    /// Longest path, in bytes.
    pub const MAX_LEN: usize = 1024;

    /// The front page, `/`.
    #[must_use]
    pub fn root() -> Self {
        Self("/".into())
    }

    /// Reads a path with or without a query from untrusted text.
    ///
    /// ```
    /// use katachi_auth::oauth::ReturnTo;
    ///
    /// assert_eq!(ReturnTo::parse("/agents?page=2")?.as_str(), "/agents?page=2");
    /// for elsewhere in ["//evil.example", "/\\evil.example", "https://evil.example", ""] {
    ///     assert!(ReturnTo::parse(elsewhere).is_err());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`ReturnToError`] for whatever a browser could take for another host.
    pub fn parse(text: &str) -> Result<Self, ReturnToError> {
        let path = text.strip_prefix('/').ok_or(ReturnToError)?;
        // Browsers read `\` as `/`, and drop tabs and line breaks before they look.
        let plain = text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
        if path.starts_with('/') || !plain || text.len() > Self::MAX_LEN {
            return Err(ReturnToError);
        }
        Ok(Self(text.to_owned()))
    }

    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ReturnTo {
    type Error = ReturnToError;

    fn try_from(text: String) -> Result<Self, ReturnToError> {
        Self::parse(&text)
    }
}

impl From<ReturnTo> for String {
    fn from(path: ReturnTo) -> Self {
        path.0
    }
}

/// A sign-in that has begun.
pub struct Begun {
    /// Where to send the browser.
    pub url: String,
    /// What the browser must bring back, best by [`Token::set_cookie`] with a name of its
    /// own and 600 seconds.
    pub cookie: Token,
    pub(super) state: TokenDigest,
}

impl Begun {
    /// Whether a redirect belongs to this sign-in. Only a program that receives the
    /// redirect itself needs to ask; [`super::Provider::finish`] checks it anyway.
    #[must_use]
    pub fn owns(&self, callback: &Callback) -> bool {
        self.state == TokenDigest::of(callback.state())
    }
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Begun { .. }")
    }
}

/// Why a sign-in could not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BeginError {
    /// 429: too many are under way.
    #[error("too many sign-ins are under way")]
    Full,
    /// 503: the store or the system's randomness gave no answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why nobody signed in. The person reads "that did not work, try again"; the rest is for
/// the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// `state` was never made here, was used, is too old, or belongs to another browser.
    #[error("no such sign-in is under way in this browser")]
    State,
    /// The sign-in was begun at another provider, or the redirect says that another sent
    /// it (RFC 9207).
    #[error("the answer is not from the provider that was asked")]
    MixedUp,
    /// The person or the provider said no.
    #[error("the provider refused: {0}")]
    Denied(String),
    /// The provider did not accept the code: used before, too old, or of another sign-in.
    #[error("the provider did not accept the code: {0}")]
    Code(String),
    /// The ID token is not to be believed.
    #[error(transparent)]
    IdToken(#[from] IdTokenError),
    /// The provider's answer makes no sense.
    #[error("the provider's answer makes no sense: {0}")]
    Answer(&'static str),
    /// The provider could not be asked.
    #[error("the provider could not be asked: {0}")]
    Fetch(#[from] FetchError),
    /// The store gave no answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl LoginError {
    /// The status code of the answer.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::State | Self::MixedUp | Self::Code(_) | Self::IdToken(_) => 400,
            Self::Denied(_) => 403,
            Self::Answer(_) | Self::Fetch(_) => 502,
            Self::Unavailable(_) => 503,
        }
    }
}

/// A value of this sign-in that nobody without the cookie can compute.
pub(super) fn derive(cookie: &str, purpose: &str, state: &str) -> SecretString {
    // A cookie is 256 random bits; HMAC is a PRF keyed by it.
    let tag = HmacKey::from_slice(cookie.as_bytes())
        .sign(format!("katachi sign-in {purpose}\n{state}").as_bytes());
    SecretString::new(URL_SAFE_NO_PAD.encode(tag.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l16_a_way_back_that_leads_elsewhere_is_refused() {
        let long = format!("/{}", "a".repeat(ReturnTo::MAX_LEN));
        for elsewhere in [
            "//evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "/\t/evil.example",
            "/\n/evil.example",
            " //evil.example",
            "https://evil.example",
            "https:evil.example",
            "javascript:alert(1)",
            "agents",
            "?next=/",
            "/agents\r\nSet-Cookie: a=b",
            "/ü",
            &long,
            "",
        ] {
            assert_eq!(
                ReturnTo::parse(elsewhere),
                Err(ReturnToError),
                "{elsewhere:?}"
            );
        }
        for ours in ["/", "/agents?page=2", "/a//b", "/%2F%2Fevil.example"] {
            assert_eq!(ReturnTo::parse(ours).unwrap().as_str(), ours);
        }
    }
}
