//! Bytes both ways between two sockets: moved by the kernel through a pipe for
//! each direction where it can, copied where it cannot.

use std::io::{self, Read as _, Write as _};
#[cfg(target_os = "linux")]
use std::io::{PipeReader, PipeWriter};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Shared;
use super::sys::{self, Interest};
use super::wire::milliseconds;
#[cfg(target_os = "linux")]
use crate::platform::sys::net;

/// What a pipe should hold, in bytes.
#[cfg(target_os = "linux")]
const PIPE: i32 = 1 << 20;
/// What is copied at once, in bytes.
const COPIED: usize = 64 * 1024;
/// Moves in one direction before the other has its turn.
const TURNS: usize = 16;

impl Shared {
    /// Counts bytes that pass; an error once `limits.network` is used up.
    pub(super) fn count(&self, bytes: usize) -> io::Result<()> {
        let bytes = bytes as u64;
        let enough =
            self.left
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| match left {
                    u64::MAX => Some(u64::MAX),
                    left => left.checked_sub(bytes),
                });
        if enough.is_ok() {
            return Ok(());
        }
        self.left.store(0, Ordering::Release);
        self.log.add(
            "a further byte",
            "limits.network was used up".to_owned(),
            Some("a larger [limits] network".to_owned()),
        );
        Err(io::Error::other("too many bytes"))
    }
}

/// Where bytes are between two sockets.
enum Middle {
    /// A pipe, and how much it holds at most.
    #[cfg(target_os = "linux")]
    Pipe(PipeReader, PipeWriter, usize),
    /// Bytes, and how many of them were passed on.
    Copy(Box<[u8]>, usize),
}

impl Middle {
    fn new(shared: &Shared) -> io::Result<Self> {
        // Only a listener on the host's loopback asks for credentials; what
        // it does is the same on every system.
        #[cfg(target_os = "linux")]
        if shared.credentials.is_none() {
            let (reader, writer) = io::pipe()?;
            let size = net::pipe_size(writer.as_fd(), PIPE)?;
            return Ok(Self::Pipe(reader, writer, size));
        }
        #[cfg(not(target_os = "linux"))]
        let _ = shared;
        Ok(Self::Copy(vec![0; COPIED].into(), 0))
    }

    /// Takes what comes: how much; zero at the end.
    fn fill(&mut self, mut from: &TcpStream) -> io::Result<usize> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Pipe(_, writer, size) => net::splice(from.as_fd(), writer.as_fd(), *size),
            Self::Copy(bytes, passed) => {
                *passed = 0;
                from.read(bytes)
            }
        }
    }

    /// Passes on of the `held` bytes: how many.
    fn drain(&mut self, mut to: &TcpStream, held: usize) -> io::Result<usize> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Pipe(reader, ..) => net::splice(reader.as_fd(), to.as_fd(), held),
            Self::Copy(bytes, passed) => {
                let count = to.write(&bytes[*passed..*passed + held])?;
                *passed += count;
                Ok(count)
            }
        }
    }
}

/// One direction.
struct Flow<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    middle: Middle,
    /// Bytes that were taken and not passed on.
    held: usize,
    /// The sender said that it is done.
    ended: bool,
    /// So does the receiver know.
    told: bool,
}

impl<'a> Flow<'a> {
    fn new(shared: &Shared, from: &'a TcpStream, to: &'a TcpStream) -> io::Result<Self> {
        Ok(Self {
            from,
            to,
            middle: Middle::new(shared)?,
            held: 0,
            ended: false,
            told: false,
        })
    }

    /// Moves what there is, up to some turns.
    fn pump(&mut self, shared: &Shared) -> io::Result<()> {
        for _ in 0..TURNS {
            if self.held == 0 && !self.ended {
                match self.middle.fill(self.from) {
                    Ok(0) => self.ended = true,
                    Ok(count) => {
                        shared.count(count)?;
                        self.held = count;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            if self.held > 0 {
                match self.middle.drain(self.to, self.held) {
                    Ok(count) => self.held -= count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            if self.ended && self.held == 0 {
                if !self.told {
                    self.told = true;
                    self.to.shutdown(Shutdown::Write)?;
                }
                return Ok(());
            }
        }
        Ok(())
    }

    fn reads(&self) -> bool {
        self.held == 0 && !self.ended
    }

    fn writes(&self) -> bool {
        self.held > 0
    }
}

/// Moves bytes between the command's side and another until both sides are done, one
/// of them fails, nothing happens for too long, or everything is to end. Both sockets
/// must not block.
pub(super) fn relay(shared: &Shared, command: &TcpStream, other: &TcpStream) -> io::Result<()> {
    let (mut there, mut back) = (
        Flow::new(shared, command, other)?,
        Flow::new(shared, other, command)?,
    );
    let mut found = Vec::new();
    loop {
        there.pump(shared)?;
        back.pump(shared)?;
        if there.told && back.told {
            return Ok(());
        }
        let interest = |from: &Flow<'_>, to: &Flow<'_>| Interest {
            read: from.reads(),
            write: to.writes(),
        };
        let fds = [
            (command.as_fd(), interest(&there, &back)),
            (other.as_fd(), interest(&back, &there)),
            (shared.stop.as_fd(), Interest::READ),
        ];
        let deadline = Instant::now() + shared.idle;
        sys::wait(fds, milliseconds(deadline), &mut found)?;
        if found[2].read {
            // What the command sent before it ended is still passed on.
            return there.pump(shared);
        }
        if !found.iter().any(|found| found.any()) {
            return Ok(());
        }
    }
}
