//! A command in a session of its own.
//!
//! Seatbelt is asked by `sandbox_init` between fork and exec, and not by
//! `sandbox-exec`: the program keeps the name it is called with, a program that
//! cannot be executed is told from a profile that does not compile, and the
//! profile need not allow `sandbox-exec` itself. The helper has one thread then,
//! so the child may do what it likes.

mod sys;

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::spec::{Confinement, Spec};
use crate::message::{End, Failure, Message, Step as _};
#[cfg(not(target_os = "linux"))]
pub(crate) use sys::{attach, leave_session, pass_on, privileged_by_file};

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// One of the standard descriptors.
pub(super) type Standard = OwnedFd;

/// A command that runs; its process leads a group.
#[derive(Debug)]
pub(super) struct Running {
    leader: Child,
    ended: Option<End>,
}

/// Waits for the command itself.
#[derive(Debug)]
pub(super) struct Waiter(u32);

impl Waiter {
    pub(super) fn wait(self) {
        // It stays a zombie, so that its number means nobody else.
        sys::wait_for(self.0);
    }
}

impl Running {
    pub(super) fn start(
        spec: &Spec,
        [stdin, stdout, stderr]: [Standard; 3],
    ) -> Result<Self, Failure> {
        let profile = match &spec.confinement {
            Confinement::Nothing => None,
            Confinement::Profile(text) => Some(
                CString::new(text.as_str())
                    .map_err(std::io::Error::other)
                    .step("read the profile")?,
            ),
            Confinement::Container { .. } => {
                return Err(std::io::Error::other("it has no AppContainer"))
                    .step("confine the command");
            }
        };
        sys::close_when_executing().step("close descriptors")?;
        let Some((name, arguments)) = spec.argv.split_first() else {
            return Err(std::io::Error::other("it is empty")).step("read the command");
        };
        let mut command = Command::new(&spec.program);
        command
            .arg0(name)
            .args(arguments)
            .env_clear()
            .envs(spec.environment.iter().filter_map(|word| {
                let at = word.as_bytes().iter().position(|byte| *byte == b'=')?;
                let (name, value) = word.as_bytes().split_at(at);
                Some((
                    std::ffi::OsStr::from_bytes(name),
                    std::ffi::OsStr::from_bytes(&value[1..]),
                ))
            }))
            .current_dir(&spec.directory)
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::from(stdout))
            .stderr(Stdio::from(stderr));
        sys::before_executing(&mut command, spec.cpu_time_ms, profile);
        match command.spawn() {
            Ok(leader) => Ok(Self {
                leader,
                ended: None,
            }),
            Err(error) if error.raw_os_error() == Some(sys::NOT_APPLIED) => {
                Err(error).step("apply the profile (the system's own words are on standard error)")
            }
            Err(error) => Err(Failure(Message::NotExecuted {
                code: error.raw_os_error().unwrap_or(0),
            })),
        }
    }

    pub(super) fn waiter(&self) -> Waiter {
        Waiter(self.leader.id())
    }

    pub(super) fn signal(&self, number: i32) {
        if self.ended.is_none() {
            sys::signal_group(self.leader.id(), number);
        }
    }

    /// Kills the group, waits until it is gone, and says how the command ended.
    pub(super) fn end(&mut self) -> std::io::Result<End> {
        if let Some(end) = &self.ended {
            return Ok(end.clone());
        }
        let group = self.leader.id();
        // Twice: what was being forked the first time is there the second.
        sys::signal_group(group, libc::SIGKILL);
        std::thread::sleep(Duration::from_millis(1));
        sys::signal_group(group, libc::SIGKILL);
        let status = self.leader.wait()?;
        let began = Instant::now();
        while sys::signal_group(group, 0) && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        let end = match (status.code(), status.signal()) {
            (Some(code), _) => End::Code(code),
            (None, signal) => End::Signal(signal.unwrap_or(libc::SIGKILL)),
        };
        self.ended = Some(end.clone());
        Ok(end)
    }

    /// The limit that the group has passed, if one is.
    pub(super) fn passed_limit(&mut self, spec: &Spec) -> Option<&'static str> {
        let members = sys::members(self.leader.id());
        let count = members.len() as u64;
        if spec.processes.is_some_and(|limit| count > limit) {
            return Some("processes");
        }
        let used = || {
            members
                .iter()
                .map(|process| sys::memory(*process))
                .sum::<u64>()
        };
        spec.memory
            .is_some_and(|limit| used() > limit)
            .then_some("memory")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What ended already cannot fail to.
        let _ = self.end();
    }
}
