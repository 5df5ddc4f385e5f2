//! The edge to the kernel: waiting for several descriptors at once.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// What to wait for on a descriptor.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Interest {
    pub(super) read: bool,
    pub(super) write: bool,
}

impl Interest {
    pub(super) const READ: Self = Self {
        read: true,
        write: false,
    };
    pub(super) const WRITE: Self = Self {
        read: false,
        write: true,
    };
}

/// What was found; a descriptor that failed or was closed at its other end is
/// ready for whatever was waited for, and the next call on it says why.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    pub(super) read: bool,
    pub(super) write: bool,
}

impl Found {
    pub(super) fn any(self) -> bool {
        self.read || self.write
    }
}

/// Waits until one of the descriptors is ready, for at most `timeout`
/// milliseconds, for ever if negative. One without interest is left out.
pub(super) fn wait<'a>(
    interests: impl IntoIterator<Item = (BorrowedFd<'a>, Interest)>,
    timeout: i32,
    found: &mut Vec<Found>,
) -> io::Result<()> {
    let mut polled: Vec<libc::pollfd> = interests
        .into_iter()
        .map(|(fd, interest)| {
            let mut events = 0;
            if interest.read {
                events |= libc::POLLIN;
            }
            if interest.write {
                events |= libc::POLLOUT;
            }
            // The kernel skips negative numbers.
            let fd = if events == 0 { -1 } else { fd.as_raw_fd() };
            libc::pollfd {
                fd,
                events,
                revents: 0,
            }
        })
        .collect();
    // SAFETY: `polled` outlives the call and its true length is passed.
    let result = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
    if result == -1 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    const BROKEN: libc::c_short = libc::POLLHUP | libc::POLLERR | libc::POLLNVAL;
    found.clear();
    found.extend(polled.iter().map(|fd| {
        let is =
            |event: libc::c_short| fd.events & event != 0 && fd.revents & (event | BROKEN) != 0;
        Found {
            read: is(libc::POLLIN),
            write: is(libc::POLLOUT),
        }
    }));
    Ok(())
}
