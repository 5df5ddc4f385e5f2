//! The two structures inside a shard: windows of counter nonces, buckets of random ones.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

/// The counters of one session that were spent: RFC 6479, 1024 wide.
///
/// Its size does not depend on how many requests a session makes.
#[derive(Clone, Debug)]
struct Window {
    /// Keyed hash of the key's identifier.
    key: u64,
    session: u64,
    highest: u64,
    /// Bit `n % 1024` says whether counter `n` was spent, for the 1024 up to `highest`.
    spent: [u64; WORDS],
    /// Latest creation time of an accepted request, in seconds since 1970.
    last: u32,
    /// The key's next window, plus one; zero ends the chain.
    next: u32,
}

const WORDS: usize = 16;
const WIDTH: u64 = (WORDS * 64) as u64;

impl Window {
    fn open(key: u64, session: u64, counter: u64, created: u32) -> Self {
        let mut window = Self {
            key,
            session,
            highest: counter,
            spent: [0; WORDS],
            last: created,
            next: 0,
        };
        window.mark(counter);
        window
    }

    fn bit(counter: u64) -> (usize, u64) {
        let at = counter % WIDTH;
        ((at / 64) as usize, 1 << (at % 64))
    }

    fn mark(&mut self, counter: u64) {
        let (word, mask) = Self::bit(counter);
        self.spent[word] |= mask;
    }

    /// Whether `counter` is fresh; it is spent afterwards.
    fn spend(&mut self, counter: u64) -> bool {
        if counter > self.highest {
            self.advance(counter);
        } else if self.highest - counter >= WIDTH {
            return false;
        }
        let (word, mask) = Self::bit(counter);
        let fresh = self.spent[word] & mask == 0;
        self.spent[word] |= mask;
        fresh
    }

    /// Moves the window up to `counter`, forgetting what falls out below.
    fn advance(&mut self, counter: u64) {
        if counter - self.highest >= WIDTH {
            self.spent = [0; WORDS];
        } else {
            for passed in self.highest + 1..=counter {
                let (word, mask) = Self::bit(passed);
                self.spent[word] &= !mask;
            }
        }
        self.highest = counter;
    }
}

/// What a structure says to a nonce.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    Fresh,
    Replayed,
    Full,
}

/// All windows of a shard.
///
/// Windows lie one after the other; the windows of one key form a chain, and an
/// open-addressed index over the keys' hashes finds where a chain begins. A window
/// whose every request lies below the floor remembers nothing that could still be
/// accepted: it is reused by its key, or swept when room is needed.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    windows: Vec<Window>,
    /// Positions in `windows`, plus one; zero is empty.
    index: Vec<u32>,
    /// No window dies before the floor is here.
    nothing_dead_before: u64,
}

impl Sessions {
    pub(super) fn spend(
        &mut self,
        key: u64,
        session: u64,
        counter: u64,
        created: u32,
        floor: u64,
        limits: SessionLimits,
    ) -> Outcome {
        let mut live = 0;
        let mut dead = None;
        let mut tail = None;
        let mut next = self.head(key);
        while let Some(at) = next {
            let window = &mut self.windows[at];
            if window.session == session {
                if !window.spend(counter) {
                    return Outcome::Replayed;
                }
                window.last = window.last.max(created);
                return Outcome::Fresh;
            }
            if u64::from(window.last) < floor {
                dead = Some(at);
            } else {
                live += 1;
            }
            tail = Some(at);
            next = (window.next as usize).checked_sub(1);
        }
        if live >= limits.per_key {
            return Outcome::Full;
        }
        let mut window = Window::open(key, session, counter, created);
        if let Some(at) = dead {
            window.next = self.windows[at].next;
            self.windows[at] = window;
            return Outcome::Fresh;
        }
        if self.windows.len() >= limits.total {
            if !self.sweep(floor) {
                return Outcome::Full;
            }
            tail = self.tail(key);
        }
        self.append(window, tail);
        Outcome::Fresh
    }

    fn slot(&self, key: u64) -> usize {
        scale(key, self.index.len())
    }

    /// Where the chain of `key` begins.
    fn head(&self, key: u64) -> Option<usize> {
        if self.index.is_empty() {
            return None;
        }
        let mut slot = self.slot(key);
        loop {
            let at = (self.index[slot] as usize).checked_sub(1)?;
            if self.windows[at].key == key {
                return Some(at);
            }
            slot = (slot + 1) % self.index.len();
        }
    }

    fn tail(&self, key: u64) -> Option<usize> {
        let mut at = self.head(key)?;
        while let Some(next) = (self.windows[at].next as usize).checked_sub(1) {
            at = next;
        }
        Some(at)
    }

    fn append(&mut self, window: Window, tail: Option<usize>) {
        if self.windows.len() == self.windows.capacity() {
            // Sixteenths instead of doubling: the bound on memory counts.
            self.windows.reserve_exact(self.windows.len() / 16 + 4);
        }
        let key = window.key;
        self.windows.push(window);
        // At most `SessionLimits::total` windows, which fits.
        let position = self.windows.len() as u32;
        match tail {
            Some(tail) => self.windows[tail].next = position,
            None if self.windows.len() * 4 > self.index.len() * 3 => self.rebuild(),
            None => self.enter(key, position),
        }
    }

    fn enter(&mut self, key: u64, position: u32) {
        let mut slot = self.slot(key);
        while self.index[slot] != 0 {
            slot = (slot + 1) % self.index.len();
        }
        self.index[slot] = position;
    }

    /// Drops the dead windows. Returns whether there were any.
    fn sweep(&mut self, floor: u64) -> bool {
        if floor < self.nothing_dead_before {
            return false;
        }
        let before = self.windows.len();
        self.windows
            .retain(|window| u64::from(window.last) >= floor);
        let oldest = self
            .windows
            .iter()
            .map(|window| u64::from(window.last))
            .min();
        self.nothing_dead_before = oldest.map_or(0, |oldest| oldest + 1);
        if self.windows.len() == before {
            return false;
        }
        self.rebuild();
        true
    }

    /// Makes the index and the chains anew.
    fn rebuild(&mut self) {
        let slots = (self.windows.len() * 2).max(8);
        self.index.clear();
        self.index.shrink_to(slots);
        self.index.resize(slots, 0);
        for at in 0..self.windows.len() {
            self.windows[at].next = 0;
        }
        for at in 0..self.windows.len() {
            let key = self.windows[at].key;
            match self.head(key) {
                // In front of the chain, right behind its head.
                Some(head) => {
                    self.windows[at].next = self.windows[head].next;
                    self.windows[head].next = at as u32 + 1;
                }
                None => self.enter(key, at as u32 + 1),
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.windows.capacity() * size_of::<Window>() + self.index.capacity() * size_of::<u32>()
    }

    pub(super) fn len(&self) -> usize {
        self.windows.len()
    }
}

/// Bounds on [`Sessions`].
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionLimits {
    pub(super) per_key: usize,
    pub(super) total: usize,
}

/// The random nonces of a few seconds: a set of keyed 64-bit fingerprints.
///
/// Half as wide as the nonces, they leave room to double the table, one byte beside
/// each that says at a glance whether it can be the one. Two nonces may share a
/// fingerprint: the second is then refused, never accepted. With 2^18 nonces live that
/// befalls one request in 2^46, and nobody can bring it about without the process's
/// random key.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Which seconds: creation time divided by [`Bucket::SECONDS`].
    pub(super) index: u64,
    fingerprints: HashSet<u64, BuildHasherDefault<AsItIs>>,
    /// Entries by group of keys, so that one key cannot fill the store.
    groups: [u16; GROUPS],
}

const GROUPS: usize = 256;

impl Bucket {
    /// Seconds that share a bucket. Longer buckets are fewer to search, and keep each
    /// entry as much longer than needed.
    pub(super) const SECONDS: u64 = 20;

    pub(super) fn new(index: u64) -> Self {
        Self {
            index,
            fingerprints: HashSet::default(),
            groups: [0; GROUPS],
        }
    }

    pub(super) fn group(&self, key: u64) -> usize {
        usize::from(self.groups[group(key)])
    }

    pub(super) fn len(&self) -> usize {
        self.fingerprints.len()
    }

    pub(super) fn contains(&self, fingerprint: u64) -> bool {
        self.fingerprints.contains(&fingerprint)
    }

    /// Adds a fingerprint. Returns whether it is new.
    pub(super) fn insert(&mut self, key: u64, fingerprint: u64) -> bool {
        let fresh = self.fingerprints.insert(fingerprint);
        if fresh {
            let group = &mut self.groups[group(key)];
            *group = group.saturating_add(1);
        }
        fresh
    }

    pub(super) fn bytes(&self) -> usize {
        // The standard library's table: powers of two, seven eighths full at most, a
        // byte beside each slot. 11 to 21 bytes an entry.
        let slots = match self.fingerprints.capacity() {
            0 => 0,
            capacity => (capacity * 8 / 7).next_power_of_two(),
        };
        slots * (size_of::<u64>() + 1) + size_of::<Self>()
    }
}

/// A fingerprint is a keyed hash already.
#[derive(Clone, Copy, Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        // Only whole fingerprints come here; anything else is hashed badly, not wrongly.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn group(key: u64) -> usize {
    scale(key, GROUPS)
}

/// Maps a hash evenly to `0..length`, by its high bits.
fn scale(hash: u64, length: usize) -> usize {
    ((u128::from(hash) * length as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_window_takes_160_bytes() {
        assert_eq!(size_of::<Window>(), 160);
    }

    proptest! {
        #[test]
        fn a_window_agrees_with_a_set_of_all_counters(
            counters in proptest::collection::vec(0_u64..5000, 1..400)
        ) {
            let mut window = Window::open(1, 1, counters[0], 0);
            let mut seen = HashSet::from([counters[0]]);
            let mut highest = counters[0];
            for &counter in &counters[1..] {
                let in_reach = highest.saturating_sub(counter) < WIDTH;
                let fresh = seen.insert(counter) && in_reach;
                highest = highest.max(counter);
                prop_assert_eq!(window.spend(counter), fresh, "counter {}", counter);
            }
        }

        #[test]
        fn a_bucket_agrees_with_a_set(fingerprints in proptest::collection::vec(0_u64..200, 0..300)) {
            let mut bucket = Bucket::new(0);
            let mut seen = HashSet::new();
            for fingerprint in fingerprints {
                // Neighbours in the table, and some far away.
                let fingerprint = fingerprint << (8 * (fingerprint % 7));
                prop_assert_eq!(bucket.contains(fingerprint), seen.contains(&fingerprint));
                prop_assert_eq!(bucket.insert(7, fingerprint), seen.insert(fingerprint));
                prop_assert_eq!(bucket.len(), seen.len());
            }
        }
    }

    #[test]
    fn a_window_survives_the_largest_counter() {
        let mut window = Window::open(1, 1, u64::MAX - 1, 0);
        assert!(window.spend(u64::MAX));
        assert!(!window.spend(u64::MAX));
        assert!(!window.spend(0));
        assert!(window.spend(u64::MAX - 1023));
    }
}
