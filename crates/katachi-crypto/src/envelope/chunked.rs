//! The C2SP chunked-encryption message inside an envelope (Cobblestone-256).
//!
//! Source: <https://c2sp.org/chunked-encryption>. From a 32-byte key, a random
//! 24-byte salt and a context, HKDF-Expand-SHA512 gives an AES-256-GCM key, a
//! base nonce and a commitment. Chunk `i` is sealed under the base nonce with
//! `i` exclusive-ored into its last five bytes; the last chunk is always short.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha512;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::Error;
use crate::backend::{Aead, TAG};

/// Plaintext bytes of every chunk but the last, which is shorter.
pub(crate) const CHUNK: usize = 16 * 1024;
/// Sealed bytes of a full chunk.
pub(crate) const SEALED_CHUNK: usize = CHUNK + TAG;
/// Length of the salt, in bytes.
pub(crate) const SALT: usize = 24;
/// Length of the key commitment, in bytes.
pub(crate) const COMMITMENT: usize = 32;
/// Chunks in a message, at most.
pub(crate) const MAX_CHUNKS: u64 = 1 << 38;

const INFO: &[u8] = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00";

/// Sealed length of `plain` bytes.
pub(crate) fn sealed_len(plain: usize) -> usize {
    plain + (plain / CHUNK + 1) * TAG
}

/// Plaintext length of `sealed` bytes of chunks.
pub(crate) fn plain_len(sealed: usize) -> Result<usize, Error> {
    let last = sealed % SEALED_CHUNK;
    if last < TAG {
        return Err(Error::Truncated);
    }
    Ok(sealed / SEALED_CHUNK * CHUNK + last - TAG)
}

/// The keys of one message.
pub(crate) struct Message<A> {
    aead: A,
    base_nonce: [u8; 12],
    commitment: [u8; COMMITMENT],
}

impl<A: Aead> Message<A> {
    /// Derives the keys of the message with `salt` and the parts of its context.
    pub(crate) fn derive(key: &[u8; 32], salt: &[u8; SALT], context: &[&[u8]]) -> Self {
        let mut keys = Zeroizing::new([0u8; 128]);
        expand(key, salt, context, &mut keys);
        let message = Self::from_keys(&keys);
        crate::wipe::scrub_stack();
        message
    }

    fn from_keys(keys: &[u8; 128]) -> Self {
        let (aead_key, rest) = keys.split_first_chunk::<32>().expect("128 is more than 32");
        let (base_nonce, rest) = rest.split_first_chunk::<12>().expect("96 is more than 12");
        let (commitment, _) = rest
            .split_first_chunk::<COMMITMENT>()
            .expect("84 is more than 32");
        Self {
            aead: A::new(aead_key),
            base_nonce: *base_nonce,
            commitment: *commitment,
        }
    }

    pub(crate) fn commitment(&self) -> &[u8; COMMITMENT] {
        &self.commitment
    }

    /// Compares the commitment of a received message in constant time.
    pub(crate) fn check(&self, commitment: &[u8]) -> Result<(), Error> {
        if self.commitment.ct_eq(commitment).into() {
            Ok(())
        } else {
            Err(Error::KeyMismatch)
        }
    }

    /// Seals chunk number `index` in place and returns its tag.
    pub(crate) fn seal_chunk(&self, index: u64, chunk: &mut [u8]) -> [u8; TAG] {
        self.aead.seal(self.nonce(index), chunk)
    }

    /// Opens chunk number `index` in place.
    pub(crate) fn open_chunk(
        &self,
        index: u64,
        chunk: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), Error> {
        self.aead
            .open(self.nonce(index), chunk, tag)
            .map_err(|_| Error::Tampered)
    }

    /// Seals all of `plain`, appending to `out`.
    pub(crate) fn seal_all(&self, plain: &[u8], out: &mut Vec<u8>) {
        out.reserve_exact(sealed_len(plain.len()));
        let mut index = 0;
        let mut rest = plain;
        loop {
            let (chunk, after) = rest.split_at(rest.len().min(CHUNK));
            let start = out.len();
            out.extend_from_slice(chunk);
            let tag = self.seal_chunk(index, &mut out[start..]);
            out.extend_from_slice(&tag);
            if chunk.len() < CHUNK {
                return;
            }
            rest = after;
            index += 1;
        }
    }

    /// Opens all of `sealed` into `out`, which has the plaintext's length.
    pub(crate) fn open_all(&self, sealed: &[u8], out: &mut [u8]) -> Result<(), Error> {
        for (index, (sealed, out)) in sealed
            .chunks(SEALED_CHUNK)
            .zip(chunks_or_empty(out))
            .enumerate()
        {
            let (body, tag) = sealed.split_last_chunk::<TAG>().ok_or(Error::Truncated)?;
            out.copy_from_slice(body);
            self.open_chunk(index as u64, out, tag)?;
        }
        Ok(())
    }

    fn nonce(&self, index: u64) -> [u8; 12] {
        debug_assert!(index < MAX_CHUNKS, "callers bound the length of a message");
        let mut nonce = self.base_nonce;
        for (byte, counter) in nonce[7..].iter_mut().zip(&index.to_be_bytes()[3..]) {
            *byte ^= counter;
        }
        nonce
    }
}

/// The chunks of a plaintext, with the empty last one that follows full chunks.
fn chunks_or_empty(out: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
    let ends_full = out.len().is_multiple_of(CHUNK);
    let empty: Option<&mut [u8]> = ends_full.then_some(&mut []);
    out.chunks_mut(CHUNK).chain(empty)
}

/// HKDF-Expand-SHA512 (RFC 5869, section 2.3) of two blocks, with the 32-byte
/// key as the pseudorandom key, which the `hkdf` crate refuses as too short.
#[inline(never)]
fn expand(key: &[u8; 32], salt: &[u8; SALT], context: &[&[u8]], out: &mut [u8; 128]) {
    let keyed = Hmac::<Sha512>::new_from_slice(key).expect("HMAC takes keys of every length");
    let (first, second) = out.split_at_mut(64);
    let block = |previous: &[u8], number: u8, out: &mut [u8]| {
        let mut mac = keyed.clone();
        mac.update(previous);
        mac.update(INFO);
        mac.update(salt);
        context.iter().for_each(|part| mac.update(part));
        mac.update(&[number]);
        out.copy_from_slice(&mac.finalize().into_bytes());
    };
    block(&[], 1, first);
    block(first, 2, second);
}
