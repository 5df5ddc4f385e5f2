//! Why a request was refused: one word for the peer, the whole story for the operator.

use std::fmt;
use std::sync::Arc;

use super::{InputError, KnownKey, RequestBinding};
use crate::replay::Unavailable;

/// A refused request.
///
/// [`Self::answer`] is what the peer may hear. [`fmt::Display`] is for the log.
pub struct Refusal {
    reason: Reason,
    proof: Option<Box<Proof>>,
}

/// Who was refused, known only after a valid MAC.
pub(crate) struct Proof {
    pub(crate) key: Arc<KnownKey>,
    pub(crate) binding: RequestBinding,
}

/// The rule that a request broke, or what we could not do.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reason {
    /// A part is longer than any valid request's.
    Oversized(&'static str),
    /// A header that the profile demands is absent.
    Absent(&'static str),
    /// A header stands there more than once.
    Repeated(&'static str),
    /// A part is not of the form it must have.
    Malformed(&'static str),
    /// `Signature-Input` is not canonical for the profile.
    Input(InputError),
    /// A header of the profile is present and not covered, or covered and absent.
    Uncovered,
    /// The authority is absent, ambiguous, or not a name of this server.
    Authority,
    /// No key has this identifier.
    UnknownKey,
    /// The signature is not by the key over these bytes.
    Signature,
    /// The key was revoked.
    Revoked,
    /// The request was made outside the window.
    Skew {
        /// Server's time minus the request's `created`, in seconds.
        age: i64,
    },
    /// `expires` is not after `created`, or further away than the window.
    Lifetime,
    /// The request was made for another epoch.
    StaleEpoch,
    /// The request was made on another TLS connection.
    Channel,
    /// The body is longer than this server collects.
    TooLarge,
    /// The body did not arrive whole.
    Unreadable,
    /// The body is not the one that was signed.
    Digest,
    /// The nonce was spent before.
    Replayed,
    /// The replay store has no room for this key now.
    Full,
    /// The replay store cannot be asked.
    Store(Unavailable),
    /// The profile binds requests to their TLS connection, and the caller named none.
    NoChannel,
}

/// Whose fault a refusal is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The sender's, or of someone between.
    Peer,
    /// Nobody's: a store or a quota.
    Machine,
    /// Of the program that calls this crate.
    Caller,
}

/// What a peer may be told.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Answer {
    /// 400: larger than any request here, addressed ambiguously, or cut off. Told to anyone.
    BadRequest,
    /// 401, the same for every other fault that a stranger can produce.
    Refused,
    /// 401: the holder's clock is off; `created` of the signed answer is our time.
    Skew,
    /// 401: sign again for the current epoch, which the answer carries.
    StaleEpoch,
    /// 401: the key was revoked.
    Revoked,
    /// 401: this very request was accepted before.
    Replayed,
    /// 413: the body is longer than this server collects.
    TooLarge,
    /// 429: ask again later.
    Busy,
    /// 503: ask again later.
    Unavailable,
    /// 500: this server is set up wrongly.
    Misconfigured,
}

impl Answer {
    /// The status code.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Refused | Self::Skew | Self::StaleEpoch | Self::Revoked | Self::Replayed => 401,
            Self::TooLarge => 413,
            Self::Busy => 429,
            Self::Unavailable => 503,
            Self::Misconfigured => 500,
        }
    }

    /// The word for the answer's body.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Refused => "refused",
            Self::Skew => "skew",
            Self::StaleEpoch => "stale_epoch",
            Self::Revoked => "revoked",
            Self::Replayed => "replayed",
            Self::TooLarge => "too_large",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Misconfigured => "misconfigured",
        }
    }

    /// Reads [`Self::code`] back.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        [
            Self::BadRequest,
            Self::Refused,
            Self::Skew,
            Self::StaleEpoch,
            Self::Revoked,
            Self::Replayed,
            Self::TooLarge,
            Self::Busy,
            Self::Unavailable,
            Self::Misconfigured,
        ]
        .into_iter()
        .find(|answer| answer.code() == code)
    }
}

impl Refusal {
    pub(crate) const fn stranger(reason: Reason) -> Self {
        Self {
            reason,
            proof: None,
        }
    }

    pub(crate) fn known(reason: Reason, proof: Proof) -> Self {
        Self {
            reason,
            proof: Some(Box::new(proof)),
        }
    }

    /// The rule that was broken. For the operator, never for the peer.
    #[must_use]
    pub const fn reason(&self) -> &Reason {
        &self.reason
    }

    /// Whose fault it is.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self.reason {
            Reason::Full | Reason::Store(_) => Fault::Machine,
            Reason::NoChannel => Fault::Caller,
            _ => Fault::Peer,
        }
    }

    /// What the peer may be told.
    ///
    /// The answers after [`Answer::Refused`] are given only after a valid MAC; sign
    /// them with [`super::sign_response`] for [`Self::authenticated`].
    #[must_use]
    pub const fn answer(&self) -> Answer {
        match self.reason {
            Reason::Oversized(_) | Reason::Authority | Reason::Unreadable => Answer::BadRequest,
            Reason::NoChannel => Answer::Misconfigured,
            _ if self.proof.is_none() => Answer::Refused,
            Reason::Skew { .. } => Answer::Skew,
            Reason::StaleEpoch => Answer::StaleEpoch,
            Reason::Revoked => Answer::Revoked,
            Reason::Replayed => Answer::Replayed,
            Reason::TooLarge => Answer::TooLarge,
            Reason::Full => Answer::Busy,
            Reason::Store(_) => Answer::Unavailable,
            _ => Answer::Refused,
        }
    }

    /// The key that really made the request, and the request to bind an answer to;
    /// none if the MAC was not valid.
    #[must_use]
    pub fn authenticated(&self) -> Option<(&Arc<KnownKey>, &RequestBinding)> {
        self.proof
            .as_ref()
            .map(|proof| (&proof.key, &proof.binding))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oversized(part) => write!(f, "{part} is longer than any valid one"),
            Self::Absent(header) => write!(f, "{header} is absent"),
            Self::Repeated(header) => write!(f, "{header} stands there more than once"),
            Self::Malformed(part) => write!(f, "{part} is malformed"),
            Self::Input(error) => write!(f, "signature-input: {error}"),
            Self::Uncovered => f.write_str("a header is present and not covered, or the reverse"),
            Self::Authority => f.write_str("not addressed to a name of this server"),
            Self::UnknownKey => f.write_str("no such key"),
            Self::Signature => f.write_str("the signature is not valid for these bytes"),
            Self::Revoked => f.write_str("the key was revoked"),
            Self::Skew { age } => write!(f, "outside the window: made {age} s ago by our clock"),
            Self::Lifetime => f.write_str("expires is not within the window after created"),
            Self::StaleEpoch => f.write_str("signed for another epoch"),
            Self::Channel => f.write_str("signed for another TLS connection"),
            Self::TooLarge => f.write_str("the body is longer than is collected here"),
            Self::Unreadable => f.write_str("the body did not arrive whole"),
            Self::Digest => f.write_str("the body is not the one that was signed"),
            Self::Replayed => f.write_str("spent before"),
            Self::Full => f.write_str("the replay store has no room for this key"),
            Self::Store(error) => write!(f, "replay store: {error}"),
            Self::NoChannel => f.write_str(
                "the profile binds to the TLS connection: give Context::channel its exporter value",
            ),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = match self.fault() {
            Fault::Peer => "peer",
            Fault::Machine => "machine",
            Fault::Caller => "this program",
        };
        write!(f, "request refused (fault: {fault}")?;
        match &self.proof {
            Some(proof) => write!(f, ", key {}): {}", proof.key.id, self.reason),
            None => write!(f, "): {}", self.reason),
        }
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusal")
            .field("reason", &self.reason)
            .field("key", &self.proof.as_ref().map(|proof| &proof.key.id))
            .finish()
    }
}

impl std::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.reason {
            Reason::Store(error) => Some(error),
            Reason::Input(error) => Some(error),
            _ => None,
        }
    }
}
