//! Keychains of the operating system, which keep one short secret for a vault.
//!
//! A keychain can be absent, locked, or hang for minutes on a machine without
//! a screen. So every call carries a [`Deadline`], the answers are typed, and
//! nothing prompts the user unless the caller asked for it.
//!
//! What is stored is 32 random bytes as 44 characters of base64, whatever the
//! vault grows to: some keychains take text only, and some take little of it.
//!
//! What this does not protect from: another program of the same user, once
//! the keychain is unlocked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use katachi_crypto::Secret;

#[cfg(all(feature = "keyutils", target_os = "linux"))]
mod session;
#[cfg(all(feature = "keyutils", target_os = "linux"))]
pub use session::SessionCache;
#[cfg(feature = "keychain")]
mod system;
#[cfg(feature = "keychain")]
pub use system::SystemKeychain;

/// Keeps 32-byte secrets for this user.
///
/// # Security
///
/// `get` must return exactly what `put` stored, or an error: a vault that gets
/// other bytes reports a damaged slot. An implementation never prompts unless
/// [`Deadline::may_prompt`] says so, and [`status`](Self::status) never does.
pub trait Keychain: Send + Sync {
    /// A short name for reports, such as `secret-service`.
    fn name(&self) -> &str;

    /// Reads a secret.
    ///
    /// # Errors
    ///
    /// Returns [`KeychainError`]; [`KeychainError::NotFound`] only if the
    /// keychain was asked and has no such item.
    fn get(&self, item: &ItemId, deadline: &Deadline) -> Result<Secret<32>, KeychainError>;

    /// Stores a secret, in place of one that was there.
    ///
    /// # Errors
    ///
    /// Returns [`KeychainError`].
    fn put(
        &self,
        item: &ItemId,
        secret: &Secret<32>,
        deadline: &Deadline,
    ) -> Result<(), KeychainError>;

    /// Removes a secret.
    ///
    /// # Errors
    ///
    /// Returns [`KeychainError`]; [`KeychainError::NotFound`] if it was not there.
    fn delete(&self, item: &ItemId, deadline: &Deadline) -> Result<(), KeychainError>;

    /// Says whether the keychain can be used now. Never prompts.
    fn status(&self, deadline: &Deadline) -> KeychainStatus;
}

impl<K: Keychain + ?Sized> Keychain for Arc<K> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn get(&self, item: &ItemId, deadline: &Deadline) -> Result<Secret<32>, KeychainError> {
        (**self).get(item, deadline)
    }

    fn put(
        &self,
        item: &ItemId,
        secret: &Secret<32>,
        deadline: &Deadline,
    ) -> Result<(), KeychainError> {
        (**self).put(item, secret, deadline)
    }

    fn delete(&self, item: &ItemId, deadline: &Deadline) -> Result<(), KeychainError> {
        (**self).delete(item, deadline)
    }

    fn status(&self, deadline: &Deadline) -> KeychainStatus {
        (**self).status(deadline)
    }
}

/// Where a secret is kept.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ItemId {
    service: String,
    account: String,
}

impl ItemId {
    /// Longest service or account, in bytes.
    pub const MAX_LEN: usize = 128;

    /// Names an item.
    ///
    /// # Errors
    ///
    /// Returns [`KeychainError::InvalidItem`] unless both are 1 to
    /// [`MAX_LEN`](Self::MAX_LEN) bytes of ASCII letters, digits, `.`, `-` and `_`.
    /// No keychain's own separators are among these, so two items never meet.
    pub fn new(service: &str, account: &str) -> Result<Self, KeychainError> {
        let fits = |text: &str| {
            (1..=Self::MAX_LEN).contains(&text.len())
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        };
        if !fits(service) || !fits(account) {
            return Err(KeychainError::InvalidItem);
        }
        Ok(Self {
            service: service.to_owned(),
            account: account.to_owned(),
        })
    }

    /// The program's part of the name.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The item's part of the name.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }
}

/// How long a call may take and whether it may ask the user.
#[derive(Clone, Debug)]
pub struct Deadline {
    within: Duration,
    prompt: bool,
    cancel: Cancel,
}

impl Deadline {
    /// Three seconds, without a prompt.
    #[must_use]
    pub fn quiet() -> Self {
        Self {
            within: Duration::from_secs(3),
            prompt: false,
            cancel: Cancel::new(),
        }
    }

    /// Two minutes in which the user may be asked to unlock the keychain,
    /// or until `cancel`.
    #[must_use]
    pub fn prompting(cancel: &Cancel) -> Self {
        Self {
            within: Duration::from_secs(120),
            prompt: true,
            cancel: cancel.clone(),
        }
    }

    /// The same with another duration.
    #[must_use]
    pub fn with_duration(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// How long the call may take.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.within
    }

    /// Whether the user may be asked.
    #[must_use]
    pub fn may_prompt(&self) -> bool {
        self.prompt
    }

    /// Whether somebody gave up waiting.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

impl Default for Deadline {
    fn default() -> Self {
        Self::quiet()
    }
}

/// Ends the waiting of a [`Deadline::prompting`] from another thread.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Not cancelled yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the waiting of every deadline made with this.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether [`cancel`](Self::cancel) was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Why a keychain did not do what it was asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KeychainError {
    /// There is no keychain to ask.
    #[error(
        "no keychain is available: {why}; start one (for instance gnome-keyring) or use another kind of slot"
    )]
    Unavailable {
        /// What is missing, in words.
        why: String,
    },
    /// It is locked and asking the user was not allowed.
    #[error("the keychain is locked; unlock it, or allow a prompt")]
    Locked,
    /// It did not answer in time.
    #[error("the keychain did not answer in time")]
    Timeout,
    /// The caller stopped waiting.
    #[error("waiting for the keychain was cancelled")]
    Cancelled,
    /// The user or the system said no.
    #[error("the keychain refused access")]
    Denied,
    /// It has no such item.
    #[error("the keychain has no such item")]
    NotFound,
    /// It holds something under this name that was not stored by this crate.
    #[error("the keychain item is not a secret of this program")]
    Damaged,
    /// The name of the item cannot be used.
    #[error("a keychain item is named by 1 to 128 letters, digits, '.', '-' and '_'")]
    InvalidItem,
    /// Anything else that the keychain said.
    #[error("the keychain failed: {why}")]
    Failed {
        /// The keychain's words.
        why: String,
    },
}

/// Whether a keychain can be used now.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum KeychainStatus {
    /// It answers and is unlocked.
    Ready,
    /// It answers and would have to ask the user.
    Locked,
    /// It cannot be used.
    Unusable(KeychainError),
}

impl fmt::Display for KeychainStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => formatter.write_str("ready"),
            Self::Locked => formatter.write_str("locked"),
            Self::Unusable(error) => error.fmt(formatter),
        }
    }
}

/// The keychain of a machine that has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoKeychain;

impl NoKeychain {
    fn error() -> KeychainError {
        KeychainError::Unavailable {
            why: "this program was started without one".to_owned(),
        }
    }
}

impl Keychain for NoKeychain {
    fn name(&self) -> &str {
        "none"
    }

    fn get(&self, _: &ItemId, _: &Deadline) -> Result<Secret<32>, KeychainError> {
        Err(Self::error())
    }

    fn put(&self, _: &ItemId, _: &Secret<32>, _: &Deadline) -> Result<(), KeychainError> {
        Err(Self::error())
    }

    fn delete(&self, _: &ItemId, _: &Deadline) -> Result<(), KeychainError> {
        Err(Self::error())
    }

    fn status(&self, _: &Deadline) -> KeychainStatus {
        KeychainStatus::Unusable(Self::error())
    }
}
