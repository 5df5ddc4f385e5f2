//! A vault: one random key, wrapped once for every way to open it.
//!
//! ```text
//! keychain item + this machine --> slot 1 --.
//! TPM of this machine ----------> slot 2 --|
//! secret file   + this machine --> slot 3 --+--> vault key --> key ring --> data keys
//! recovery code ----------------> slot 4 --|               '-> derived keys
//! passphrase (Argon2id) --------> slot 5 --'
//! ```
//!
//! Data is sealed by random data keys in the key ring, never by a key made
//! from the machine. So a changed network card, a new keychain or another
//! passphrase rewraps a hundred bytes, and a lost slot is not lost data as
//! long as one other opens.
//!
//! A vault opens with the first slot that works and says in its [`OpenReport`]
//! which did not. It never makes a slot that nobody asked for, and so never a
//! weaker one.
//!
//! What it does not protect from: another program of the same user while the
//! vault is open, and, without a [`Witness`], an older copy of itself.
//!
//! ```
//! use katachi_store::binding::Unbound;
//! use katachi_store::{SecretString, vault::Vault};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let home = tempfile::tempdir()?;
//! let dir = home.path().join("vault");
//! let secrets = home.path().join("secrets");
//! let vault = Vault::builder(&dir).binding(Unbound).file_slot(&secrets).create()?;
//! let code = vault.add_recovery_code()?; // show it once, on paper it lasts
//! let key = vault.data_key("notes")?;
//! drop(vault);
//!
//! // Another machine, a lost keychain: the code opens, and the keys are the same.
//! let vault = Vault::builder(&dir).recovery_code(code).open()?;
//! assert_eq!(vault.data_key("notes")?.id(), key.id());
//! # Ok(())
//! # }
//! ```

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use katachi_crypto::envelope::DataKey;
use katachi_crypto::kdf::{self, Label};
use katachi_crypto::{KeyId, Secret};

use crate::durable::{Directory, FileError, Privacy, Stamp};

mod builder;
mod error;
mod format;
mod keys;
mod manage;
mod recovery;
mod report;
mod slot;
mod source;
mod unlock;
mod witness;

pub use builder::Builder;
pub use error::VaultError;
pub(crate) use format::Reader;
#[cfg(any(test, feature = "testing"))]
pub(crate) use format::check_law as check_file_law;
pub use format::{FormatError, SlotId, SlotKind, VaultId};
#[cfg(any(test, feature = "testing"))]
pub(crate) use keys::check_law as check_ring_law;
pub use keys::{KeyInfo, KeyStatus};
pub use manage::Rekeyed;
pub use recovery::{ParseRecoveryCodeError, RecoveryCode};
pub use report::{Degraded, Healing, OpenReport, SlotFailure, SlotInfo, VaultStatus};
pub use witness::{FileWitness, Freshness, KeychainWitness, Witness, WitnessUnavailable};

use format::{MAC_LEN, MAX_FILE, VaultFile};
use keys::{KeyRing, check_name};
use slot::VaultKey;
use source::Environment;

/// The name of the vault file in its directory.
const FILE: &str = "vault";

/// Names in the vault's directory that nothing else may take.
pub(crate) const OWN_FILES: [&str; 4] = [FILE, ".vault.lock", "credentials", ".credentials.lock"];

/// An open vault.
///
/// It may be shared between threads, and several processes may have the same
/// vault open: each change is made under a lock to what is on the disk then.
#[derive(Debug)]
pub struct Vault {
    directory: Directory,
    environment: Environment,
    id: VaultId,
    report: OpenReport,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    key: Arc<VaultKey>,
    file: VaultFile,
    ring: KeyRing,
    /// Of the file that this was read from; `None` if that is not certain.
    stamp: Option<Stamp>,
}

impl Vault {
    /// Begins to create or open the vault in `dir`.
    pub fn builder(dir: impl AsRef<Path>) -> Builder {
        Builder::new(dir.as_ref())
    }

    /// Says what can be said without a key: no slot is tried, nobody is asked.
    ///
    /// # Errors
    ///
    /// Returns [`VaultError::NoVault`], or why the file could not be read.
    pub fn status(dir: impl AsRef<Path>) -> Result<VaultStatus, VaultError> {
        let dir = dir.as_ref();
        let directory =
            Directory::open(dir, Privacy::Private).map_err(|error| no_vault(dir, error))?;
        let (file, _) = load(&directory)?;
        let slots = file.slots.iter().map(SlotInfo::of).collect();
        Ok(VaultStatus {
            id: file.id,
            generation: file.generation,
            slots,
        })
    }

    /// The vault's name.
    #[must_use]
    pub fn id(&self) -> VaultId {
        self.id
    }

    /// Where the vault is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// How the vault was opened.
    #[must_use]
    pub fn report(&self) -> &OpenReport {
        &self.report
    }

    /// How often the vault was saved.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.state().file.generation
    }

    /// The slots.
    #[must_use]
    pub fn slots(&self) -> Vec<SlotInfo> {
        self.state().file.slots.iter().map(SlotInfo::of).collect()
    }

    /// Derives a secret that is the same whenever and however this vault is
    /// opened, and unrelated to every other label's.
    ///
    /// It cannot be rotated or destroyed alone; [`data_key`](Self::data_key) can.
    #[must_use]
    pub fn derive<const N: usize>(&self, label: &str) -> Secret<N> {
        let label = Label::new("katachi/v1/vault/derive").field(label.as_bytes());
        kdf::derive(
            &[self.state().ring.root.expose_secret()],
            &self.id.0,
            &label,
        )
    }

    /// The key that seals for `purpose`, made and saved on first use.
    ///
    /// A purpose is 1 to 128 printable ASCII characters.
    ///
    /// # Errors
    ///
    /// Returns [`VaultError`] if the key has to be made and cannot be saved.
    pub fn data_key(&self, purpose: &str) -> Result<DataKey, VaultError> {
        check_name(purpose)?;
        self.reload()?;
        if let Some(key) = self.state().ring.primary(purpose) {
            return Ok(key);
        }
        self.change(|draft| match draft.ring.primary(purpose) {
            // Another process was faster.
            Some(key) => Ok(key),
            None => draft.ring.rotate(purpose),
        })
    }

    /// The key that sealed something earlier, by the name in its envelope.
    ///
    /// # Errors
    ///
    /// Returns [`VaultError::NoSuchKey`] or [`VaultError::KeyDestroyed`].
    pub fn data_key_by_id(&self, purpose: &str, id: KeyId) -> Result<DataKey, VaultError> {
        self.reload()?;
        self.state().ring.by_id(purpose, id)
    }

    /// The keys of `purpose`, oldest first.
    #[must_use]
    pub fn data_keys(&self, purpose: &str) -> Vec<KeyInfo> {
        self.state().ring.list(purpose)
    }

    /// Makes a new sealing key for `purpose`. The former ones still open.
    ///
    /// # Errors
    ///
    /// Returns [`VaultError`] if the change cannot be saved.
    pub fn rotate(&self, purpose: &str) -> Result<DataKey, VaultError> {
        check_name(purpose)?;
        self.change(|draft| draft.ring.rotate(purpose))
    }

    /// Forgets a key for ever, and with it everything it sealed.
    ///
    /// # Errors
    ///
    /// Returns [`VaultError::NoSuchKey`], or why the change cannot be saved.
    pub fn destroy_data_key(&self, purpose: &str, id: KeyId) -> Result<(), VaultError> {
        self.change(|draft| draft.ring.destroy(purpose, id))
    }

    /// A number kept in the vault, such as the generation of something outside it.
    ///
    /// # Errors
    ///
    /// Returns [`VaultError`] if the vault file cannot be read again.
    pub fn mark(&self, name: &str) -> Result<Option<u64>, VaultError> {
        self.reload()?;
        Ok(self.state().ring.mark(name))
    }

    /// Keeps a number under `name`. Each call saves the vault.
    ///
    /// # Errors
    ///
    /// Returns [`VaultError`] if the change cannot be saved.
    pub fn set_mark(&self, name: &str, value: u64) -> Result<(), VaultError> {
        check_name(name)?;
        self.change(|draft| draft.ring.set_mark(name, value))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A state is only ever replaced as a whole, so a panic elsewhere left it good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up what other processes saved, if they did.
    ///
    /// Without this, a key that another process destroyed would go on sealing here.
    fn reload(&self) -> Result<(), VaultError> {
        let mut state = self.state();
        let stamp = self.directory.stamp(FILE)?;
        if state.stamp == Some(stamp) {
            return Ok(());
        }
        let (file, ring) = state.read_again(&self.directory)?;
        state.file = file;
        state.ring = ring;
        state.stamp = Some(stamp);
        Ok(())
    }

    /// Changes the vault as it is on the disk now and saves it, or changes nothing.
    fn change<T>(
        &self,
        edit: impl FnOnce(&mut Draft<'_>) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        let mut state = self.state();
        let lock = self.directory.lock(FILE)?;
        self.directory.clean_leftovers(&lock, FILE)?;
        let (file, ring) = state.read_again(&self.directory)?;
        self.environment.clean_secret_files(file.id, &file.slots);

        let mut touched = Vec::new();
        let mut draft = Draft {
            environment: &self.environment,
            key: Arc::clone(&state.key),
            file,
            ring,
            touched: &mut touched,
        };
        let changed = edit(&mut draft).and_then(|value| {
            let next = draft.file.generation.checked_add(1);
            draft.file.generation = next.ok_or(VaultError::Full("generations"))?;
            save(&self.directory, &draft.key, &mut draft.file, &draft.ring)?;
            let Draft {
                key, file, ring, ..
            } = draft;
            *state = State {
                key,
                file,
                ring,
                stamp: self.directory.stamp(FILE).ok(),
            };
            Ok(value)
        });
        self.forget_unused(&touched);
        if changed.is_ok() {
            self.environment
                .tell_witness(self.id, state.file.generation);
        }
        changed
    }

    /// Goes on after `expected`, which the witness knows of a newer vault.
    fn skip_generations(&self, expected: u64) -> Result<(), VaultError> {
        self.change(|draft| {
            draft.file.generation = draft.file.generation.max(expected);
            Ok(())
        })
    }

    /// Forgets the secrets of those slots that the file on the disk does not have.
    ///
    /// The disk decides, since a save that failed may have got as far as the rename.
    fn forget_unused(&self, touched: &[(SlotKind, SlotId)]) {
        if touched.is_empty() {
            return;
        }
        let Ok((file, _)) = load(&self.directory) else {
            return;
        };
        for &(kind, slot) in touched {
            if file.slots.iter().all(|known| known.id != slot) {
                self.environment.forget(self.id, kind, slot);
            }
        }
    }
}

impl State {
    /// Reads what is on the disk now, if it is this vault and not an older one.
    fn read_again(&self, directory: &Directory) -> Result<(VaultFile, KeyRing), VaultError> {
        let (file, mac) = load(directory)?;
        if file.id != self.file.id {
            return Err(VaultError::Replaced);
        }
        let ring = authenticate(&file, &mac, &self.key).map_err(|_| VaultError::Replaced)?;
        if file.generation < self.file.generation {
            return Err(VaultError::RolledBack {
                found: file.generation,
                expected: self.file.generation,
            });
        }
        Ok((file, ring))
    }
}

/// A vault in the middle of a change.
struct Draft<'a> {
    environment: &'a Environment,
    key: Arc<VaultKey>,
    file: VaultFile,
    ring: KeyRing,
    /// Slots whose secrets were stored, or whose records were taken out.
    touched: &'a mut Vec<(SlotKind, SlotId)>,
}

/// Reads the vault file; nothing in it is believed yet.
fn load(directory: &Directory) -> Result<(VaultFile, [u8; MAC_LEN]), VaultError> {
    let bytes = directory
        .read(FILE, MAX_FILE)
        .map_err(|error| no_vault(directory.path(), error))?;
    Ok(VaultFile::parse(&bytes)?)
}

/// Checks the whole file and opens its key ring.
fn authenticate(
    file: &VaultFile,
    mac: &[u8; MAC_LEN],
    key: &VaultKey,
) -> Result<KeyRing, VaultError> {
    key.file_mac(file.id)
        .verify(&file.to_body(), mac)
        .map_err(|_| VaultError::Tampered)?;
    KeyRing::open(&file.keys, file.id, key)
}

/// Seals and writes the vault file. The caller holds its lock.
fn save(
    directory: &Directory,
    key: &VaultKey,
    file: &mut VaultFile,
    ring: &KeyRing,
) -> Result<(), VaultError> {
    file.keys = ring.seal(file.id, key)?;
    if !file.fits() {
        return Err(VaultError::Full("slots or key ring"));
    }
    let mut bytes = file.to_body();
    let mac = key.file_mac(file.id).sign(&bytes);
    bytes.extend_from_slice(mac.as_bytes());
    if bytes.len() > MAX_FILE {
        return Err(VaultError::Full("size of the file"));
    }
    Ok(directory.replace(FILE, &bytes)?)
}

fn no_vault(dir: &Path, error: FileError) -> VaultError {
    if error.is_not_found() {
        VaultError::NoVault {
            dir: dir.to_owned(),
        }
    } else {
        error.into()
    }
}
