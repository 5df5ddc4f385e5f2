//! The operating system's own keychain.
//!
//! The stores are those of the `keyring` family, built here and never made a
//! process-wide default. A store's call cannot be interrupted, so it runs on a
//! helper thread, and the caller stops waiting at the deadline. While such a
//! call hangs, further ones of this process fail at once: a dead keychain costs
//! its deadline one time, whoever asks it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use katachi_crypto::Secret;
use keyring_core::{CredentialStore, Entry};
use zeroize::Zeroizing;

use super::{Deadline, ItemId, Keychain, KeychainError, KeychainStatus};

#[cfg(target_os = "linux")]
mod secret_service;
#[cfg(target_os = "linux")]
use secret_service as platform;

#[cfg(not(target_os = "linux"))]
mod native;
#[cfg(not(target_os = "linux"))]
use native as platform;

/// Length of what is stored, in characters.
const TEXT_LEN: usize = 44;

/// Secret Service on Linux, the login keychain on macOS, the credential
/// manager on Windows.
#[derive(Clone, Debug, Default)]
pub struct SystemKeychain {
    shared: Arc<Shared>,
}

/// The call that its caller gave up on last. There is one system with one
/// keychain, so this is of the process and not of a [`SystemKeychain`].
static HANGING: Mutex<Option<Arc<Call>>> = Mutex::new(None);

fn hanging() -> MutexGuard<'static, Option<Arc<Call>>> {
    HANGING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a call that was given up on has still not returned.
fn is_hanging() -> bool {
    hanging()
        .as_ref()
        .is_some_and(|call| !call.has_returned.load(Ordering::Acquire))
}

#[derive(Debug, Default)]
struct Shared {
    /// Kept between calls: connecting costs more than asking.
    store: Mutex<Option<Arc<CredentialStore>>>,
}

#[derive(Debug, Default)]
struct Call {
    has_returned: AtomicBool,
}

/// Notes that a call has returned, even by a panic.
struct Running(Arc<Call>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.has_returned.store(true, Ordering::Release);
    }
}

impl SystemKeychain {
    /// Connects on first use.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `ask` on a helper thread and waits for it until the deadline.
    fn within<T: Send + 'static>(
        &self,
        deadline: &Deadline,
        ask: impl FnOnce(&Shared) -> Result<T, KeychainError> + Send + 'static,
    ) -> Result<T, KeychainError> {
        const LOOK: Duration = Duration::from_millis(50);
        if is_hanging() {
            return Err(KeychainError::Timeout);
        }
        let (sender, receiver) = sync_channel(1);
        let (shared, call) = (Arc::clone(&self.shared), Arc::new(Call::default()));
        let running = Running(Arc::clone(&call));
        let helper = std::thread::Builder::new()
            .name("keychain".to_owned())
            .spawn(move || {
                let _running = running;
                // Nobody may be waiting any more.
                let _ = sender.send(ask(&shared));
            });
        if let Err(error) = helper {
            return Err(KeychainError::Failed {
                why: format!("no thread to ask it from: {error}"),
            });
        }
        let started = Instant::now();
        loop {
            let left = deadline.duration().saturating_sub(started.elapsed());
            let given_up = match receiver.recv_timeout(left.min(LOOK)) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(KeychainError::Failed {
                        why: "the keychain library panicked".to_owned(),
                    });
                }
                Err(RecvTimeoutError::Timeout) if deadline.is_cancelled() => {
                    KeychainError::Cancelled
                }
                Err(RecvTimeoutError::Timeout) if left.is_zero() => KeychainError::Timeout,
                Err(RecvTimeoutError::Timeout) => continue,
            };
            *hanging() = Some(call);
            return Err(given_up);
        }
    }

    /// Runs `ask` on the entry of `item`.
    fn on_entry<T: Send + 'static>(
        &self,
        item: &ItemId,
        deadline: &Deadline,
        ask: impl Fn(&Entry) -> keyring_core::Result<T> + Send + 'static,
    ) -> Result<T, KeychainError> {
        let (item, may_prompt) = (item.clone(), deadline.may_prompt());
        self.within(deadline, move |shared| {
            if !may_prompt {
                platform::refuse_to_prompt(&item)?;
            }
            let was_connected = shared.is_connected();
            match shared.ask(&item, &ask) {
                // The service was restarted since we connected and knows nothing of us.
                Err(KeychainError::Unavailable { .. } | KeychainError::Failed { .. })
                    if was_connected =>
                {
                    shared.disconnect();
                    shared.ask(&item, &ask)
                }
                answer => answer,
            }
        })
    }
}

impl Shared {
    fn ask<T>(
        &self,
        item: &ItemId,
        ask: impl Fn(&Entry) -> keyring_core::Result<T>,
    ) -> Result<T, KeychainError> {
        let store = self.connect()?;
        let entry = store
            .build(item.service(), item.account(), None)
            .map_err(translate)?;
        ask(&entry).map_err(translate)
    }

    fn connect(&self) -> Result<Arc<CredentialStore>, KeychainError> {
        let mut store = self.store();
        if let Some(store) = &*store {
            return Ok(Arc::clone(store));
        }
        let connected = platform::connect().map_err(translate_connection)?;
        *store = Some(Arc::clone(&connected));
        Ok(connected)
    }

    fn is_connected(&self) -> bool {
        self.store().is_some()
    }

    fn disconnect(&self) {
        *self.store() = None;
    }

    fn store(&self) -> MutexGuard<'_, Option<Arc<CredentialStore>>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keychain for SystemKeychain {
    fn name(&self) -> &str {
        platform::NAME
    }

    fn get(&self, item: &ItemId, deadline: &Deadline) -> Result<Secret<32>, KeychainError> {
        let text = self.on_entry(item, deadline, |entry| {
            entry.get_secret().map(Zeroizing::new)
        })?;
        let mut bytes = Zeroizing::new([0_u8; 33]);
        if text.len() != TEXT_LEN {
            return Err(KeychainError::Damaged);
        }
        match STANDARD.decode_slice(&text[..], &mut bytes[..]) {
            Ok(32) => Secret::from_slice(&bytes[..32]).map_err(|_| KeychainError::Damaged),
            _ => Err(KeychainError::Damaged),
        }
    }

    fn put(
        &self,
        item: &ItemId,
        secret: &Secret<32>,
        deadline: &Deadline,
    ) -> Result<(), KeychainError> {
        let mut text = Zeroizing::new([0_u8; TEXT_LEN]);
        STANDARD
            .encode_slice(secret.expose_secret(), &mut text[..])
            .map_err(|_| KeychainError::Failed {
                why: "a secret has 44 characters".to_owned(),
            })?;
        self.on_entry(item, deadline, move |entry| entry.set_secret(&text[..]))
    }

    fn delete(&self, item: &ItemId, deadline: &Deadline) -> Result<(), KeychainError> {
        self.on_entry(item, deadline, Entry::delete_credential)
    }

    fn status(&self, deadline: &Deadline) -> KeychainStatus {
        let asked = self.within(deadline, |_| platform::is_locked());
        match asked {
            Ok(false) => KeychainStatus::Ready,
            Ok(true) | Err(KeychainError::Locked) => KeychainStatus::Locked,
            Err(error) => KeychainStatus::Unusable(error),
        }
    }
}

/// Sorts what a store says. Its errors never contain the secret, except one,
/// which is not passed on.
fn translate(error: keyring_core::Error) -> KeychainError {
    use keyring_core::Error;
    match error {
        Error::NoEntry => KeychainError::NotFound,
        Error::BadEncoding(_) | Error::BadDataFormat(..) | Error::Ambiguous(_) => {
            KeychainError::Damaged
        }
        Error::NoStorageAccess(why) => platform::no_access(why.as_ref()),
        Error::PlatformFailure(why) => platform::failure(why.as_ref()),
        Error::NoDefaultStore => KeychainError::Unavailable {
            why: "no store".to_owned(),
        },
        other => KeychainError::Failed {
            why: other.to_string(),
        },
    }
}

/// The same for a store that could not even be reached.
fn translate_connection(error: keyring_core::Error) -> KeychainError {
    match translate(error) {
        KeychainError::Failed { why } => KeychainError::Unavailable { why },
        other => other,
    }
}
