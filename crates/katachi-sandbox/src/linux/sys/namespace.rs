//! Namespaces, and who the process is in them.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use super::check;

/// Every namespace but the user's.
pub(in crate::platform) const ALL_BUT_USER: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// Leaves the named namespaces for new ones.
pub(in crate::platform) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: one integer; the helper has one thread, so no other thread's
    // view changes.
    check(unsafe { libc::unshare(flags) }.into())?;
    Ok(())
}

/// Enters a user namespace.
pub(in crate::platform) fn enter_user(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: two integers.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWUSER) }.into())?;
    Ok(())
}

/// Starts a process in a user namespace of its own that only waits to be
/// killed.
///
/// It shares the caller's memory: a copy costs more than the namespace does.
pub(in crate::platform) fn park_in_user_namespace() -> io::Result<libc::pid_t> {
    #[repr(align(16))]
    struct Stack([u8; 4096]);
    extern "C" fn wait(_: *mut libc::c_void) -> libc::c_int {
        loop {
            // SAFETY: no arguments; ends with the process.
            unsafe { libc::pause() };
        }
    }
    // Never given back, so that it is there for as long as the process is.
    let stack = Box::leak(Box::new(Stack([0; 4096])));
    let top = stack.0.as_mut_ptr_range().end;
    let flags = libc::CLONE_NEWUSER | libc::CLONE_VM | libc::SIGCHLD;
    // SAFETY: the new process runs `wait` alone, on a stack that is aligned by
    // its type, large enough for it and nobody else's.
    let pid = check(unsafe { libc::clone(wait, top.cast(), flags, std::ptr::null_mut()) }.into())?;
    Ok(pid as libc::pid_t)
}

/// Becomes this user and group, with no other groups.
pub(in crate::platform) fn become_user(
    user: libc::uid_t,
    group: libc::gid_t,
    drop_groups: bool,
) -> io::Result<()> {
    if drop_groups {
        // SAFETY: with length zero the list is not read.
        check(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) })?;
    }
    // SAFETY: integers. The raw calls change this thread alone, which is the
    // only one.
    check(unsafe { libc::syscall(libc::SYS_setresgid, group, group, group) })?;
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) })?;
    Ok(())
}

/// Effective user and group.
pub(in crate::platform) fn user() -> (libc::uid_t, libc::gid_t) {
    // SAFETY: no arguments, cannot fail.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// Names the machine as the command sees it.
pub(in crate::platform) fn set_host_name(name: &str) -> io::Result<()> {
    // SAFETY: the length passed is the length of `name`.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }.into())?;
    Ok(())
}

/// Switches on the loopback device of a new network namespace.
pub(in crate::platform) fn loopback_up() -> io::Result<()> {
    // SAFETY: three integers.
    let fd = check(
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into(),
    )?;
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    // SAFETY: `ifreq` is plain bytes, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *slot = *byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let set_flags = libc::SIOCSIFFLAGS;
    // SAFETY: `request` outlives the call, and SIOCSIFFLAGS reads an `ifreq`.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), set_flags, &raw const request) };
    check(set.into())?;
    Ok(())
}
