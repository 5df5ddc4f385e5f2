//! Stand-ins for a machine and a keychain, and faults on demand, for tests.
//!
//! Only with the feature `testing`, which no shipped program turns on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use katachi_crypto::kdf::{self, Label};
use katachi_crypto::{Secret, SecretBytes};

use crate::binding::{BindingError, Enrolled, MachineBinding, Recovered, Strength};
use crate::keychain::{Deadline, ItemId, Keychain, KeychainError, KeychainStatus};

pub mod conformance;
pub mod fault;
pub mod laws;

/// A machine of named parts, of which one may be missing or changed.
///
/// The clones are the same machine.
#[derive(Clone, Debug)]
pub struct FakeMachine {
    parts: Arc<Mutex<Vec<(String, String)>>>,
}

impl FakeMachine {
    /// A machine of these parts.
    #[must_use]
    pub fn new(parts: &[(&str, &str)]) -> Self {
        let parts = parts
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Self {
            parts: Arc::new(Mutex::new(parts)),
        }
    }

    /// A laptop.
    #[must_use]
    pub fn laptop() -> Self {
        Self::new(&[
            ("board", "B-1"),
            ("nic", "3c:52:82:00:00:01"),
            ("disk", "S5-77"),
            ("cpu", "0x806ec"),
        ])
    }

    /// Another computer.
    #[must_use]
    pub fn desktop() -> Self {
        Self::new(&[
            ("board", "X-9"),
            ("nic", "d8:bb:c1:00:00:09"),
            ("disk", "WD-3"),
            ("cpu", "0xa20f12"),
        ])
    }

    /// Exchanges a part.
    pub fn change(&self, part: &str, value: &str) {
        let mut parts = lock(&self.parts);
        parts.retain(|(name, _)| name != part);
        parts.push((part.to_owned(), value.to_owned()));
    }

    fn now(&self) -> Vec<(String, String)> {
        let mut parts = lock(&self.parts).clone();
        parts.sort();
        parts
    }
}

impl MachineBinding for FakeMachine {
    fn enroll(&self) -> Result<Enrolled, BindingError> {
        let parts = self.now();
        let secret = Secret::<32>::random().map_err(|_| BindingError::Unreadable {
            why: "no randomness".to_owned(),
        })?;
        // The secret, masked once for every way to leave out one part.
        let mut state = parts
            .iter()
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>()
            .join(",")
            .into_bytes();
        state.push(b'\n');
        for left_out in 0..parts.len() {
            let mask = mask(&parts, left_out);
            state.extend(
                secret
                    .expose_secret()
                    .iter()
                    .zip(mask.expose_secret())
                    .map(|(one, other)| one ^ other),
            );
        }
        Ok(Enrolled::new(
            secret,
            SecretBytes::new(state),
            Strength::new(150, 90, 85, 0),
        ))
    }

    fn recover(
        &self,
        state: &[u8],
        verify: &mut dyn FnMut(&Secret<32>) -> bool,
    ) -> Result<Recovered, BindingError> {
        let end = state
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or(BindingError::UnknownState)?;
        let names = str::from_utf8(&state[..end]).map_err(|_| BindingError::UnknownState)?;
        let now = self.now();
        let parts: Vec<(String, String)> = names
            .split(',')
            .map(|name| {
                let value = now
                    .iter()
                    .find(|(known, _)| known == name)
                    .map(|(_, value)| value.clone());
                (name.to_owned(), value.unwrap_or_default())
            })
            .collect();
        for (left_out, masked) in state[end + 1..].chunks_exact(32).enumerate() {
            let mut bytes = [0; 32];
            let mask = mask(&parts, left_out);
            for (index, byte) in bytes.iter_mut().enumerate() {
                *byte = masked[index] ^ mask.expose_secret()[index];
            }
            let candidate = Secret::new(bytes);
            if verify(&candidate) {
                return self.recovered(candidate, &parts, state, left_out);
            }
        }
        // Only a stand-in can afford to remember the plain answer.
        Err(BindingError::WrongMachine {
            matched: Vec::new(),
            changed: parts.into_iter().map(|(name, _)| name).collect(),
        })
    }
}

impl FakeMachine {
    fn recovered(
        &self,
        secret: Secret<32>,
        parts: &[(String, String)],
        state: &[u8],
        left_out: usize,
    ) -> Result<Recovered, BindingError> {
        let mut recovered = Recovered::new(secret, Strength::new(150, 90, 85, 0));
        let end = state.iter().position(|&byte| byte == b'\n').unwrap_or(0);
        for (index, (name, _)) in parts.iter().enumerate() {
            // Leaving out another part works only if this one is as it was.
            let other = (index + 1) % parts.len();
            let masked = &state[end + 1 + 32 * other..][..32];
            let mask = mask(parts, other);
            let same = index != left_out
                || masked
                    .iter()
                    .zip(mask.expose_secret())
                    .map(|(one, other)| one ^ other)
                    .eq(recovered.secret.expose_secret().iter().copied());
            if same {
                recovered.matched.push(name.clone())
            } else {
                recovered.drift.push(format!("{name} changed"))
            }
        }
        if !recovered.drift.is_empty() {
            recovered.renewed = Some(self.enroll()?);
        }
        Ok(recovered)
    }
}

fn mask(parts: &[(String, String)], left_out: usize) -> Secret<32> {
    let used: Vec<&[u8]> = parts
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != left_out)
        .map(|(_, (_, value))| value.as_bytes())
        .collect();
    kdf::derive(&used, b"fake machine", &Label::new("testing"))
}

/// How a [`MemoryKeychain`] behaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Mood {
    /// Answers.
    Working,
    /// Would have to ask the user.
    Locked,
    /// Is not there.
    Absent,
    /// Does not answer before the deadline.
    Silent,
}

/// A keychain in memory. The clones are the same keychain.
#[derive(Clone, Debug)]
pub struct MemoryKeychain {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    items: HashMap<ItemId, [u8; 32]>,
    mood: Mood,
    calls: usize,
}

impl Default for MemoryKeychain {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryKeychain {
    /// An empty keychain that works.
    #[must_use]
    pub fn new() -> Self {
        let shared = Shared {
            items: HashMap::new(),
            mood: Mood::Working,
            calls: 0,
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// From now on it behaves so.
    pub fn set_mood(&self, mood: Mood) {
        lock(&self.shared).mood = mood;
    }

    /// Forgets everything, like a reinstalled desktop.
    pub fn clear(&self) {
        lock(&self.shared).items.clear();
    }

    /// How many items it has.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.shared).items.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often it was called.
    #[must_use]
    pub fn calls(&self) -> usize {
        lock(&self.shared).calls
    }

    fn call<T>(
        &self,
        deadline: &Deadline,
        answer: impl FnOnce(&mut HashMap<ItemId, [u8; 32]>) -> Result<T, KeychainError>,
    ) -> Result<T, KeychainError> {
        let mut shared = lock(&self.shared);
        shared.calls += 1;
        match shared.mood {
            Mood::Working => answer(&mut shared.items),
            Mood::Locked => Err(KeychainError::Locked),
            Mood::Absent => Err(KeychainError::Unavailable {
                why: "a test took it away".to_owned(),
            }),
            Mood::Silent => {
                drop(shared);
                std::thread::sleep(deadline.duration());
                Err(KeychainError::Timeout)
            }
        }
    }
}

impl Keychain for MemoryKeychain {
    fn name(&self) -> &str {
        "memory"
    }

    fn get(&self, item: &ItemId, deadline: &Deadline) -> Result<Secret<32>, KeychainError> {
        self.call(deadline, |items| {
            items
                .get(item)
                .map(|bytes| Secret::new(*bytes))
                .ok_or(KeychainError::NotFound)
        })
    }

    fn put(
        &self,
        item: &ItemId,
        secret: &Secret<32>,
        deadline: &Deadline,
    ) -> Result<(), KeychainError> {
        self.call(deadline, |items| {
            items.insert(item.clone(), *secret.expose_secret());
            Ok(())
        })
    }

    fn delete(&self, item: &ItemId, deadline: &Deadline) -> Result<(), KeychainError> {
        self.call(deadline, |items| {
            items
                .remove(item)
                .map(|_| ())
                .ok_or(KeychainError::NotFound)
        })
    }

    fn status(&self, deadline: &Deadline) -> KeychainStatus {
        match self.call(deadline, |_| Ok(())) {
            Ok(()) => KeychainStatus::Ready,
            Err(KeychainError::Locked) => KeychainStatus::Locked,
            Err(error) => KeychainStatus::Unusable(error),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
