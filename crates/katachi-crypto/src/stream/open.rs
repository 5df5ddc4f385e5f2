//! Reading a stream.

use std::fmt;
use std::io::{self, Read};

use zeroize::{Zeroize, Zeroizing};

use super::{MAX_FULL_CHUNKS, MAX_PLAINTEXT, begin, io_error, read_full};
use crate::Error;
use crate::backend::{Default as Backend, TAG};
use crate::envelope::{Context, DataKey, Message, SEALED_CHUNK};

/// Opens a stream from `R`, releasing only chunks that authenticated.
pub struct OpenReader<R: Read> {
    inner: R,
    message: Message<Backend>,
    /// As long as a sealed chunk; its opened part is `at..end`.
    chunk: Zeroizing<Vec<u8>>,
    at: usize,
    end: usize,
    pub(super) index: u64,
    state: State,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum State {
    Reading,
    Ended,
    /// Every further read fails the same way.
    Failed(Error),
}

impl<R: Read> OpenReader<R> {
    /// Reads the header and checks key and context.
    ///
    /// # Errors
    ///
    /// Returns what `inner` returns, and an [`Error`] inside the I/O error if
    /// the header does not fit the key or the context.
    pub fn new(mut inner: R, key: &DataKey, context: &Context) -> io::Result<Self> {
        let message = begin(&mut inner, key, context)?;
        Ok(Self::of_message(inner, message))
    }

    pub(crate) fn of_message(inner: R, message: Message<Backend>) -> Self {
        let chunk = Zeroizing::new(vec![0; SEALED_CHUNK]);
        Self {
            inner,
            message,
            chunk,
            at: 0,
            end: 0,
            index: 0,
            state: State::Reading,
        }
    }

    /// Reads and opens the next chunk into `self.chunk`.
    fn next_chunk(&mut self) -> io::Result<()> {
        (self.at, self.end) = (0, 0);
        let length = match read_full(&mut self.inner, &mut self.chunk) {
            Ok(length) => length,
            Err(error) => {
                // Part of a chunk may be lost: what follows cannot be trusted.
                self.fail(Error::Truncated);
                return Err(error);
            }
        };
        let opened = self.open_chunk(length);
        if let Err(error) = &opened {
            self.fail(error.clone());
        }
        opened.map_err(io_error)
    }

    fn fail(&mut self, error: Error) {
        self.chunk.as_mut_slice().zeroize();
        self.state = State::Failed(error);
    }

    fn open_chunk(&mut self, length: usize) -> Result<(), Error> {
        let last = length < SEALED_CHUNK;
        // After as many full chunks only the empty last one may follow.
        if self.index >= MAX_FULL_CHUNKS && length > TAG {
            return Err(Error::Limit {
                what: "the length of a stream",
                limit: MAX_PLAINTEXT,
            });
        }
        let (body, tag) = self.chunk[..length]
            .split_last_chunk_mut::<TAG>()
            .ok_or(Error::Truncated)?;
        let tag = *tag;
        let plain = body.len();
        self.message.open_chunk(self.index, body, &tag)?;
        self.end = plain;
        self.index += 1;
        if last {
            self.state = State::Ended;
        }
        Ok(())
    }
}

impl<R: Read> Read for OpenReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        while self.at == self.end {
            match &self.state {
                State::Ended => return Ok(0),
                State::Failed(error) => return Err(io_error(error.clone())),
                State::Reading => self.next_chunk()?,
            }
        }
        let unread = &self.chunk[self.at..self.end];
        let count = unread.len().min(out.len());
        out[..count].copy_from_slice(&unread[..count]);
        self.at += count;
        Ok(count)
    }
}

impl<R: Read> fmt::Debug for OpenReader<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "OpenReader(chunk {})", self.index)
    }
}
