//! API keys and other short secrets, by name.
//!
//! All of them live in one sealed file beside the vault, so neither their names
//! nor their number shows. Each process reads the file anew and changes it
//! under a lock, so two programs may use it at once.
//!
//! ```
//! # use katachi_store::{binding::Unbound, credentials::{Credentials, Name}, SecretString, Vault};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let home = tempfile::tempdir()?;
//! # let vault = Vault::builder(home.path().join("v")).binding(Unbound).file_slot(home.path().join("s")).create()?;
//! let credentials = Credentials::open(&vault)?;
//! let name = Name::parse("anthropic/api-key")?;
//! credentials.set(&name, &SecretString::new("sk-ant-…".to_owned()))?;
//! assert_eq!(credentials.get(&name)?.expose_secret(), "sk-ant-…");
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use katachi_crypto::envelope::{Context, DataKey, Kind, Sealed};
use katachi_crypto::{SecretBytes, SecretString};
use zeroize::Zeroizing;

use crate::durable::{Directory, FileError, Lock, Privacy};
use crate::vault::{KeyStatus, Reader, Vault, VaultError};

/// The data keys of credentials.
const PURPOSE: &str = "katachi.credentials";
const FILE: &str = "credentials";
const MAX_ENTRIES: usize = 1024;
const MAX_FILE: usize = 18 << 20;

/// The name of a credential: 1 to 64 of `a-z`, `0-9`, `.`, `_`, `-` and `/`,
/// where each part between slashes begins with a letter or digit.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name(String);

/// A text is no credential name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "a credential is named by 1 to 64 of a-z, 0-9, '.', '_', '-' and single inner '/', such as `openai/api-key`"
)]
pub struct ParseNameError;

impl Name {
    /// Longest name, in bytes.
    pub const MAX_LEN: usize = 64;

    /// Reads a name from untrusted text.
    ///
    /// # Errors
    ///
    /// Returns [`ParseNameError`] for anything else than the form above.
    pub fn parse(text: &str) -> Result<Self, ParseNameError> {
        let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let part_fits = |part: &str| {
            part.bytes().next().is_some_and(is_alphanumeric)
                && part
                    .bytes()
                    .all(|byte| is_alphanumeric(byte) || b"._-".contains(&byte))
        };
        if text.len() > Self::MAX_LEN || !text.split('/').all(part_fits) {
            return Err(ParseNameError);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::str::FromStr for Name {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// A credential, without its value.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct CredentialInfo {
    /// Its name.
    pub name: Name,
    /// When its value was last set.
    pub updated: SystemTime,
}

/// Why a credential could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// There is no credential of that name.
    #[error("there is no credential {0}; set it first")]
    NotFound(Name),
    /// The value is empty or longer than [`Credentials::MAX_VALUE`].
    #[error("a credential has 1 to {} bytes", Credentials::MAX_VALUE)]
    ValueLength,
    /// There are a thousand credentials already.
    #[error("there are {MAX_ENTRIES} credentials already; remove some")]
    Full,
    /// The vault has no key for them.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not as it was written.
    #[error("the credentials were damaged or tampered with; restore them from a backup")]
    Damaged,
    /// The system has no randomness.
    #[error("cryptography failed: {0}")]
    Crypto(katachi_crypto::Error),
}

/// The credentials of a vault.
#[derive(Debug)]
pub struct Credentials<'v> {
    vault: &'v Vault,
    directory: Directory,
}

#[derive(Debug)]
struct Entry {
    updated: u64,
    value: SecretBytes,
}

type Entries = BTreeMap<Name, Entry>;

impl<'v> Credentials<'v> {
    /// Longest value, in bytes.
    pub const MAX_VALUE: usize = 16 << 10;

    /// The credentials that belong to `vault`.
    ///
    /// # Errors
    ///
    /// Returns [`CredentialError::Damaged`] or [`CredentialError::File`] if
    /// there are some and they cannot be read.
    pub fn open(vault: &'v Vault) -> Result<Self, CredentialError> {
        let directory = Directory::open(vault.path(), Privacy::Private)?;
        let credentials = Self { vault, directory };
        credentials.load_shared()?;
        Ok(credentials)
    }

    /// Keeps `value` under `name`, in place of one that was there.
    ///
    /// # Errors
    ///
    /// Returns [`CredentialError`]; nothing is changed then.
    pub fn set(&self, name: &Name, value: &SecretString) -> Result<(), CredentialError> {
        if !(1..=Self::MAX_VALUE).contains(&value.expose_secret().len()) {
            return Err(CredentialError::ValueLength);
        }
        self.change(|entries| {
            if entries.len() >= MAX_ENTRIES && !entries.contains_key(name) {
                return Err(CredentialError::Full);
            }
            let updated = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs());
            let value = SecretBytes::new(value.expose_secret().as_bytes().to_vec());
            entries.insert(name.clone(), Entry { updated, value });
            Ok(())
        })
    }

    /// Reads a value.
    ///
    /// # Errors
    ///
    /// Returns [`CredentialError::NotFound`], or why the file cannot be read.
    pub fn get(&self, name: &Name) -> Result<SecretString, CredentialError> {
        let entries = self.load_shared()?;
        let entry = entries
            .get(name)
            .ok_or_else(|| CredentialError::NotFound(name.clone()))?;
        let text =
            str::from_utf8(entry.value.expose_secret()).map_err(|_| CredentialError::Damaged)?;
        Ok(SecretString::new(text.to_owned()))
    }

    /// The credentials there are, by name.
    ///
    /// # Errors
    ///
    /// Returns why the file cannot be read.
    pub fn list(&self) -> Result<Vec<CredentialInfo>, CredentialError> {
        let entries = self.load_shared()?;
        let info = |(name, entry): (&Name, &Entry)| CredentialInfo {
            name: name.clone(),
            updated: SystemTime::UNIX_EPOCH
                .checked_add(Duration::from_secs(entry.updated))
                .unwrap_or(SystemTime::UNIX_EPOCH),
        };
        Ok(entries.iter().map(info).collect())
    }

    /// Removes a credential.
    ///
    /// # Errors
    ///
    /// Returns [`CredentialError::NotFound`], or why the change cannot be saved.
    pub fn remove(&self, name: &Name) -> Result<(), CredentialError> {
        self.change(|entries| match entries.remove(name) {
            Some(_) => Ok(()),
            None => Err(CredentialError::NotFound(name.clone())),
        })
    }

    /// Seals every credential with a new key and destroys the keys before it,
    /// so that no earlier copy of the file can be opened with this vault.
    ///
    /// # Errors
    ///
    /// Returns why the change cannot be saved. Everything can still be read then.
    pub fn rotate(&self) -> Result<(), CredentialError> {
        // Held to the end: nobody may seal with a key that is about to be destroyed.
        let lock = self.directory.lock(FILE)?;
        let entries = self.load()?;
        self.save(&lock, &entries, &self.vault.rotate(PURPOSE)?)?;
        let keys = self.vault.data_keys(PURPOSE);
        for former in keys.iter().filter(|key| key.status == KeyStatus::OpenOnly) {
            self.vault.destroy_data_key(PURPOSE, former.id)?;
        }
        Ok(())
    }

    /// Reads without the lock, for which a reader need not wait.
    fn load_shared(&self) -> Result<Entries, CredentialError> {
        match self.load() {
            // Rotated by another process between our two reads.
            Err(CredentialError::Vault(VaultError::KeyDestroyed { .. })) => self.load(),
            loaded => loaded,
        }
    }

    fn load(&self) -> Result<Entries, CredentialError> {
        let bytes = match self.directory.read(FILE, MAX_FILE) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(Entries::new()),
            Err(error) => return Err(error.into()),
        };
        let sealed = Sealed::parse(&bytes).map_err(|_| CredentialError::Damaged)?;
        let key = self.vault.data_key_by_id(PURPOSE, sealed.key_id())?;
        let plain = key
            .open(&self.context(), &sealed)
            .map_err(|_| CredentialError::Damaged)?;
        parse(plain.expose_secret()).ok_or(CredentialError::Damaged)
    }

    fn change<T>(
        &self,
        edit: impl FnOnce(&mut Entries) -> Result<T, CredentialError>,
    ) -> Result<T, CredentialError> {
        let lock = self.directory.lock(FILE)?;
        let mut entries = self.load()?;
        let value = edit(&mut entries)?;
        self.save(&lock, &entries, &self.vault.data_key(PURPOSE)?)?;
        Ok(value)
    }

    fn save(&self, lock: &Lock, entries: &Entries, key: &DataKey) -> Result<(), CredentialError> {
        self.directory.clean_leftovers(lock, FILE)?;
        let sealed = key
            .seal(Kind::Record, &self.context(), &print(entries))
            .map_err(CredentialError::Crypto)?;
        Ok(self.directory.replace(FILE, sealed.as_bytes())?)
    }

    fn context(&self) -> Context {
        Context::new("katachi/v1/credentials").bytes(1, self.vault.id().as_bytes())
    }
}

fn print(entries: &Entries) -> Zeroizing<Vec<u8>> {
    let length: usize = entries
        .iter()
        .map(|(name, entry)| name.0.len() + entry.value.expose_secret().len() + 13)
        .sum();
    let mut bytes = Zeroizing::new(Vec::with_capacity(length));
    for (name, entry) in entries {
        bytes.push(name.0.len() as u8);
        bytes.extend_from_slice(name.0.as_bytes());
        bytes.extend_from_slice(&entry.updated.to_be_bytes());
        bytes.extend_from_slice(&(entry.value.expose_secret().len() as u32).to_be_bytes());
        bytes.extend_from_slice(entry.value.expose_secret());
    }
    bytes
}

fn parse(bytes: &[u8]) -> Option<Entries> {
    let mut reader = Reader(bytes);
    let mut entries = Entries::new();
    while !reader.0.is_empty() {
        let name = Name::parse(str::from_utf8(reader.counted(1, Name::MAX_LEN)?).ok()?).ok()?;
        let updated = u64::from_be_bytes(reader.array()?);
        let value = SecretBytes::new(reader.counted(4, Credentials::MAX_VALUE)?.to_vec());
        // Names in order, each once: there is one way to write a set of credentials.
        if entries
            .last_key_value()
            .is_some_and(|(last, _)| *last >= name)
        {
            return None;
        }
        entries.insert(name, Entry { updated, value });
    }
    Some(entries)
}

/// See [`testing::laws::credentials`](crate::testing::laws::credentials).
#[cfg(any(test, feature = "testing"))]
pub(crate) fn check_law(bytes: &[u8]) {
    if let Some(entries) = parse(bytes) {
        let again = print(&entries);
        assert_eq!(
            &again[..],
            bytes,
            "credentials were read that are written differently"
        );
    }
}
