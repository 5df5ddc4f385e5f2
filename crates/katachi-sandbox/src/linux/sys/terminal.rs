//! Terminals: a pair of ends, sizes, and who is controlled by one.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use super::check;

/// Unlocks the multiplexer that was opened and opens its other end.
pub(in crate::platform) fn other_end(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let unlocked: libc::c_int = 0;
    let unlock = libc::TIOCSPTLCK;
    // SAFETY: TIOCSPTLCK reads one integer, which outlives the call.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), unlock, &raw const unlocked) };
    check(done.into())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes one integer by value.
    let fd = check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())?;
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sets how large it is.
pub(in crate::platform) fn resize(
    terminal: BorrowedFd<'_>,
    rows: u16,
    columns: u16,
) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads a `winsize`, which outlives the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into())?;
    Ok(())
}

/// Makes it the terminal of this session and its standard descriptors.
pub(in crate::platform) fn control(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes one integer by value.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }.into())?;
    for standard in 0..=2 {
        // SAFETY: two integers; the standard descriptors belong to nobody in
        // this process, which neither reads nor prints before it executes.
        check(unsafe { libc::dup2(terminal.as_raw_fd(), standard) }.into())?;
    }
    Ok(())
}

/// Gives it to a user.
pub(in crate::platform) fn give(
    terminal: BorrowedFd<'_>,
    user: libc::uid_t,
    group: libc::gid_t,
) -> io::Result<()> {
    // SAFETY: integers.
    check(unsafe { libc::fchown(terminal.as_raw_fd(), user, group) }.into())?;
    Ok(())
}
