//! Tracing: stopping processes where they execute and split.

use std::io;

use super::check;

/// Why a traced process stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::platform) enum Stop {
    /// It has a new program and has not begun with it.
    Executed,
    /// It stays stopped until somebody continues it, as for job control.
    Group,
    /// It gets this signal; zero for none.
    Signal(libc::c_int),
}

/// Reads the status of a stopped process.
pub(super) fn stop(status: libc::c_int) -> Stop {
    let signal = libc::WSTOPSIG(status);
    match status >> 16 {
        0 => Stop::Signal(signal),
        libc::PTRACE_EVENT_EXEC => Stop::Executed,
        libc::PTRACE_EVENT_STOP if signal != libc::SIGTRAP => Stop::Group,
        _ => Stop::Signal(0),
    }
}

/// Traces a process and all it starts from now on; they die with the tracer.
pub(in crate::platform) fn seize(pid: libc::pid_t) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_EXITKILL;
    request(libc::PTRACE_SEIZE, pid, options as libc::c_ulong)
}

/// Lets it go on, with this signal.
pub(in crate::platform) fn resume(pid: libc::pid_t, signal: libc::c_int) {
    // It may have been killed meanwhile, which is reported by itself.
    let _ = request(libc::PTRACE_CONT, pid, signal as libc::c_ulong);
}

/// Leaves it stopped, to be continued as if it were not traced.
pub(in crate::platform) fn leave_stopped(pid: libc::pid_t) {
    let _ = request(libc::PTRACE_LISTEN, pid, 0);
}

fn request(request: libc::c_uint, pid: libc::pid_t, data: libc::c_ulong) -> io::Result<()> {
    // SAFETY: none of the requests above reads or writes this process's
    // memory: they take integers only.
    check(unsafe { libc::ptrace(request as _, pid, 0 as libc::c_ulong, data) })?;
    Ok(())
}
