//! Token buckets, one for each key, in bounded memory.
//!
//! A key that has waited long enough is as if it had never been seen, so that
//! forgetting it changes nothing. When the table is full of keys that have not,
//! unknown keys are refused: an attacker with many addresses can make the relay
//! unfriendly to newcomers, and not make it forget who is attacking.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::records::Records;
use crate::records::throttles::{self, Rate};

/// A [`Throttle`], counted over all nodes where there are several.
#[derive(Debug)]
pub(crate) struct Limiter<K> {
    rate: Rate,
    throttle: Throttle<K>,
    /// Where it is counted, if not here.
    shared: Option<Records>,
}

impl<K: Eq + Hash + ToString> Limiter<K> {
    /// `what` tells apart what is limited.
    pub(crate) fn new(what: &'static str, throttle: Throttle<K>, shared: Option<&Records>) -> Self {
        let Throttle { burst, every, .. } = throttle;
        Self {
            rate: Rate { what, burst, every },
            throttle,
            shared: shared.cloned(),
        }
    }

    /// Takes one token of `key`.
    pub(crate) async fn take(&self, key: K) -> Result<(), Failure> {
        let taken = match &self.shared {
            None => self.throttle.take(key, Instant::now()),
            Some(records) => {
                let (rate, who) = (self.rate, key.to_string());
                let taken = records.write(move |tx| throttles::take(tx, rate, &who));
                taken.await.map_err(Failure::internal)?
            }
        };
        taken.map_err(Failure::wait)
    }
}

/// Lets each key do something `burst` times at once and then once every
/// `every`.
#[derive(Debug)]
pub(crate) struct Throttle<K> {
    burst: u32,
    every: Duration,
    most_keys: usize,
    keys: Mutex<Keys<K>>,
}

#[derive(Debug)]
struct Keys<K> {
    /// When each key's bucket is full again.
    full_at: HashMap<K, Instant>,
    /// When those who waited were last looked for.
    swept: Option<Instant>,
}

/// Looking for those who waited takes a look at all: not for each that comes.
const SWEEP: Duration = Duration::from_secs(1);

impl<K: Eq + Hash> Throttle<K> {
    pub(crate) fn new(burst: u32, every: Duration) -> Self {
        Self {
            burst,
            every,
            most_keys: 65_536,
            keys: Mutex::new(Keys {
                full_at: HashMap::new(),
                swept: None,
            }),
        }
    }

    /// Takes one token, or says how long to wait for the next.
    pub(crate) fn take(&self, key: K, now: Instant) -> Result<(), Duration> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let Keys { full_at, swept } = &mut *keys;
        if full_at.len() >= self.most_keys && !full_at.contains_key(&key) {
            if swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP) {
                full_at.retain(|_, at| *at > now);
                *swept = Some(now);
            }
            if full_at.len() >= self.most_keys {
                return Err(self.every);
            }
        }
        let at = full_at.entry(key).or_insert(now);
        let next = (*at).max(now) + self.every;
        let room = self.every * self.burst;
        if next > now + room {
            return Err(next - (now + room));
        }
        *at = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Throttle;

    #[test]
    fn a_key_has_its_burst_and_then_its_rate() {
        let throttle = Throttle::new(3, Duration::from_secs(10));
        let start = Instant::now();
        for _ in 0..3 {
            throttle.take("a", start).unwrap();
        }
        assert_eq!(throttle.take("a", start), Err(Duration::from_secs(10)));
        throttle.take("b", start).unwrap();
        let later = start + Duration::from_secs(10);
        throttle.take("a", later).unwrap();
        assert!(throttle.take("a", later).is_err());
    }

    #[test]
    fn a_full_table_forgets_only_those_who_waited() {
        let mut throttle = Throttle::new(1, Duration::from_secs(10));
        throttle.most_keys = 2;
        let start = Instant::now();
        throttle.take(1, start).unwrap();
        throttle.take(2, start).unwrap();
        assert!(throttle.take(3, start).is_err());
        assert!(
            throttle.take(1, start).is_err(),
            "known keys are still known"
        );
        throttle.take(3, start + Duration::from_secs(11)).unwrap();
    }

    #[test]
    fn r18_a_million_keys_take_the_room_of_its_bound_and_no_more() {
        let throttle = Throttle::new(1, Duration::from_secs(3600));
        let start = Instant::now();
        let taken = (0..1_000_000_u64).filter(|key| throttle.take(*key, start).is_ok());
        assert_eq!(taken.count(), 65_536);
        let keys = throttle.keys.lock().unwrap();
        assert_eq!(keys.full_at.len(), 65_536);
        // A key takes the room of a pair, twice while the table grows.
        assert!(
            keys.full_at.capacity() <= 2 * 65_536,
            "{}",
            keys.full_at.capacity()
        );
    }
}
