//! Reading a stream.

use std::fmt;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::crew::{Crew, PIECE};
use super::opening::Opening;
use super::{Lane, begin};
use crate::envelope::{Context, DataKey, Parallel};

/// Opens a stream from `R`, releasing only chunks that authenticated.
///
/// [`Parallel::open_reader`] makes one that uses several threads.
pub struct OpenReader<R: Read> {
    inner: R,
    message: Arc<Lane>,
    /// What is being released.
    pub(super) opening: Opening,
    crew: Option<Ahead>,
}

/// Threads, and how far was read for them.
struct Ahead {
    crew: Crew<Opening>,
    /// Number of the next chunk to read; `None` behind the end of the source.
    next: Option<u64>,
}

impl<R: Read> OpenReader<R> {
    /// Reads the header and checks key and context.
    ///
    /// # Errors
    ///
    /// Returns what `inner` returns, and an [`Error`](crate::Error) inside the
    /// I/O error if the header does not fit the key or the context.
    pub fn new(mut inner: R, key: &DataKey, context: &Context) -> io::Result<Self> {
        let message = begin(&mut inner, key, context)?;
        Ok(Self::of_message(inner, message))
    }

    pub(crate) fn of_message(inner: R, message: Lane) -> Self {
        Self {
            inner,
            message: Arc::new(message),
            opening: Opening::new(1),
            crew: None,
        }
    }

    /// As [`Parallel::open_reader`], for a message whose keys are there.
    pub(crate) fn on(mut self, threads: NonZeroUsize) -> io::Result<Self> {
        self.opening = Opening::new(PIECE);
        self.crew = Some(Ahead {
            crew: Crew::start(threads, &self.message, Opening::open)?,
            next: Some(0),
        });
        Ok(self)
    }

    /// Goes on to the chunks after those in `self.opening`.
    fn advance(&mut self) -> io::Result<()> {
        let Some(ahead) = &mut self.crew else {
            self.opening.go_on();
            read(&mut self.inner, &mut self.opening);
            self.opening.open(&self.message);
            return Ok(());
        };
        while ahead.crew.has_room() && ahead.next.is_some() {
            ahead.read_on(&mut self.inner, Opening::new(PIECE))?;
        }
        let Some(opened) = ahead.crew.take()? else {
            return Ok(());
        };
        let spare = std::mem::replace(&mut self.opening, opened);
        ahead.read_on(&mut self.inner, spare)
    }
}

impl Ahead {
    /// Reads the next chunks into `empty` and has them opened.
    fn read_on(&mut self, source: &mut impl Read, mut empty: Opening) -> io::Result<()> {
        let Some(next) = self.next else {
            return Ok(());
        };
        empty.restart(next);
        read(source, &mut empty);
        self.next = empty.is_filled().then(|| empty.next());
        self.crew.give(empty)
    }
}

/// Reads until `opening` is filled or the source ends or fails.
fn read(source: &mut impl Read, opening: &mut Opening) {
    while !opening.is_filled() {
        match source.read(opening.space()) {
            Ok(0) => return,
            Ok(count) => opening.fill(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return opening.break_off(error),
        }
    }
}

impl<R: Read> Read for OpenReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            let unread = self.opening.unread();
            if !unread.is_empty() {
                let count = unread.len().min(out.len());
                out[..count].copy_from_slice(&unread[..count]);
                self.opening.release(count);
                return Ok(count);
            }
            if !self.opening.after()? {
                return Ok(0);
            }
            self.advance()?;
        }
    }
}

impl Parallel<'_> {
    /// As [`OpenReader::new`], with threads that open while the caller reads.
    ///
    /// For files of many MiB: up to 512 KiB are read ahead for each thread
    /// before anything is released, and an error is reported where it stands,
    /// after everything before it.
    ///
    /// # Errors
    ///
    /// As [`OpenReader::new`], and if the system starts no more threads.
    pub fn open_reader<R: Read>(&self, inner: R, context: &Context) -> io::Result<OpenReader<R>> {
        OpenReader::new(inner, self.key, context)?.on(self.threads)
    }
}

impl<R: Read> fmt::Debug for OpenReader<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "OpenReader(chunk {})", self.opening.first)
    }
}
