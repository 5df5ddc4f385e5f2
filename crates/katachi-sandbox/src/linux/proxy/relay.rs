//! Bytes both ways between two sockets, moved by the kernel through a pipe for
//! each direction.

use std::io::{self, PipeReader, PipeWriter};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::wire::milliseconds;
use super::{Shared, net};

/// A connection on which nothing passes for so long is closed.
pub(super) const IDLE: Duration = Duration::from_secs(600);
/// What a pipe should hold, in bytes.
const PIPE: i32 = 1 << 20;
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

/// One direction.
struct Flow<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    pipe: (PipeReader, PipeWriter),
    size: usize,
    /// Bytes in the pipe.
    held: usize,
    /// The sender said that it is done.
    ended: bool,
    /// So does the receiver know.
    told: bool,
}

impl<'a> Flow<'a> {
    fn new(from: &'a TcpStream, to: &'a TcpStream) -> io::Result<Self> {
        let pipe = io::pipe()?;
        let size = net::pipe_size(pipe.1.as_fd(), PIPE)?;
        Ok(Self {
            from,
            to,
            pipe,
            size,
            held: 0,
            ended: false,
            told: false,
        })
    }

    /// Moves what there is, up to some turns.
    fn pump(&mut self, shared: &Shared) -> io::Result<()> {
        for _ in 0..TURNS {
            if self.held == 0 && !self.ended {
                match net::splice(self.from.as_fd(), self.pipe.1.as_fd(), self.size) {
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
                match net::splice(self.pipe.0.as_fd(), self.to.as_fd(), self.held) {
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

/// Moves bytes between the command's side and another until both sides are done, one of them fails, nothing
/// happens for [`IDLE`], or everything is to end. Both sockets must not block.
pub(super) fn relay(shared: &Shared, command: &TcpStream, other: &TcpStream) -> io::Result<()> {
    let (mut there, mut back) = (Flow::new(command, other)?, Flow::new(other, command)?);
    let mut found = Vec::new();
    loop {
        there.pump(shared)?;
        back.pump(shared)?;
        if there.told && back.told {
            return Ok(());
        }
        let interest = |from: &Flow<'_>, to: &Flow<'_>| net::Interest {
            read: from.reads(),
            write: to.writes(),
        };
        let fds = [
            (command.as_fd(), interest(&there, &back)),
            (other.as_fd(), interest(&back, &there)),
            (shared.stop.as_fd(), net::Interest::READ),
        ];
        let deadline = Instant::now() + IDLE;
        net::wait(fds, milliseconds(deadline), &mut found)?;
        if found[2].read {
            // What the command sent before it ended is still passed on.
            return there.pump(shared);
        }
        if !found.iter().any(|found| found.any()) {
            return Ok(());
        }
    }
}
