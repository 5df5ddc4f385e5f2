//! The operating system's own keychain.
//!
//! The stores are those of the `keyring` family, built here and never made a
//! process-wide default. A store's call cannot be interrupted, so it runs on a
//! helper thread, and the caller stops waiting at the deadline. While such a
//! call hangs, further ones fail at once: a dead keychain costs its deadline
//! one time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
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

#[derive(Debug, Default)]
struct Shared {
    /// A call whose caller gave up has not returned yet.
    hanging: AtomicBool,
    /// Kept between calls: connecting costs more than asking.
    store: Mutex<Option<Arc<CredentialStore>>>,
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
        if self.shared.hanging.load(Ordering::Acquire) {
            return Err(KeychainError::Timeout);
        }
        let (sender, receiver) = sync_channel(1);
        let shared = Arc::clone(&self.shared);
        let helper = std::thread::Builder::new()
            .name("keychain".to_owned())
            .spawn(move || {
                let answer = ask(&shared);
                // Whoever gave up waiting has set the flag before this, or never will.
                let _ = sender.send(answer);
                shared.hanging.store(false, Ordering::Release);
            });
        if let Err(error) = helper {
            return Err(KeychainError::Failed {
                why: format!("no thread to ask it from: {error}"),
            });
        }
        let started = Instant::now();
        loop {
            let left = deadline.duration().saturating_sub(started.elapsed());
            match receiver.recv_timeout(left.min(LOOK)) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(KeychainError::Failed {
                        why: "the keychain library panicked".to_owned(),
                    });
                }
                Err(RecvTimeoutError::Timeout) if deadline.is_cancelled() => {
                    self.shared.hanging.store(true, Ordering::Release);
                    return Err(KeychainError::Cancelled);
                }
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    self.shared.hanging.store(true, Ordering::Release);
                    return Err(KeychainError::Timeout);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Runs `ask` on the entry of `item`.
    fn on_entry<T: Send + 'static>(
        &self,
        item: &ItemId,
        deadline: &Deadline,
        ask: impl FnOnce(&Entry) -> keyring_core::Result<T> + Send + 'static,
    ) -> Result<T, KeychainError> {
        let (item, may_prompt) = (item.clone(), deadline.may_prompt());
        self.within(deadline, move |shared| {
            if !may_prompt {
                platform::refuse_to_prompt(&item)?;
            }
            let entry = shared
                .store()?
                .build(item.service(), item.account(), None)
                .map_err(translate)?;
            let answer = ask(&entry).map_err(translate);
            if matches!(
                answer,
                Err(KeychainError::Unavailable { .. } | KeychainError::Failed { .. })
            ) {
                // The service may have been restarted: connect anew next time.
                shared.forget_store();
            }
            answer
        })
    }
}

impl Shared {
    fn store(&self) -> Result<Arc<CredentialStore>, KeychainError> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = &*store {
            return Ok(Arc::clone(store));
        }
        let connected = platform::connect().map_err(translate_connection)?;
        *store = Some(Arc::clone(&connected));
        Ok(connected)
    }

    fn forget_store(&self) {
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = None;
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
