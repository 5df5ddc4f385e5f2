//! Secret Service (gnome-keyring, KeePassXC, KDE Wallet) over D-Bus.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::sync::Arc;

use keyring_core::CredentialStore;
use secret_service::blocking::SecretService;
use secret_service::{EncryptionType, Error};

use super::{ItemId, KeychainError};

pub(super) const NAME: &str = "secret-service";

pub(super) fn connect() -> keyring_core::Result<Arc<CredentialStore>> {
    let store: Arc<CredentialStore> = zbus_secret_service_keyring_store::Store::new()?;
    Ok(store)
}

/// Whether the collection that new items go to is locked.
pub(super) fn is_locked() -> Result<bool, KeychainError> {
    let service = look()?;
    let collection = service.get_default_collection().map_err(sort)?;
    collection.is_locked().map_err(sort)
}

/// Fails if using `item` would make the store ask the user.
///
/// The store unlocks whatever it needs by itself, which shows a prompt and,
/// without a screen, waits for ever.
pub(super) fn refuse_to_prompt(item: &ItemId) -> Result<(), KeychainError> {
    let service = look()?;
    let attributes = HashMap::from([("service", item.service()), ("username", item.account())]);
    let found = service.search_items(attributes).map_err(sort)?;
    if !found.locked.is_empty() {
        return Err(KeychainError::Locked);
    }
    if found.unlocked.is_empty()
        && service
            .get_default_collection()
            .map_err(sort)?
            .is_locked()
            .map_err(sort)?
    {
        // It may be in there; and a new one could not be put there.
        return Err(KeychainError::Locked);
    }
    Ok(())
}

/// Connects to look around. No secret passes through this session, so it
/// agrees on no key.
fn look() -> Result<SecretService<'static>, KeychainError> {
    SecretService::connect(EncryptionType::Plain).map_err(|error| match sort(error) {
        KeychainError::Failed { why } => KeychainError::Unavailable { why },
        other => other,
    })
}

pub(super) fn no_access(error: &(dyn StdError + Send + Sync + 'static)) -> KeychainError {
    match error.downcast_ref::<Error>() {
        Some(Error::Locked) => KeychainError::Locked,
        Some(Error::Prompt) => KeychainError::Denied,
        _ => KeychainError::Unavailable {
            why: error.to_string(),
        },
    }
}

pub(super) fn failure(error: &(dyn StdError + Send + Sync + 'static)) -> KeychainError {
    KeychainError::Failed {
        why: error.to_string(),
    }
}

fn sort(error: Error) -> KeychainError {
    match error {
        Error::Locked => KeychainError::Locked,
        Error::Prompt | Error::PromptDisconnected => KeychainError::Denied,
        Error::NoResult => KeychainError::Unavailable {
            why: "there is no default collection".to_owned(),
        },
        Error::Unavailable => KeychainError::Unavailable {
            why: "no Secret Service on the session bus".to_owned(),
        },
        other => KeychainError::Failed {
            why: other.to_string(),
        },
    }
}
