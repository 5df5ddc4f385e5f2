//! The questions to answer before a vault is created or opened.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use katachi_crypto::{SecretString, random};

use crate::binding::MachineBinding;
use crate::durable::{Directory, Privacy};
use crate::keychain::{Deadline, Keychain};
use crate::tpm::Tpm;

use super::error::VaultError;
use super::format::{MAX_SLOTS, SlotKind, VaultFile, VaultId};
use super::keys::KeyRing;
use super::recovery::RecoveryCode;
use super::report::{Degraded, Healing, OpenReport, SlotFailure, SlotInfo};
use super::slot::VaultKey;
use super::source::{Environment, current_user, overlap};
use super::unlock::{Unlocked, unlock};
use super::witness::{Freshness, Witness};
use super::{Draft, FILE, State, Vault, load, no_vault, save};

/// Creates or opens a vault.
///
/// What is given here both opens the slots that exist and, when creating,
/// asks for a slot: a keychain for a keychain slot, a TPM for a TPM slot, a
/// secret directory for a file slot, a passphrase or recovery code for its own.
#[derive(Debug)]
#[must_use = "a builder does nothing until `create`, `open` or `open_or_create`"]
pub struct Builder {
    dir: PathBuf,
    environment: Environment,
    fallback_only: bool,
    accept_restore: bool,
    passphrase: Option<SecretString>,
    recovery_code: Option<RecoveryCode>,
}

impl Builder {
    pub(super) fn new(dir: &Path) -> Self {
        let environment = Environment {
            binding: None,
            keychain: None,
            tpm: None,
            secret_dir: None,
            witness: None,
            deadline: Deadline::quiet(),
            user: current_user(),
        };
        Self {
            dir: dir.to_owned(),
            environment,
            fallback_only: false,
            accept_restore: false,
            passphrase: None,
            recovery_code: None,
        }
    }

    /// Recognises this machine by `binding`. Keychain and file slots need one.
    pub fn binding(mut self, binding: impl MachineBinding + 'static) -> Self {
        self.environment.binding = Some(Arc::new(binding));
        self
    }

    /// Keeps a secret in `keychain`, for a keychain slot.
    pub fn keychain(mut self, keychain: impl Keychain + 'static) -> Self {
        self.environment.keychain = Some(Arc::new(keychain));
        self
    }

    /// Has `tpm` seal a secret, for a TPM slot. It needs no binding: the chip is
    /// a part of the machine itself.
    pub fn tpm(mut self, tpm: impl Tpm + 'static) -> Self {
        self.environment.tpm = Some(Arc::new(tpm));
        self
    }

    /// Keeps a secret in a file in `secret_dir`, for a file slot.
    ///
    /// Choose a directory that is not copied or synchronised together with the
    /// vault's. Whoever takes both has only the parts of the machine to guess.
    pub fn file_slot(mut self, secret_dir: impl AsRef<Path>) -> Self {
        self.environment.secret_dir = Some(secret_dir.as_ref().to_owned());
        self.fallback_only = false;
        self
    }

    /// Like [`file_slot`](Self::file_slot), but makes the slot only if the
    /// keychain cannot be used when the vault is created. The report then
    /// names the keychain slot as degraded.
    pub fn file_slot_if_no_keychain(mut self, secret_dir: impl AsRef<Path>) -> Self {
        self.environment.secret_dir = Some(secret_dir.as_ref().to_owned());
        self.fallback_only = true;
        self
    }

    /// Opens with, or creates a slot for, a passphrase of at least
    /// eight characters.
    pub fn passphrase(mut self, passphrase: SecretString) -> Self {
        self.passphrase = Some(passphrase);
        self
    }

    /// Opens with, or creates a slot for, a recovery code.
    pub fn recovery_code(mut self, code: RecoveryCode) -> Self {
        self.recovery_code = Some(code);
        self
    }

    /// How long the keychain may take, and whether it may ask the user.
    /// Three seconds and no, if this is not called.
    pub fn keychain_deadline(mut self, deadline: Deadline) -> Self {
        self.environment.deadline = deadline;
        self
    }

    /// Notices by `witness` when the vault was replaced by an older copy.
    pub fn witness(mut self, witness: impl Witness + 'static) -> Self {
        self.environment.witness = Some(Arc::new(witness));
        self
    }

    /// Opens a vault although the witness knows a newer one, after the owner
    /// said that it was restored on purpose. What was added since is lost, and
    /// slots that were removed since are back.
    pub fn accept_restore(mut self) -> Self {
        self.accept_restore = true;
        self
    }

    /// Makes and opens machine-bound slots for another user name than the
    /// one that the process runs as, for services that act for several.
    pub fn user(mut self, user: &str) -> Self {
        self.environment.user = user.to_owned();
        self
    }

    /// Creates the vault and its slots.
    ///
    /// # Errors
    ///
    /// Returns [`VaultError::Exists`] if there is one, [`VaultError::NoSlotAsked`]
    /// if nothing was given to make a slot with, [`VaultError::Keychain`] if
    /// the keychain cannot be used and no other slot was asked for in its
    /// place, or why a file cannot be written.
    pub fn create(self) -> Result<Vault, VaultError> {
        self.check()?;
        let directory = Directory::create(&self.dir, Privacy::Private)?;
        let lock = directory.lock(FILE)?;
        if directory.contains(FILE)? {
            return Err(VaultError::Exists { dir: self.dir });
        }
        directory.clean_leftovers(&lock, FILE)?;
        let key = Arc::new(VaultKey::generate()?);
        let file = VaultFile {
            id: VaultId(random::bytes()?),
            generation: 1,
            slots: Vec::with_capacity(MAX_SLOTS),
            keys: Vec::new(),
        };
        let (id, mut touched) = (file.id, Vec::new());
        let mut draft = Draft {
            environment: &self.environment,
            key,
            file,
            ring: KeyRing::generate()?,
            touched: &mut touched,
        };
        let made = first_slots(
            &mut draft,
            self.fallback_only,
            self.passphrase.as_ref(),
            self.recovery_code.as_ref(),
        )
        .and_then(|report| {
            save(&directory, &draft.key, &mut draft.file, &draft.ring)?;
            let Draft {
                key, file, ring, ..
            } = draft;
            Ok((
                report,
                State {
                    key,
                    file,
                    ring,
                    stamp: directory.stamp(FILE).ok(),
                },
            ))
        });
        match made {
            Ok((mut report, state)) => {
                self.environment.tell_witness(id, state.file.generation);
                report.freshness = self.environment.freshness(id, state.file.generation);
                Ok(Vault {
                    directory,
                    environment: self.environment,
                    id,
                    report,
                    state: Mutex::new(state),
                })
            }
            Err(error) => {
                // Unless the save got as far as the rename, nobody will ask for these again.
                if matches!(directory.contains(FILE), Ok(false)) {
                    touched
                        .iter()
                        .for_each(|&(kind, slot)| self.environment.forget(id, kind, slot));
                }
                Err(error)
            }
        }
    }

    /// Opens the vault with the first slot that works.
    ///
    /// Tried are the keychain slots, the TPM slots, the file slots, the recovery
    /// codes and the passphrases, as far as their means were given. If the machine has
    /// changed a little since the slot was made, the slot is made anew for it
    /// and saved.
    ///
    /// # Errors
    ///
    /// Returns [`VaultError::NoVault`], [`VaultError::NoUsableSlot`] with the
    /// reason of each slot, [`VaultError::Tampered`], [`VaultError::RolledBack`]
    /// if the witness knows a newer one, or why the file could not be read.
    pub fn open(self) -> Result<Vault, VaultError> {
        let directory = Directory::open(&self.dir, Privacy::Private)
            .map_err(|error| no_vault(&self.dir, error))?;
        let (file, unlocked) = self.unlock(&directory)?;
        let (id, generation) = (file.id, file.generation);
        let freshness = self.environment.freshness(id, generation);
        if let (Freshness::Restored { expected }, false) = (&freshness, self.accept_restore) {
            return Err(VaultError::RolledBack {
                found: generation,
                expected: *expected,
            });
        }
        let state = State {
            key: Arc::new(unlocked.key),
            file,
            ring: unlocked.ring,
            stamp: None,
        };
        let mut vault = Vault {
            directory,
            environment: self.environment,
            id,
            report: unlocked.report,
            state: Mutex::new(state),
        };
        if let Freshness::Restored { expected } = freshness {
            vault.skip_generations(expected)?;
        }
        vault.report.freshness = freshness;
        if let Some(renewal) = unlocked.renewal {
            vault.report.healing = match vault.heal(renewal) {
                Ok(()) => Healing::Done,
                Err(error) => Healing::Failed {
                    why: error.to_string(),
                },
            };
        }
        Ok(vault)
    }

    /// Reads and unlocks the file, once more if it was replaced meanwhile: a
    /// slot that another process renews takes its old secret with it.
    fn unlock(&self, directory: &Directory) -> Result<(VaultFile, Unlocked), VaultError> {
        let mut attempts = 0;
        loop {
            let stamp = directory
                .stamp(FILE)
                .map_err(|error| no_vault(&self.dir, error))?;
            let (file, mac) = load(directory)?;
            let unlocked = unlock(
                &file,
                &mac,
                &self.environment,
                self.passphrase.as_ref(),
                self.recovery_code.as_ref(),
            );
            attempts += 1;
            match unlocked {
                Ok(unlocked) => return Ok((file, unlocked)),
                Err(_) if attempts < 10 && directory.stamp(FILE).ok() != Some(stamp) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens the vault, or creates it if there is none.
    ///
    /// # Errors
    ///
    /// Like [`open`](Self::open) and [`create`](Self::create). A vault that
    /// exists and does not open is never replaced.
    pub fn open_or_create(self) -> Result<Vault, VaultError> {
        match self.dir.join(FILE).symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.create(),
            _ => self.open(),
        }
    }

    /// Catches what the caller should have done otherwise before anything is written.
    fn check(&self) -> Result<(), VaultError> {
        let environment = &self.environment;
        let bound = environment.keychain.is_some() || environment.secret_dir.is_some();
        let has_tpm = environment.tpm.is_some();
        if !bound && !has_tpm && self.passphrase.is_none() && self.recovery_code.is_none() {
            return Err(VaultError::NoSlotAsked);
        }
        if bound && environment.binding.is_none() {
            return Err(VaultError::NoBinding);
        }
        match &environment.secret_dir {
            Some(secret_dir) if overlap(&self.dir, secret_dir) => {
                Err(VaultError::SecretBesideVault)
            }
            _ => Ok(()),
        }
    }
}

fn first_slots(
    draft: &mut Draft<'_>,
    fallback_only: bool,
    passphrase: Option<&SecretString>,
    recovery_code: Option<&RecoveryCode>,
) -> Result<OpenReport, VaultError> {
    let mut degraded = Vec::new();
    let mut strength = None;
    let mut file_slot = draft.environment.secret_dir.is_some() && !fallback_only;
    if draft.environment.keychain.is_some() {
        match draft.add_bound(SlotKind::Keychain) {
            Ok(reached) => strength = Some(reached),
            Err(VaultError::Keychain(why)) if fallback_only => {
                file_slot = true;
                degraded.push(Degraded {
                    kind: SlotKind::Keychain,
                    slot: None,
                    why: SlotFailure::Keychain(why),
                });
            }
            Err(error) => return Err(error),
        }
    } else if fallback_only {
        file_slot = true;
    }
    if draft.environment.tpm.is_some() {
        draft.add_tpm()?;
    }
    if file_slot {
        let reached = draft.add_bound(SlotKind::File)?;
        strength = strength.or(Some(reached));
    }
    if let Some(code) = recovery_code {
        draft.add_recovery_code(code)?;
    }
    if let Some(passphrase) = passphrase {
        draft.add_passphrase(passphrase)?;
    }
    let slot = draft
        .file
        .slots
        .first()
        .map(SlotInfo::of)
        .ok_or(VaultError::NoSlotAsked)?;
    Ok(OpenReport {
        slot,
        degraded,
        matched: Vec::new(),
        drift: Vec::new(),
        strength,
        healing: Healing::NotNeeded,
        freshness: Freshness::Unwitnessed,
    })
}
