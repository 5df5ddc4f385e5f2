//! The long-lived keys of the two ends.

use std::fmt;

use x25519_dalek::StaticSecret;

use crate::wipe::scrub_stack;
use crate::{Error, Secret};

/// An end's long-lived X25519 key pair (RFC 7748), by which the other end knows it.
///
/// ```
/// use katachi_crypto::channel::StaticKey;
///
/// let key = StaticKey::generate()?;
/// assert_eq!(format!("{key:?}"), format!("StaticKey({:?})", key.public()));
/// # Ok::<(), katachi_crypto::Error>(())
/// ```
pub struct StaticKey {
    secret: Secret<32>,
    public: PublicKey,
}

impl StaticKey {
    /// Draws a key pair.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Randomness`] if the operating system gives none.
    pub fn generate() -> Result<Self, Error> {
        Ok(Self::from_secret(Secret::random()?))
    }

    /// Takes a private key: 32 bytes, of which any value is one.
    #[must_use]
    pub fn from_secret(secret: Secret<32>) -> Self {
        let public = PublicKey(public_of(&secret));
        scrub_stack();
        Self { secret, public }
    }

    /// The public key, to be given to the other end.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The private key, for the vault that keeps it.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8; 32] {
        self.secret.expose_secret()
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("StaticKey")
            .field(&self.public)
            .finish()
    }
}

/// The public half of a [`StaticKey`]: 32 bytes, little-endian as in RFC 7748.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Takes the bytes of a public key.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PublicKey(")?;
        for byte in self.0 {
            write!(formatter, "{byte:02x}")?;
        }
        formatter.write_str(")")
    }
}

/// Computes a public key. The caller scrubs the stack afterwards.
#[inline(never)]
pub(super) fn public_of(secret: &Secret<32>) -> [u8; 32] {
    let secret = StaticSecret::from(*secret.expose_secret());
    x25519_dalek::PublicKey::from(&secret).to_bytes()
}
