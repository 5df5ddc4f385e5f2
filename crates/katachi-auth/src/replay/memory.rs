//! A replay store in the memory of one process.

use std::fmt;
use std::hash::{BuildHasher, Hasher as _, RandomState};
// The unit tests below run under a scheduler that tries the orders in which threads
// can take these locks.
#[cfg(test)]
use shuttle::sync::{Mutex, MutexGuard, RwLock};
#[cfg(not(test))]
use std::sync::{Mutex, MutexGuard, RwLock};

use super::table::{Bucket, Outcome, SessionLimits, Sessions};
use super::{Epoch, Nonce, ReplayStore, Spend, Spending, Unavailable};

/// Bounds of a [`MemoryReplay`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// How long a request can be accepted after it was created, in seconds: at least
    /// the window of every profile that spends here.
    pub window: u32,
    /// Live counter sessions of one key: how often one client may start in a window.
    pub sessions_per_key: usize,
    /// Counter sessions of all keys; under 200 bytes each.
    pub sessions: usize,
    /// Random nonces that one key may have in a window. Keys are counted in 4096
    /// groups, so that keys of one group share this number.
    pub entries_per_key: usize,
    /// Random nonces of all keys; under 24 bytes each.
    pub entries: usize,
}

impl Default for Limits {
    /// A window of 60 s, 8 and 131,072 sessions (25 MB), 4,096 and 262,144 entries (6 MB).
    fn default() -> Self {
        Self {
            window: 60,
            sessions_per_key: 8,
            sessions: 131_072,
            entries_per_key: 4096,
            entries: 262_144,
        }
    }
}

/// A replay store in the memory of one process. See [the guarantee](super).
///
/// Its life is its epoch: a process that starts again begins with a new one, and
/// clients sign again. Keys are spread over 16 locks by a keyed hash.
///
/// ```
/// use katachi_auth::clock::Timestamp;
/// use katachi_auth::replay::{Limits, MemoryReplay, NonceSequence, ReplayStore, Spend, Spending};
/// use katachi_auth::signature::KeyId;
///
/// let store = MemoryReplay::new(Limits::default())?;
/// let spending = Spending {
///     key_id: &KeyId::parse("agent-1")?,
///     nonce: &NonceSequence::start()?.draw(),
///     created: 1000,
///     expires: 1060,
///     epoch: &store.epoch()?,
///     now: Timestamp::from_unix(1000),
/// };
/// assert_eq!(store.spend(&spending)?, Spend::Fresh);
/// assert_eq!(store.spend(&spending)?, Spend::Replayed);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct MemoryReplay {
    limits: Limits,
    /// Fingerprints and table places cannot be foreseen without these keys.
    hashers: [RandomState; 2],
    epoch: RwLock<Epoch>,
    shards: [Mutex<Shard>; SHARDS],
}

const SHARDS: usize = 16;

#[derive(Debug)]
struct Shard {
    epoch: Epoch,
    /// Nothing created before this second is fresh. Never falls within an epoch.
    floor: u64,
    sessions: Sessions,
    buckets: Vec<Bucket>,
}

impl Shard {
    fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            floor: 0,
            sessions: Sessions::default(),
            buckets: Vec::new(),
        }
    }

    /// Drops the buckets that lie wholly below the floor.
    fn drop_old_buckets(&mut self) {
        let first = self.floor / Bucket::SECONDS;
        self.buckets.retain(|bucket| bucket.index >= first);
    }

    fn spend_random(&mut self, key: u64, fingerprint: u64, created: u64, limits: &Limits) -> Spend {
        self.drop_old_buckets();
        let index = created / Bucket::SECONDS;
        let mut home = None;
        let (mut all, mut of_group) = (0, 0);
        for (at, bucket) in self.buckets.iter().enumerate() {
            if bucket.index == index {
                home = Some(at);
            } else if bucket.contains(fingerprint) {
                // A nonce used again with another time is no less spent.
                return Spend::Replayed;
            }
            all += bucket.len();
            of_group += bucket.group(key);
        }
        if all >= limits.entries.div_ceil(SHARDS) || of_group >= limits.entries_per_key {
            let spent = home.is_some_and(|at| self.buckets[at].contains(fingerprint));
            return if spent { Spend::Replayed } else { Spend::Full };
        }
        let at = home.unwrap_or_else(|| {
            self.buckets.push(Bucket::new(index));
            self.buckets.len() - 1
        });
        if self.buckets[at].insert(key, fingerprint) {
            Spend::Fresh
        } else {
            Spend::Replayed
        }
    }
}

impl MemoryReplay {
    /// An empty store with a new epoch.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the operating system gives no randomness.
    pub fn new(limits: Limits) -> Result<Self, Unavailable> {
        let epoch = Epoch::generate()?;
        Ok(Self {
            limits,
            hashers: [RandomState::new(), RandomState::new()],
            epoch: RwLock::new(epoch),
            shards: std::array::from_fn(|_| Mutex::new(Shard::new(epoch))),
        })
    }

    /// Takes a new epoch and forgets everything: every signature made so far is dead.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the operating system gives no randomness.
    pub fn start_new_epoch(&self) -> Result<Epoch, Unavailable> {
        self.replace_epoch(None)
    }

    /// Replaces the epoch, if `only_if` is none or still the current one.
    fn replace_epoch(&self, only_if: Option<Epoch>) -> Result<Epoch, Unavailable> {
        // All locks, always in this order, so that no two replacements interleave.
        let mut current = self.epoch.write().map_err(|_| poisoned())?;
        if only_if.is_some_and(|seen| seen != *current) {
            return Ok(*current);
        }
        let fresh = Epoch::generate()?;
        let mut shards = Vec::with_capacity(SHARDS);
        for shard in &self.shards {
            shards.push(lock(shard)?);
        }
        *current = fresh;
        for shard in &mut shards {
            **shard = Shard::new(fresh);
        }
        Ok(fresh)
    }

    /// Bytes of heap that the memory of nonces takes now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.sum(|shard| {
            shard.sessions.bytes() + shard.buckets.iter().map(Bucket::bytes).sum::<usize>()
        })
    }

    /// Counter sessions and random nonces remembered now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sum(|shard| {
            shard.sessions.len() + shard.buckets.iter().map(Bucket::len).sum::<usize>()
        })
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn sum(&self, of: impl Fn(&Shard) -> usize) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(shard).map_or(0, |shard| of(&shard)))
            .sum()
    }
}

impl ReplayStore for MemoryReplay {
    fn epoch(&self) -> Result<Epoch, Unavailable> {
        self.epoch
            .read()
            .map(|epoch| *epoch)
            .map_err(|_| poisoned())
    }

    fn spend(&self, spending: &Spending<'_>) -> Result<Spend, Unavailable> {
        let key_id = spending.key_id.as_str();
        let key = self.hashers[0].hash_one(key_id);
        let now = spending.now.as_unix();
        let window = u64::from(self.limits.window);

        let mut shard = lock(&self.shards[key as usize % SHARDS])?;
        if *spending.epoch != shard.epoch {
            return Ok(Spend::StaleEpoch);
        }
        if now < shard.floor {
            // The clock stepped back below everything that could be accepted. Only a
            // new epoch may lower the floor: it kills all that was signed before.
            let seen = shard.epoch;
            drop(shard);
            self.replace_epoch(Some(seen))?;
            return Ok(Spend::StaleEpoch);
        }
        shard.floor = shard.floor.max(now.saturating_sub(window));
        let created = spending.created;
        // Too old to be remembered, or so far ahead that it would be remembered too long.
        if created < shard.floor || created > now.saturating_add(window) {
            return Ok(Spend::Replayed);
        }
        match *spending.nonce {
            Nonce::Counter { session, counter } => {
                let Ok(seconds) = u32::try_from(created) else {
                    return Ok(Spend::Replayed);
                };
                let floor = shard.floor;
                let limits = SessionLimits {
                    per_key: self.limits.sessions_per_key,
                    total: self.limits.sessions.div_ceil(SHARDS),
                };
                let session = u64::from_be_bytes(session);
                let outcome = shard
                    .sessions
                    .spend(key, session, counter, seconds, floor, limits);
                Ok(match outcome {
                    Outcome::Fresh => Spend::Fresh,
                    Outcome::Replayed => Spend::Replayed,
                    Outcome::Full => Spend::Full,
                })
            }
            Nonce::Random(bytes) => {
                let fingerprint = self.fingerprint(key, bytes);
                Ok(shard.spend_random(key, fingerprint, created, &self.limits))
            }
        }
    }
}

impl MemoryReplay {
    /// A keyed fingerprint.
    fn fingerprint(&self, key: u64, nonce: [u8; 16]) -> u64 {
        let mut whole = [0; 24];
        whole[..8].copy_from_slice(&key.to_ne_bytes());
        whole[8..].copy_from_slice(&nonce);
        let mut hasher = self.hashers[1].build_hasher();
        hasher.write(&whole);
        hasher.finish()
    }
}

impl fmt::Debug for MemoryReplay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryReplay")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

fn lock(shard: &Mutex<Shard>) -> Result<MutexGuard<'_, Shard>, Unavailable> {
    shard.lock().map_err(|_| poisoned())
}

/// A thread panicked while it held a lock: what it left behind is not to be trusted.
fn poisoned() -> Unavailable {
    Unavailable::new("a thread panicked inside the replay store")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use shuttle::{check_pct, check_random, thread};

    use super::*;
    use crate::clock::Timestamp;
    use crate::signature::KeyId;

    const NOW: u64 = 1_800_000_000;

    /// Runs `test` under many schedules: random ones, and ones with few switches.
    fn explore(test: fn()) {
        let long = std::env::var_os("KATACHI_LONG").is_some_and(|long| long == "1");
        let schedules = if long { 50_000 } else { 500 };
        check_random(test, schedules);
        check_pct(test, schedules, 3);
    }

    fn store(limits: Limits) -> Arc<MemoryReplay> {
        Arc::new(MemoryReplay::new(limits).unwrap())
    }

    fn spend(store: &MemoryReplay, nonce: Nonce, epoch: Epoch, now: u64) -> Spend {
        let spending = Spending {
            key_id: &KeyId::parse("k").unwrap(),
            nonce: &nonce,
            created: now,
            expires: now + 60,
            epoch: &epoch,
            now: Timestamp::from_unix(now),
        };
        store.spend(&spending).unwrap()
    }

    const FORMS: [Nonce; 2] = [
        Nonce::Random([7; 16]),
        Nonce::Counter {
            session: [7; 8],
            counter: 1,
        },
    ];

    fn fresh(outcomes: &[Spend]) -> usize {
        outcomes
            .iter()
            .filter(|&&spent| spent == Spend::Fresh)
            .count()
    }

    #[test]
    fn in_every_order_of_threads_one_copy_is_fresh() {
        explore(|| {
            for nonce in FORMS {
                let store = store(Limits::default());
                let epoch = store.epoch().unwrap();
                let threads: Vec<_> = (0..3)
                    .map(|_| {
                        let store = store.clone();
                        thread::spawn(move || spend(&store, nonce, epoch, NOW))
                    })
                    .collect();
                let outcomes: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
                assert_eq!(fresh(&outcomes), 1, "{outcomes:?}");
            }
        });
    }

    #[test]
    fn in_every_order_a_new_epoch_ends_what_the_old_one_accepted() {
        explore(|| {
            let store = store(Limits::default());
            let epoch = store.epoch().unwrap();
            let copies: Vec<_> = (0..2)
                .map(|_| {
                    let store = store.clone();
                    thread::spawn(move || spend(&store, FORMS[0], epoch, NOW))
                })
                .collect();
            let changing = {
                let store = store.clone();
                thread::spawn(move || {
                    let next = store.start_new_epoch().unwrap();
                    // Nothing signed for the old epoch is accepted after it ended.
                    assert_eq!(spend(&store, FORMS[1], epoch, NOW), Spend::StaleEpoch);
                    next
                })
            };
            let outcomes: Vec<_> = copies.into_iter().map(|t| t.join().unwrap()).collect();
            let next = changing.join().unwrap();
            assert!(fresh(&outcomes) <= 1, "{outcomes:?}");
            assert_eq!(store.epoch().unwrap(), next);
            assert_eq!(spend(&store, FORMS[0], next, NOW), Spend::Fresh);
        });
    }

    #[test]
    fn in_every_order_a_clock_that_steps_back_costs_one_epoch_and_accepts_no_copy() {
        explore(|| {
            let store = store(Limits::default());
            let first = store.epoch().unwrap();
            assert_eq!(spend(&store, FORMS[0], first, NOW), Spend::Fresh);
            // Two threads see the clock ten minutes back, a third still does not.
            let threads: Vec<_> = [NOW - 600, NOW - 600, NOW]
                .map(|now| {
                    let store = store.clone();
                    thread::spawn(move || {
                        let mut accepted = Vec::new();
                        for _ in 0..2 {
                            let epoch = store.epoch().unwrap();
                            if spend(&store, FORMS[0], epoch, now) == Spend::Fresh {
                                accepted.push((epoch, now));
                            }
                        }
                        accepted
                    })
                })
                .into();
            let mut accepted = HashMap::from([((first, NOW), 1)]);
            for thread in threads {
                for request in thread.join().unwrap() {
                    *accepted.entry(request).or_insert(0) += 1;
                }
            }
            // Another epoch or time is another signature. Of each, one at most.
            assert!(accepted.values().all(|&times| times == 1), "{accepted:?}");
        });
    }

    #[test]
    fn in_every_order_the_last_place_is_given_once() {
        explore(|| {
            let store = store(Limits {
                entries: SHARDS,
                sessions_per_key: 1,
                ..Limits::default()
            });
            let epoch = store.epoch().unwrap();
            let nonces = [
                Nonce::Random([1; 16]),
                Nonce::Random([2; 16]),
                Nonce::Counter {
                    session: [1; 8],
                    counter: 0,
                },
                Nonce::Counter {
                    session: [2; 8],
                    counter: 0,
                },
            ];
            let threads = nonces.map(|nonce| {
                let store = store.clone();
                thread::spawn(move || spend(&store, nonce, epoch, NOW))
            });
            let outcomes: Vec<_> = threads.map(|t| t.join().unwrap()).into();
            for form in outcomes.chunks(2) {
                assert_eq!(fresh(form), 1, "{outcomes:?}");
                assert!(form.contains(&Spend::Full), "{outcomes:?}");
            }
            // What was accepted is still known.
            for (nonce, outcome) in nonces.into_iter().zip(outcomes) {
                if outcome == Spend::Fresh {
                    assert_eq!(spend(&store, nonce, epoch, NOW), Spend::Replayed);
                }
            }
        });
    }
}
