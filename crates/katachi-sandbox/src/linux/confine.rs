//! The last steps of the process that becomes the command.
//!
//! After the root directory is in place: limits, capabilities, no new
//! privileges, Landlock, seccomp, descriptors, and the program. Each step
//! only ever takes something away, and any that fails ends the process.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath,
    PathFd, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetStatus,
    Scope,
};

use super::floor;
use super::heard::{LISTENER, NO_LISTENER};
use super::helper::{Failure, Identities, Step as _};
use super::init::check_identity;
use super::observe::{self, OBSERVED};
use super::root::DEVICES;
use super::spec::{Source, Spec};
use super::sys::seccomp::{self, Choices};
use super::sys::{c_string, caps, fd, namespace, net, process, terminal};
use crate::message::Message;

pub(super) enum Never {}

/// Takes away what no command of the plan may have.
pub(super) fn prepare(spec: &Spec, who: Identities) -> Result<(), Failure> {
    if let Some(places) = &spec.floor {
        return floor::prepare(spec, places, who);
    }
    process::new_session().step("start a session")?;
    limit(spec, who).step("set limits")?;
    caps::forbid_regaining().step("give up capabilities for ever")?;
    namespace::become_user(who.user, who.group, who.many).step("become the command's user")?;
    caps::give_up().step("drop capabilities")?;
    process::no_new_privileges().step("forbid new privileges")?;
    confine_files(spec)?;
    confine_execution(spec)
}

/// Becomes the command, or says which step failed. `first` leads to the first
/// process, where that decides about calls or hears of them.
pub(super) fn become_command(
    spec: &Spec,
    terminal: Option<OwnedFd>,
    first: Option<OwnedFd>,
) -> Result<Never, Failure> {
    if let Some(terminal) = &terminal {
        terminal::control(terminal.as_fd()).step("take the terminal")?;
    }
    drop(terminal);
    // As the command's user: the caller may name a directory it cannot enter.
    std::env::set_current_dir(&spec.directory)
        .step(&format!("enter {}", spec.directory.display()))?;
    check_program(spec)?;

    let program = c_string(&spec.program).step("read the program's path")?;
    let strings = |words: &[std::ffi::OsString]| -> io::Result<Vec<CString>> {
        words.iter().map(c_string).collect()
    };
    let argv = strings(&spec.argv).step("read the arguments")?;
    let environment = strings(&spec.environment).step("read the environment")?;
    let mut filter = seccomp::filter(Choices {
        unix_sockets: spec.unix_sockets,
        no_memory_files: spec.watched_memory().is_some(),
        alone: spec.floor.is_some(),
        signals_leave: spec.floor.is_some() && super::landlock_version() < 6,
    });
    process::default_signals().step("reset signals")?;
    fd::close_range(3, u32::MAX, true).step("close descriptors")?;
    seccomp::install(&mut filter).step("install the system call filter")?;
    if let Some(first) = first {
        be_heard(spec, &first).step("let the first process hear of system calls")?;
    }
    if spec.observes() {
        let calls: Vec<_> = OBSERVED.iter().map(|observed| observed.call).collect();
        seccomp::install(&mut seccomp::observing(&calls)).step("observe system calls")?;
    }
    if let Some(attempts) = &spec.attempts {
        attempts.run(&spec.environment);
        process::exit(0);
    }
    let error = process::execute(&program, &argv, &environment);
    Err(Failure(Message::NotExecuted {
        code: error.raw_os_error().unwrap_or(0),
    }))
}

/// Hands the first process the calls that it decides or hears of.
fn be_heard(spec: &Spec, first: &OwnedFd) -> io::Result<()> {
    let heard = observe::heard(spec.notes);
    let mut filter = seccomp::hearing(spec.floor.is_some(), &heard);
    match seccomp::install_heard(&mut filter) {
        Ok(listener) => net::send(first.as_fd(), LISTENER, &[listener.as_fd()]),
        // Somebody who confines the caller hears of its calls already. What is
        // only noted can be done without.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) && spec.floor.is_none() => {
            net::send(first.as_fd(), NO_LISTENER, &[])
        }
        Err(error) => Err(error),
    }
}

pub(super) fn limit(spec: &Spec, who: Identities) -> io::Result<()> {
    // Zero keeps core files away, and one also the host's core handler: the
    // kernel starts no handler for a process with exactly this limit.
    process::limit(libc::RLIMIT_CORE, 1)?;
    process::limit(libc::RLIMIT_NOFILE, 8192)?;
    process::limit(libc::RLIMIT_MEMLOCK, 1 << 26)?;
    process::limit(libc::RLIMIT_MSGQUEUE, 0)?;
    if let Some(bytes) = spec.watched_memory() {
        process::limit(libc::RLIMIT_DATA, bytes)?;
    }
    // Without a namespace of their own, the user's other processes count too.
    if let Some(count) = spec.watched_processes()
        && who.apart
    {
        // The helper and the first process count too.
        process::limit(libc::RLIMIT_NPROC, count.saturating_add(2))?;
    }
    if let Some(time) = spec.cpu_time_ms.filter(|_| spec.cgroup.is_none()) {
        // Should the watchdog come late; it says which limit it was.
        process::limit(libc::RLIMIT_CPU, time.div_ceil(1000) + 1)?;
    }
    if let Some(bytes) = spec.disk {
        process::limit(libc::RLIMIT_FSIZE, bytes)?;
    }
    Ok(())
}

/// The program must still be the file the plan pinned, seen from inside.
fn check_program(spec: &Spec) -> Result<(), Failure> {
    let Some((path, pinned)) = spec
        .programs
        .iter()
        .find(|(path, _)| *path == spec.real_program)
    else {
        // Below `exec_from`, where the command may change files itself.
        return Ok(());
    };
    // By path alone: it may not be listed.
    let root = File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open("/")
        .step("open the root directory")?;
    let name = c_string(path).step("read the program's path")?;
    let opened = fd::open_path(root.as_fd(), &name).map_err(|error| {
        Failure(Message::Replaced {
            path: path.display().to_string(),
            detail: error.to_string(),
        })
    })?;
    check_identity(opened, pinned, path).map(drop)
}

/// The rights this kernel's Landlock knows; below the first that can be
/// relied upon, `None`.
pub(super) fn usable_abi(version: u32) -> Option<ABI> {
    match version {
        0..=2 => None,
        3 => Some(ABI::V3),
        4 => Some(ABI::V4),
        5 => Some(ABI::V5),
        6 => Some(ABI::V6),
        _ => Some(ABI::V7),
    }
}

pub(super) fn abi() -> Result<ABI, Failure> {
    usable_abi(super::landlock_version())
        .ok_or_else(|| io::Error::other("this kernel has no Landlock of ABI 3 or later"))
        .step("use Landlock")
}

pub(super) fn landlock_error(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

/// First layer: where may be read and written.
fn confine_files(spec: &Spec) -> Result<(), Failure> {
    let abi = abi()?;
    let all = AccessFs::from_all(abi) & !BitFlags::from(AccessFs::Execute);
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    // Devices, fifos and sockets of other programs are not for the command to
    // make or use; IOCTL_DEV stays with the few devices below.
    let mut write = all & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    if abi >= ABI::V5 {
        write &= !BitFlags::from(AccessFs::IoctlDev);
    }
    let of_a_file = AccessFs::from_file(abi);
    let mut rules: Vec<(&Path, BitFlags<AccessFs>)> = vec![
        // Directories that lead somewhere can be listed; what they lead to
        // has rules of its own.
        (Path::new("/"), AccessFs::ReadDir.into()),
        (Path::new("/proc"), read),
        (Path::new("/dev/shm"), write),
    ];
    for mount in &spec.mounts {
        let access = match mount.source {
            Source::HiddenDirectory | Source::HiddenFile => continue,
            _ if mount.write => write,
            _ => read,
        };
        let access = match mount.source {
            Source::Host(pinned) if !pinned.directory => access & of_a_file,
            _ => access,
        };
        rules.push((&mount.target, access));
    }
    if spec.terminal.is_some() {
        let mut access = read | AccessFs::WriteFile;
        if abi >= ABI::V5 {
            access |= AccessFs::IoctlDev;
        }
        rules.push((Path::new("/dev/pts"), access));
    }
    let devices: Vec<_> = DEVICES
        .iter()
        .map(|name| Path::new("/dev").join(name))
        .collect();
    rules.extend(devices.iter().map(|path| (path.as_path(), all & of_a_file)));

    let build = || -> io::Result<()> {
        let mut ruleset = opening_nothing(abi, all, BitFlags::EMPTY)?;
        for (path, access) in rules {
            let Ok(place) = PathFd::new(path) else {
                continue;
            };
            ruleset = ruleset
                .add_rule(PathBeneath::new(place, access))
                .map_err(landlock_error)?;
        }
        enforce(ruleset)
    };
    build().step("confine files with Landlock")
}

/// A layer without a rule: for files, for TCP, and for what Landlock keeps in
/// scope.
pub(super) fn opening_nothing(
    abi: ABI,
    files: BitFlags<AccessFs>,
    sockets: BitFlags<AccessNet>,
) -> io::Result<RulesetCreated> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(files)
        .map_err(landlock_error)?;
    if !sockets.is_empty() {
        ruleset = ruleset.handle_access(sockets).map_err(landlock_error)?;
    }
    if abi >= ABI::V6 {
        ruleset = ruleset
            .scope(Scope::from_all(abi))
            .map_err(landlock_error)?;
    }
    ruleset.create().map_err(landlock_error)
}

/// Second layer: what may be executed.
pub(super) fn confine_execution(spec: &Spec) -> Result<(), Failure> {
    let build = || -> io::Result<()> {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            // Moving files between directories is refused by every layer that
            // does not name it; where it is allowed the first layer says.
            .handle_access(AccessFs::Execute | AccessFs::Refer)
            .map_err(landlock_error)?
            .create()
            .map_err(landlock_error)?
            .add_rule(PathBeneath::new(
                PathFd::new("/").map_err(landlock_error)?,
                AccessFs::Refer,
            ))
            .map_err(landlock_error)?;
        let files = spec.programs.iter().map(|(path, _)| path);
        let trees = spec.exec_trees.iter().map(|tree| &tree.path);
        for path in files.chain(trees) {
            let place = PathFd::new(path).map_err(landlock_error)?;
            ruleset = ruleset
                .add_rule(PathBeneath::new(place, AccessFs::Execute))
                .map_err(landlock_error)?;
        }
        enforce(ruleset)
    };
    build().step("confine execution with Landlock")
}

pub(super) fn enforce(ruleset: RulesetCreated) -> io::Result<()> {
    let status = ruleset.restrict_self().map_err(landlock_error)?;
    if status.ruleset == RulesetStatus::FullyEnforced {
        Ok(())
    } else {
        Err(io::Error::other("the kernel enforces only a part of it"))
    }
}
