//! At most one acceptance for each nonce, in bounded memory.
//!
//! # The guarantee
//!
//! One signed request is accepted at most once: of all copies of it, at any time and
//! anywhere, [`ReplayStore::spend`] answers [`Spend::Fresh`] to one. (A client that
//! breaks the rules and signs *another* request with the same nonce is refused too,
//! as long as the first could still be accepted.) In detail, for [`MemoryReplay`]:
//!
//! 1. *Concurrency.* Of any number of copies at once, one is fresh.
//! 2. *Clock steps.* A request is fresh only if it was created at or after a floor
//!    that never falls within an epoch. A clock that steps back re-opens nothing.
//!    If it steps back so far that no honest request could be created above the
//!    floor, the store takes a new epoch and forgets: every older signature is dead.
//! 3. *Restart and lost state.* A new store is a new [`Epoch`]; requests cover the
//!    epoch, so what was signed for the old one is refused as
//!    [`Spend::StaleEpoch`]. The epoch is compared in the same step as the nonce
//!    is recorded.
//! 4. *Memory.* Bounded by [`Limits`]. A full store refuses new nonces
//!    ([`Spend::Full`]) and never forgets a live one to make room.
//! 5. *Strangers cost nothing.* The store is asked only after the signature was
//!    verified.
//!
//! What it does not give: exactly-once *effects*. A server that crashes between
//! spending and acting has lost the request; the client cannot know, and must ask
//! again with a new nonce. To make that safe, commit an idempotency key in the same
//! transaction as the effect.

mod epoch;
mod memory;
mod nonce;
#[cfg(feature = "replay-postgres")]
mod postgres;
#[cfg(feature = "replay-redis")]
mod redis;
#[cfg(any(feature = "replay-postgres", feature = "replay-redis"))]
mod shared;
mod table;

use std::fmt;

use crate::clock::Timestamp;
use crate::signature::KeyId;

pub use epoch::{Epoch, ParseEpochError};
pub use memory::{Limits, MemoryReplay};
pub use nonce::{Nonce, NonceSequence, ParseNonceError};
#[cfg(feature = "replay-postgres")]
pub use postgres::PostgresReplay;
#[cfg(feature = "replay-redis")]
pub use redis::RedisReplay;
#[cfg(any(feature = "replay-postgres", feature = "replay-redis"))]
pub use shared::SharedLimits;

/// What a store is asked to remember. Every field was covered by a verified signature,
/// except `now`, which is the server's.
#[derive(Clone, Copy, Debug)]
pub struct Spending<'a> {
    /// Whose nonce it is.
    pub key_id: &'a KeyId,
    /// The nonce.
    pub nonce: &'a Nonce,
    /// When the request says it was made, in seconds since 1970.
    pub created: u64,
    /// When the request says it ends, in seconds since 1970.
    pub expires: u64,
    /// The epoch that the request was made for.
    pub epoch: &'a Epoch,
    /// The server's time.
    pub now: Timestamp,
}

/// What became of a nonce.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spend {
    /// Never seen before; it is recorded now.
    Fresh,
    /// Spent before, or so old that nobody can say.
    Replayed,
    /// No room to remember it, so it is refused. Ask again later.
    Full,
    /// Made for another life of this store.
    StaleEpoch,
}

/// Remembers which nonces were already spent.
///
/// # Security
///
/// Answering [`Spend::Fresh`] twice for one key, nonce and time of creation lets an
/// attacker replay a request. Any other answer for a fresh nonce only costs the caller a retry, so
/// an implementation that is unsure never answers `Fresh`. Compare the epoch in the
/// same atomic step that records the nonce.
pub trait ReplayStore: Send + Sync {
    /// The epoch that requests must cover now.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store cannot be asked.
    fn epoch(&self) -> Result<Epoch, Unavailable>;

    /// Spends a nonce and remembers it at least until it could no longer be accepted.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store cannot be asked; the request is then
    /// refused.
    fn spend(&self, spending: &Spending<'_>) -> Result<Spend, Unavailable>;
}

impl<S: ReplayStore + ?Sized> ReplayStore for std::sync::Arc<S> {
    fn epoch(&self) -> Result<Epoch, Unavailable> {
        (**self).epoch()
    }

    fn spend(&self, spending: &Spending<'_>) -> Result<Spend, Unavailable> {
        (**self).spend(spending)
    }
}

/// A [`ReplayStore`] that answers later: one that lies across a network.
///
/// # Security
///
/// As for [`ReplayStore`]. A call that is cancelled may or may not have spent the nonce;
/// the request is then lost and its client signs another.
pub trait AsyncReplayStore: Send + Sync {
    /// The epoch that requests must cover now.
    fn epoch(&self) -> impl Future<Output = Result<Epoch, Unavailable>> + Send;

    /// Spends a nonce and remembers it at least until it could no longer be accepted.
    fn spend(
        &self,
        spending: &Spending<'_>,
    ) -> impl Future<Output = Result<Spend, Unavailable>> + Send;
}

/// Something outside (a store, the system's randomness) gave no answer.
pub struct Unavailable(Box<dyn std::error::Error + Send + Sync>);

impl Unavailable {
    /// Wraps the reason, which is for the operator and never for the peer.
    pub fn new(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Debug for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Unavailable").field(&self.0).finish()
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer from what is needed here: {}", self.0)
    }
}

impl std::error::Error for Unavailable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.0.as_ref())
    }
}
