//! Keys that seal, and the identifiers that name them.

use std::fmt;

use super::expand::Expander;
use crate::{Error, Secret, random};

/// Names a key. Random, and not derived from the key.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyId([u8; KeyId::LEN]);

impl KeyId {
    /// Length of an identifier, in bytes.
    pub const LEN: usize = 8;

    /// Draws an identifier.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Randomness`] if the operating system gives none.
    pub fn random() -> Result<Self, Error> {
        random::bytes().map(Self)
    }

    /// Takes an identifier from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KeyId::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KeyId::LEN] {
        &self.0
    }

    /// Reads 16 lower-case hexadecimal digits.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Malformed`] if `text` is anything else.
    pub fn parse(text: &str) -> Result<Self, Error> {
        const EXPECTED: Error = Error::Malformed {
            expected: "16 lower-case hexadecimal digits",
        };
        let digits: &[u8; 16] = text.as_bytes().try_into().map_err(|_| EXPECTED)?;
        let mut bytes = [0; KeyId::LEN];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
            let [high, low] = pair.map(|digit| match digit {
                b'0'..=b'9' => Some(digit - b'0'),
                b'a'..=b'f' => Some(digit - b'a' + 10),
                _ => None,
            });
            *byte = high.ok_or(EXPECTED)? << 4 | low.ok_or(EXPECTED)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "KeyId({self})")
    }
}

/// A 32-byte key with its identifier.
///
/// ```
/// use katachi_crypto::envelope::{Context, DataKey, Kind};
///
/// let key = DataKey::generate()?;
/// let context = Context::new("note").row(b"17");
/// let sealed = key.seal(Kind::Record, &context, b"for your eyes only")?;
/// assert_eq!(key.open(&context, &sealed)?.expose_secret(), b"for your eyes only");
/// assert!(key.open(&Context::new("note").row(b"18"), &sealed).is_err());
/// # Ok::<(), katachi_crypto::Error>(())
/// ```
pub struct DataKey {
    id: KeyId,
    key: Secret<32>,
    expander: Expander,
}

impl DataKey {
    /// Draws a key and an identifier.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Randomness`] if the operating system gives none.
    pub fn generate() -> Result<Self, Error> {
        Ok(Self::from_parts(KeyId::random()?, Secret::random()?))
    }

    /// Puts a key together from its parts. The key has to be uniformly random
    /// or derived by [`kdf`](crate::kdf).
    #[must_use]
    pub fn from_parts(id: KeyId, key: Secret<32>) -> Self {
        let expander = Expander::new(key.expose_secret());
        Self { id, key, expander }
    }

    /// The identifier.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    pub(super) fn expander(&self) -> &Expander {
        &self.expander
    }

    /// The key itself.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8; 32] {
        self.key.expose_secret()
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DataKey({})", self.id)
    }
}
