//! Writing a stream.

use std::fmt;
use std::io::{self, Write};

use zeroize::Zeroizing;

use super::{MAX_FULL_CHUNKS, MAX_PLAINTEXT, io_error};
use crate::backend::Default as Backend;
use crate::envelope::{self, CHUNK, Context, DataKey, Header, Kind, Message, SEALED_CHUNK};
use crate::{Error, random};

/// Seals everything written to it into `W`.
///
/// [`finish`](SealWriter::finish) writes the last chunk; without it the output
/// does not open.
///
/// ```
/// use std::io::{Read, Write};
/// use katachi_crypto::envelope::{Context, DataKey};
/// use katachi_crypto::stream::{OpenReader, SealWriter};
///
/// let key = DataKey::generate()?;
/// let context = Context::new("backup").path("notes.tar");
/// let mut writer = SealWriter::new(Vec::new(), &key, &context)?;
/// writer.write_all(b"a long story")?;
/// let sealed = writer.finish()?;
///
/// let mut story = String::new();
/// OpenReader::new(sealed.as_slice(), &key, &context)?.read_to_string(&mut story)?;
/// assert_eq!(story, "a long story");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SealWriter<W: Write> {
    inner: W,
    message: Message<Backend>,
    /// Plaintext of the chunk being filled: never a whole chunk between calls
    /// unless more is known to follow.
    chunk: Zeroizing<Vec<u8>>,
    pub(super) index: u64,
    /// A failed write leaves an unknown part of a chunk behind.
    broken: bool,
}

impl<W: Write> SealWriter<W> {
    /// Writes the header and returns the writer.
    ///
    /// # Errors
    ///
    /// Returns what `inner` returns, and an error if the operating system gives
    /// no randomness.
    pub fn new(mut inner: W, key: &DataKey, context: &Context) -> io::Result<Self> {
        let salt = random::bytes().map_err(io_error)?;
        let header = Header {
            kind: Kind::Stream,
            key: key.id(),
        }
        .to_bytes();
        let message: Message<Backend> = envelope::message(key, &header, &salt, context);
        inner.write_all(&header)?;
        inner.write_all(&salt)?;
        inner.write_all(message.commitment())?;
        let chunk = Zeroizing::new(Vec::with_capacity(SEALED_CHUNK));
        Ok(Self {
            inner,
            message,
            chunk,
            index: 0,
            broken: false,
        })
    }

    /// Writes the last chunk, flushes, and gives `W` back.
    ///
    /// # Errors
    ///
    /// Returns what `W` returns; the output does not open then.
    pub fn finish(mut self) -> io::Result<W> {
        if self.chunk.len() == CHUNK {
            self.write_chunk()?;
        }
        self.write_chunk()?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    fn check(&self) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write to this stream failed"));
        }
        Ok(())
    }

    fn write_chunk(&mut self) -> io::Result<()> {
        self.check()?;
        self.broken = true;
        let tag = self.message.seal_chunk(self.index, &mut self.chunk);
        self.chunk.extend_from_slice(&tag);
        self.inner.write_all(&self.chunk)?;
        self.index += 1;
        // What it holds is sealed by now.
        self.chunk.clear();
        self.broken = false;
        Ok(())
    }
}

impl<W: Write> Write for SealWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.chunk.len() == CHUNK {
            if self.index + 1 >= MAX_FULL_CHUNKS {
                return Err(io_error(Error::Limit {
                    what: "the length of a stream",
                    limit: MAX_PLAINTEXT,
                }));
            }
            self.write_chunk()?;
        }
        let taken = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// Flushes what was sealed already; the chunk being filled stays until it is
    /// full or the stream is finished.
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Write> fmt::Debug for SealWriter<W> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SealWriter(chunk {})", self.index)
    }
}
