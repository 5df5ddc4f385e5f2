//! The keychains of macOS and Windows.

use std::error::Error as StdError;
use std::sync::Arc;

use keyring_core::CredentialStore;

use super::{ItemId, KeychainError};

#[cfg(target_os = "macos")]
pub(super) const NAME: &str = "macos-keychain";
#[cfg(windows)]
pub(super) const NAME: &str = "windows-credential-manager";
#[cfg(not(any(target_os = "macos", windows)))]
pub(super) const NAME: &str = "none";

#[cfg(target_os = "macos")]
pub(super) fn connect() -> keyring_core::Result<Arc<CredentialStore>> {
    let store: Arc<CredentialStore> = apple_native_keyring_store::keychain::Store::new()?;
    Ok(store)
}

#[cfg(windows)]
pub(super) fn connect() -> keyring_core::Result<Arc<CredentialStore>> {
    let store: Arc<CredentialStore> = windows_native_keyring_store::Store::new()?;
    Ok(store)
}

#[cfg(not(any(target_os = "macos", windows)))]
pub(super) fn connect() -> keyring_core::Result<Arc<CredentialStore>> {
    Err(keyring_core::Error::NotSupportedByStore(
        "this system has no keychain that is known".to_owned(),
    ))
}

/// These keychains are unlocked with the user's session; that the store can be
/// made is all that can be learnt without touching an item.
pub(super) fn is_locked() -> Result<bool, KeychainError> {
    connect()
        .map(|_| false)
        .map_err(super::translate_connection)
}

/// Cannot be known beforehand here; the deadline ends the waiting.
pub(super) fn refuse_to_prompt(_item: &ItemId) -> Result<(), KeychainError> {
    Ok(())
}

pub(super) fn no_access(error: &(dyn StdError + Send + Sync + 'static)) -> KeychainError {
    KeychainError::Unavailable {
        why: error.to_string(),
    }
}

pub(super) fn failure(error: &(dyn StdError + Send + Sync + 'static)) -> KeychainError {
    KeychainError::Failed {
        why: error.to_string(),
    }
}
