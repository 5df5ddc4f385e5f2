//! System calls that the filter hands to this process instead of the kernel,
//! seccomp_unotify(2).
//!
//! The caller stands still until it is answered. Where this process decides, the
//! caller is never told to go on with its call, whose arguments others could
//! change meanwhile: this process acts on copies of them, or refuses. Where it
//! merely hears of a call, the kernel goes on as if nobody had looked.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use super::check;

/// One call that waits.
#[derive(Clone, Copy, Debug)]
pub(in crate::platform) struct Call {
    id: u64,
    /// The thread.
    pub(in crate::platform) caller: u32,
    pub(in crate::platform) number: libc::c_long,
    pub(in crate::platform) arguments: [u64; 6],
}

/// Takes the next call; `None` if it was given up meanwhile.
pub(in crate::platform) fn receive(listener: BorrowedFd<'_>) -> Option<Call> {
    // SAFETY: the structure is plain integers, for which all zeroes is a value,
    // and the kernel wants them.
    let mut seen: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes one `seccomp_notif`, which outlives it.
    let received = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV as _,
            &raw mut seen,
        )
    };
    check(received.into()).ok()?;
    Some(Call {
        id: seen.id,
        caller: seen.pid,
        number: seen.data.nr.into(),
        arguments: seen.data.args,
    })
}

/// Whether the caller still waits, so that its number is nobody else's.
pub(in crate::platform) fn waits(listener: BorrowedFd<'_>, call: &Call) -> bool {
    let id = call.id;
    // SAFETY: the call reads eight bytes, which outlive it.
    let valid = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ID_VALID as _,
            &raw const id,
        )
    };
    valid == 0
}

/// Ends the call as if the kernel had done so.
pub(in crate::platform) fn answer(listener: BorrowedFd<'_>, call: &Call, result: io::Result<()>) {
    let error = match result {
        Ok(()) => 0,
        Err(error) => -error.raw_os_error().unwrap_or(libc::EPERM),
    };
    send(listener, call, error, 0);
}

/// Has the kernel go on with the call, whatever its arguments are by now.
pub(in crate::platform) fn go_on(listener: BorrowedFd<'_>, call: &Call) {
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    send(listener, call, 0, flags);
}

fn send(listener: BorrowedFd<'_>, call: &Call, error: i32, flags: u32) {
    let answer = libc::seccomp_notif_resp {
        id: call.id,
        val: 0,
        error,
        flags,
    };
    // SAFETY: the call reads one `seccomp_notif_resp`, which outlives it. An
    // error means that the caller is gone.
    unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND as _,
            &raw const answer,
        )
    };
}

/// Reads the caller's memory, as far as it goes.
pub(in crate::platform) fn read_memory(
    call: &Call,
    address: u64,
    buffer: &mut [u8],
) -> io::Result<usize> {
    super::process::read_memory(call.caller.cast_signed(), address, buffer)
}

/// Opens by path, following links but none of the kernel's magic ones.
pub(in crate::platform) fn open_path_at(
    base: BorrowedFd<'_>,
    path: &CStr,
    follow: bool,
) -> io::Result<OwnedFd> {
    // SAFETY: `open_how` is plain integers, for which all zeroes is a value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    let nofollow = if follow { 0 } else { libc::O_NOFOLLOW };
    how.flags = (libc::O_PATH | libc::O_CLOEXEC | nofollow) as u64;
    how.resolve = libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: `path` ends with a zero byte, `how` outlives the call and its
    // true size is passed.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            base.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    })?;
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sets the permission bits of an opened file that is no link.
pub(in crate::platform) fn set_mode(file: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}\0", file.as_raw_fd());
    // SAFETY: the path ends with a zero byte and outlives the call.
    check(unsafe { libc::chmod(path.as_ptr().cast(), mode) }.into())?;
    Ok(())
}

/// Sets the times of access and change of content; `None` for now.
pub(in crate::platform) fn set_times(
    file: BorrowedFd<'_>,
    times: Option<[libc::timespec; 2]>,
) -> io::Result<()> {
    let times = times
        .as_ref()
        .map_or(std::ptr::null(), |times| times.as_ptr());
    // SAFETY: the empty path ends with a zero byte, `times` is null or points to
    // two values that outlive the call.
    let set =
        unsafe { libc::utimensat(file.as_raw_fd(), c"".as_ptr(), times, libc::AT_EMPTY_PATH) };
    check(set.into())?;
    Ok(())
}
