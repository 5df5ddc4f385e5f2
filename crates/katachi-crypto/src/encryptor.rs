//! Wrapping data keys by something that keeps the key-encryption key to itself.

use crate::envelope::{Context, DataKey, Kind, Sealed};
use crate::{Error, Secret};

/// Wraps and unwraps data keys: a local key, a key management service, a token.
///
/// # Security
///
/// `unwrap` has to fail for a wrapped key that was not made for `context`;
/// answering with another key lets whoever can write the store swap tenants.
/// Refusing too much only costs availability.
pub trait KeyEncryptor: Send + Sync {
    /// What goes wrong: local ones fail as sealing fails, remote ones have more.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Wraps `key` for `context`.
    ///
    /// # Errors
    ///
    /// Returns an error if the key-encryption key cannot be used.
    fn wrap(&self, key: &DataKey, context: &Context) -> Result<Vec<u8>, Self::Error>;

    /// Unwraps what was wrapped for `context`.
    ///
    /// # Errors
    ///
    /// Returns an error if it was wrapped for another context or by another key.
    fn unwrap(&self, wrapped: &[u8], context: &Context) -> Result<DataKey, Self::Error>;
}

/// A key-encryption key that this process holds.
///
/// ```
/// use katachi_crypto::envelope::{Context, DataKey};
/// use katachi_crypto::{KeyEncryptor, LocalKeyEncryptor};
///
/// let kek = LocalKeyEncryptor::new(DataKey::generate()?);
/// let key = DataKey::generate()?;
/// let context = Context::new("tenant-key").tenant("acme");
/// let wrapped = kek.wrap(&key, &context)?;
/// assert_eq!(kek.unwrap(&wrapped, &context)?.id(), key.id());
/// assert!(kek.unwrap(&wrapped, &Context::new("tenant-key").tenant("evil")).is_err());
/// # Ok::<(), katachi_crypto::Error>(())
/// ```
#[derive(Debug)]
pub struct LocalKeyEncryptor(DataKey);

impl LocalKeyEncryptor {
    /// Takes the key-encryption key.
    #[must_use]
    pub fn new(key: DataKey) -> Self {
        Self(key)
    }
}

impl KeyEncryptor for LocalKeyEncryptor {
    type Error = Error;

    fn wrap(&self, key: &DataKey, context: &Context) -> Result<Vec<u8>, Error> {
        let mut plain = zeroize::Zeroizing::new([0; 40]);
        plain[..8].copy_from_slice(key.id().as_bytes());
        plain[8..].copy_from_slice(key.expose_secret());
        Ok(self.0.seal(Kind::Slot, context, &*plain)?.into_bytes())
    }

    fn unwrap(&self, wrapped: &[u8], context: &Context) -> Result<DataKey, Error> {
        const EXPECTED: Error = Error::Malformed {
            expected: "a wrapped data key",
        };
        let sealed = Sealed::parse(wrapped)?;
        if sealed.kind() != Kind::Slot {
            return Err(EXPECTED);
        }
        let plain = self.0.open(context, &sealed)?;
        let (id, key) = plain
            .expose_secret()
            .split_first_chunk::<8>()
            .ok_or(EXPECTED)?;
        Ok(DataKey::from_parts(
            crate::KeyId::from_bytes(*id),
            Secret::from_slice(key).map_err(|_| EXPECTED)?,
        ))
    }
}
