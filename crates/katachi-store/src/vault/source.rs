//! Where the secrets of machine-bound slots are kept: the keychain, a file in a
//! directory of its own, and sealed by a TPM in the slot itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use katachi_crypto::Secret;

use crate::binding::MachineBinding;
use crate::durable::{Directory, Privacy};
use crate::keychain::{Deadline, ItemId, Keychain};
use crate::tpm::Tpm;

use super::error::VaultError;
use super::format::{SlotId, SlotKind, SlotRecord, VaultId};
use super::report::SlotFailure;
use super::slot::Place;
use super::witness::{Freshness, Witness};

pub(crate) const SERVICE: &str = "katachi";
const SECRET_MAGIC: &[u8; 4] = b"KTS\x01";
const SECRET_LEN: usize = SECRET_MAGIC.len() + 32;

/// What a vault was given to work with.
pub(crate) struct Environment {
    pub(crate) binding: Option<Arc<dyn MachineBinding>>,
    pub(crate) keychain: Option<Arc<dyn Keychain>>,
    pub(crate) tpm: Option<Arc<dyn Tpm>>,
    pub(crate) secret_dir: Option<PathBuf>,
    pub(crate) witness: Option<Arc<dyn Witness>>,
    pub(crate) deadline: Deadline,
    pub(crate) user: String,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Environment")
            .field("binding", &self.binding.is_some())
            .field(
                "keychain",
                &self
                    .keychain
                    .as_ref()
                    .map(|keychain| keychain.name().to_owned()),
            )
            .field("tpm", &self.tpm.as_ref().map(|tpm| tpm.name().to_owned()))
            .field("secret_dir", &self.secret_dir)
            .field("witness", &self.witness.is_some())
            .field("deadline", &self.deadline)
            .field("user", &self.user)
            .finish()
    }
}

impl Environment {
    pub(crate) fn place(&self, vault: VaultId) -> Place<'_> {
        Place {
            vault,
            user: &self.user,
        }
    }

    pub(crate) fn binding(&self) -> Result<&dyn MachineBinding, VaultError> {
        self.binding.as_deref().ok_or(VaultError::NoBinding)
    }

    /// Asks the witness about a vault that opened at `generation`.
    pub(crate) fn freshness(&self, vault: VaultId, generation: u64) -> Freshness {
        let Some(witness) = &self.witness else {
            return Freshness::Unwitnessed;
        };
        match witness.recall(vault) {
            Ok(Some(expected)) if expected > generation => Freshness::Restored { expected },
            Ok(_) => Freshness::Confirmed,
            Err(error) => Freshness::Unavailable(error),
        }
    }

    /// Tells the witness of a save. One that cannot be told makes nothing
    /// fail: it only knows less, and the next save tells it again.
    pub(crate) fn tell_witness(&self, vault: VaultId, generation: u64) {
        if let Some(witness) = &self.witness {
            let _ = witness.remember(vault, generation);
        }
    }

    /// Reads the secret of a machine-bound slot.
    pub(crate) fn fetch(
        &self,
        vault: VaultId,
        slot: &SlotRecord,
    ) -> Result<Secret<32>, SlotFailure> {
        match slot.kind {
            SlotKind::Keychain => {
                let keychain = self.keychain.as_deref().ok_or(SlotFailure::NotTried)?;
                Ok(keychain.get(&item(vault, slot.id)?, &self.deadline)?)
            }
            SlotKind::File => {
                let path = self.secret_dir.as_deref().ok_or(SlotFailure::NotTried)?;
                read_secret_file(path, vault, slot.id)
            }
            SlotKind::Tpm => {
                let tpm = self.tpm.as_deref().ok_or(SlotFailure::NotTried)?;
                Ok(tpm.unseal(&slot.parameters)?)
            }
            SlotKind::RecoveryCode | SlotKind::Passphrase => Err(SlotFailure::NotTried),
        }
    }

    /// Keeps a new secret for a slot that will be saved after it.
    pub(crate) fn store(
        &self,
        vault: VaultId,
        kind: SlotKind,
        slot: SlotId,
        secret: &Secret<32>,
    ) -> Result<(), VaultError> {
        match kind {
            SlotKind::Keychain => {
                let keychain = self
                    .keychain
                    .as_deref()
                    .ok_or(VaultError::NotGiven("keychain"))?;
                Ok(keychain.put(&item(vault, slot)?, secret, &self.deadline)?)
            }
            SlotKind::File => {
                let path = self
                    .secret_dir
                    .as_deref()
                    .ok_or(VaultError::NotGiven("secret directory"))?;
                let mut bytes = zeroize::Zeroizing::new([0_u8; SECRET_LEN]);
                bytes[..4].copy_from_slice(SECRET_MAGIC);
                bytes[4..].copy_from_slice(secret.expose_secret());
                Ok(Directory::create(path, Privacy::Private)?
                    .replace(&secret_name(vault, slot), &bytes[..])?)
            }
            // The slot itself holds what these need.
            SlotKind::Tpm | SlotKind::RecoveryCode | SlotKind::Passphrase => Ok(()),
        }
    }

    /// Forgets the secret of a slot that is in no vault any more.
    ///
    /// Failing is harmless to the owner and is not reported: without its slot
    /// the secret opens nothing.
    pub(crate) fn forget(&self, vault: VaultId, kind: SlotKind, slot: SlotId) {
        match kind {
            SlotKind::Keychain => {
                if let (Some(keychain), Ok(item)) = (self.keychain.as_deref(), item(vault, slot)) {
                    let _ = keychain.delete(&item, &self.deadline);
                }
            }
            SlotKind::File => {
                let directory = self
                    .secret_dir
                    .as_deref()
                    .map(|path| Directory::open(path, Privacy::Private));
                if let Some(Ok(directory)) = directory {
                    let _ = directory.remove(&secret_name(vault, slot));
                }
            }
            SlotKind::Tpm | SlotKind::RecoveryCode | SlotKind::Passphrase => {}
        }
    }

    /// Removes secret files of this vault that an interrupted change left
    /// without a slot. The caller holds the vault's lock.
    pub(crate) fn clean_secret_files(&self, vault: VaultId, slots: &[SlotRecord]) {
        let Some(Ok(directory)) = self
            .secret_dir
            .as_deref()
            .map(|path| Directory::open(path, Privacy::Private))
        else {
            return;
        };
        let prefix = format!("{vault}-");
        for name in directory.names().unwrap_or_default() {
            let slot = name
                .strip_prefix(&prefix)
                .and_then(|rest| rest.strip_suffix(".secret"))
                .and_then(SlotId::parse);
            let is_orphan = slot.is_some_and(|slot| slots.iter().all(|known| known.id != slot));
            let is_temporary = name.starts_with(&format!(".{prefix}")) && name.ends_with(".tmp");
            if is_orphan || is_temporary {
                let _ = directory.remove(&name);
            }
        }
    }
}

fn item(vault: VaultId, slot: SlotId) -> Result<ItemId, crate::keychain::KeychainError> {
    ItemId::new(SERVICE, &format!("vault-{vault}-{slot}"))
}

fn secret_name(vault: VaultId, slot: SlotId) -> String {
    format!("{vault}-{slot}.secret")
}

fn read_secret_file(
    directory: &Path,
    vault: VaultId,
    slot: SlotId,
) -> Result<Secret<32>, SlotFailure> {
    let unreadable = |why: String| SlotFailure::SecretFile { why };
    let directory = Directory::open(directory, Privacy::Private)
        .map_err(|error| unreadable(error.to_string()))?;
    let bytes = directory
        .read(&secret_name(vault, slot), SECRET_LEN)
        .map_err(|error| unreadable(error.to_string()))?;
    let secret = bytes
        .strip_prefix(SECRET_MAGIC)
        .and_then(|secret| Secret::from_slice(secret).ok());
    secret.ok_or_else(|| unreadable("it is not a secret file of this program".to_owned()))
}

/// Whether one of two directories lies inside the other, as far as they exist.
pub(crate) fn overlap(one: &Path, other: &Path) -> bool {
    let absolute = |path: &Path| {
        // What does not exist yet is judged by the part that does.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let existing = path
            .ancestors()
            .find_map(|ancestor| Some((ancestor, ancestor.canonicalize().ok()?)));
        match existing {
            Some((ancestor, real)) => {
                real.join(path.strip_prefix(ancestor).unwrap_or(Path::new("")))
            }
            None => path,
        }
    };
    let (one, other) = (absolute(one), absolute(other));
    one.starts_with(&other) || other.starts_with(&one)
}

/// The user whose slots these are, as the system names them.
pub(crate) fn current_user() -> String {
    #[cfg(unix)]
    {
        rustix::process::geteuid().as_raw().to_string()
    }
    #[cfg(not(unix))]
    {
        std::env::var("USERNAME").unwrap_or_default()
    }
}
