//! Values that wipe themselves, print nothing and compare in constant time.
//!
//! None of them can be cloned or serialised, and reading one takes the words
//! `expose_secret`, which a review can search for.
//!
//! ```compile_fail,E0599
//! let key = katachi_crypto::Secret::<32>::random().unwrap();
//! let copy = key.clone();
//! ```
//!
//! ```compile_fail,E0277
//! println!("{}", katachi_crypto::SecretString::new("hunter2".into()));
//! ```
//!
//! ```compile_fail,E0277
//! fn write<T: serde::Serialize>(value: &T) {}
//! write(&katachi_crypto::SecretBytes::new(vec![7]));
//! ```
//!
//! ```compile_fail,E0614
//! let key = katachi_crypto::SecretBytes::new(vec![7]);
//! let bytes: &[u8] = &*key;
//! ```

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::wipe::Wiped;
use crate::{Error, random};

/// Exactly `N` secret bytes, which stay where they are when it moves, so that
/// moving it leaves no copy.
///
/// After [`harden`](crate::harden) new ones lie in the pages for keys.
///
/// ```
/// use katachi_crypto::Secret;
///
/// let key = Secret::<32>::random()?;
/// assert_eq!(key.expose_secret().len(), 32);
/// assert_eq!(format!("{key:?}"), "Secret<32>");
/// # Ok::<(), katachi_crypto::Error>(())
/// ```
pub struct Secret<const N: usize>(Wiped<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Draws a secret from the operating system.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Randomness`] if the operating system gives none.
    pub fn random() -> Result<Self, Error> {
        let mut secret = Self(Wiped::new([0; N]));
        random::fill(secret.0.get_mut())?;
        Ok(secret)
    }

    /// Takes over bytes that the caller made; the array passed in is wiped.
    #[must_use]
    pub fn new(mut bytes: [u8; N]) -> Self {
        let secret = Self(Wiped::new(bytes));
        bytes.zeroize();
        secret
    }

    /// Copies a slice of exactly `N` bytes.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Malformed`] if the length is another.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() != N {
            return Err(Error::Malformed {
                expected: "a secret of the stated length",
            });
        }
        Ok(Self::fill_with(|target| target.copy_from_slice(bytes)))
    }

    /// Lets `write` fill a secret in place.
    pub(crate) fn fill_with(write: impl FnOnce(&mut [u8; N])) -> Self {
        let mut secret = Self(Wiped::new([0; N]));
        write(secret.0.get_mut());
        secret
    }

    /// The bytes.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8; N] {
        self.0.get()
    }
}

impl<const N: usize> PartialEq for Secret<N> {
    fn eq(&self, other: &Self) -> bool {
        self.0.get().ct_eq(other.0.get()).into()
    }
}

impl<const N: usize> Eq for Secret<N> {}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Secret<{N}>")
    }
}

/// Secret bytes of any length.
///
/// Its memory is wiped to the last byte of its capacity, on drop and whenever it
/// moves to a larger piece.
#[derive(Default)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes over bytes that the caller made.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes it `length` bytes long, whose content the caller then writes.
    #[cfg(any(feature = "ring", feature = "rustcrypto"))]
    pub(crate) fn resize_for_overwrite(&mut self, length: usize) {
        if self.0.capacity() < length {
            // The old memory is wiped as it is dropped, and not copied.
            *self = Self(vec![0; length]);
            return;
        }
        if length < self.0.len() {
            self.0[length..].zeroize();
        }
        self.0.resize(length, 0);
    }

    /// Makes it empty, with room for [`SecretBytes::append`] to come to `length`.
    /// What it held stays only where it is going to be overwritten.
    #[cfg(any(feature = "ring", feature = "rustcrypto"))]
    pub(crate) fn start_over(&mut self, length: usize) {
        if self.0.capacity() < length {
            *self = Self(Vec::with_capacity(length));
        } else if length < self.0.len() {
            self.0[length..].zeroize();
        }
        self.0.clear();
    }

    /// Adds `bytes`, for which there is room, and gives the place of the copy.
    #[cfg(any(feature = "ring", feature = "rustcrypto"))]
    pub(crate) fn append(&mut self, bytes: &[u8]) -> &mut [u8] {
        let start = self.0.len();
        // Never moved, which would leave a copy behind.
        assert!(bytes.len() <= self.0.capacity() - start);
        self.0.extend_from_slice(bytes);
        &mut self.0[start..]
    }

    /// The bytes to write to; they are never pushed to, which could move them.
    #[cfg(any(feature = "ring", feature = "rustcrypto"))]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.0
    }

    #[cfg(any(feature = "ring", feature = "rustcrypto"))]
    pub(crate) fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Gives the memory away, once it holds no secret any more.
    #[cfg(any(feature = "ring", feature = "rustcrypto"))]
    pub(crate) fn into_vec(mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }

    /// Wipes all but the first `length` bytes.
    #[cfg(any(feature = "ring", feature = "rustcrypto"))]
    pub(crate) fn truncate(&mut self, length: usize) {
        self.0[length..].zeroize();
        self.0.truncate(length);
    }

    /// Wipes all bytes, and keeps the memory.
    pub fn clear(&mut self) {
        // A vector that counts as empty is wiped as one piece of memory, to the
        // end of its capacity; otherwise byte by byte, many times slower.
        self.0.clear();
        self.0.zeroize();
    }

    /// Reads the bytes as UTF-8 text.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Malformed`] if they are not; the bytes are wiped.
    pub fn into_string(mut self) -> Result<SecretString, Error> {
        match String::from_utf8(std::mem::take(&mut self.0)) {
            Ok(text) => Ok(SecretString::new(text)),
            Err(error) => {
                error.into_bytes().zeroize();
                Err(Error::Malformed {
                    expected: "UTF-8 text",
                })
            }
        }
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.clear();
    }
}

impl PartialEq for SecretBytes {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for SecretBytes {}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SecretBytes")
    }
}

/// Secret text.
pub struct SecretString(Zeroizing<String>);

impl SecretString {
    /// Takes over text that the caller made.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        &self.0
    }
}

impl PartialEq for SecretString {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for SecretString {}

impl fmt::Debug for SecretString {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SecretString")
    }
}

#[cfg(test)]
mod tests {
    use super::{Secret, SecretBytes, SecretString};

    #[test]
    fn clearing_keeps_the_memory() {
        let mut bytes = SecretBytes::new(vec![7; 5_000]);
        let memory = bytes.0.as_ptr();
        bytes.clear();
        assert!(bytes.is_empty());
        bytes.0.resize(5_000, 1);
        assert_eq!(bytes.0.as_ptr(), memory);
    }

    #[test]
    fn prints_nothing_of_its_content() {
        let bytes = SecretBytes::new(b"hunter2".to_vec());
        let text = SecretString::new("hunter2".to_owned());
        assert_eq!(format!("{bytes:?} {text:?}"), "SecretBytes SecretString");
    }

    #[test]
    fn compares_by_content() {
        assert_eq!(Secret::new([7; 16]), Secret::new([7; 16]));
        assert_ne!(Secret::new([7; 16]), Secret::new([8; 16]));
        assert_ne!(SecretBytes::new(vec![1]), SecretBytes::new(vec![1, 2]));
    }

    #[test]
    fn refuses_a_slice_of_another_length() {
        assert!(Secret::<32>::from_slice(&[0; 31]).is_err());
    }
}
