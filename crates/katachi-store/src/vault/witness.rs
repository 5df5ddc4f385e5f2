//! Remembers, somewhere else, how often a vault was saved.
//!
//! Nothing in a file can tell that the whole file was replaced by an older
//! copy of itself: by a backup that was restored, or by somebody who wants a
//! removed slot back. A [`Witness`] elsewhere can. Whatever keeps its own
//! numbers in the vault ([`Vault::set_mark`](super::Vault::set_mark)) is
//! covered with it.
//!
//! A witness on the same disk goes back in time together with the vault when
//! the whole disk does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use katachi_crypto::Secret;

use crate::durable::{Directory, Privacy};
use crate::keychain::{Deadline, ItemId, Keychain, KeychainError};

use super::format::VaultId;
use super::source::SERVICE;

/// Remembers the highest generation of a vault.
///
/// # Security
///
/// Answering a lower generation than was remembered lets an older vault pass
/// unnoticed. Answering a higher one locks the owner out until they say that
/// the older vault is meant.
pub trait Witness: Send + Sync {
    /// The generation that was remembered last, if any.
    ///
    /// # Errors
    ///
    /// Returns [`WitnessUnavailable`] if that cannot be said now. The vault
    /// then opens, and its report says so.
    fn recall(&self, vault: VaultId) -> Result<Option<u64>, WitnessUnavailable>;

    /// Remembers `generation`, which is higher than any before.
    ///
    /// # Errors
    ///
    /// Returns [`WitnessUnavailable`]. The vault is saved nevertheless.
    fn remember(&self, vault: VaultId, generation: u64) -> Result<(), WitnessUnavailable>;

    /// Forgets a vault that was destroyed, as far as it can.
    fn forget(&self, vault: VaultId) {
        let _ = vault;
    }
}

impl<W: Witness + ?Sized> Witness for Box<W> {
    fn recall(&self, vault: VaultId) -> Result<Option<u64>, WitnessUnavailable> {
        (**self).recall(vault)
    }

    fn remember(&self, vault: VaultId, generation: u64) -> Result<(), WitnessUnavailable> {
        (**self).remember(vault, generation)
    }

    fn forget(&self, vault: VaultId) {
        (**self).forget(vault);
    }
}

/// A witness cannot be asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the witness of the vault's generation cannot be asked: {why}")]
pub struct WitnessUnavailable {
    /// What is wrong, in words.
    pub why: String,
}

/// What a witness said when a vault was opened.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Freshness {
    /// There is none: an older copy of the vault would not be noticed.
    Unwitnessed,
    /// The vault is the newest that the witness knows, or newer.
    Confirmed,
    /// The vault is older, and the caller said that it may be.
    Restored {
        /// The generation that the witness knew.
        expected: u64,
    },
    /// It could not be asked.
    Unavailable(WitnessUnavailable),
}

/// Remembers in a file, in a directory that is not copied or restored
/// together with the vault's.
#[derive(Clone, Debug)]
pub struct FileWitness {
    directory: PathBuf,
}

impl FileWitness {
    /// Longest content: the digits of the largest number.
    const MAX_LEN: usize = 20;

    /// Keeps its files in `directory`, which it makes for the owner alone.
    #[must_use]
    pub fn in_directory(directory: impl AsRef<Path>) -> Self {
        Self {
            directory: directory.as_ref().to_owned(),
        }
    }

    fn name(vault: VaultId) -> String {
        format!("{vault}.generation")
    }
}

impl Witness for FileWitness {
    fn recall(&self, vault: VaultId) -> Result<Option<u64>, WitnessUnavailable> {
        let read = Directory::open(&self.directory, Privacy::Private)
            .and_then(|directory| directory.read(&Self::name(vault), Self::MAX_LEN));
        match read {
            Ok(digits) => match str::from_utf8(&digits)
                .ok()
                .and_then(|digits| digits.parse().ok())
            {
                Some(generation) => Ok(Some(generation)),
                None => Err(WitnessUnavailable {
                    why: "its file does not hold a number".to_owned(),
                }),
            },
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(WitnessUnavailable {
                why: error.to_string(),
            }),
        }
    }

    fn remember(&self, vault: VaultId, generation: u64) -> Result<(), WitnessUnavailable> {
        Directory::create(&self.directory, Privacy::Private)
            .and_then(|directory| {
                directory.replace(&Self::name(vault), generation.to_string().as_bytes())
            })
            .map_err(|error| WitnessUnavailable {
                why: error.to_string(),
            })
    }

    fn forget(&self, vault: VaultId) {
        // What stays is a number that nobody asks for.
        let _ = Directory::open(&self.directory, Privacy::Private)
            .and_then(|directory| directory.remove(&Self::name(vault)));
    }
}

/// Remembers in a keychain. Every save of the vault asks it once more.
#[derive(Clone)]
pub struct KeychainWitness {
    keychain: Arc<dyn Keychain>,
}

impl KeychainWitness {
    /// Keeps an item in `keychain` for each vault.
    #[must_use]
    pub fn new(keychain: impl Keychain + 'static) -> Self {
        Self {
            keychain: Arc::new(keychain),
        }
    }

    fn item(vault: VaultId) -> Result<ItemId, KeychainError> {
        ItemId::new(SERVICE, &format!("generation-{vault}"))
    }
}

impl std::fmt::Debug for KeychainWitness {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("KeychainWitness")
            .field("keychain", &self.keychain.name())
            .finish()
    }
}

impl From<KeychainError> for WitnessUnavailable {
    fn from(error: KeychainError) -> Self {
        Self {
            why: error.to_string(),
        }
    }
}

impl Witness for KeychainWitness {
    fn recall(&self, vault: VaultId) -> Result<Option<u64>, WitnessUnavailable> {
        match self.keychain.get(&Self::item(vault)?, &Deadline::quiet()) {
            // A keychain keeps 32 bytes; the number is the last eight of them.
            Ok(kept) => match kept.expose_secret().split_last_chunk::<8>() {
                Some((zeros, number)) if zeros.iter().all(|&zero| zero == 0) => {
                    Ok(Some(u64::from_be_bytes(*number)))
                }
                _ => Err(KeychainError::Damaged.into()),
            },
            Err(KeychainError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn remember(&self, vault: VaultId, generation: u64) -> Result<(), WitnessUnavailable> {
        let mut kept = [0; 32];
        kept[24..].copy_from_slice(&generation.to_be_bytes());
        Ok(self
            .keychain
            .put(&Self::item(vault)?, &Secret::new(kept), &Deadline::quiet())?)
    }

    fn forget(&self, vault: VaultId) {
        if let Ok(item) = Self::item(vault) {
            let _ = self.keychain.delete(&item, &Deadline::quiet());
        }
    }
}
