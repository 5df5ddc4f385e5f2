//! HKDF-SHA256 (RFC 5869) with labels under which two purposes cannot meet.
//!
//! Input keying material and label fields are each preceded by their length, so
//! that no two different lists encode alike.

use hkdf::{Hkdf, InvalidLength};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::Secret;
use crate::wipe::scrub_stack;

/// Says what a derived key is for.
///
/// ```
/// use katachi_crypto::kdf::{self, Label};
///
/// let label = Label::new("example/v1/session").field(b"user 7");
/// let key = kdf::derive::<32>(&[b"thirty-two bytes of real entropy"], b"salt", &label);
/// let other = Label::new("example/v1/session").field(b"user 8");
/// assert_ne!(key, kdf::derive::<32>(&[b"thirty-two bytes of real entropy"], b"salt", &other));
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Label(Vec<u8>);

impl Label {
    /// Starts a label with the name of a purpose.
    #[must_use]
    pub fn new(purpose: &str) -> Self {
        Self(Vec::with_capacity(64)).field(purpose.as_bytes())
    }

    /// Adds a field: who, where, which.
    #[must_use]
    pub fn field(mut self, bytes: &[u8]) -> Self {
        self.0
            .extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }
}

/// Derives `N` bytes from a list of input keying materials.
///
/// `salt` need not be secret; it separates uses of the same material. At least
/// one of the materials has to have the entropy of a key: a password does not,
/// and belongs to Argon2id (feature `password`).
///
/// # Panics
///
/// Panics if `N` is larger than 8,160, the most that HKDF-SHA256 gives.
#[must_use]
pub fn derive<const N: usize>(ikm: &[&[u8]], salt: &[u8], label: &Label) -> Secret<N> {
    let mut material = Zeroizing::new(Vec::with_capacity(
        ikm.iter().map(|part| part.len() + 8).sum(),
    ));
    for part in ikm {
        material.extend_from_slice(&(part.len() as u64).to_be_bytes());
        material.extend_from_slice(part);
    }
    Secret::fill_with(|out| {
        extract_and_expand(&material, salt, &label.0, out)
            .expect("the length is within HKDF's limit of 255 blocks");
        scrub_stack();
    })
}

/// HKDF-SHA256 (RFC 5869), extract and expand.
#[inline(never)]
pub(crate) fn extract_and_expand(
    ikm: &[u8],
    salt: &[u8],
    info: &[u8],
    out: &mut [u8],
) -> Result<(), InvalidLength> {
    Hkdf::<Sha256>::new(Some(salt), ikm).expand(info, out)
}

#[cfg(test)]
mod tests {
    use super::{Label, derive};

    #[test]
    fn fields_do_not_run_into_each_other() {
        let one = Label::new("a").field(b"bc");
        let two = Label::new("ab").field(b"c");
        assert_ne!(
            derive::<32>(&[b"k"], b"", &one),
            derive::<32>(&[b"k"], b"", &two)
        );
        let label = Label::new("x");
        assert_ne!(
            derive::<32>(&[b"ab", b"c"], b"", &label),
            derive::<32>(&[b"a", b"bc"], b"", &label)
        );
        assert_ne!(
            derive::<32>(&[b"ab"], b"", &label),
            derive::<32>(&[b"ab", b""], b"", &label)
        );
    }

    #[test]
    fn salt_matters() {
        let label = Label::new("x");
        assert_ne!(
            derive::<16>(&[b"k"], b"1", &label),
            derive::<16>(&[b"k"], b"2", &label)
        );
    }
}
