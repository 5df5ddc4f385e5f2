//! What a reader works on at a time: some chunks in a row, read and opened.

use std::io;

use zeroize::Zeroize;

use super::{Lane, MAX_FULL_CHUNKS, io_error, too_long};
use crate::backend::TAG;
use crate::envelope::{CHUNK, SEALED_CHUNK};
use crate::{Error, SecretBytes};

/// What stands behind the plaintext of some chunks.
#[derive(Debug)]
pub(super) enum End {
    /// More chunks.
    More,
    /// The end that was written.
    Last,
    /// A chunk that does not open; every further read fails the same way.
    Refused(Error),
    /// The source failed, which is said once.
    Broken(io::Error),
}

/// A buffer of sealed chunks, opened in their place. Without I/O, so that every
/// kind of reader stands on it.
pub(super) struct Opening {
    bytes: SecretBytes,
    /// Number of its first chunk in the stream.
    pub(super) first: u64,
    /// Sealed bytes that were read.
    filled: usize,
    /// Opened plaintext, in bytes.
    plain: usize,
    /// Plaintext that was released.
    released: usize,
    end: End,
}

impl Opening {
    /// Has room for `chunks` full chunks, and nothing in it.
    pub(super) fn new(chunks: usize) -> Self {
        Self {
            bytes: SecretBytes::new(vec![0; chunks * SEALED_CHUNK]),
            first: 0,
            filled: 0,
            plain: 0,
            released: 0,
            end: End::More,
        }
    }

    /// Starts again, at chunk number `first` of the stream.
    pub(super) fn restart(&mut self, first: u64) {
        (self.first, self.filled) = (first, 0);
        (self.plain, self.released) = (0, 0);
        self.end = End::More;
    }

    /// Number of the chunk after these.
    pub(super) fn next(&self) -> u64 {
        self.first + (self.bytes.len() / SEALED_CHUNK) as u64
    }

    /// Starts again behind what it holds, or where it stands if that is nothing.
    pub(super) fn go_on(&mut self) {
        self.restart(match self.is_filled() {
            true => self.next(),
            false => self.first,
        });
    }

    /// Where to read to.
    pub(super) fn space(&mut self) -> &mut [u8] {
        &mut self.bytes.as_mut_slice()[self.filled..]
    }

    /// Says that `count` bytes were read.
    pub(super) fn fill(&mut self, count: usize) {
        self.filled += count;
    }

    /// Says that the source failed behind what was read.
    pub(super) fn break_off(&mut self, error: io::Error) {
        self.end = End::Broken(error);
    }

    /// Whether the source may have more.
    pub(super) fn is_filled(&self) -> bool {
        self.filled == self.bytes.len()
    }

    /// Opens the chunks that were read, up to the first that does not open;
    /// nothing of it and of those behind it stays.
    pub(super) fn open(&mut self, message: &Lane) {
        let outcome = self.open_chunks(message);
        let broken = matches!(self.end, End::Broken(_));
        match outcome {
            // The source broke off: what is missing is not known to be refused.
            Err(Error::Truncated) if broken => {}
            Err(error) => self.end = End::Refused(error),
            Ok(true) => self.end = End::Last,
            Ok(false) => {}
        }
        if !matches!(self.end, End::More) {
            let kept = self.plain.div_ceil(CHUNK) * SEALED_CHUNK;
            if let Some(rest) = self.bytes.as_mut_slice().get_mut(kept..) {
                rest.zeroize();
            }
        }
    }

    /// Opens chunk by chunk; says whether the last one of the stream was there.
    fn open_chunks(&mut self, message: &Lane) -> Result<bool, Error> {
        let broken = matches!(self.end, End::Broken(_));
        for (index, chunk) in self.bytes.as_mut_slice()[..self.filled]
            .chunks_mut(SEALED_CHUNK)
            .enumerate()
        {
            let (number, last) = (self.first + index as u64, chunk.len() < SEALED_CHUNK);
            if last && broken {
                return Err(Error::Truncated);
            }
            // After as many full chunks only the empty last one may follow.
            if number >= MAX_FULL_CHUNKS && chunk.len() > TAG {
                return Err(too_long());
            }
            let (body, tag) = chunk
                .split_last_chunk_mut::<TAG>()
                .ok_or(Error::Truncated)?;
            message.open_chunk(number, body, tag)?;
            self.plain += body.len();
            if last {
                return Ok(true);
            }
        }
        match self.is_filled() {
            true => Ok(false),
            false => Err(Error::Truncated),
        }
    }

    /// Opened plaintext that was not released yet, of one chunk.
    pub(super) fn unread(&self) -> &[u8] {
        let within = self.released % CHUNK;
        let place = self.released / CHUNK * SEALED_CHUNK + within;
        &self.bytes.expose_secret()[place.min(self.bytes.len())..]
            [..(self.plain - self.released).min(CHUNK - within)]
    }

    /// Says that `count` bytes of [`Opening::unread`] were handed out.
    pub(super) fn release(&mut self, count: usize) {
        self.released += count;
    }

    /// What follows once everything was released: `true` for more chunks,
    /// `false` for the end.
    pub(super) fn after(&mut self) -> io::Result<bool> {
        match &self.end {
            End::More => Ok(true),
            End::Last => Ok(false),
            End::Refused(error) => Err(io_error(error.clone())),
            // Part of a chunk may be lost: what follows cannot be trusted.
            End::Broken(_) => {
                match std::mem::replace(&mut self.end, End::Refused(Error::Truncated)) {
                    End::Broken(error) => Err(error),
                    _ => Err(io_error(Error::Truncated)),
                }
            }
        }
    }
}
