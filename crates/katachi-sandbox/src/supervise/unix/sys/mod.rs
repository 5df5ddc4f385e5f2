//! The edge to the kernel: plain numbers in, [`std::io::Error`] out.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;
#[cfg(not(target_os = "linux"))]
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::process::Command;

/// What a start fails with if the profile was not applied. No `exec` does.
pub(in crate::supervise) const NOT_APPLIED: i32 = libc::ENOTSUP;

/// Whether the file of this program gives it rights its caller does not have.
#[cfg(not(target_os = "linux"))]
pub(crate) fn privileged_by_file() -> bool {
    // SAFETY: they take nothing and cannot fail.
    unsafe { libc::getuid() != libc::geteuid() || libc::getgid() != libc::getegid() }
}

/// Takes over a descriptor that this process was started with. `None` if it is
/// not open.
#[cfg(not(target_os = "linux"))]
pub(crate) fn attach(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_SETFD takes one integer and touches no memory of ours.
    let open = fd > 2 && unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != -1;
    // SAFETY: it is open, and the helper calls this once for each descriptor it
    // was handed, before anything else could own one.
    open.then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Leaves the session of the caller and its terminal.
#[cfg(not(target_os = "linux"))]
pub(crate) fn leave_session() {
    // SAFETY: it takes nothing. It fails only for who leads a session already.
    unsafe { libc::setsid() };
}

/// Keeps `fds` open in the program that `command` executes.
#[cfg(not(target_os = "linux"))]
pub(crate) fn pass_on(command: &mut Command, fds: Vec<RawFd>) {
    use std::os::unix::process::CommandExt as _;
    let keep = move || {
        for fd in &fds {
            // SAFETY: F_SETFD takes one integer and touches no memory.
            if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure calls fcntl alone, which is
    // async-signal-safe, and allocates nothing: `last_os_error` holds a code.
    unsafe { command.pre_exec(keep) };
}

/// Has every descriptor but the standard ones closed by the next `exec`.
pub(super) fn close_when_executing() -> io::Result<()> {
    for entry in std::fs::read_dir("/dev/fd")? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse::<RawFd>().ok());
        if let Some(fd) = number.filter(|fd| *fd > 2) {
            // SAFETY: F_SETFD takes one integer; a descriptor that is gone by
            // now, as the directory's own, is an error that means nothing.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// Gives the program a session of its own, its limits, and the profile.
pub(super) fn before_executing(
    command: &mut Command,
    cpu_time_ms: Option<u64>,
    profile: Option<CString>,
) {
    use std::os::unix::process::CommandExt as _;
    let prepare = move || {
        // SAFETY: it takes nothing.
        if unsafe { libc::setsid() } == -1 {
            return Err(io::Error::last_os_error());
        }
        limit(libc::RLIMIT_CORE as _, 0)?;
        if let Some(milliseconds) = cpu_time_ms {
            limit(libc::RLIMIT_CPU as _, milliseconds.div_ceil(1000).max(1))?;
        }
        match &profile {
            Some(profile) => apply(profile),
            None => Ok(()),
        }
    };
    // SAFETY: the helper has one thread when it starts a command, so what the
    // closure allocates or locks is held by nobody else.
    unsafe { command.pre_exec(prepare) };
}

fn limit(resource: libc::c_int, value: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    };
    // SAFETY: the structure outlives the call.
    match unsafe { libc::setrlimit(resource as _, &limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(target_os = "macos")]
unsafe extern "C" {
    /// `sandbox.h`; deprecated since 10.8 and what `sandbox-exec` calls.
    fn sandbox_init(
        profile: *const libc::c_char,
        flags: u64,
        error: *mut *mut libc::c_char,
    ) -> libc::c_int;
}

/// Confines this process for ever.
#[cfg(target_os = "macos")]
fn apply(profile: &CString) -> io::Result<()> {
    let mut error: *mut libc::c_char = std::ptr::null_mut();
    // SAFETY: the profile ends with a zero byte and outlives the call; with no
    // flag it is read as text; `error` is written and read below alone.
    if unsafe { sandbox_init(profile.as_ptr(), 0, &mut error) } == 0 {
        return Ok(());
    }
    if !error.is_null() {
        // SAFETY: the call failed and left a text that ends with a zero byte.
        // It is not freed: this process is about to end.
        let said = unsafe { std::ffi::CStr::from_ptr(error) };
        eprintln!("sandbox_init: {}", said.to_string_lossy());
    }
    Err(io::Error::from_raw_os_error(NOT_APPLIED))
}

#[cfg(not(target_os = "macos"))]
fn apply(_: &CString) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(NOT_APPLIED))
}

/// Waits until the process ended, and leaves its end to be asked for.
pub(super) fn wait_for(process: u32) {
    loop {
        // SAFETY: `siginfo_t` is plain data, for which all zeroes is a value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::WEXITED | libc::WNOWAIT;
        // SAFETY: `info` outlives the call.
        let result = unsafe { libc::waitid(libc::P_PID, process, &mut info, flags) };
        let interrupted =
            result == -1 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
        if !interrupted {
            return;
        }
    }
}

/// Sends a signal to a group. `false` if nobody is in it.
pub(super) fn signal_group(group: u32, signal: i32) -> bool {
    let Ok(group) = libc::pid_t::try_from(group) else {
        return false;
    };
    // SAFETY: two integers. The group is the command's as long as its leader was
    // not waited for; afterwards only signal 0 is sent, which does nothing.
    unsafe { libc::kill(-group, signal) == 0 }
}

/// The processes of a group.
#[cfg(target_os = "macos")]
pub(super) fn members(group: u32) -> Vec<i32> {
    /// `sys/proc_info.h`
    const PROC_PGRP_ONLY: u32 = 2;
    let mut found = vec![0_i32; 4096];
    let size = std::mem::size_of_val(found.as_slice());
    // SAFETY: the buffer's true size is passed.
    let written = unsafe {
        libc::proc_listpids(
            PROC_PGRP_ONLY,
            group,
            found.as_mut_ptr().cast(),
            i32::try_from(size).unwrap_or(i32::MAX),
        )
    };
    let count = usize::try_from(written).unwrap_or(0) / size_of::<i32>();
    found.truncate(count);
    found.retain(|process| *process > 0);
    found
}

/// Bytes of memory that a process is charged for.
#[cfg(target_os = "macos")]
pub(super) fn memory(process: i32) -> u64 {
    // SAFETY: plain integers, for which all zeroes is a value.
    let mut usage: libc::rusage_info_v2 = unsafe { std::mem::zeroed() };
    // SAFETY: the flavour names the structure that is passed.
    let result = unsafe {
        libc::proc_pid_rusage(
            process,
            libc::RUSAGE_INFO_V2,
            std::ptr::from_mut(&mut usage).cast(),
        )
    };
    match result {
        0 => usage.ri_phys_footprint,
        _ => 0,
    }
}

/// The processes of a group, where the tests run.
#[cfg(not(target_os = "macos"))]
pub(super) fn members(group: u32) -> Vec<i32> {
    let list = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    list.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|process: &i32| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
            let stat = stat.unwrap_or_default();
            let fields = stat.rsplit(')').next().unwrap_or_default();
            let of = fields.split_whitespace().nth(2);
            of.and_then(|of| of.parse().ok()) == Some(group)
        })
        .collect()
}

/// Bytes of memory of a process, where the tests run.
#[cfg(not(target_os = "macos"))]
pub(super) fn memory(process: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let field = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = field.and_then(|field| field.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn nothing_but_the_standard_descriptors_is_left_open() {
        let file = std::fs::File::open("/dev/null").unwrap();
        // A number that `ls` does not need for the directory itself.
        // SAFETY: F_DUPFD takes one integer and touches no memory.
        let number = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, 200) };
        assert!(number >= 200);
        let inherited = || {
            let listed = Command::new("ls").arg("/dev/fd").output().unwrap();
            let listed = String::from_utf8(listed.stdout).unwrap();
            listed.lines().any(|line| line == number.to_string())
        };
        // Other tests here start commands too, which closes it for this one.
        let seen = (0..100).any(|_| {
            // SAFETY: F_SETFD takes one integer and touches no memory.
            unsafe { libc::fcntl(number, libc::F_SETFD, 0) };
            inherited()
        });
        assert!(seen, "the control shows nothing");
        close_when_executing().unwrap();
        assert!(!inherited());
    }
}
