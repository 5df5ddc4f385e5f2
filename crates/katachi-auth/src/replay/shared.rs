//! What the stores that several servers share have in common.
//!
//! Time is cut into buckets of half a window. A request may be half as old as four
//! buckets or as far ahead, so eight places, used in turn, hold every bucket that can
//! matter, and a place is emptied only when all in it lies below the floor. The clock
//! is the store's, so no server with a wrong clock re-opens anything.

use ring::digest::{Context, SHA256};

use super::{Epoch, Spend, Spending, Unavailable};

/// Bounds of a store that several servers share. All of them give the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SharedLimits {
    /// How long a request can be accepted after it was created, in seconds: at least
    /// the window of every profile that spends here, and at least 2.
    pub window: u32,
    /// Requests that half a window may have. The store keeps eight times as many at
    /// most, of under 200 bytes each.
    pub requests: u32,
    /// Requests that half a window may have from one key.
    pub requests_per_key: u32,
}

impl Default for SharedLimits {
    /// A window of 60 s; 262,144 requests in 30 s, 4,096 of one key.
    fn default() -> Self {
        Self {
            window: 60,
            requests: 262_144,
            requests_per_key: 4096,
        }
    }
}

impl SharedLimits {
    /// Seconds of a bucket.
    pub(super) fn bucket(&self) -> u32 {
        self.window.div_ceil(2).max(1)
    }
}

/// What is kept of a nonce and of its key.
pub(super) struct Trace {
    pub(super) nonce: [u8; 16],
    pub(super) key: [u8; 8],
}

impl Trace {
    pub(super) fn of(spending: &Spending<'_>) -> Self {
        let mut context = Context::new(&SHA256);
        let key = spending.key_id.as_str().as_bytes();
        context.update(&(key.len() as u64).to_be_bytes());
        context.update(key);
        let of_key = context.clone().finish();
        context.update(&spending.nonce.encode());
        let of_both = context.finish();
        Self {
            nonce: first(of_both.as_ref()),
            key: first(of_key.as_ref()),
        }
    }
}

fn first<const N: usize>(digest: &[u8]) -> [u8; N] {
    std::array::from_fn(|at| digest[at])
}

/// What a store says to a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Answer {
    Settled(Spend),
    /// The store may have forgotten something: it needs a new epoch.
    NeedsEpoch,
    /// The next buckets have no place yet.
    NeedsRoom,
}

impl Answer {
    pub(super) fn read(text: &str) -> Result<Self, Unavailable> {
        Ok(match text {
            "fresh" => Self::Settled(Spend::Fresh),
            "replayed" => Self::Settled(Spend::Replayed),
            "full" => Self::Settled(Spend::Full),
            "stale" => Self::Settled(Spend::StaleEpoch),
            "epoch" => Self::NeedsEpoch,
            "room" => Self::NeedsRoom,
            "window" => {
                return Err(Unavailable::new(
                    "another server uses this store with another window",
                ));
            }
            _ => return Err(Unavailable::new("the store answers something unknown")),
        })
    }
}

pub(super) fn epoch(bytes: &[u8]) -> Result<Epoch, Unavailable> {
    let bytes = bytes
        .try_into()
        .map_err(|_| Unavailable::new("the store's epoch is damaged"))?;
    Ok(Epoch::from_bytes(bytes))
}
