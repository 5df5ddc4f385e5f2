//! Sealing a value into an envelope, and opening it again.

use zeroize::Zeroize;

use super::chunked::{COMMITMENT, Message, SALT, plain_len, sealed_len};
use super::header::{HEADER, Header};
use super::{Context, DataKey, Kind, Sealed};
use crate::backend::{self, Aead, TAG};
use crate::{Error, SecretBytes, random};

/// Bytes before the first chunk.
pub(crate) const PREFIX: usize = HEADER + SALT + COMMITMENT;
/// Plaintext of one envelope, in bytes, at most. More belongs into a stream.
pub const MAX_PLAINTEXT: usize = 32 * 1024 * 1024;
/// Shortest envelope: an empty value.
pub(crate) const MIN_LEN: usize = PREFIX + TAG;
/// First field of every C2SP context of ours.
const DOMAIN: &[u8] = b"katachi.v1";

impl DataKey {
    /// Seals `plaintext` for `context`.
    ///
    /// The result is 88 bytes longer than a short plaintext, and 16 more for
    /// each further 16 KiB. Every call draws a fresh salt, from which the key
    /// and nonce of this one envelope follow: sealing twice is never a nonce
    /// used twice. Stay below 2^48 envelopes for one key.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Limit`] if the plaintext is longer than
    /// [`MAX_PLAINTEXT`], and [`Error::Randomness`] if the operating system
    /// gives none.
    pub fn seal(&self, kind: Kind, context: &Context, plaintext: &[u8]) -> Result<Sealed, Error> {
        let salt = random::bytes()?;
        seal_with::<backend::Default>(self, kind, context, plaintext, &salt)
    }

    /// Opens what was sealed with this key for `context`.
    ///
    /// # Errors
    ///
    /// Returns [`Error::KeyMismatch`] for another key, another context or a
    /// changed header, and [`Error::Tampered`] for changed content. Nothing of
    /// the plaintext is left behind then.
    pub fn open(&self, context: &Context, sealed: &Sealed) -> Result<SecretBytes, Error> {
        open_with::<backend::Default>(self, context, sealed)
    }
}

/// The keys of the message in an envelope.
pub(crate) fn message<A: Aead>(
    key: &DataKey,
    header: &[u8; HEADER],
    salt: &[u8; SALT],
    context: &Context,
) -> Message<A> {
    Message::derive(
        key.expose_secret(),
        salt,
        &[DOMAIN, header, context.as_bytes()],
    )
}

pub(crate) fn seal_with<A: Aead>(
    key: &DataKey,
    kind: Kind,
    context: &Context,
    plaintext: &[u8],
    salt: &[u8; SALT],
) -> Result<Sealed, Error> {
    if plaintext.len() > MAX_PLAINTEXT {
        return Err(Error::Limit {
            what: "the length of a value",
            limit: MAX_PLAINTEXT as u64,
        });
    }
    let header = Header {
        kind,
        key: key.id(),
    };
    let fixed = header.to_bytes();
    let message = message::<A>(key, &fixed, salt, context);
    let mut out = Vec::with_capacity(PREFIX + sealed_len(plaintext.len()));
    out.extend_from_slice(&fixed);
    out.extend_from_slice(salt);
    out.extend_from_slice(message.commitment());
    message.seal_all(plaintext, &mut out);
    Ok(Sealed { header, bytes: out })
}

pub(crate) fn open_with<A: Aead>(
    key: &DataKey,
    context: &Context,
    sealed: &Sealed,
) -> Result<SecretBytes, Error> {
    if sealed.header.key != key.id() {
        return Err(Error::KeyMismatch);
    }
    let (fixed, rest) = sealed
        .bytes
        .split_first_chunk::<HEADER>()
        .ok_or(Error::Truncated)?;
    let (salt, rest) = rest.split_first_chunk::<SALT>().ok_or(Error::Truncated)?;
    let (commitment, chunks) = rest
        .split_first_chunk::<COMMITMENT>()
        .ok_or(Error::Truncated)?;
    let message = message::<A>(key, fixed, salt, context);
    message.check(commitment)?;
    let mut plaintext = vec![0; plain_len(chunks.len())?];
    if let Err(error) = message.open_all(chunks, &mut plaintext) {
        plaintext.zeroize();
        return Err(error);
    }
    Ok(SecretBytes::new(plaintext))
}

#[cfg(all(test, feature = "ring", feature = "rustcrypto"))]
mod tests {
    use proptest::prelude::*;

    use super::{open_with, seal_with};
    use crate::backend::{ring, rustcrypto};
    use crate::envelope::{Context, DataKey, Kind};

    proptest! {
        #[test]
        fn both_backends_seal_the_same_bytes_and_open_each_others(
            plaintext in proptest::collection::vec(any::<u8>(), 0..40_000),
            salt: [u8; 24],
        ) {
            let (key, context) = (DataKey::generate().unwrap(), Context::new("both"));
            let one = seal_with::<ring::Cipher>(&key, Kind::Record, &context, &plaintext, &salt).unwrap();
            let two = seal_with::<rustcrypto::Cipher>(&key, Kind::Record, &context, &plaintext, &salt).unwrap();
            prop_assert_eq!(&one, &two);
            let opened = open_with::<rustcrypto::Cipher>(&key, &context, &one).unwrap();
            prop_assert_eq!(opened.expose_secret(), &plaintext[..]);
            let opened = open_with::<ring::Cipher>(&key, &context, &two).unwrap();
            prop_assert_eq!(opened.expose_secret(), &plaintext[..]);
        }
    }
}
