//! Processes: forking, waiting, signals, limits, executing.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use super::check;

/// The two sides of a fork.
pub(in crate::platform) enum Fork {
    Parent(libc::pid_t),
    Child,
}

/// Splits the process in two.
pub(in crate::platform) fn fork() -> io::Result<Fork> {
    // SAFETY: only the helper calls this, and it has one thread, so the child
    // finds no lock held by a thread that no longer exists.
    match check(unsafe { libc::fork() }.into())? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as libc::pid_t)),
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::platform) enum Ended {
    Code(i32),
    Signal(i32),
}

/// Waits for this child.
pub(in crate::platform) fn wait(pid: libc::pid_t) -> io::Result<Ended> {
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        match check(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }.into()) {
            Ok(_) => return Ok(ended(status)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What became of a child, or of a process that is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::platform) enum Change {
    Ended(Ended),
    /// Only traced ones are reported so.
    Stopped(super::trace::Stop),
}

/// Any child that has changed already.
pub(in crate::platform) fn reap() -> Option<(libc::pid_t, Change)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
    (pid > 0).then(|| (pid, change(status)))
}

/// Waits until this child changes. Signals are held back in who waits.
pub(in crate::platform) fn wait_for_change(pid: libc::pid_t) -> io::Result<Change> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    check(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }.into())?;
    Ok(change(status))
}

fn change(status: libc::c_int) -> Change {
    match libc::WIFSTOPPED(status) {
        true => Change::Stopped(super::trace::stop(status)),
        false => Change::Ended(ended(status)),
    }
}

fn ended(status: libc::c_int) -> Ended {
    if libc::WIFSIGNALED(status) {
        Ended::Signal(libc::WTERMSIG(status))
    } else {
        Ended::Code(libc::WEXITSTATUS(status))
    }
}

/// Time since the machine started, sleep included.
pub(in crate::platform) fn since_boot() -> std::time::Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` outlives the call. This clock exists on every kernel, and
    // if it did not, `time` would stay zero.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    std::time::Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Kills one process.
pub(in crate::platform) fn kill(pid: libc::pid_t) {
    // SAFETY: two integers. A process that is gone is no error here.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Whether the process could be killed.
pub(in crate::platform) fn can_kill(pid: libc::pid_t) -> io::Result<()> {
    // SAFETY: two integers; signal zero does nothing.
    check(unsafe { libc::kill(pid, 0) }.into())?;
    Ok(())
}

/// Signals every process of a group.
pub(in crate::platform) fn signal_group(leader: libc::pid_t, signal: i32) {
    // SAFETY: two integers. A group that is gone is no error here.
    unsafe { libc::kill(-leader, signal) };
}

/// Leaves the process at once, running no destructor.
pub(in crate::platform) fn exit(code: i32) -> ! {
    // SAFETY: never returns; what destructors would do, the kernel does.
    unsafe { libc::_exit(code) }
}

/// Starts a session without a terminal, unless the process leads one already.
pub(in crate::platform) fn new_session() -> io::Result<()> {
    // SAFETY: no arguments.
    let started = check(unsafe { libc::setsid() }.into());
    // SAFETY: integers, and no arguments.
    let leads = unsafe { libc::getsid(0) == libc::getpid() };
    if leads { Ok(()) } else { started.map(drop) }
}

/// Dies with its parent.
pub(in crate::platform) fn die_with_parent() -> io::Result<()> {
    // SAFETY: integers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }.into())?;
    Ok(())
}

/// Becomes the parent of every descendant that loses its own.
pub(in crate::platform) fn adopt_orphans() -> io::Result<()> {
    // SAFETY: integers.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }.into())?;
    Ok(())
}

/// Says whether other processes of the same user may read this one's memory
/// and trace it.
pub(in crate::platform) fn open_memory(open: bool) -> io::Result<()> {
    // SAFETY: integers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_long::from(open), 0, 0, 0) }.into())?;
    Ok(())
}

/// Reads the memory of a process that stands still, as far as it goes: who asks
/// for more than one page must not count on getting all.
pub(in crate::platform) fn read_memory(
    pid: libc::pid_t,
    address: u64,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let here = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let there = libc::iovec {
        iov_base: std::ptr::with_exposed_provenance_mut(address as usize),
        iov_len: buffer.len(),
    };
    // SAFETY: the kernel writes at most the buffer's length to the buffer, which
    // outlives the call; the other address is the other process's, and only the
    // kernel follows it.
    let read = unsafe { libc::process_vm_readv(pid, &raw const here, 1, &raw const there, 1, 0) };
    Ok(check(read as libc::c_long)? as usize)
}

/// No program executed from now on gains anything.
pub(in crate::platform) fn no_new_privileges() -> io::Result<()> {
    // SAFETY: integers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
    Ok(())
}

/// A descriptor that can be read when a child ended. The signal itself is
/// held back.
pub(in crate::platform) fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: `sigset_t` is plain bytes, for which all zeroes is a value.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid set and outlives the calls; the old mask is
    // not asked for.
    let fd = check(
        unsafe {
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGCHLD);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        }
        .into(),
    )?;
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Takes all pending signals from the descriptor.
pub(in crate::platform) fn drain(signals: BorrowedFd<'_>) {
    let mut buffer = [0_u8; 1024];
    // SAFETY: the length passed is the buffer's; the descriptor does not block.
    while unsafe {
        libc::read(
            signals.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
        )
    } > 0
    {}
}

/// Every signal as a fresh program expects it: default and not held back.
pub(in crate::platform) fn default_signals() -> io::Result<()> {
    for signal in 1..=64 {
        // SAFETY: two integers. The two signals that cannot be changed, and
        // the two that libc keeps for itself, are refused and stay default.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: `sigset_t` is plain bytes, for which all zeroes is a value.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` outlives both calls; the old mask is not asked for.
    let reset = unsafe {
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut())
    };
    check(reset.into())?;
    Ok(())
}

/// Processor time of children that were waited for, and of theirs.
pub(in crate::platform) fn children_time() -> io::Result<std::time::Duration> {
    // SAFETY: `rusage` is plain integers, for which all zeroes is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` outlives the call.
    check(unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) }.into())?;
    let time = |part: libc::timeval| {
        let micros = part.tv_sec * 1_000_000 + part.tv_usec;
        std::time::Duration::from_micros(micros.cast_unsigned())
    };
    Ok(time(usage.ru_utime) + time(usage.ru_stime))
}

/// Sets both values of one limit, never above what is allowed already.
pub(in crate::platform) fn limit(
    resource: libc::__rlimit_resource_t,
    value: u64,
) -> io::Result<()> {
    let mut current = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `current` outlives the call.
    check(unsafe { libc::getrlimit(resource, &raw mut current) }.into())?;
    let value = value.min(current.rlim_max);
    let wanted = libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    };
    // SAFETY: `wanted` outlives the call.
    check(unsafe { libc::setrlimit(resource, &raw const wanted) }.into())?;
    Ok(())
}

/// Sets which permission bits new files never have, and says which they were.
pub(in crate::platform) fn set_umask(mask: libc::mode_t) -> libc::mode_t {
    // SAFETY: one integer, cannot fail.
    unsafe { libc::umask(mask) }
}

/// Whether executing this program gave the process more than its caller has.
pub(in crate::platform) fn is_privileged_by_file() -> bool {
    // SAFETY: one integer; an entry that is missing is zero.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Becomes another program. Returns only the error.
pub(in crate::platform) fn execute(
    program: &std::ffi::CStr,
    argv: &[CString],
    environment: &[CString],
) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (argv, environment) = (pointers(argv), pointers(environment));
    // SAFETY: both lists end with a null pointer, all strings with a zero
    // byte, and everything outlives the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}
