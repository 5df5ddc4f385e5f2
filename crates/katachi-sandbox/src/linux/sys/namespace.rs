//! Namespaces, and who the process is in them.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use super::check;
use super::process::Fork;

/// Every namespace but those of users and of processes.
pub(in crate::platform) const OTHERS: libc::c_int = libc::CLONE_NEWNS
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

/// Splits the process in two, of which the second is the first process of new
/// namespaces of users and of processes.
pub(in crate::platform) fn fork_apart() -> io::Result<Fork> {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::SIGCHLD;
    // SAFETY: without shared memory and with no stack given this is a fork, and
    // only the helper calls it, which has one thread: the child finds no lock
    // held by a thread that no longer exists.
    match check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as libc::pid_t)),
    }
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
