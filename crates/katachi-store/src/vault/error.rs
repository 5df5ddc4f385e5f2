//! What can go wrong with a vault, sorted by whose turn it is.

use std::path::PathBuf;

use crate::binding::BindingError;
use crate::durable::FileError;
use crate::keychain::KeychainError;
use crate::tpm::TpmError;

use super::format::{FormatError, SlotId};
use super::report::Degraded;

/// Why a vault did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    // The owner's turn.
    /// No slot opened.
    #[error(
        "no slot of the vault opened{}; use the recovery code or the passphrase",
        list(tried)
    )]
    NoUsableSlot {
        /// Every slot and why it did not open.
        tried: Vec<Degraded>,
    },
    /// The directory has no vault.
    #[error("there is no vault in {}; create one first", dir.display())]
    NoVault {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory has a vault already.
    #[error("there is a vault in {} already; open it, or destroy it first", dir.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// The vault file was replaced by an older copy of itself.
    #[error(
        "the vault was replaced by an older copy (generation {found}, expected at least {expected}); bring the newer one back, or say that this one was restored on purpose"
    )]
    RolledBack {
        /// The generation of the file.
        found: u64,
        /// The generation that was seen before.
        expected: u64,
    },

    // The caller's turn.
    /// Nothing was given to make the first slot with.
    #[error(
        "a vault needs a slot: give the builder a keychain, a secret directory, a TPM, a passphrase or a recovery code"
    )]
    NoSlotAsked,
    /// A machine-bound slot was asked for without a binding.
    #[error("a keychain or file slot needs a machine binding: give the builder one")]
    NoBinding,
    /// The means for this kind of slot was not given to the builder.
    #[error("the builder was given no {0}")]
    NotGiven(&'static str),
    /// The secret file would lie beside the vault, where one copy takes both.
    #[error(
        "the secret directory must not be inside the vault's directory, or the other way round; choose another"
    )]
    SecretBesideVault,
    /// The vault has no such slot.
    #[error("the vault has no slot {0}")]
    NoSuchSlot(SlotId),
    /// The last slot cannot be removed.
    #[error("this is the last slot; add another before removing it, or destroy the vault")]
    LastSlot,
    /// The vault is full.
    #[error("the vault is full ({0}); remove what is no longer needed")]
    Full(&'static str),
    /// A purpose, label or passphrase that cannot be used.
    #[error("{0}")]
    Invalid(&'static str),
    /// The vault has no such data key.
    #[error("the vault has no key {id} for this purpose")]
    NoSuchKey {
        /// The key's name.
        id: String,
    },
    /// The data key was destroyed.
    #[error("key {id} was destroyed; what it sealed cannot be opened again")]
    KeyDestroyed {
        /// The key's name.
        id: String,
    },

    // The machine's turn.
    /// The keychain did not take the secret of a new slot.
    #[error(transparent)]
    Keychain(#[from] KeychainError),
    /// The TPM did not seal the secret of a new slot.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The machine could not be enrolled.
    #[error(transparent)]
    Binding(#[from] BindingError),
    /// A file could not be read or saved.
    #[error(transparent)]
    File(#[from] FileError),
    /// The system has no randomness, or a limit of the cryptography was met.
    #[error("cryptography failed: {0}")]
    Crypto(katachi_crypto::Error),

    // Somebody tampered, or the disk did.
    /// The file is no vault.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The file was changed by someone without its key.
    #[error("the vault file was damaged or tampered with; restore it from a backup")]
    Tampered,
    /// The vault's key was changed by another process.
    #[error("the vault was locked anew by another process; open it again")]
    Replaced,
}

fn list(tried: &[Degraded]) -> String {
    tried.iter().map(|slot| format!("; {slot}")).collect()
}

impl From<katachi_crypto::Error> for VaultError {
    fn from(error: katachi_crypto::Error) -> Self {
        Self::Crypto(error)
    }
}
