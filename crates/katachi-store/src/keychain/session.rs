//! A keychain's answers, remembered by the kernel until the session ends.
//!
//! A keychain that has to be unlocked by hand would be asked for it by every
//! program that starts. The kernel's key retention service keeps the answer for
//! the programs of one login session instead. It forgets at logout, at a
//! restart, and when the time that was given is over, so it only ever holds a
//! copy: a secret is stored in the keychain first, and what cannot be
//! remembered, or asked, is no error.

use std::time::Duration;

use katachi_crypto::Secret;
use linux_keyutils::{Key, KeyRing, KeyRingIdentifier};
use zeroize::Zeroizing;

use super::{Deadline, ItemId, Keychain, KeychainError, KeychainStatus};

/// A keychain whose answers the kernel remembers for this login session.
///
/// ```no_run
/// use std::time::Duration;
/// use katachi_store::keychain::{NoKeychain, SessionCache};
///
/// // Or `SystemKeychain::new()` with the feature `keychain`.
/// let keychain = SessionCache::new(NoKeychain, Duration::from_secs(15 * 60));
/// ```
///
/// # Security
///
/// While an answer is remembered, the programs of this session get it even if
/// the keychain is locked meanwhile. They got it from the unlocked keychain
/// before. Other users, and other sessions of this user, do not.
#[derive(Clone, Debug)]
pub struct SessionCache<K> {
    keychain: K,
    lifetime: Duration,
}

impl<K: Keychain> SessionCache<K> {
    /// Remembers each answer of `keychain` for `lifetime`, in whole seconds and
    /// at least one.
    #[must_use]
    pub fn new(keychain: K, lifetime: Duration) -> Self {
        Self { keychain, lifetime }
    }

    fn remember(&self, item: &ItemId, secret: &Secret<32>) {
        let Some(session) = session() else {
            return;
        };
        // Only who has the session's keyring reads it: that is how the kernel
        // makes a key, without a moment in which it is otherwise.
        let kept = session.add_key(&description(item), secret.expose_secret());
        let seconds = usize::try_from(self.lifetime.as_secs()).unwrap_or(usize::MAX);
        if let Ok(key) = kept
            && key.set_timeout(seconds.max(1)).is_err()
        {
            // What would be remembered for ever is rather not remembered.
            let _ = key.invalidate();
        }
    }
}

impl<K: Keychain> Keychain for SessionCache<K> {
    fn name(&self) -> &str {
        self.keychain.name()
    }

    fn get(&self, item: &ItemId, deadline: &Deadline) -> Result<Secret<32>, KeychainError> {
        if let Some(secret) = find(item).and_then(|key| read(&key)) {
            return Ok(secret);
        }
        let secret = self.keychain.get(item, deadline)?;
        self.remember(item, &secret);
        Ok(secret)
    }

    fn put(
        &self,
        item: &ItemId,
        secret: &Secret<32>,
        deadline: &Deadline,
    ) -> Result<(), KeychainError> {
        forget(item);
        self.keychain.put(item, secret, deadline)?;
        self.remember(item, secret);
        Ok(())
    }

    fn delete(&self, item: &ItemId, deadline: &Deadline) -> Result<(), KeychainError> {
        forget(item);
        self.keychain.delete(item, deadline)
    }

    fn status(&self, deadline: &Deadline) -> KeychainStatus {
        self.keychain.status(deadline)
    }
}

fn session() -> Option<KeyRing> {
    KeyRing::from_special_id(KeyRingIdentifier::Session, false).ok()
}

fn find(item: &ItemId) -> Option<Key> {
    session()?.search(&description(item)).ok()
}

fn forget(item: &ItemId) {
    if let Some(key) = find(item) {
        let _ = key.invalidate();
    }
}

fn read(key: &Key) -> Option<Secret<32>> {
    // The kernel says how long the key is, and fills in as much as fits.
    let mut bytes = Zeroizing::new([0_u8; 33]);
    match key.read(&mut *bytes) {
        Ok(32) => Secret::from_slice(&bytes[..32]).ok(),
        _ => None,
    }
}

/// Neither part of an item's name has a colon in it.
fn description(item: &ItemId) -> String {
    format!("katachi:{}:{}", item.service(), item.account())
}
