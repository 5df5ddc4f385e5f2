//! What an opening found, and what can be said without opening.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::binding::{BindingError, Strength};
use crate::keychain::KeychainError;
use crate::tpm::TpmError;

use super::format::{SlotId, SlotKind, SlotRecord, VaultId};
use super::witness::Freshness;

/// A slot, without its secrets.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct SlotInfo {
    /// Its name, for [`Vault::remove_slot`](super::Vault::remove_slot).
    pub id: SlotId,
    /// What opens it.
    pub kind: SlotKind,
    /// When it was made.
    pub created: SystemTime,
}

impl SlotInfo {
    pub(crate) fn of(record: &SlotRecord) -> Self {
        let created = SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(record.created))
            .unwrap_or(SystemTime::UNIX_EPOCH);
        Self {
            id: record.id,
            kind: record.kind,
            created,
        }
    }
}

/// How a vault was opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OpenReport {
    /// The slot that opened.
    pub slot: SlotInfo,
    /// Slots that should have opened before it and did not.
    pub degraded: Vec<Degraded>,
    /// Parts of the machine that are as they were, where the slot is machine-bound.
    pub matched: Vec<String>,
    /// What changed on the machine since the slot was made.
    pub drift: Vec<String>,
    /// How hard the machine's part of the slot is to guess elsewhere.
    pub strength: Option<Strength>,
    /// Whether the slot was adapted to the changed machine.
    pub healing: Healing,
    /// Whether an older copy of the vault would have been noticed.
    pub freshness: Freshness,
}

impl OpenReport {
    /// Whether the slot would open for someone with the disk after less than
    /// [`Strength::FLOOR_BITS`] of guessing.
    ///
    /// The secret of a file slot lies on the same disk as the vault, so only
    /// the parts of the machine protect it. A keychain's secret is encrypted
    /// by the user's login, and is not counted here.
    #[must_use]
    pub fn is_copy_deterrent(&self) -> bool {
        self.slot.kind == SlotKind::File
            && self
                .strength
                .is_some_and(|strength| strength.is_copy_deterrent())
    }
}

/// A slot that did not open, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Degraded {
    /// What should have opened it.
    pub kind: SlotKind,
    /// Its name; `None` if the vault has no slot of this kind.
    pub slot: Option<SlotId>,
    /// Why it did not open.
    pub why: SlotFailure,
}

impl fmt::Display for Degraded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} slot: {}", self.kind, self.why)
    }
}

/// Why a slot did not open.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SlotFailure {
    /// Its means were not given to the builder: no keychain, no secret
    /// directory, no TPM, no recovery code, no passphrase.
    #[error("not tried, since nothing was given to open it with")]
    NotTried,
    /// The builder was given the means for a slot that the vault does not have.
    #[error("the vault has none; add one")]
    Missing,
    /// The keychain did not hand over the secret.
    #[error(transparent)]
    Keychain(#[from] KeychainError),
    /// The TPM did not open the secret.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The file with the secret could not be read.
    #[error("its secret file could not be read: {why}")]
    SecretFile {
        /// What went wrong, with the next step.
        why: String,
    },
    /// The machine is another one, or could not be observed.
    #[error(transparent)]
    Binding(#[from] BindingError),
    /// The slot was made for another user of the machine.
    #[error("it was made by another user of this machine; open the vault as that user")]
    OtherUser,
    /// The keychain item, secret file, passphrase or recovery code belongs to
    /// another vault, or the slot is damaged.
    #[error("the secret does not fit")]
    WrongSecret,
}

/// What became of a slot whose machine had changed.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Healing {
    /// Nothing had changed.
    NotNeeded,
    /// The slot now fits the machine as it is.
    Done,
    /// The changed slot could not be saved; the vault is open nevertheless,
    /// and the next opening tries again.
    Failed {
        /// What went wrong, with the next step.
        why: String,
    },
}

/// What can be said about a vault without opening it or asking anybody.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VaultStatus {
    /// The vault's name.
    pub id: VaultId,
    /// How often it was saved.
    pub generation: u64,
    /// Its slots.
    pub slots: Vec<SlotInfo>,
}
