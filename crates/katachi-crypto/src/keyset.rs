//! Keys with a purpose and a life: new ones seal, old ones still open.
//!
//! A keyset holds data keys. For each purpose one of them is the primary, which
//! seals; rotation makes a new primary and leaves the old one able to open. A
//! destroyed key is wiped, and its identifier is kept so that what it sealed is
//! told apart from what never belonged here.

use std::fmt;

use zeroize::Zeroizing;

use crate::envelope::{Context, DataKey, Kind, Sealed};
use crate::{Error, KeyId, Secret, SecretBytes};

/// Longest name of a purpose, in bytes.
pub const MAX_PURPOSE: usize = 128;
/// Keys of one set, at most; destroyed ones count.
pub const MAX_KEYS: usize = 1024;
/// Envelopes that one key may seal: where the specification of the message
/// allows 2^55, we stop at 2^48.
pub const MAX_SEALS: u64 = 1 << 48;

const VERSION: u8 = 1;

/// What a key may still do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Status {
    /// Opens, and seals if it is its purpose's primary.
    Enabled,
    /// Opens only.
    DecryptOnly,
    /// Wiped.
    Destroyed,
}

/// A key's place in the set, without the key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyInfo {
    /// The key's identifier.
    pub id: KeyId,
    /// What it is for.
    pub purpose: String,
    /// What it may still do.
    pub status: Status,
    /// Whether new values of the purpose are sealed with it.
    pub primary: bool,
    /// How many envelopes it has sealed, as far as this set counted.
    pub seals: u64,
}

struct Entry {
    purpose: String,
    status: Status,
    primary: bool,
    seals: u64,
    id: KeyId,
    /// `None` exactly when the status is `Destroyed`.
    key: Option<DataKey>,
}

/// A set of keys.
///
/// ```
/// use katachi_crypto::envelope::Context;
/// use katachi_crypto::keyset::Keyset;
///
/// let mut keys = Keyset::new();
/// let first = keys.rotate("tunnel")?;
/// let context = Context::new("tunnel");
/// let sealed = keys.seal("tunnel", &context, b"credential")?;
/// let second = keys.rotate("tunnel")?;
/// assert_ne!(first, second);
/// assert_eq!(keys.open(&context, &sealed)?.expose_secret(), b"credential");
/// keys.destroy(first)?;
/// assert!(keys.open(&context, &sealed).is_err());
/// # Ok::<(), katachi_crypto::Error>(())
/// ```
#[derive(Default)]
pub struct Keyset(Vec<Entry>);

impl Keyset {
    /// A set without keys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Draws a new primary for `purpose`; the previous one opens only from now on.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Limit`] for a purpose longer than [`MAX_PURPOSE`] or a
    /// full set, and [`Error::Randomness`] if the operating system gives none.
    pub fn rotate(&mut self, purpose: &str) -> Result<KeyId, Error> {
        if purpose.is_empty() || purpose.len() > MAX_PURPOSE {
            return Err(Error::Limit {
                what: "the length of a purpose",
                limit: MAX_PURPOSE as u64,
            });
        }
        if self.0.len() >= MAX_KEYS {
            return Err(Error::Limit {
                what: "the number of keys in a set",
                limit: MAX_KEYS as u64,
            });
        }
        let key = DataKey::generate()?;
        let id = key.id();
        for entry in self
            .0
            .iter_mut()
            .filter(|entry| entry.primary && entry.purpose == purpose)
        {
            entry.primary = false;
            entry.status = Status::DecryptOnly;
        }
        self.0.push(Entry {
            purpose: purpose.to_owned(),
            status: Status::Enabled,
            primary: true,
            seals: 0,
            id,
            key: Some(key),
        });
        Ok(id)
    }

    /// Lets a key open but no longer seal.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NoKey`] if there is no such key or it was destroyed.
    pub fn retire(&mut self, id: KeyId) -> Result<(), Error> {
        let entry = self.entry_mut(id)?;
        if entry.key.is_none() {
            return Err(Error::NoKey {
                why: "it was destroyed",
            });
        }
        entry.primary = false;
        entry.status = Status::DecryptOnly;
        Ok(())
    }

    /// Wipes a key: what it sealed can never be opened again once the set is
    /// saved without it.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NoKey`] if there is no such key.
    pub fn destroy(&mut self, id: KeyId) -> Result<(), Error> {
        let entry = self.entry_mut(id)?;
        entry.primary = false;
        entry.status = Status::Destroyed;
        entry.key = None;
        Ok(())
    }

    /// The key that seals new values of `purpose`.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NoKey`] if there is none.
    pub fn primary(&self, purpose: &str) -> Result<&DataKey, Error> {
        self.0
            .iter()
            .find(|entry| entry.primary && entry.purpose == purpose)
            .and_then(|entry| entry.key.as_ref())
            .ok_or(Error::NoKey {
                why: "the purpose has no primary; rotate makes one",
            })
    }

    /// Seals with the purpose's primary, and counts it.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NoKey`] if the purpose has no primary, [`Error::Limit`]
    /// if that key has sealed [`MAX_SEALS`] envelopes, and what
    /// [`DataKey::seal`] returns.
    pub fn seal(
        &mut self,
        purpose: &str,
        context: &Context,
        plaintext: &[u8],
    ) -> Result<Sealed, Error> {
        let entry = self
            .0
            .iter_mut()
            .find(|entry| entry.primary && entry.purpose == purpose)
            .ok_or(Error::NoKey {
                why: "the purpose has no primary; rotate makes one",
            })?;
        if entry.seals >= MAX_SEALS {
            return Err(Error::Limit {
                what: "the envelopes sealed with one key; rotate it",
                limit: MAX_SEALS,
            });
        }
        let key = entry.key.as_ref().ok_or(Error::NoKey {
            why: "it was destroyed",
        })?;
        let sealed = key.seal(Kind::Record, context, plaintext)?;
        entry.seals += 1;
        Ok(sealed)
    }

    /// Opens with the key that the envelope names.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NoKey`] if the set does not have the key or it was
    /// destroyed, and what [`DataKey::open`] returns.
    pub fn open(&self, context: &Context, sealed: &Sealed) -> Result<SecretBytes, Error> {
        let entry = self
            .0
            .iter()
            .find(|entry| entry.id == sealed.key_id())
            .ok_or(Error::NoKey {
                why: "the set does not have it",
            })?;
        let key = entry.key.as_ref().ok_or(Error::NoKey {
            why: "it was destroyed",
        })?;
        key.open(context, sealed)
    }

    /// What the set holds, oldest first.
    pub fn keys(&self) -> impl Iterator<Item = KeyInfo> {
        self.0.iter().map(|entry| KeyInfo {
            id: entry.id,
            purpose: entry.purpose.clone(),
            status: entry.status,
            primary: entry.primary,
            seals: entry.seals,
        })
    }

    /// Seals the whole set under `key`.
    ///
    /// # Errors
    ///
    /// Returns what [`DataKey::seal`] returns.
    pub fn to_sealed(&self, key: &DataKey, context: &Context) -> Result<Sealed, Error> {
        key.seal(Kind::Keyset, context, &self.encode())
    }

    /// Opens a set that [`Keyset::to_sealed`] sealed.
    ///
    /// # Errors
    ///
    /// Returns what [`DataKey::open`] returns, and [`Error::Malformed`] if the
    /// content is no keyset.
    pub fn from_sealed(key: &DataKey, context: &Context, sealed: &Sealed) -> Result<Self, Error> {
        if sealed.kind() != Kind::Keyset {
            return Err(Error::Malformed {
                expected: "an envelope of kind keyset",
            });
        }
        Self::decode(key.open(context, sealed)?.expose_secret())
    }

    fn entry_mut(&mut self, id: KeyId) -> Result<&mut Entry, Error> {
        self.0
            .iter_mut()
            .find(|entry| entry.id == id)
            .ok_or(Error::NoKey {
                why: "the set does not have it",
            })
    }

    /// Version, then for each key: purpose (length byte and text), status,
    /// primary, seals (64-bit big-endian), identifier, key (zero if destroyed).
    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let size = self
            .0
            .iter()
            .map(|entry| entry.purpose.len() + FIXED)
            .sum::<usize>()
            + 1;
        let mut out = Zeroizing::new(Vec::with_capacity(size));
        out.push(VERSION);
        for entry in &self.0 {
            out.push(
                u8::try_from(entry.purpose.len()).expect("a purpose is at most 128 bytes long"),
            );
            out.extend_from_slice(entry.purpose.as_bytes());
            out.push(entry.status.code());
            out.push(u8::from(entry.primary));
            out.extend_from_slice(&entry.seals.to_be_bytes());
            out.extend_from_slice(entry.id.as_bytes());
            match &entry.key {
                Some(key) => out.extend_from_slice(key.expose_secret()),
                None => out.extend_from_slice(&[0; 32]),
            }
        }
        out
    }

    /// Reads what [`Keyset::to_sealed`] seals; public so that it can be fuzzed
    /// and so that other programs can make sets for this one.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Unsupported`] for another version and
    /// [`Error::Malformed`] for anything that does not encode a set.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        const EXPECTED: Error = Error::Malformed {
            expected: "an encoded keyset",
        };
        let (version, mut rest) = bytes.split_first().ok_or(EXPECTED)?;
        if *version != VERSION {
            return Err(Error::Unsupported {
                what: "keyset version",
            });
        }
        let mut set = Self::new();
        while let Some((&length, after)) = rest.split_first() {
            let (purpose, after) = after.split_at_checked(length.into()).ok_or(EXPECTED)?;
            let (fixed, after) = after.split_first_chunk::<{ FIXED - 1 }>().ok_or(EXPECTED)?;
            set.0.push(Entry::decode(purpose, fixed).ok_or(EXPECTED)?);
            rest = after;
        }
        if set.0.len() > MAX_KEYS || !set.is_consistent() {
            return Err(EXPECTED);
        }
        Ok(set)
    }

    /// No identifier twice, no purpose with two primaries.
    fn is_consistent(&self) -> bool {
        self.0.iter().enumerate().all(|(at, entry)| {
            self.0[..at].iter().all(|other| {
                other.id != entry.id
                    && !(other.primary && entry.primary && other.purpose == entry.purpose)
            })
        })
    }
}

/// Encoded bytes of a key beside its purpose.
const FIXED: usize = 1 + 1 + 1 + 8 + KeyId::LEN + 32;

impl Entry {
    fn decode(purpose: &[u8], fixed: &[u8; FIXED - 1]) -> Option<Self> {
        let purpose = std::str::from_utf8(purpose)
            .ok()
            .filter(|name| (1..=MAX_PURPOSE).contains(&name.len()))?;
        let (&[status, primary], rest) = fixed.split_first_chunk::<2>()?;
        let (seals, rest) = rest.split_first_chunk::<8>()?;
        let (id, secret) = rest.split_first_chunk::<{ KeyId::LEN }>()?;
        let status = Status::from_code(status)?;
        let id = KeyId::from_bytes(*id);
        let key = match status {
            Status::Destroyed if secret.iter().all(|byte| *byte == 0) => None,
            Status::Destroyed => return None,
            _ => Some(DataKey::from_parts(id, Secret::from_slice(secret).ok()?)),
        };
        let primary = match (primary, status) {
            (0, Status::DecryptOnly | Status::Destroyed | Status::Enabled) => false,
            (1, Status::Enabled) => true,
            _ => return None,
        };
        Some(Self {
            purpose: purpose.to_owned(),
            status,
            primary,
            seals: u64::from_be_bytes(*seals),
            id,
            key,
        })
    }
}

impl Status {
    fn code(self) -> u8 {
        match self {
            Self::Enabled => 1,
            Self::DecryptOnly => 2,
            Self::Destroyed => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Enabled, Self::DecryptOnly, Self::Destroyed]
            .into_iter()
            .find(|status| status.code() == code)
    }
}

impl fmt::Debug for Keyset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Keyset, Status};
    use crate::Error;
    use crate::envelope::{Context, DataKey};

    fn some_keys() -> Keyset {
        let mut keys = Keyset::new();
        let first = keys.rotate("a").unwrap();
        let second = keys.rotate("a").unwrap();
        keys.rotate("b").unwrap();
        keys.destroy(first).unwrap();
        keys.retire(second).unwrap();
        keys.rotate("a").unwrap();
        keys
    }

    #[test]
    fn survives_being_sealed() {
        let (key, context) = (DataKey::generate().unwrap(), Context::new("set"));
        let keys = some_keys();
        let again =
            Keyset::from_sealed(&key, &context, &keys.to_sealed(&key, &context).unwrap()).unwrap();
        assert!(keys.keys().eq(again.keys()));
        assert_eq!(
            again.primary("a").unwrap().expose_secret(),
            keys.primary("a").unwrap().expose_secret()
        );
    }

    #[test]
    fn opens_by_the_key_that_the_envelope_names() {
        let context = Context::new("x");
        let mut keys = Keyset::new();
        let first = keys.rotate("a").unwrap();
        let old = keys.seal("a", &context, b"old").unwrap();
        keys.rotate("a").unwrap();
        let new = keys.seal("a", &context, b"new").unwrap();
        assert_eq!(keys.open(&context, &old).unwrap().expose_secret(), b"old");
        assert_eq!(keys.open(&context, &new).unwrap().expose_secret(), b"new");
        keys.destroy(first).unwrap();
        assert_eq!(
            keys.open(&context, &old).unwrap_err(),
            Error::NoKey {
                why: "it was destroyed"
            }
        );
        assert!(keys.retire(first).is_err());
        assert!(matches!(
            keys.seal("b", &context, b""),
            Err(Error::NoKey { .. })
        ));
    }

    #[test]
    fn counts_what_each_key_sealed() {
        let mut keys = Keyset::new();
        keys.rotate("a").unwrap();
        (0..3).for_each(|_| drop(keys.seal("a", &Context::new("x"), b"").unwrap()));
        let info = keys.keys().next().unwrap();
        assert_eq!(
            (info.seals, info.status, info.primary),
            (3, Status::Enabled, true)
        );
    }

    #[test]
    fn refuses_every_cut_of_its_encoding() {
        let bytes = some_keys().encode();
        let whole: Vec<usize> = (0..=bytes.len())
            .filter(|&cut| Keyset::decode(&bytes[..cut]).is_ok())
            .collect();
        // Only between two keys does a shorter set remain; the seal around it
        // is what refuses that.
        assert_eq!(whole.len(), 5);
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_alike(bytes: Vec<u8>) {
            if let Ok(keys) = Keyset::decode(&bytes) {
                prop_assert_eq!(&*keys.encode(), &bytes);
            }
        }
    }
}
