//! Writing a stream.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use super::crew::{Crew, PIECE};
use super::filling::Filling;
use super::{Lane, PREFIX, io_error};
use crate::envelope::{self, COMMITMENT, Context, DataKey, HEADER, Header, Kind, Parallel, SALT};
use crate::{Error, random};

/// Seals everything written to it into `W`.
///
/// [`finish`](SealWriter::finish) writes the last chunk; without it the output
/// does not open. [`Parallel::seal_writer`] makes one that uses several threads.
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
    message: Arc<Lane>,
    /// Never passed on while it is full unless more is known to follow.
    pub(super) filling: Filling,
    crew: Option<Crew<Filling>>,
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
        let (prefix, message) = start(key, context).map_err(io_error)?;
        inner.write_all(&prefix)?;
        Ok(Self {
            inner,
            message: Arc::new(message),
            filling: Filling::new(1),
            crew: None,
            broken: false,
        })
    }

    /// Writes the last chunk, flushes, and gives `W` back.
    ///
    /// # Errors
    ///
    /// Returns what `W` returns; the output does not open then.
    pub fn finish(mut self) -> io::Result<W> {
        self.filling.end();
        self.pass_on()?;
        self.flush()?;
        Ok(self.inner)
    }

    fn check(&self) -> io::Result<()> {
        if self.broken {
            return Err(broken());
        }
        Ok(())
    }

    /// Seals what was filled and writes it, or what threads have sealed before.
    fn pass_on(&mut self) -> io::Result<()> {
        self.check()?;
        self.broken = true;
        let next = self.filling.next();
        match &mut self.crew {
            None => {
                self.filling.seal(&self.message);
                self.inner.write_all(self.filling.sealed())?;
            }
            Some(crew) => {
                let spare = match crew.has_room() {
                    true => None,
                    false => crew.take()?,
                };
                if let Some(sealed) = &spare {
                    self.inner.write_all(sealed.sealed())?;
                }
                let empty = spare.unwrap_or_else(|| Filling::new(PIECE));
                crew.give(std::mem::replace(&mut self.filling, empty))?;
            }
        }
        self.filling.restart(next);
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
        self.filling.check_limit().map_err(io_error)?;
        if self.filling.is_full() {
            self.pass_on()?;
        }
        Ok(self.filling.put(bytes))
    }

    /// Writes and flushes what was sealed already; what is being filled stays
    /// until it is full or the stream is finished.
    fn flush(&mut self) -> io::Result<()> {
        self.check()?;
        if let Some(crew) = &mut self.crew {
            self.broken = true;
            while let Some(sealed) = crew.take()? {
                self.inner.write_all(sealed.sealed())?;
            }
            self.broken = false;
        }
        self.inner.flush()
    }
}

/// The bytes before the first chunk of a new stream, and its keys.
pub(super) fn start(key: &DataKey, context: &Context) -> Result<([u8; PREFIX], Lane), Error> {
    let salt = random::bytes()?;
    let header = Header {
        kind: Kind::Stream,
        key: key.id(),
    }
    .to_bytes();
    let message: Lane = envelope::message(key, &header, &salt, context);
    let mut prefix = [0; PREFIX];
    prefix[..HEADER].copy_from_slice(&header);
    prefix[HEADER..][..SALT].copy_from_slice(&salt);
    prefix[HEADER + SALT..][..COMMITMENT].copy_from_slice(message.commitment());
    Ok((prefix, message))
}

pub(super) fn broken() -> io::Error {
    io::Error::other("an earlier write to this stream failed")
}

impl Parallel<'_> {
    /// As [`SealWriter::new`], with threads that seal while the caller writes.
    ///
    /// They end with the writer. They take turns at pieces of 256 KiB, of which
    /// each has at most two; the bytes are the same as those of one thread. For
    /// content of many MiB.
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::num::NonZeroUsize;
    /// use katachi_crypto::envelope::{Context, DataKey};
    ///
    /// let (key, context) = (DataKey::generate()?, Context::new("backup"));
    /// let parallel = key.parallel(NonZeroUsize::new(2).ok_or("two is not zero")?);
    /// let mut writer = parallel.seal_writer(Vec::new(), &context)?;
    /// writer.write_all(&[7; 5_000_000])?;
    /// let sealed = writer.finish()?;
    ///
    /// let mut opened = Vec::new();
    /// parallel.open_reader(sealed.as_slice(), &context)?.read_to_end(&mut opened)?;
    /// assert_eq!(opened, [7; 5_000_000]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`SealWriter::new`], and if the system starts no more threads.
    pub fn seal_writer<W: Write>(&self, inner: W, context: &Context) -> io::Result<SealWriter<W>> {
        let mut writer = SealWriter::new(inner, self.key, context)?;
        let crew = Crew::start(self.threads, &writer.message, Filling::seal)?;
        writer.crew = Some(crew);
        writer.filling = Filling::new(PIECE);
        Ok(writer)
    }
}

impl<W: Write> fmt::Debug for SealWriter<W> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SealWriter(chunk {})", self.filling.next())
    }
}
