//! Streams over tokio's `AsyncRead` and `AsyncWrite`.
//!
//! Sealing a chunk takes some microseconds and happens where it is polled. What
//! was taken over lies in the writer or the reader and never in a future, so a
//! future that is dropped half way loses nothing.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::filling::Filling;
use super::opening::Opening;
use super::seal::{broken, start};
use super::{Lane, PREFIX, check, io_error};
use crate::Error;
use crate::envelope::{Context, DataKey};

/// Seals everything written to it into `W`, asynchronously.
///
/// `shutdown` writes the last chunk and shuts `W` down, as often as it takes; a
/// writer that is dropped before leaves what does not open. Chunks are written
/// one by one: put a buffer below it where single writes are dear. The bytes are
/// those of [`SealWriter`](super::SealWriter).
///
/// ```
/// use katachi_crypto::envelope::{Context, DataKey};
/// use katachi_crypto::stream::{AsyncOpenReader, AsyncSealWriter};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (key, context) = (DataKey::generate()?, Context::new("upload"));
/// let (near, far) = tokio::io::duplex(1_000);
/// let mut writer = AsyncSealWriter::new(near, &key, &context)?;
/// let writing = async {
///     writer.write_all(b"a long story").await?;
///     writer.shutdown().await
/// };
/// let reading = async {
///     let mut story = String::new();
///     let mut reader = AsyncOpenReader::new(far, &key, &context).await?;
///     reader.read_to_string(&mut story).await?;
///     Ok(story)
/// };
/// assert_eq!(tokio::try_join!(writing, reading)?.1, "a long story");
/// # Ok(())
/// # }
/// ```
pub struct AsyncSealWriter<W> {
    inner: W,
    message: Lane,
    prefix: [u8; PREFIX],
    filling: Filling,
    stage: Stage,
}

/// What a writer has to write, and how much of it was written.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Prefix(usize),
    /// Nothing: plaintext is taken.
    Filling,
    Chunk(usize),
    LastChunk(usize),
    /// Everything was written, and nothing more is taken.
    Finished,
    /// A failed write may have left part of something behind.
    Broken,
}

impl<W: AsyncWrite + Unpin> AsyncSealWriter<W> {
    /// Makes a writer; the header goes out with the first write or flush.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Randomness`] if the operating system gives none.
    pub fn new(inner: W, key: &DataKey, context: &Context) -> Result<Self, Error> {
        let (prefix, message) = start(key, context)?;
        Ok(Self {
            inner,
            message,
            prefix,
            filling: Filling::new(1),
            stage: Stage::Prefix(0),
        })
    }

    /// Gives `W` back. What was written does not open unless `shutdown` ended.
    pub fn into_inner(self) -> W {
        self.inner
    }

    /// Writes what is to be written, and comes to the stage after that.
    fn poll_drain(&mut self, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        loop {
            let (rest, written) = match &mut self.stage {
                Stage::Prefix(written) => (&self.prefix[*written..], written),
                Stage::Chunk(written) | Stage::LastChunk(written) => {
                    (&self.filling.sealed()[*written..], written)
                }
                Stage::Filling | Stage::Finished => return Poll::Ready(Ok(())),
                Stage::Broken => return Poll::Ready(Err(broken())),
            };
            if rest.is_empty() {
                self.stage = match self.stage {
                    Stage::LastChunk(_) => Stage::Finished,
                    Stage::Chunk(_) => {
                        self.filling.restart(self.filling.next());
                        Stage::Filling
                    }
                    _ => Stage::Filling,
                };
                continue;
            }
            match ready!(Pin::new(&mut self.inner).poll_write(task, rest)) {
                Ok(0) => {
                    self.stage = Stage::Broken;
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                Ok(count) => *written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.stage = Stage::Broken;
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for AsyncSealWriter<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_drain(task))?;
        if let Stage::Finished = this.stage {
            return Poll::Ready(Err(io::Error::other("the stream was ended before")));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.filling.check_limit().map_err(io_error)?;
        if this.filling.is_full() {
            this.filling.seal(&this.message);
            this.stage = Stage::Chunk(0);
            ready!(this.poll_drain(task))?;
        }
        Poll::Ready(Ok(this.filling.put(bytes)))
    }

    /// Flushes what was sealed already; the chunk being filled stays until it is
    /// full or the stream is shut down.
    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(task))?;
        Pin::new(&mut self.inner).poll_flush(task)
    }

    /// Writes the last chunk, then shuts the inner writer down.
    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_drain(task))?;
        if let Stage::Filling = this.stage {
            this.filling.end();
            this.filling.seal(&this.message);
            this.stage = Stage::LastChunk(0);
            ready!(this.poll_drain(task))?;
        }
        Pin::new(&mut this.inner).poll_shutdown(task)
    }
}

impl<W> fmt::Debug for AsyncSealWriter<W> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (next, stage) = (self.filling.next(), self.stage);
        write!(formatter, "AsyncSealWriter(chunk {next}, {stage:?})")
    }
}

/// Opens a stream from `R` asynchronously, releasing only chunks that
/// authenticated.
///
/// The end of `R` before the last chunk is an error and not an end, as in
/// [`OpenReader`](super::OpenReader).
pub struct AsyncOpenReader<R> {
    inner: R,
    message: Lane,
    opening: Opening,
    /// Whether the chunk in `opening` is still being read.
    reading: bool,
}

impl<R: AsyncRead + Unpin> AsyncOpenReader<R> {
    /// Reads the header and checks key and context.
    ///
    /// # Errors
    ///
    /// Returns what `inner` returns, and an [`Error`] inside the I/O error if
    /// the header does not fit the key or the context.
    pub async fn new(mut inner: R, key: &DataKey, context: &Context) -> io::Result<Self> {
        let mut prefix = [0; PREFIX];
        let mut filled = 0;
        while filled < PREFIX {
            let mut buffer = ReadBuf::new(&mut prefix[filled..]);
            std::future::poll_fn(|task| Pin::new(&mut inner).poll_read(task, &mut buffer)).await?;
            match buffer.filled().len() {
                0 => return Err(io_error(Error::Truncated)),
                count => filled += count,
            }
        }
        let message = check(&prefix, key, context).map_err(io_error)?;
        Ok(Self {
            inner,
            message,
            opening: Opening::new(1),
            reading: false,
        })
    }

    /// Reads the next chunk, in as many calls as that takes, and opens it.
    fn poll_advance(&mut self, task: &mut Task<'_>) -> Poll<()> {
        if !self.reading {
            self.opening.go_on();
            self.reading = true;
        }
        while !self.opening.is_filled() {
            let mut buffer = ReadBuf::new(self.opening.space());
            match ready!(Pin::new(&mut self.inner).poll_read(task, &mut buffer)) {
                Ok(()) => match buffer.filled().len() {
                    0 => break,
                    count => self.opening.fill(count),
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.opening.break_off(error);
                    break;
                }
            }
        }
        self.opening.open(&self.message);
        self.reading = false;
        Poll::Ready(())
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for AsyncOpenReader<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let unread = self.opening.unread();
            if !unread.is_empty() {
                let count = unread.len().min(out.remaining());
                out.put_slice(&unread[..count]);
                self.opening.release(count);
                return Poll::Ready(Ok(()));
            }
            if !self.reading && !self.opening.after()? {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_advance(task));
        }
    }
}

impl<R> fmt::Debug for AsyncOpenReader<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "AsyncOpenReader(chunk {})", self.opening.first)
    }
}
