//! A security chip that keeps the secret of a vault's slot.
//!
//! A TPM 2.0 encrypts 32 bytes under a key that never leaves it. What it hands
//! out lies in the vault file and is worthless without that very chip: a copied
//! disk, a copied image and the drive itself in another computer all stay
//! closed, however well the thief knows the machine. No firmware or boot
//! measurement is bound (no PCR), since an update of the firmware would lock
//! the owner out; so a chip does not tell who booted the machine, and gives the
//! secret to any program that may use it and has the vault file.
//!
//! With the feature `tpm`, `TpmDevice` speaks to a chip or to a software TPM.
//! Everything else may come through the trait [`Tpm`].
//!
//! A chip dies with its board, and a vendor's reset clears it. Keep a recovery
//! code beside a TPM slot.

use std::sync::Arc;

use katachi_crypto::Secret;

#[cfg(all(feature = "tpm", target_os = "linux"))]
mod device;
#[cfg(all(feature = "tpm", target_os = "linux"))]
mod line;
#[cfg(all(feature = "tpm", target_os = "linux"))]
mod sealed;
#[cfg(all(feature = "tpm", target_os = "linux"))]
mod session;
#[cfg(all(feature = "tpm", target_os = "linux"))]
mod wire;

#[cfg(all(feature = "tpm", target_os = "linux"))]
pub use device::TpmDevice;
#[cfg(all(feature = "tpm", target_os = "linux", any(test, feature = "testing")))]
pub(crate) use {sealed::check_law as check_sealed_law, wire::check_law as check_answer_law};

/// Seals 32-byte secrets so that this machine alone opens them.
///
/// # Security
///
/// What [`seal`](Self::seal) returns is stored in the vault file, where a thief
/// reads it. It must be worthless without the chip. Every call has a deadline.
pub trait Tpm: Send + Sync {
    /// A short name for reports, such as the path of the device.
    fn name(&self) -> &str;

    /// Seals `secret` into at most 512 bytes.
    ///
    /// # Errors
    ///
    /// Returns [`TpmError`].
    fn seal(&self, secret: &Secret<32>) -> Result<Vec<u8>, TpmError>;

    /// Opens what [`seal`](Self::seal) returned on this machine.
    ///
    /// # Errors
    ///
    /// Returns [`TpmError`]; [`TpmError::Other`] only if the chip answered and
    /// is another one, or was cleared since.
    fn unseal(&self, sealed: &[u8]) -> Result<Secret<32>, TpmError>;

    /// Says whether the chip can be used now.
    ///
    /// # Errors
    ///
    /// Returns why it cannot.
    fn status(&self) -> Result<(), TpmError>;
}

impl<T: Tpm + ?Sized> Tpm for Arc<T> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn seal(&self, secret: &Secret<32>) -> Result<Vec<u8>, TpmError> {
        (**self).seal(secret)
    }

    fn unseal(&self, sealed: &[u8]) -> Result<Secret<32>, TpmError> {
        (**self).unseal(sealed)
    }

    fn status(&self) -> Result<(), TpmError> {
        (**self).status()
    }
}

/// Why a TPM did not do what it was asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// There is no chip to ask, or this user may not ask it.
    #[error("no TPM is available: {why}")]
    Unavailable {
        /// What is missing, with the next step.
        why: String,
    },
    /// It did not answer in time.
    #[error("the TPM did not answer in time")]
    Timeout,
    /// The secret was sealed by another chip, or this one was cleared since.
    #[error("the secret was sealed by another TPM, or this one was cleared since")]
    Other,
    /// The chip wants a password that this program does not have.
    #[error("the TPM refused access: its storage hierarchy has a password of its own")]
    Denied,
    /// Somebody between this program and the chip changed what they said.
    #[error("what the TPM said was changed on the way; do not trust this machine")]
    Tampered,
    /// The stored bytes are not what a TPM slot holds.
    #[error("the sealed secret is damaged, or was written by a newer version")]
    Damaged,
    /// Anything else that the chip said, or nothing that a TPM says.
    #[error("the TPM failed: {why}")]
    Failed {
        /// What happened, in words.
        why: String,
    },
}
