//! What a writer works on at a time: some chunks in a row, filled and sealed.

use super::{Lane, MAX_PLAINTEXT, too_long};
use crate::backend::TAG;
use crate::envelope::{CHUNK, SEALED_CHUNK};
use crate::{Error, SecretBytes};

/// A buffer laid out as its sealed chunks are: each plaintext with room for its
/// tag behind it. Without I/O, so that every kind of writer stands on it.
pub(super) struct Filling {
    bytes: SecretBytes,
    /// Number of its first chunk in the stream.
    pub(super) first: u64,
    /// Plaintext that was put in, in bytes.
    plain: usize,
    /// Whether the stream's last chunk is in it.
    last: bool,
}

impl Filling {
    /// Has room for `chunks` full chunks, and an empty last one behind them.
    pub(super) fn new(chunks: usize) -> Self {
        Self {
            bytes: SecretBytes::new(vec![0; chunks * SEALED_CHUNK + TAG]),
            first: 0,
            plain: 0,
            last: false,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.plain / CHUNK == self.bytes.len() / SEALED_CHUNK
    }

    /// Number of the chunk after those that are full.
    pub(super) fn next(&self) -> u64 {
        self.first + (self.plain / CHUNK) as u64
    }

    /// Starts again, at chunk number `first` of the stream.
    pub(super) fn restart(&mut self, first: u64) {
        (self.first, self.plain, self.last) = (first, 0, false);
    }

    /// Whether the stream may still grow.
    pub(super) fn check_limit(&self) -> Result<(), Error> {
        match self.first * CHUNK as u64 + (self.plain as u64) < MAX_PLAINTEXT {
            true => Ok(()),
            false => Err(too_long()),
        }
    }

    /// Takes as much of `bytes` as there is room for.
    pub(super) fn put(&mut self, bytes: &[u8]) -> usize {
        let written = self.first * CHUNK as u64 + self.plain as u64;
        let allowed = usize::try_from(MAX_PLAINTEXT - written).unwrap_or(usize::MAX);
        let mut rest = &bytes[..bytes.len().min(allowed)];
        let before = self.plain;
        while !rest.is_empty() && !self.is_full() {
            let within = self.plain % CHUNK;
            let (now, later) = rest.split_at(rest.len().min(CHUNK - within));
            let place = self.plain / CHUNK * SEALED_CHUNK + within;
            self.bytes.as_mut_slice()[place..place + now.len()].copy_from_slice(now);
            self.plain += now.len();
            rest = later;
        }
        self.plain - before
    }

    /// Says that nothing follows: what is sealed next ends the stream.
    pub(super) fn end(&mut self) {
        self.last = true;
    }

    /// Seals the full chunks, and the last one if this is the end.
    pub(super) fn seal(&mut self, message: &Lane) {
        let full = self.plain / CHUNK;
        for index in 0..full + usize::from(self.last) {
            let length = (self.plain - index * CHUNK).min(CHUNK);
            let chunk = &mut self.bytes.as_mut_slice()[index * SEALED_CHUNK..][..length + TAG];
            let (body, tag) = chunk.split_at_mut(length);
            tag.copy_from_slice(&message.seal_chunk(self.first + index as u64, body));
        }
    }

    /// What [`Filling::seal`] sealed.
    pub(super) fn sealed(&self) -> &[u8] {
        let last = match self.last {
            true => self.plain % CHUNK + TAG,
            false => 0,
        };
        &self.bytes.expose_secret()[..self.plain / CHUNK * SEALED_CHUNK + last]
    }
}
