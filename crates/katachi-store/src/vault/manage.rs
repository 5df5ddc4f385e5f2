//! Adding, removing and renewing slots of an open vault.

use std::sync::Arc;

use katachi_crypto::password::{self, Params};
use katachi_crypto::{Secret, SecretString, random};

use crate::binding::Strength;

use super::error::VaultError;
use super::format::{MAX_SLOTS, Reader, SlotId, SlotKind, SlotRecord};
use super::recovery::RecoveryCode;
use super::report::{SlotFailure, SlotInfo};
use super::slot::VaultKey;
use super::unlock::{Renewal, open_here};
use super::{Draft, FILE, Vault};

/// Fewest characters of a passphrase.
const MIN_PASSPHRASE: usize = 8;

/// What [`Vault::rekey`] did.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Rekeyed {
    /// The slots that open the vault now.
    pub kept: Vec<SlotInfo>,
    /// The slots that are gone, because what opens them was not at hand.
    pub dropped: Vec<SlotInfo>,
}

impl Vault {
    /// Adds a slot that opens with the keychain on this machine.
    ///
    /// # Errors
    ///
    /// Returns [`VaultError::NotGiven`] if the builder was given no keychain,
    /// or why the keychain, the machine or the disk refused.
    pub fn add_keychain_slot(&self) -> Result<SlotInfo, VaultError> {
        self.add_here(SlotKind::Keychain)
    }

    /// Adds a slot that opens with this machine's TPM.
    ///
    /// # Errors
    ///
    /// Returns [`VaultError::NotGiven`] if the builder was given no TPM, or
    /// why the chip or the disk refused.
    pub fn add_tpm_slot(&self) -> Result<SlotInfo, VaultError> {
        self.add_here(SlotKind::Tpm)
    }

    /// Adds a slot that opens with a secret file on this machine.
    ///
    /// # Errors
    ///
    /// Returns [`VaultError::NotGiven`] if the builder was given no secret
    /// directory, or why the machine or the disk refused.
    pub fn add_file_slot(&self) -> Result<SlotInfo, VaultError> {
        self.add_here(SlotKind::File)
    }

    fn add_here(&self, kind: SlotKind) -> Result<SlotInfo, VaultError> {
        self.change(|draft| {
            draft.add_here(kind)?;
            draft.newest()
        })
    }

    /// Adds a recovery code, which opens the vault on any machine.
    ///
    /// It is drawn here and stored nowhere: show it to the owner once.
    ///
    /// # Errors
    ///
    /// Returns [`VaultError`] if the vault is full or cannot be saved; the
    /// code then opens nothing.
    pub fn add_recovery_code(&self) -> Result<RecoveryCode, VaultError> {
        let code = RecoveryCode::generate()?;
        self.change(|draft| draft.add_recovery_code(&code))?;
        Ok(code)
    }

    /// Adds a passphrase of at least eight characters, which opens the vault
    /// on any machine.
    ///
    /// # Errors
    ///
    /// Returns [`VaultError::Invalid`] for a shorter one, or why the vault
    /// cannot be saved.
    pub fn add_passphrase(&self, passphrase: &SecretString) -> Result<SlotInfo, VaultError> {
        self.change(|draft| {
            draft.add_passphrase(passphrase)?;
            draft.newest()
        })
    }

    /// Removes a slot and the secret that opened it.
    ///
    /// A copy of the vault file made earlier still opens with what the slot
    /// needed; [`rekey`](Self::rekey) and [`rotate`](Self::rotate) put an end to that.
    ///
    /// # Errors
    ///
    /// Returns [`VaultError::NoSuchSlot`], [`VaultError::LastSlot`], or why
    /// the vault cannot be saved.
    pub fn remove_slot(&self, id: SlotId) -> Result<(), VaultError> {
        self.change(|draft| {
            if draft.file.slots.len() == 1 && draft.position(id).is_ok() {
                return Err(VaultError::LastSlot);
            }
            draft.take(id).map(|_| ())
        })
    }

    /// Puts a new slot of the same kind, for this machine and with a new
    /// secret, in place of a keychain, TPM or file slot.
    ///
    /// # Errors
    ///
    /// Returns [`VaultError::NoSuchSlot`], [`VaultError::Invalid`] for a slot
    /// that is not machine-bound, or why the new slot could not be made. The
    /// old one then stays.
    pub fn rewrap(&self, id: SlotId) -> Result<SlotInfo, VaultError> {
        self.change(|draft| {
            let kind = draft.take(id)?.kind;
            draft.add_here(kind)?;
            draft.newest()
        })
    }

    /// Makes the vault at home on this machine, after it was opened by
    /// recovery code or passphrase: every keychain, TPM and file slot is replaced
    /// by one for this machine, as far as the builder was given the means.
    ///
    /// Slots whose means were not given stay as they are.
    ///
    /// # Errors
    ///
    /// Returns why a new slot could not be made; nothing is changed then.
    pub fn move_here(&self) -> Result<Vec<SlotInfo>, VaultError> {
        self.change(|draft| {
            let mut kinds = Vec::new();
            if draft.environment.keychain.is_some() {
                kinds.push(SlotKind::Keychain);
            }
            if draft.environment.tpm.is_some() {
                kinds.push(SlotKind::Tpm);
            }
            if draft.environment.secret_dir.is_some() {
                kinds.push(SlotKind::File);
            }
            let mut made = Vec::new();
            for kind in kinds {
                let old: Vec<SlotId> = draft
                    .file
                    .slots
                    .iter()
                    .filter(|slot| slot.kind == kind)
                    .map(|slot| slot.id)
                    .collect();
                if old.is_empty() {
                    continue;
                }
                for id in old {
                    draft.take(id)?;
                }
                draft.add_here(kind)?;
                made.push(draft.newest()?);
            }
            Ok(made)
        })
    }

    /// Locks the vault anew: a new vault key, and new secrets for the slots of
    /// this machine. For after a slot's secret has leaked.
    ///
    /// Passphrases and recovery codes are not stored, so a slot of these kinds
    /// is kept only if it is given here. Earlier copies of the vault file
    /// still open as before, so [`rotate`](Self::rotate) the data keys as well.
    ///
    /// # Errors
    ///
    /// Returns [`VaultError::LastSlot`] if no slot would be left, or why a new
    /// slot could not be made; nothing is changed then.
    pub fn rekey(
        &self,
        passphrase: Option<&SecretString>,
        recovery_code: Option<&RecoveryCode>,
    ) -> Result<Rekeyed, VaultError> {
        self.change(|draft| {
            let old: Vec<SlotRecord> = draft.file.slots.drain(..).collect();
            draft.key = Arc::new(VaultKey::generate()?);
            let mut dropped = Vec::new();
            for slot in &old {
                let has_means = match slot.kind {
                    SlotKind::Keychain => {
                        draft.environment.keychain.is_some() && draft.environment.binding.is_some()
                    }
                    SlotKind::File => {
                        draft.environment.secret_dir.is_some()
                            && draft.environment.binding.is_some()
                    }
                    SlotKind::Tpm => draft.environment.tpm.is_some(),
                    SlotKind::RecoveryCode => recovery_code.is_some(),
                    SlotKind::Passphrase => passphrase.is_some(),
                };
                let is_first = draft.file.slots.iter().all(|made| made.kind != slot.kind);
                match (has_means && is_first, slot.kind, recovery_code, passphrase) {
                    (true, SlotKind::Keychain | SlotKind::File | SlotKind::Tpm, _, _) => {
                        draft.add_here(slot.kind)?;
                    }
                    (true, SlotKind::RecoveryCode, Some(code), _) => {
                        draft.add_recovery_code(code)?
                    }
                    (true, SlotKind::Passphrase, _, Some(passphrase)) => {
                        draft.add_passphrase(passphrase)?
                    }
                    _ => dropped.push(SlotInfo::of(slot)),
                }
                draft.touched.push((slot.kind, slot.id));
            }
            if draft.file.slots.is_empty() {
                return Err(VaultError::LastSlot);
            }
            Ok(Rekeyed {
                kept: draft.file.slots.iter().map(SlotInfo::of).collect(),
                dropped,
            })
        })
    }

    /// Tries every slot of this machine, as an opening would, and says which
    /// would open. Slots whose means were not given are
    /// [`SlotFailure::NotTried`]; nobody is prompted unless the builder's
    /// deadline allows it.
    #[must_use]
    pub fn examine(&self) -> Vec<(SlotInfo, Result<(), SlotFailure>)> {
        let slots = self.state().file.slots.clone();
        let try_slot = |slot: &SlotRecord| open_here(self.id, slot, &self.environment).map(|_| ());
        slots
            .iter()
            .map(|slot| (SlotInfo::of(slot), try_slot(slot)))
            .collect()
    }

    /// Says whether `code` opens this vault, for an owner who reads it back
    /// from paper.
    #[must_use]
    pub fn accepts_recovery_code(&self, code: &RecoveryCode) -> bool {
        let slots = self.state().file.slots.clone();
        let mut slots = slots
            .iter()
            .filter(|slot| slot.kind == SlotKind::RecoveryCode);
        slots.any(|slot| slot.open_portable(self.id, code.expose_secret()).is_ok())
    }

    /// Destroys the vault: every secret of its machine-bound slots, and the
    /// file. Whatever its keys sealed cannot be opened again, unless somebody
    /// kept a copy of the file and a recovery code, a passphrase or a slot's secret.
    ///
    /// # Errors
    ///
    /// Returns why the vault file could not be removed.
    pub fn destroy(self) -> Result<(), VaultError> {
        let _lock = self.directory.lock(FILE)?;
        let slots = self.state().file.slots.clone();
        self.directory.remove(FILE)?;
        slots
            .iter()
            .for_each(|slot| self.environment.forget(self.id, slot.kind, slot.id));
        if let Some(witness) = &self.environment.witness {
            witness.forget(self.id);
        }
        Ok(())
    }

    /// Makes a slot fit the machine as it is now.
    pub(super) fn heal(&self, renewal: Renewal) -> Result<(), VaultError> {
        self.change(|draft| {
            let position = draft.position(renewal.slot)?;
            let place = draft.environment.place(draft.file.id);
            let slot = &mut draft.file.slots[position];
            *slot = SlotRecord::bound(
                slot.kind,
                slot.id,
                place,
                &renewal.source,
                &renewal.enrolled,
                &draft.key,
            )?;
            Ok(())
        })
    }
}

impl Draft<'_> {
    /// Adds a slot that opens with what this machine has.
    fn add_here(&mut self, kind: SlotKind) -> Result<(), VaultError> {
        match kind {
            SlotKind::Keychain | SlotKind::File => self.add_bound(kind).map(|_| ()),
            SlotKind::Tpm => self.add_tpm(),
            SlotKind::RecoveryCode | SlotKind::Passphrase => Err(VaultError::Invalid(
                "a recovery code or passphrase slot belongs to no machine; add a new one and remove this",
            )),
        }
    }

    /// Has the chip seal a new secret and adds the slot that it opens.
    pub(super) fn add_tpm(&mut self) -> Result<(), VaultError> {
        let tpm = self.environment.tpm.as_deref();
        let source = Secret::random()?;
        let sealed = tpm.ok_or(VaultError::NotGiven("TPM"))?.seal(&source)?;
        self.add_portable(SlotKind::Tpm, sealed, source.expose_secret())
    }

    /// Stores a new secret and adds the slot that it opens on this machine.
    pub(super) fn add_bound(&mut self, kind: SlotKind) -> Result<Strength, VaultError> {
        let id = self.free_id()?;
        let enrolled = self.environment.binding()?.enroll()?;
        let source = Secret::random()?;
        self.touched.push((kind, id));
        self.environment.store(self.file.id, kind, id, &source)?;
        let place = self.environment.place(self.file.id);
        self.file.slots.push(SlotRecord::bound(
            kind, id, place, &source, &enrolled, &self.key,
        )?);
        Ok(enrolled.strength)
    }

    pub(super) fn add_recovery_code(&mut self, code: &RecoveryCode) -> Result<(), VaultError> {
        self.add_portable(SlotKind::RecoveryCode, Vec::new(), code.expose_secret())
    }

    pub(super) fn add_passphrase(&mut self, passphrase: &SecretString) -> Result<(), VaultError> {
        if passphrase.expose_secret().chars().count() < MIN_PASSPHRASE {
            return Err(VaultError::Invalid(
                "a passphrase has at least eight characters; several words are better",
            ));
        }
        let mut parameters = random::bytes::<16>()?.to_vec();
        parameters.extend_from_slice(&Params::VAULT.to_bytes());
        let source = stretch(&parameters, passphrase)?;
        self.add_portable(SlotKind::Passphrase, parameters, source.expose_secret())
    }

    fn add_portable(
        &mut self,
        kind: SlotKind,
        parameters: Vec<u8>,
        source: &[u8],
    ) -> Result<(), VaultError> {
        let id = self.free_id()?;
        let place = self.environment.place(self.file.id);
        self.file.slots.push(SlotRecord::portable(
            kind, id, place, parameters, source, &self.key,
        )?);
        Ok(())
    }

    fn free_id(&self) -> Result<SlotId, VaultError> {
        if self.file.slots.len() >= MAX_SLOTS {
            return Err(VaultError::Full("sixteen slots"));
        }
        Ok(SlotId(random::bytes()?))
    }

    fn position(&self, id: SlotId) -> Result<usize, VaultError> {
        self.file
            .slots
            .iter()
            .position(|slot| slot.id == id)
            .ok_or(VaultError::NoSuchSlot(id))
    }

    /// Takes a slot out; its secret is forgotten once the vault is saved without it.
    fn take(&mut self, id: SlotId) -> Result<SlotRecord, VaultError> {
        let slot = self.file.slots.remove(self.position(id)?);
        self.touched.push((slot.kind, id));
        Ok(slot)
    }

    fn newest(&self) -> Result<SlotInfo, VaultError> {
        self.file
            .slots
            .last()
            .map(SlotInfo::of)
            .ok_or(VaultError::NoSlotAsked)
    }
}

/// Turns a passphrase into a slot's source secret.
///
/// `parameters` are sixteen bytes of salt and the encoded cost, which has a
/// ceiling: a tampered vault cannot ask for a machine's whole memory.
pub(super) fn stretch(
    parameters: &[u8],
    passphrase: &SecretString,
) -> Result<Secret<32>, VaultError> {
    let invalid =
        VaultError::Invalid("the passphrase slot has parameters that this version does not know");
    let mut reader = Reader(parameters);
    let (Some(salt), Some(cost), []) = (reader.array(), reader.array(), reader.0) else {
        return Err(invalid);
    };
    let Ok(params) = Params::from_bytes(&cost) else {
        return Err(invalid);
    };
    Ok(password::stretch(
        passphrase.expose_secret().as_bytes(),
        &salt,
        &params,
    )?)
}
