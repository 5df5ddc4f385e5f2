//! The way to a TPM: a character device, a unix socket or a TCP connection.
//!
//! All of them carry one command there and one answer back, so they are read
//! and written alike, without blocking and with one moment at which it is over.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use zeroize::Zeroizing;

use super::TpmError;
use super::wire::{HEADER, MAX_ANSWER};

/// Where a TPM is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Device(PathBuf),
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// An open way to a TPM, and until when it may be used.
pub(super) struct Line {
    fd: OwnedFd,
    /// A device answers a command in one piece, a socket in any.
    is_stream: bool,
    until: Instant,
}

impl Line {
    pub(super) fn open(place: &Place, within: Duration) -> Result<Self, TpmError> {
        let until = Instant::now() + within;
        let (fd, is_stream) = match place {
            Place::Device(path) => (open_device(path)?, false),
            Place::Unix(path) => (connect_unix(path, until)?, true),
            Place::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, within)
                    .map_err(|error| unreachable(&address.to_string(), &error))?;
                stream.set_nonblocking(true).map_err(failed)?;
                (stream.into(), true)
            }
        };
        Ok(Self {
            fd,
            is_stream,
            until,
        })
    }

    /// Sends a command and reads the answer to it.
    pub(super) fn ask(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let mut left = command;
        while !left.is_empty() {
            match rustix::io::write(&self.fd, left) {
                Ok(written) => left = left.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(error) => return Err(failed(error.into())),
            }
        }
        self.answer()
    }

    /// Waits before asking again.
    pub(super) fn pause(&self, time: Duration) -> Result<(), TpmError> {
        if Instant::now() + time >= self.until {
            return Err(TpmError::Timeout);
        }
        std::thread::sleep(time);
        Ok(())
    }

    fn answer(&self) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let mut buffer = Zeroizing::new(vec![0; MAX_ANSWER]);
        let mut filled = 0;
        loop {
            // The length is the third to sixth byte of what has come so far.
            let wanted = match buffer.get(2..6).filter(|_| filled >= HEADER) {
                Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]) as usize,
                _ => HEADER,
            };
            if !(HEADER..=MAX_ANSWER).contains(&wanted) {
                return Err(TpmError::Failed {
                    why: format!("it announced an answer of {wanted} bytes"),
                });
            }
            if filled >= HEADER && filled >= wanted {
                buffer.truncate(filled);
                return Ok(buffer);
            }
            let end = if self.is_stream { wanted } else { MAX_ANSWER };
            let Some(room) = buffer.get_mut(filled..end) else {
                return Err(closed());
            };
            self.wait(PollFlags::IN)?;
            match rustix::io::read(&self.fd, room) {
                Ok(0) => return Err(closed()),
                Ok(read) => filled += read,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
    }

    fn wait(&self, flags: PollFlags) -> Result<(), TpmError> {
        wait(&self.fd, flags, self.until)
    }
}

fn wait(fd: &OwnedFd, flags: PollFlags, until: Instant) -> Result<(), TpmError> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(TpmError::Timeout);
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match rustix::event::poll(
            &mut [PollFd::from_borrowed_fd(fd.as_fd(), flags)],
            Some(&timeout),
        ) {
            Ok(0) => return Err(TpmError::Timeout),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
}

fn open_device(path: &Path) -> Result<OwnedFd, TpmError> {
    // Without NONBLOCK the kernel would hold a write until the chip has answered.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    opened.map_err(|error| unreachable(&path.display().to_string(), &error.into()))
}

fn connect_unix(path: &Path, until: Instant) -> Result<OwnedFd, TpmError> {
    let shown = path.display().to_string();
    let address = rustix::net::SocketAddrUnix::new(path)
        .map_err(|error| unreachable(&shown, &error.into()))?;
    let fd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(|error| failed(error.into()))?;
    loop {
        match rustix::net::connect(&fd, &address) {
            Ok(()) => return Ok(fd),
            // Its queue is full, since it does not take anybody up.
            Err(Errno::AGAIN | Errno::INTR) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(Errno::AGAIN | Errno::INTR) => return Err(TpmError::Timeout),
            Err(error) => return Err(unreachable(&shown, &error.into())),
        }
    }
}

fn unreachable(place: &str, error: &io::Error) -> TpmError {
    let step = match error.kind() {
        io::ErrorKind::NotFound => "this machine has none, or it is turned off in the firmware",
        io::ErrorKind::PermissionDenied => {
            "this user may not use it; the system's administrator can add the user to the group `tss`"
        }
        io::ErrorKind::TimedOut => return TpmError::Timeout,
        _ => "it cannot be reached",
    };
    TpmError::Unavailable {
        why: format!("{place}: {error}; {step}"),
    }
}

fn failed(error: io::Error) -> TpmError {
    TpmError::Failed {
        why: error.to_string(),
    }
}

fn closed() -> TpmError {
    TpmError::Failed {
        why: "it hung up in the middle of an answer".to_owned(),
    }
}
