//! A connection that is read and written with deadlines, until everything is
//! to end.

use std::io::{self, PipeReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use super::sys::{self, Interest};

/// A socket that never blocks by itself.
#[derive(Debug)]
pub(super) struct Wire<'a> {
    pub(super) stream: TcpStream,
    stop: &'a PipeReader,
}

impl<'a> Wire<'a> {
    pub(super) fn new(stream: TcpStream, stop: &'a PipeReader) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        // Bytes that pass should not wait for more of them.
        stream.set_nodelay(true)?;
        Ok(Self { stream, stop })
    }

    pub(super) fn stop(&self) -> &'a PipeReader {
        self.stop
    }

    fn wait(&self, interest: Interest, deadline: Instant) -> io::Result<()> {
        let mut found = Vec::with_capacity(2);
        let fds = [
            (self.stream.as_fd(), interest),
            (self.stop.as_fd(), Interest::READ),
        ];
        sys::wait(fds, milliseconds(deadline), &mut found)?;
        if found[1].read {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if Instant::now() >= deadline && !found[0].any() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Appends what comes next to `bytes`, at most up to `limit` in all. Zero
    /// at the end.
    pub(super) fn read(
        &self,
        bytes: &mut Vec<u8>,
        limit: usize,
        deadline: Instant,
    ) -> io::Result<usize> {
        let before = bytes.len();
        if before >= limit {
            return Err(io::Error::other("too much at once"));
        }
        loop {
            bytes.resize(limit.min(before + 16 * 1024), 0);
            let read = (&self.stream).read(&mut bytes[before..]);
            bytes.truncate(before + *read.as_ref().unwrap_or(&0));
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(Interest::READ, deadline)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Writes all of `bytes`.
    pub(super) fn write(&self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            match (&self.stream).write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(Interest::WRITE, deadline)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// From now until the deadline, for the kernel.
pub(super) fn milliseconds(deadline: Instant) -> i32 {
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    i32::try_from(left.as_millis()).unwrap_or(i32::MAX)
}
