//! AES-256-GCM, by whichever library the features chose.
//!
//! [`Default`] is the one that sealing uses: ring where it is there. With both
//! features the other is compiled for the tests, which hold the two against
//! each other.

#[cfg(feature = "ring")]
pub(crate) mod ring;
#[cfg(all(feature = "rustcrypto", any(test, not(feature = "ring"))))]
pub(crate) mod rustcrypto;

#[cfg(feature = "ring")]
pub(crate) use self::ring::Cipher as Default;
#[cfg(all(feature = "rustcrypto", not(feature = "ring")))]
pub(crate) use self::rustcrypto::Cipher as Default;

/// Length of an AES-256-GCM tag, in bytes.
pub(crate) const TAG: usize = 16;

/// The content did not authenticate.
#[derive(Debug)]
pub(crate) struct Unauthentic;

/// AES-256-GCM without associated data, under one key.
pub(crate) trait Aead: Sized {
    /// Sets the key up. The caller scrubs the stack afterwards.
    fn new(key: &[u8; 32]) -> Self;

    /// Encrypts `chunk` in place and returns its tag.
    fn seal(&self, nonce: [u8; 12], chunk: &mut [u8]) -> [u8; TAG];

    /// Decrypts what is in `chunk` from `start` on to its front if `tag` is
    /// right; otherwise what is left in `chunk` is not to be read.
    fn open(
        &self,
        nonce: [u8; 12],
        chunk: &mut [u8],
        start: usize,
        tag: &[u8; TAG],
    ) -> Result<(), Unauthentic>;
}
