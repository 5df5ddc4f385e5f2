//! Tracing: stopping processes where they execute and split.

use std::io;

use super::{check, process};

/// Why a traced process stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::platform) enum Stop {
    /// It has a new program and has not begun with it.
    Executed,
    /// It stands at a call that is looked at, or has just returned from it.
    Called,
    /// It stays stopped until somebody continues it, as for job control.
    Group,
    /// It gets this signal; zero for none.
    Signal(libc::c_int),
}

/// Reads the status of a stopped process.
pub(super) fn stop(status: libc::c_int) -> Stop {
    let signal = libc::WSTOPSIG(status);
    match status >> 16 {
        0 if signal == libc::SIGTRAP | 0x80 => Stop::Called,
        0 => Stop::Signal(signal),
        libc::PTRACE_EVENT_EXEC => Stop::Executed,
        libc::PTRACE_EVENT_SECCOMP => Stop::Called,
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
        // Only stops where a filter asks for it.
        | libc::PTRACE_O_TRACESECCOMP
        | libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_EXITKILL;
    request(libc::PTRACE_SEIZE, pid, options as libc::c_ulong)
}

/// Stops a traced process and lets it go on, to see that both can be done: what
/// could not go on later would stand still for ever.
pub(in crate::platform) fn try_hold(pid: libc::pid_t) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, pid, 0)?;
    let signal = match process::wait_for_change(pid)? {
        process::Change::Stopped(Stop::Signal(signal)) => signal,
        process::Change::Stopped(_) => 0,
        // It said why.
        process::Change::Ended(_) => return Ok(()),
    };
    request(libc::PTRACE_CONT, pid, signal as libc::c_ulong)
}

/// Lets it go on, with this signal.
pub(in crate::platform) fn resume(pid: libc::pid_t, signal: libc::c_int) {
    or_kill(
        pid,
        request(libc::PTRACE_CONT, pid, signal as libc::c_ulong),
    );
}

/// Ends a process that cannot go on. One that was killed meanwhile is reported by
/// itself.
fn or_kill(pid: libc::pid_t, went_on: io::Result<()>) {
    if went_on.is_err_and(|error| error.raw_os_error() != Some(libc::ESRCH)) {
        process::kill(pid);
    }
}

/// Lets it go on until the call that it stands at returns.
pub(in crate::platform) fn resume_to_return(pid: libc::pid_t) {
    or_kill(pid, request(libc::PTRACE_SYSCALL, pid, 0));
}

/// Where in a call a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::platform) enum Moment {
    /// A filter stopped it before anything was done.
    Begins {
        call: u64,
        arguments: [u64; 6],
    },
    /// With this result; an error is its negative number.
    Returned(i64),
    Elsewhere,
}

/// `struct ptrace_syscall_info` of `linux/ptrace.h`, its union as words.
#[repr(C)]
#[derive(Default)]
struct CallInfo {
    kind: u8,
    padding: [u8; 3],
    architecture: u32,
    instruction: u64,
    stack: u64,
    words: [u64; 8],
}

/// Asks where a stopped process stands.
pub(in crate::platform) fn moment(pid: libc::pid_t) -> io::Result<Moment> {
    const EXIT: u8 = 2;
    const SECCOMP: u8 = 3;
    let mut info = CallInfo::default();
    // SAFETY: the kernel writes at most as many bytes as are passed, which are
    // the structure's, and every pattern of them is a value.
    check(unsafe {
        libc::ptrace(
            libc::PTRACE_GET_SYSCALL_INFO as _,
            pid,
            size_of::<CallInfo>(),
            &raw mut info,
        )
    })?;
    let [first, arguments @ .., _] = info.words;
    Ok(match info.kind {
        SECCOMP => Moment::Begins {
            call: first,
            arguments,
        },
        EXIT => Moment::Returned(first.cast_signed()),
        _ => Moment::Elsewhere,
    })
}

/// Leaves it stopped, to be continued as if it were not traced.
pub(in crate::platform) fn leave_stopped(pid: libc::pid_t) {
    or_kill(pid, request(libc::PTRACE_LISTEN, pid, 0));
}

fn request(request: libc::c_uint, pid: libc::pid_t, data: libc::c_ulong) -> io::Result<()> {
    // SAFETY: none of these requests reads or writes this process's
    // memory: they take integers only.
    check(unsafe { libc::ptrace(request as _, pid, 0 as libc::c_ulong, data) })?;
    Ok(())
}
