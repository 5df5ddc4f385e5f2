//! The C2SP chunked-encryption message inside an envelope (Cobblestone-256).
//!
//! Source: <https://c2sp.org/chunked-encryption>. From a 32-byte key, a random
//! 24-byte salt and a context, HKDF-Expand-SHA512 gives an AES-256-GCM key, a
//! base nonce and a commitment. Chunk `i` is sealed under the base nonce with
//! `i` exclusive-ored into its last five bytes; the last chunk is always short.

use std::num::NonZeroUsize;
use std::thread;

use subtle::ConstantTimeEq;

use super::expand::Expander;
use crate::backend::{Aead, TAG};
use crate::wipe::scrub_stack;
use crate::{Error, SecretBytes};

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

/// Chunks for each of `threads` threads, of a message of `sealed` bytes.
fn share(sealed: usize, threads: NonZeroUsize) -> usize {
    sealed.div_ceil(SEALED_CHUNK).div_ceil(threads.get())
}

impl<A: Aead + Sync> Message<A> {
    /// Seals `plain` into `out`, which has [`sealed_len`] bytes, on up to `threads` threads.
    pub(crate) fn seal_on(&self, threads: NonZeroUsize, plain: &[u8], out: &mut [u8]) {
        let share = share(out.len(), threads);
        thread::scope(|scope| {
            let mut parts = out.chunks_mut(share * SEALED_CHUNK).enumerate();
            let here = parts.next();
            for (number, out) in parts {
                let first = number * share;
                scope.spawn(move || self.seal_from(first, &plain[first * CHUNK..], out));
            }
            if let Some((_, out)) = here {
                self.seal_from(0, plain, out);
            }
        });
    }

    /// Opens `sealed` into `out`, which has [`plain_len`] bytes, on up to `threads` threads.
    pub(crate) fn open_on(
        &self,
        threads: NonZeroUsize,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), Error> {
        plain_len(sealed.len())?;
        let share = share(sealed.len(), threads);
        thread::scope(|scope| {
            let mut rest = out;
            let mut others = Vec::new();
            let mut here = None;
            for (number, sealed) in sealed.chunks(share * SEALED_CHUNK).enumerate() {
                let (out, after) = rest.split_at_mut(rest.len().min(share * CHUNK));
                rest = after;
                if number == 0 {
                    here = Some((sealed, out));
                } else {
                    others.push(scope.spawn(move || self.open_from(number * share, sealed, out)));
                }
            }
            let mut opened = match here {
                Some((sealed, out)) => self.open_from(0, sealed, out),
                None => Ok(()),
            };
            for other in others {
                let outcome = other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                opened = opened.and(outcome);
            }
            opened
        })
    }
}

/// The keys of one message.
pub(crate) struct Message<A> {
    aead: A,
    base_nonce: [u8; 12],
    commitment: [u8; COMMITMENT],
}

impl<A: Aead> Message<A> {
    /// Derives the keys of the message with `salt` and the parts of its context.
    pub(crate) fn derive(key: &Expander, salt: &[u8; SALT], context: [&[u8]; 3]) -> Self {
        let message = Self::expand(key, salt, context);
        scrub_stack();
        message
    }

    #[inline(never)]
    fn expand(key: &Expander, salt: &[u8; SALT], [one, two, three]: [&[u8]; 3]) -> Self {
        let keys = key.expand(&[INFO, salt, one, two, three]);
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
        self.open_moving(index, chunk, 0, tag)
    }

    /// Opens chunk number `index`, which stands in `buffer` from `start` on, to
    /// the front of `buffer`.
    fn open_moving(
        &self,
        index: u64,
        buffer: &mut [u8],
        start: usize,
        tag: &[u8; TAG],
    ) -> Result<(), Error> {
        self.aead
            .open(self.nonce(index), buffer, start, tag)
            .map_err(|_| Error::Tampered)
    }

    /// Seals `plain` to the end of `out`, which has room for [`sealed_len`] bytes
    /// more: memory that is fresh is touched once, and not zeroed before.
    pub(crate) fn seal_onto(&self, plain: &[u8], out: &mut Vec<u8>) {
        for index in 0..=plain.len() / CHUNK {
            let start = out.len();
            out.extend_from_slice(
                &plain[index * CHUNK..][..CHUNK.min(plain.len() - index * CHUNK)],
            );
            let tag = self.seal_chunk(index as u64, &mut out[start..]);
            out.extend_from_slice(&tag);
        }
    }

    /// Seals the chunks that `out` has room for, the first of them number `first`.
    fn seal_from(&self, first: usize, plain: &[u8], out: &mut [u8]) {
        for (index, sealed) in out.chunks_mut(SEALED_CHUNK).enumerate() {
            let (body, tag) = sealed
                .split_last_chunk_mut::<TAG>()
                .expect("a sealed chunk holds its tag");
            body.copy_from_slice(&plain[index * CHUNK..][..body.len()]);
            *tag = self.seal_chunk((first + index) as u64, body);
        }
    }

    /// Seals the first `plain` bytes of `buffer` to its end, from `start` on,
    /// where there is room for [`sealed_len`] bytes.
    pub(crate) fn seal_within(&self, buffer: &mut [u8], plain: usize, start: usize) {
        // The last chunk first: each moves towards the end, past all before it.
        for index in (0..=plain / CHUNK).rev() {
            let from = index * CHUNK;
            let length = (plain - from).min(CHUNK);
            let to = start + index * SEALED_CHUNK;
            buffer.copy_within(from..from + length, to);
            let (body, rest) = buffer[to..].split_at_mut(length);
            rest[..TAG].copy_from_slice(&self.seal_chunk(index as u64, body));
        }
    }

    /// Opens `sealed` in place of what `out` held. After an error `out` may hold
    /// part of the plaintext, which the caller wipes.
    pub(crate) fn open_over(&self, sealed: &[u8], out: &mut SecretBytes) -> Result<(), Error> {
        out.start_over(plain_len(sealed.len())?);
        for (index, sealed) in sealed.chunks(SEALED_CHUNK).enumerate() {
            let (body, tag) = sealed.split_last_chunk::<TAG>().ok_or(Error::Truncated)?;
            self.open_chunk(index as u64, out.append(body), tag)?;
        }
        Ok(())
    }

    /// Opens the chunks in `sealed`, the first of them number `first`.
    fn open_from(&self, first: usize, sealed: &[u8], out: &mut [u8]) -> Result<(), Error> {
        for (index, sealed) in sealed.chunks(SEALED_CHUNK).enumerate() {
            let (body, tag) = sealed.split_last_chunk::<TAG>().ok_or(Error::Truncated)?;
            let out = &mut out[index * CHUNK..][..body.len()];
            out.copy_from_slice(body);
            self.open_chunk((first + index) as u64, out, tag)?;
        }
        Ok(())
    }

    /// Opens the chunks in `buffer` from `start` on to its front, where the
    /// plaintext has [`plain_len`] bytes then. After an error the caller wipes.
    pub(crate) fn open_within(&self, buffer: &mut [u8], start: usize) -> Result<(), Error> {
        let (mut from, mut to) = (start, 0);
        for index in 0.. {
            let length = (buffer.len() - from).min(SEALED_CHUNK);
            let body = length.checked_sub(TAG).ok_or(Error::Truncated)?;
            let tag = *buffer[from + body..]
                .first_chunk::<TAG>()
                .ok_or(Error::Truncated)?;
            self.open_moving(index, &mut buffer[to..from + body], from - to, &tag)?;
            if length < SEALED_CHUNK {
                break;
            }
            from += length;
            to += body;
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
