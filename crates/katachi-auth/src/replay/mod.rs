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
//! Several servers share `PostgresReplay` (feature `replay-postgres`) or `RedisReplay`
//! (feature `replay-redis`), which keep the same guarantee across all of them: points 1
//! to 5 hold with the store's clock in place of the process's, and whenever the store
//! may have forgotten something (a crash, a restart, a promoted replica, a restored
//! backup) it has a new epoch. They refuse when they are unsure or out of time.
//!
//! What it does not give: exactly-once *effects*. A server that crashes between
//! spending and acting has lost the request; the client cannot know, and must ask
//! again with a new nonce. To make that safe, commit an idempotency key in the same
//! transaction as the effect.
//!
//! A nonce is remembered as a fingerprint. Two that share one look alike, and the second
//! is refused: with the default limits full, one honest request in 2^46.
//!
//! # What holds it
//!
//! | clause | tests |
//! |---|---|
//! | 1 | `s09_of_256_copies_at_once_exactly_one_is_accepted`; `in_every_order_of_threads_one_copy_is_fresh`, under a scheduler that chooses the order; `the_store_agrees_with_a_twin_that_remembers_everything` |
//! | 2 | `s15_a_clock_that_steps_back_re_opens_nothing`, `s15_a_clock_that_steps_forward_and_back_recovers`, `in_every_order_a_clock_that_steps_back_costs_one_epoch_and_accepts_no_copy` |
//! | 3 | `s14_a_request_accepted_before_kill_9_is_not_accepted_after_the_restart`, `in_every_order_a_new_epoch_ends_what_the_old_one_accepted` |
//! | 4 | `s11_a_full_store_refuses_new_nonces_and_forgets_none`, `in_every_order_the_last_place_is_given_once`, `an_entry_takes_under_24_bytes_and_a_session_under_200`, `what_a_store_says_it_takes_is_what_it_takes_of_the_allocator` |
//! | 5 | `s12_a_stranger_s_request_allocates_nothing_at_all`, `s12_a_million_forgeries_leave_the_store_as_it_was` |
//! | shared | of `replay_postgres` and `replay_redis`: `s10 of 66 copies of a signed request over three nodes one has an effect`, `s16 killed and started again under load, nothing acts twice`, `s16 a promoted replica that lacks entries begins a new epoch`, `s16 failed over to a replica under load, nothing acts twice`, `s15 a clock that steps re-opens nothing` |

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
