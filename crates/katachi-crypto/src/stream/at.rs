//! Reading a stream from any place.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

use zeroize::Zeroize;

use super::{MAX_PLAINTEXT, PREFIX, begin, io_error, read_full, too_long};
use crate::backend::{Default as Backend, TAG};
use crate::envelope::{CHUNK, Context, DataKey, Message, SEALED_CHUNK};
use crate::{Error, SecretBytes};

/// Opens any part of a stream, in constant memory.
///
/// Opening it authenticates the last chunk and with it the length, so a cut or
/// lengthened stream is refused at once. Each chunk is authenticated as it is
/// read: a changed one fails where it is touched, and only there. Who needs to
/// know that everything is intact reads everything.
///
/// ```
/// use std::io::{Read, Seek, SeekFrom, Write};
/// use katachi_crypto::envelope::{Context, DataKey};
/// use katachi_crypto::stream::{OpenAt, SealWriter};
///
/// let (key, context) = (DataKey::generate()?, Context::new("archive"));
/// let mut writer = SealWriter::new(Vec::new(), &key, &context)?;
/// writer.write_all(&[7; 100_000])?;
/// writer.write_all(b"the end")?;
/// let sealed = std::io::Cursor::new(writer.finish()?);
///
/// let mut reader = OpenAt::new(sealed, &key, &context)?;
/// assert_eq!(reader.len(), 100_007);
/// reader.seek(SeekFrom::End(-7))?;
/// let mut end = String::new();
/// reader.read_to_string(&mut end)?;
/// assert_eq!(end, "the end");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct OpenAt<R: Read + Seek> {
    inner: R,
    message: Message<Backend>,
    /// Where the first chunk starts in `inner`.
    start: u64,
    /// Length of the plaintext.
    length: u64,
    /// Where the next read starts; may lie beyond the end.
    position: u64,
    /// As long as a sealed chunk; holds the plaintext of chunk `held`.
    chunk: SecretBytes,
    held: Option<u64>,
}

impl<R: Read + Seek> OpenAt<R> {
    /// Reads the header, checks key and context, and authenticates the length.
    ///
    /// The stream starts where `inner` stands and ends where `inner` ends.
    ///
    /// # Errors
    ///
    /// Returns what `inner` returns, and an [`Error`] inside the I/O error if
    /// the header does not fit the key or the context, or the end is not the
    /// end that was written.
    pub fn new(mut inner: R, key: &DataKey, context: &Context) -> io::Result<Self> {
        let start = inner.stream_position()? + PREFIX as u64;
        let message = begin(&mut inner, key, context)?;
        Self::of_message(inner, message, start)
    }

    pub(crate) fn of_message(
        mut inner: R,
        message: Message<Backend>,
        start: u64,
    ) -> io::Result<Self> {
        let sealed = inner.seek(SeekFrom::End(0))?.saturating_sub(start);
        let (full, last) = (sealed / SEALED_CHUNK as u64, sealed % SEALED_CHUNK as u64);
        let Some(last) = last.checked_sub(TAG as u64) else {
            return Err(io_error(Error::Truncated));
        };
        let length = full
            .checked_mul(CHUNK as u64)
            .map(|full| full + last)
            .filter(|length| *length <= MAX_PLAINTEXT)
            .ok_or_else(|| io_error(too_long()))?;
        let mut reader = Self {
            inner,
            message,
            start,
            length,
            position: 0,
            chunk: SecretBytes::new(vec![0; SEALED_CHUNK]),
            held: None,
        };
        reader.hold(full)?;
        Ok(reader)
    }

    /// Length of the plaintext, in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether there is no plaintext.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Reads and opens chunk number `index` unless it is the one held.
    fn hold(&mut self, index: u64) -> io::Result<()> {
        if self.held == Some(index) {
            return Ok(());
        }
        self.held = None;
        let opened = self.open_chunk(index);
        match opened {
            Ok(()) => self.held = Some(index),
            Err(_) => self.chunk.as_mut_slice().zeroize(),
        }
        opened
    }

    fn open_chunk(&mut self, index: u64) -> io::Result<()> {
        let plain = usize::try_from((self.length - index * CHUNK as u64).min(CHUNK as u64))
            .expect("a chunk fits in memory");
        self.inner
            .seek(SeekFrom::Start(self.start + index * SEALED_CHUNK as u64))?;
        let sealed = &mut self.chunk.as_mut_slice()[..plain + TAG];
        if read_full(&mut self.inner, sealed)? < plain + TAG {
            return Err(io_error(Error::Truncated));
        }
        let (body, tag) = sealed
            .split_last_chunk_mut::<TAG>()
            .expect("the slice is longer than a tag");
        self.message.open_chunk(index, body, tag).map_err(io_error)
    }
}

impl<R: Read + Seek> Read for OpenAt<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() || self.position >= self.length {
            return Ok(0);
        }
        let index = self.position / CHUNK as u64;
        self.hold(index)?;
        let within = usize::try_from(self.position % CHUNK as u64).expect("less than a chunk");
        let plain = usize::try_from((self.length - index * CHUNK as u64).min(CHUNK as u64))
            .expect("a chunk fits in memory");
        let unread = &self.chunk.expose_secret()[within..plain];
        let count = unread.len().min(out.len());
        out[..count].copy_from_slice(&unread[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl<R: Read + Seek> Seek for OpenAt<R> {
    /// Moves to a place in the plaintext, as [`std::io::Cursor`] does: beyond the
    /// end nothing is read.
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = place.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "a place before the start of the stream",
            )
        })?;
        Ok(self.position)
    }
}

impl<R: Read + Seek> fmt::Debug for OpenAt<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "OpenAt({} of {} bytes)",
            self.position, self.length
        )
    }
}
