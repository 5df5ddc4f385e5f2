//! HMAC-SHA256 (RFC 2104, FIPS 198-1) with the keyed state kept.
//!
//! The two key blocks are absorbed once; each message starts from a copy of
//! that state. Tags are compared in constant time, and only whole ones.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::wipe::{Wiped, scrub_stack};
use crate::{Error, Secret};

/// A key that makes and checks tags.
///
/// ```
/// use katachi_crypto::{Secret, mac::HmacKey};
///
/// let key = HmacKey::new(&Secret::random()?);
/// let tag = key.sign(b"message");
/// key.verify(b"message", tag.as_bytes())?;
/// assert!(key.verify(b"another", tag.as_bytes()).is_err());
/// # Ok::<(), katachi_crypto::Error>(())
/// ```
pub struct HmacKey(Wiped<Hmac<Sha256>>);

impl HmacKey {
    /// Prepares a 32-byte key.
    #[must_use]
    pub fn new(key: &Secret<32>) -> Self {
        Self::from_slice(key.expose_secret())
    }

    /// Prepares a key of any length, for interoperation with other systems.
    ///
    /// # Panics
    ///
    /// Never: HMAC takes keys of every length.
    #[must_use]
    pub fn from_slice(key: &[u8]) -> Self {
        let prepared = Self(Self::set_up(key));
        scrub_stack();
        prepared
    }

    #[inline(never)]
    fn set_up(key: &[u8]) -> Wiped<Hmac<Sha256>> {
        Wiped::new(Hmac::new_from_slice(key).expect("HMAC takes keys of every length"))
    }

    /// Makes the tag of `message`.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Tag {
        let mut stream = self.start();
        stream.update(message);
        stream.finish()
    }

    /// Checks a 32-byte tag of `message`.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Tampered`] if the tag is another or has another length.
    pub fn verify(&self, message: &[u8], tag: &[u8]) -> Result<(), Error> {
        let mut stream = self.start();
        stream.update(message);
        stream.verify(tag)
    }

    /// Starts a message that comes in pieces.
    #[must_use]
    pub fn start(&self) -> HmacStream {
        HmacStream(self.0.get().clone())
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HmacKey")
    }
}

/// A message being authenticated piece by piece.
pub struct HmacStream(Hmac<Sha256>);

impl HmacStream {
    /// Adds the next piece.
    pub fn update(&mut self, piece: &[u8]) -> &mut Self {
        self.0.update(piece);
        self
    }

    /// Ends the message and gives its tag.
    #[must_use]
    pub fn finish(self) -> Tag {
        Tag(self.0.finalize().into_bytes().into())
    }

    /// Ends the message and checks its tag.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Tampered`] if the tag is another or has another length.
    pub fn verify(self, tag: &[u8]) -> Result<(), Error> {
        self.0.verify_slice(tag).map_err(|_| Error::Tampered)
    }
}

impl fmt::Debug for HmacStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HmacStream")
    }
}

/// The tag of a message: 32 bytes. Compared through [`HmacKey::verify`] only.
#[derive(Clone, Copy, Debug)]
pub struct Tag([u8; Tag::LEN]);

impl Tag {
    /// Length of a tag, in bytes.
    pub const LEN: usize = 32;

    /// The bytes, to be sent beside the message.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Tag::LEN] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::HmacKey;

    #[test]
    fn agrees_with_rfc_4231_case_2() {
        let tag = HmacKey::from_slice(b"Jefe").sign(b"what do ya want for nothing?");
        assert_eq!(tag.as_bytes()[..4], [0x5b, 0xdc, 0xc1, 0x46]);
        assert_eq!(tag.as_bytes()[28..], [0x64, 0xec, 0x38, 0x43]);
    }

    #[test]
    fn refuses_shortened_and_lengthened_tags() {
        let key = HmacKey::from_slice(b"k");
        let tag = key.sign(b"m");
        let mut long = tag.as_bytes().to_vec();
        long.push(0);
        for wrong in [&tag.as_bytes()[..31], &[], &long] {
            assert!(key.verify(b"m", wrong).is_err());
        }
    }
}
