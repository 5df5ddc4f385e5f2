//! Sealing a value into an envelope, and opening it again.

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
        let mut bytes = Vec::new();
        let header = seal_with::<backend::Default>(
            self,
            kind,
            context,
            plaintext,
            &random::bytes()?,
            &mut bytes,
        )?;
        Ok(Sealed { header, bytes })
    }

    /// Seals as [`DataKey::seal`] does, in place of what `out` held.
    ///
    /// For many or large values: `out` keeps its allocation, and fresh memory
    /// costs more than sealing into it.
    ///
    /// ```
    /// use katachi_crypto::SecretBytes;
    /// use katachi_crypto::envelope::{Context, DataKey, Kind};
    ///
    /// let key = DataKey::generate()?;
    /// let (mut envelope, mut value) = (Vec::new(), SecretBytes::default());
    /// for (row, text) in [b"first", b"other"].into_iter().enumerate() {
    ///     let context = Context::new("note").version(row as u64);
    ///     key.seal_into(Kind::Record, &context, text, &mut envelope)?;
    ///     key.open_into(&context, &envelope, &mut value)?;
    ///     assert_eq!(value.expose_secret(), text);
    /// }
    /// # Ok::<(), katachi_crypto::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`DataKey::seal`]; `out` is unchanged then.
    pub fn seal_into(
        &self,
        kind: Kind,
        context: &Context,
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        seal_with::<backend::Default>(self, kind, context, plaintext, &random::bytes()?, out)?;
        Ok(())
    }

    /// Seals in the plaintext's own memory if it has room for what is added, so
    /// that a large value that goes back and forth is never allocated twice.
    ///
    /// ```
    /// use katachi_crypto::SecretBytes;
    /// use katachi_crypto::envelope::{Context, DataKey, Kind};
    ///
    /// let (key, context) = (DataKey::generate()?, Context::new("page"));
    /// let mut page = SecretBytes::new(vec![7; 100_000]);
    /// for _ in 0..3 {
    ///     let sealed = key.seal_in_place(Kind::Record, &context, page)?;
    ///     page = key.open_in_place(&context, sealed)?;
    /// }
    /// assert_eq!(page.expose_secret(), [7; 100_000]);
    /// # Ok::<(), katachi_crypto::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`DataKey::seal`]; the plaintext is gone and its memory wiped then.
    pub fn seal_in_place(
        &self,
        kind: Kind,
        context: &Context,
        mut plaintext: SecretBytes,
    ) -> Result<Sealed, Error> {
        let length = plaintext.len();
        let total = PREFIX + sealed_len(length);
        if plaintext.capacity() < total {
            return self.seal(kind, context, plaintext.expose_secret());
        }
        check_length(length)?;
        let salt = random::bytes()?;
        let (header, message) = sealing::<backend::Default>(self, kind, context, &salt);
        plaintext.resize_for_overwrite(total);
        message.seal_within(plaintext.as_mut_slice(), length, PREFIX);
        let mut bytes = plaintext.into_vec();
        write_prefix(&mut bytes, header, &salt, &message);
        Ok(Sealed { header, bytes })
    }

    /// Opens what was sealed with this key for `context`.
    ///
    /// # Errors
    ///
    /// Returns [`Error::KeyMismatch`] for another key, another context or a
    /// changed header, and [`Error::Tampered`] for changed content. Nothing of
    /// the plaintext is left behind then.
    pub fn open(&self, context: &Context, sealed: &Sealed) -> Result<SecretBytes, Error> {
        let mut plaintext = SecretBytes::default();
        open_with::<backend::Default>(self, context, sealed.as_bytes(), &mut plaintext)?;
        Ok(plaintext)
    }

    /// Opens an envelope's bytes into `out`, in place of what it held.
    ///
    /// # Errors
    ///
    /// Returns what [`Sealed::parse`] and [`DataKey::open`] return; `out` is
    /// wiped and empty then.
    pub fn open_into(
        &self,
        context: &Context,
        envelope: &[u8],
        out: &mut SecretBytes,
    ) -> Result<(), Error> {
        open_with::<backend::Default>(self, context, envelope, out)
    }

    /// Opens in the envelope's own memory, without another allocation.
    ///
    /// # Errors
    ///
    /// As [`DataKey::open`]; the envelope is gone and its memory wiped then.
    pub fn open_in_place(&self, context: &Context, sealed: Sealed) -> Result<SecretBytes, Error> {
        let mut bytes = SecretBytes::new(sealed.into_bytes());
        let message = opening::<backend::Default>(self, context, bytes.expose_secret())?.0;
        let length = plain_len(bytes.len() - PREFIX)?;
        message.open_within(bytes.as_mut_slice(), PREFIX)?;
        bytes.truncate(length);
        Ok(bytes)
    }
}

/// The keys of the message in an envelope.
pub(crate) fn message<A: Aead>(
    key: &DataKey,
    header: &[u8; HEADER],
    salt: &[u8; SALT],
    context: &Context,
) -> Message<A> {
    Message::derive(key.expander(), salt, [DOMAIN, header, context.as_bytes()])
}

fn seal_with<A: Aead>(
    key: &DataKey,
    kind: Kind,
    context: &Context,
    plaintext: &[u8],
    salt: &[u8; SALT],
    out: &mut Vec<u8>,
) -> Result<Header, Error> {
    check_length(plaintext.len())?;
    let (header, message) = sealing::<A>(key, kind, context, salt);
    let total = PREFIX + sealed_len(plaintext.len());
    if out.capacity() < total {
        // Not grown: what it held need not be copied.
        *out = Vec::with_capacity(total);
    }
    out.clear();
    out.resize(PREFIX, 0);
    write_prefix(out, header, salt, &message);
    message.seal_onto(plaintext, out);
    Ok(header)
}

pub(super) fn check_length(plaintext: usize) -> Result<(), Error> {
    if plaintext > MAX_PLAINTEXT {
        return Err(Error::Limit {
            what: "the length of a value",
            limit: MAX_PLAINTEXT as u64,
        });
    }
    Ok(())
}

pub(super) fn sealing<A: Aead>(
    key: &DataKey,
    kind: Kind,
    context: &Context,
    salt: &[u8; SALT],
) -> (Header, Message<A>) {
    let header = Header {
        kind,
        key: key.id(),
    };
    (header, message::<A>(key, &header.to_bytes(), salt, context))
}

pub(super) fn write_prefix<A: Aead>(
    envelope: &mut [u8],
    header: Header,
    salt: &[u8; SALT],
    message: &Message<A>,
) {
    envelope[..HEADER].copy_from_slice(&header.to_bytes());
    envelope[HEADER..][..SALT].copy_from_slice(salt);
    envelope[HEADER + SALT..PREFIX].copy_from_slice(message.commitment());
}

/// Checks an envelope up to its commitment; gives its keys and its chunks.
pub(super) fn opening<'a, A: Aead>(
    key: &DataKey,
    context: &Context,
    envelope: &'a [u8],
) -> Result<(Message<A>, &'a [u8]), Error> {
    if Sealed::check(envelope)?.key != key.id() {
        return Err(Error::KeyMismatch);
    }
    let (fixed, rest) = envelope
        .split_first_chunk::<HEADER>()
        .ok_or(Error::Truncated)?;
    let (salt, rest) = rest.split_first_chunk::<SALT>().ok_or(Error::Truncated)?;
    let (commitment, chunks) = rest
        .split_first_chunk::<COMMITMENT>()
        .ok_or(Error::Truncated)?;
    let message = message::<A>(key, fixed, salt, context);
    message.check(commitment)?;
    Ok((message, chunks))
}

fn open_with<A: Aead>(
    key: &DataKey,
    context: &Context,
    envelope: &[u8],
    out: &mut SecretBytes,
) -> Result<(), Error> {
    let opened = opening::<A>(key, context, envelope)
        .and_then(|(message, chunks)| message.open_over(chunks, out));
    if opened.is_err() {
        out.clear();
    }
    opened
}

#[cfg(all(test, feature = "ring", feature = "rustcrypto"))]
mod tests {
    use proptest::prelude::*;

    use super::{open_with, seal_with};
    use crate::SecretBytes;
    use crate::backend::{Aead, ring, rustcrypto};
    use crate::envelope::{Context, DataKey, Kind};

    fn seal<A: Aead>(key: &DataKey, plaintext: &[u8], salt: &[u8; 24]) -> Vec<u8> {
        let (mut out, context) = (Vec::new(), Context::new("both"));
        seal_with::<A>(key, Kind::Record, &context, plaintext, salt, &mut out)
            .expect("it is short");
        out
    }

    fn open<A: Aead>(key: &DataKey, envelope: &[u8]) -> SecretBytes {
        let mut out = SecretBytes::default();
        open_with::<A>(key, &Context::new("both"), envelope, &mut out).expect("it was sealed so");
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn both_backends_seal_the_same_bytes_and_open_each_others(
            plaintext in proptest::collection::vec(any::<u8>(), 0..40_000),
            salt: [u8; 24],
        ) {
            let key = DataKey::generate().unwrap();
            let one = seal::<ring::Cipher>(&key, &plaintext, &salt);
            let two = seal::<rustcrypto::Cipher>(&key, &plaintext, &salt);
            prop_assert_eq!(&one, &two);
            let opened = open::<rustcrypto::Cipher>(&key, &one);
            prop_assert_eq!(opened.expose_secret(), &plaintext[..]);
            let opened = open::<ring::Cipher>(&key, &two);
            prop_assert_eq!(opened.expose_secret(), &plaintext[..]);
        }
    }
}
