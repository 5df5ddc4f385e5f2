//! Descriptors: opening without links, sealed memory, closing the rest.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use super::check;

/// Opens `path` below `root` as a mere reference, following no link at all.
pub(in crate::platform) fn open_path(root: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    open_how(root, path, libc::O_PATH, 0, 0)
}

/// The same, in the file system of `root` alone: nothing mounted is entered.
pub(in crate::platform) fn open_here(root: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    open_how(root, path, libc::O_PATH, 0, libc::RESOLVE_NO_XDEV)
}

/// Makes and opens an empty file, in the file system of `root` alone.
pub(in crate::platform) fn make_here(
    root: BorrowedFd<'_>,
    path: &CStr,
    mode: libc::mode_t,
) -> io::Result<OwnedFd> {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
    open_how(root, path, flags, mode, libc::RESOLVE_NO_XDEV)
}

fn open_how(
    root: BorrowedFd<'_>,
    path: &CStr,
    flags: libc::c_int,
    mode: libc::mode_t,
    resolve: u64,
) -> io::Result<OwnedFd> {
    // SAFETY: `open_how` is plain integers, for which all zeroes is a value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC | libc::O_NOFOLLOW) as u64;
    how.mode = mode.into();
    how.resolve = libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS | resolve;
    // SAFETY: `path` ends with a zero byte, `how` outlives the call and its
    // true size is passed.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    })?;
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Whether this process may write there, as the user it acts as.
pub(in crate::platform) fn may_write(path: &std::path::Path) -> bool {
    let Ok(path) = super::c_string(path) else {
        return false;
    };
    let (here, flags) = (libc::AT_FDCWD, libc::AT_EACCESS);
    // SAFETY: `path` ends with a zero byte and outlives the call.
    unsafe { libc::faccessat(here, path.as_ptr(), libc::W_OK, flags) == 0 }
}

/// How full a file system is: bytes and files in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
pub(in crate::platform) struct Filled {
    pub(in crate::platform) bytes: u64,
    pub(in crate::platform) files: u64,
}

/// How full the file system of this file is.
pub(in crate::platform) fn filled(path: &std::path::Path) -> io::Result<Filled> {
    let path = super::c_string(path)?;
    // SAFETY: `statvfs` is plain integers, for which all zeroes is a value.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends with a zero byte, and both outlive the call.
    check(unsafe { libc::statvfs(path.as_ptr(), &raw mut found) }.into())?;
    Ok(Filled {
        bytes: found.f_blocks.saturating_sub(found.f_bfree) * found.f_frsize,
        files: found.f_files.saturating_sub(found.f_ffree),
    })
}

/// Makes an empty directory.
pub(in crate::platform) fn make_directory(
    root: BorrowedFd<'_>,
    path: &CStr,
    mode: libc::mode_t,
) -> io::Result<()> {
    // SAFETY: `path` ends with a zero byte.
    check(unsafe { libc::mkdirat(root.as_raw_fd(), path.as_ptr(), mode) }.into())?;
    Ok(())
}

/// Makes an empty file that did not exist.
pub(in crate::platform) fn make_file(
    root: BorrowedFd<'_>,
    path: &CStr,
    mode: libc::mode_t,
) -> io::Result<()> {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: `path` ends with a zero byte; with O_CREAT the mode is passed.
    let fd = check(
        unsafe {
            libc::openat(
                root.as_raw_fd(),
                path.as_ptr(),
                flags,
                libc::c_uint::from(mode),
            )
        }
        .into(),
    )?;
    // SAFETY: the kernel just gave us this descriptor; it is closed at once.
    drop(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
    Ok(())
}

/// Makes a symbolic link.
pub(in crate::platform) fn make_link(
    target: &CStr,
    root: BorrowedFd<'_>,
    path: &CStr,
) -> io::Result<()> {
    // SAFETY: both strings end with a zero byte.
    check(unsafe { libc::symlinkat(target.as_ptr(), root.as_raw_fd(), path.as_ptr()) }.into())?;
    Ok(())
}

/// A file in memory that can be sealed.
pub(in crate::platform) fn memory_file(name: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: `name` ends with a zero byte.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), flags) }.into())?;
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Freezes a file in memory for ever.
pub(in crate::platform) fn seal(file: BorrowedFd<'_>) -> io::Result<()> {
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: F_ADD_SEALS takes one integer.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }.into())?;
    Ok(())
}

/// Whether a file is frozen for ever.
pub(in crate::platform) fn is_sealed(file: BorrowedFd<'_>) -> bool {
    let wanted = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: F_GET_SEALS takes no argument.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    seals != -1 && seals & wanted == wanted
}

/// Takes over a descriptor that this process was started with. `None` if it
/// is not open.
pub(in crate::platform) fn inherited(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_SETFD takes one integer and touches no memory of ours.
    let open = fd > 2 && unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != -1;
    // SAFETY: it is open, and the helper calls this once for each descriptor
    // it was handed, before anything else could own one.
    open.then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets every program that is started from now on have it.
pub(in crate::platform) fn let_inherit(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: integers.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) }.into())?;
    Ok(())
}

/// Whether the number is a descriptor that a program would still have.
pub(in crate::platform) fn stays_open(number: u32) -> bool {
    // SAFETY: integers; any number may be asked about.
    let flags = unsafe { libc::fcntl(number.cast_signed(), libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// Closes everything from `first` to `last`, or marks it to be closed when a
/// program is executed.
pub(in crate::platform) fn close_range(first: u32, last: u32, on_exec: bool) -> io::Result<()> {
    let flags = if on_exec {
        libc::CLOSE_RANGE_CLOEXEC
    } else {
        0
    };
    // SAFETY: three integers. Callers name only ranges in which no owned
    // descriptor of this process lies, or the flag that closes nothing yet.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) })?;
    Ok(())
}

/// Replaces the standard descriptors by `/dev/null`.
pub(in crate::platform) fn silence(null: BorrowedFd<'_>) -> io::Result<()> {
    for standard in 0..=2 {
        // SAFETY: two integers; the standard descriptors belong to nobody in
        // the helper, which neither reads nor prints after this.
        check(unsafe { libc::dup2(null.as_raw_fd(), standard) }.into())?;
    }
    Ok(())
}

/// Makes three descriptors the standard ones. None of them may be a
/// directory.
pub(in crate::platform) fn take_standard(fds: &[OwnedFd]) -> io::Result<()> {
    let [_, _, _] = fds else {
        return Err(io::Error::other("they are not three"));
    };
    for (standard, fd) in (0..).zip(fds) {
        if std::fs::File::from(fd.try_clone()?).metadata()?.is_dir() {
            return Err(io::Error::other("one of them is a directory"));
        }
        // SAFETY: two integers; the standard descriptors belong to nobody in
        // this process, which neither reads nor prints before it executes.
        check(unsafe { libc::dup2(fd.as_raw_fd(), standard) }.into())?;
    }
    Ok(())
}

/// Keeps `fds` open in the program that `command` executes.
pub(in crate::platform) fn pass_on(command: &mut std::process::Command, fds: Vec<RawFd>) {
    use std::os::unix::process::CommandExt as _;
    let keep = move || {
        for fd in &fds {
            // SAFETY: F_SETFD takes one integer and touches no memory.
            check(unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) }.into())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure calls fcntl alone, which is
    // async-signal-safe, and allocates nothing: `last_os_error` holds a code.
    unsafe { command.pre_exec(keep) };
}

/// What a poll saw.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::platform) struct Ready {
    pub(in crate::platform) readable: bool,
    pub(in crate::platform) closed: bool,
}

/// Waits until one of `fds` can be read or was closed at its other end, for at
/// most `timeout` milliseconds, for ever if negative.
pub(in crate::platform) fn poll<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    timeout: i32,
) -> io::Result<[Ready; N]> {
    let mut polled = fds.map(|fd| libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: `polled` outlives the call and its true length is passed.
    let result = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, timeout) };
    match check(result.into()) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(error) => return Err(error),
    }
    Ok(polled.map(|fd| Ready {
        readable: fd.revents & libc::POLLIN != 0,
        closed: fd.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0,
    }))
}
