//! The random data keys that a vault keeps, sealed, in its file.
//!
//! Data keys are never derived from the machine or from a slot, so changing
//! either rewraps a hundred bytes and leaves the data alone.

use std::time::SystemTime;

use katachi_crypto::envelope::{Context, DataKey, Kind, Sealed};
use katachi_crypto::{KeyId, Secret, SecretBytes};
use zeroize::Zeroizing;

use super::error::VaultError;
use super::format::{Reader, VaultId};
use super::slot::VaultKey;

/// Most data keys, destroyed ones included, and most marks.
const MAX_ENTRIES: usize = 4096;
const MAX_NAME: usize = 128;

/// Whether a data key may be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum KeyStatus {
    /// Seals and opens.
    Enabled,
    /// Opens what it sealed before it was rotated.
    OpenOnly,
    /// Its bytes are gone; only its name is remembered.
    Destroyed,
}

/// A data key, without its bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct KeyInfo {
    /// Its name, which is in everything it seals.
    pub id: KeyId,
    /// Whether it may be used.
    pub status: KeyStatus,
    /// When it was made, in seconds since 1970.
    pub created: u64,
}

#[derive(Debug)]
pub(crate) struct KeyRing {
    /// Everything that [`Vault::derive`](super::Vault::derive) gives comes from this.
    pub(crate) root: Secret<32>,
    entries: Vec<Entry>,
    marks: Vec<(String, u64)>,
}

#[derive(Debug)]
struct Entry {
    purpose: String,
    info: KeyInfo,
    /// Absent once destroyed.
    secret: Option<Secret<32>>,
}

impl KeyRing {
    pub(crate) fn generate() -> Result<Self, VaultError> {
        Ok(Self {
            root: Secret::random()?,
            entries: Vec::new(),
            marks: Vec::new(),
        })
    }

    /// The key that seals for `purpose` now, if there is one.
    pub(crate) fn primary(&self, purpose: &str) -> Option<DataKey> {
        let entry = self
            .of(purpose)
            .find(|entry| entry.info.status == KeyStatus::Enabled)?;
        entry.key()
    }

    /// The key of that name.
    pub(crate) fn by_id(&self, purpose: &str, id: KeyId) -> Result<DataKey, VaultError> {
        let entry = self.of(purpose).find(|entry| entry.info.id == id);
        let entry = entry.ok_or_else(|| VaultError::NoSuchKey { id: id.to_string() })?;
        entry
            .key()
            .ok_or_else(|| VaultError::KeyDestroyed { id: id.to_string() })
    }

    pub(crate) fn list(&self, purpose: &str) -> Vec<KeyInfo> {
        self.of(purpose).map(|entry| entry.info).collect()
    }

    /// Makes a new sealing key for `purpose`; the former ones only open from now on.
    pub(crate) fn rotate(&mut self, purpose: &str) -> Result<DataKey, VaultError> {
        if self.entries.len() >= MAX_ENTRIES {
            return Err(VaultError::Full("data keys"));
        }
        let created = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let info = KeyInfo {
            id: KeyId::random()?,
            status: KeyStatus::Enabled,
            created,
        };
        let entry = Entry {
            purpose: purpose.to_owned(),
            info,
            secret: Some(Secret::random()?),
        };
        for former in self
            .entries
            .iter_mut()
            .filter(|former| former.purpose == purpose)
        {
            if former.info.status == KeyStatus::Enabled {
                former.info.status = KeyStatus::OpenOnly;
            }
        }
        let key = entry
            .key()
            .ok_or(VaultError::Invalid("a new data key has bytes"))?;
        self.entries.push(entry);
        Ok(key)
    }

    /// Forgets the bytes of a key.
    pub(crate) fn destroy(&mut self, purpose: &str, id: KeyId) -> Result<(), VaultError> {
        let entry = self
            .entries
            .iter_mut()
            .find(|entry| entry.purpose == purpose && entry.info.id == id);
        let entry = entry.ok_or_else(|| VaultError::NoSuchKey { id: id.to_string() })?;
        entry.secret = None;
        entry.info.status = KeyStatus::Destroyed;
        Ok(())
    }

    pub(crate) fn mark(&self, name: &str) -> Option<u64> {
        self.marks
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| *value)
    }

    pub(crate) fn set_mark(&mut self, name: &str, value: u64) -> Result<(), VaultError> {
        if let Some((_, known)) = self.marks.iter_mut().find(|(known, _)| known == name) {
            *known = value;
            return Ok(());
        }
        if self.marks.len() >= MAX_ENTRIES {
            return Err(VaultError::Full("marks"));
        }
        self.marks.push((name.to_owned(), value));
        Ok(())
    }

    fn of<'a>(&'a self, purpose: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries
            .iter()
            .filter(move |entry| entry.purpose == purpose)
    }

    pub(crate) fn seal(&self, vault: VaultId, key: &VaultKey) -> Result<Vec<u8>, VaultError> {
        let plain = self.to_bytes();
        Ok(key
            .ring_key(vault)
            .seal(Kind::Keyset, &context(vault), plain.expose_secret())?
            .into_bytes())
    }

    /// Opens a ring whose file has been authenticated.
    pub(crate) fn open(bytes: &[u8], vault: VaultId, key: &VaultKey) -> Result<Self, VaultError> {
        let sealed = Sealed::parse(bytes).map_err(|_| VaultError::Tampered)?;
        let plain = key
            .ring_key(vault)
            .open(&context(vault), &sealed)
            .map_err(|_| VaultError::Tampered)?;
        Self::from_bytes(plain.expose_secret()).ok_or(VaultError::Tampered)
    }

    fn to_bytes(&self) -> SecretBytes {
        let names: usize = self
            .entries
            .iter()
            .map(|entry| entry.purpose.len())
            .sum::<usize>()
            + self.marks.iter().map(|(name, _)| name.len()).sum::<usize>();
        // Enough for everything, so that growing leaves no copies behind.
        let capacity = 64 + names + self.entries.len() * 64 + self.marks.len() * 16;
        let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
        bytes.extend_from_slice(self.root.expose_secret());
        bytes.extend_from_slice(&(self.entries.len() as u16).to_be_bytes());
        for entry in &self.entries {
            entry.write(&mut bytes);
        }
        bytes.extend_from_slice(&(self.marks.len() as u16).to_be_bytes());
        for (name, value) in &self.marks {
            write_name(&mut bytes, name);
            bytes.extend_from_slice(&value.to_be_bytes());
        }
        debug_assert!(bytes.len() <= capacity);
        SecretBytes::new(std::mem::take(&mut *bytes))
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let root = Secret::from_slice(reader.take(32)?).ok()?;
        let count = u16::from_be_bytes(reader.array()?);
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(Entry::parse(&mut reader)?);
        }
        let count = u16::from_be_bytes(reader.array()?);
        let mut marks = Vec::new();
        for _ in 0..count {
            let name = read_name(&mut reader)?;
            marks.push((name, u64::from_be_bytes(reader.array()?)));
        }
        reader.0.is_empty().then_some(Self {
            root,
            entries,
            marks,
        })
    }
}

impl Entry {
    fn key(&self) -> Option<DataKey> {
        let secret = Secret::from_slice(self.secret.as_ref()?.expose_secret()).ok()?;
        Some(DataKey::from_parts(self.info.id, secret))
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        write_name(bytes, &self.purpose);
        bytes.extend_from_slice(self.info.id.as_bytes());
        bytes.extend_from_slice(&self.info.created.to_be_bytes());
        bytes.push(match self.info.status {
            KeyStatus::Enabled => 1,
            KeyStatus::OpenOnly => 2,
            KeyStatus::Destroyed => 3,
        });
        if let Some(secret) = &self.secret {
            bytes.extend_from_slice(secret.expose_secret());
        }
    }

    fn parse(reader: &mut Reader<'_>) -> Option<Self> {
        let purpose = read_name(reader)?;
        let id = KeyId::from_bytes(reader.array()?);
        let created = u64::from_be_bytes(reader.array()?);
        let status = match reader.byte()? {
            1 => KeyStatus::Enabled,
            2 => KeyStatus::OpenOnly,
            3 => KeyStatus::Destroyed,
            _ => return None,
        };
        let secret = match status {
            KeyStatus::Destroyed => None,
            KeyStatus::Enabled | KeyStatus::OpenOnly => {
                Some(Secret::from_slice(reader.take(32)?).ok()?)
            }
        };
        Some(Self {
            purpose,
            info: KeyInfo {
                id,
                status,
                created,
            },
            secret,
        })
    }
}

/// Checks a purpose, label or mark: what names things inside a vault.
pub(crate) fn check_name(name: &str) -> Result<(), VaultError> {
    let fits = (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if fits {
        Ok(())
    } else {
        Err(VaultError::Invalid(
            "a purpose is named by 1 to 128 printable ASCII characters",
        ))
    }
}

fn write_name(bytes: &mut Vec<u8>, name: &str) {
    bytes.push(name.len() as u8);
    bytes.extend_from_slice(name.as_bytes());
}

fn read_name(reader: &mut Reader<'_>) -> Option<String> {
    let name = str::from_utf8(reader.counted(1, MAX_NAME)?).ok()?;
    check_name(name).is_ok().then(|| name.to_owned())
}

fn context(vault: VaultId) -> Context {
    Context::new("katachi/v1/vault/key-ring").bytes(1, &vault.0)
}

/// See [`testing::laws::key_ring`](crate::testing::laws::key_ring).
#[cfg(any(test, feature = "testing"))]
pub(crate) fn check_law(bytes: &[u8]) {
    if let Some(ring) = KeyRing::from_bytes(bytes) {
        let again = ring.to_bytes();
        assert_eq!(
            again.expose_secret(),
            bytes,
            "a key ring was read that is written differently"
        );
    }
}
