//! The tier below: a command confined where namespaces are forbidden.
//!
//! ```text
//! caller --exec--> helper --fork--> first process --fork--> command
//!                             (traces everything,   (Landlock, seccomp)
//!                              adopts orphans)
//! ```
//!
//! There is no root of its own to build. Landlock opens the places of the plan,
//! each compared with what was pinned; the tracer looks at every program before
//! its first instruction; the system call filter closes what Landlock does not
//! know: sockets, the mode and times of files, other processes' priorities,
//! memory shared by name. Everything that the command starts is traced, so the
//! kernel kills it when the first process ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, RulesetCreatedAttr as _,
};

use super::confine::{self, enforce, landlock_error};
use super::helper::{Failure, Identities, Step as _};
use super::init::{self, check_identity};
use super::members::Members;
use super::root::DEVICES;
use super::spec::{Identity, Place, Spec};
use super::sys::{c_string, caps, fd, namespace, process};
use crate::plan::Reach;
use crate::scratch::Scratch;

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// What stays possible on this machine beside what the plan knows.
pub(super) fn gaps(who: Identities) -> Vec<(String, String)> {
    let mut gaps = Vec::new();
    if who.user == 0 {
        gaps.push((
            "privileges".to_owned(),
            "the caller and the workspace are root's, so the command is root without capabilities"
                .to_owned(),
        ));
    }
    gaps
}

/// Starts the command and stays until the end.
pub(super) fn run(spec: &Spec, status: &File, ends: init::Ends) -> Result<init::Never, Failure> {
    process::die_with_parent().step("tie the sandbox to the helper")?;
    process::adopt_orphans().step("adopt processes that lose their parent")?;
    let who = Identities::of_owner(spec);
    init::attend(spec, who, gaps(who), status, ends, None)
}

/// Kills everything that the command started, and waits until it is gone.
pub(super) fn end_all() {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let left = Members::Descendants.list().unwrap_or_default();
        for process in &left {
            process::kill(process.cast_signed());
        }
        while process::reap().is_some() {}
        if left.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Takes away what no command of the plan may have.
pub(super) fn prepare(spec: &Spec, places: &[Place], who: Identities) -> Result<(), Failure> {
    process::new_session().step("start a session")?;
    confine::limit(spec, who).step("set limits")?;
    if caps::holds_any() {
        caps::forbid_regaining().step("give up capabilities for ever")?;
    }
    if who.many {
        namespace::become_user(who.user, who.group, true).step("become the command's user")?;
    }
    caps::give_up().step("drop capabilities")?;
    process::no_new_privileges().step("forbid new privileges")?;
    confine_files(places)?;
    confine::confine_execution(spec)
}

/// First layer: where may be read and written, and no TCP.
fn confine_files(places: &[Place]) -> Result<(), Failure> {
    let abi = confine::abi()?;
    let all = AccessFs::from_all(abi) & !BitFlags::from(AccessFs::Execute);
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut write = all & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::MakeSock);
    if abi >= ABI::V5 {
        write &= !BitFlags::from(AccessFs::IoctlDev);
    }
    let mut opened = Vec::with_capacity(places.len());
    let root = File::open("/").step("open the root directory")?;
    for place in places {
        let path = c_string(&place.path).step("read a path")?;
        let opened_now = fd::open_path(root.as_fd(), &path);
        let (file, directory) = match &place.identity {
            Some(identity) => {
                let file = opened_now.step(&format!("open {}", place.path.display()))?;
                (
                    check_identity(file, identity, &place.path)?,
                    identity.directory,
                )
            }
            // It is gone, or something else lies there: nothing is opened.
            None => match opened_now.and_then(regular_file) {
                Ok(file) => (file, false),
                Err(_) => continue,
            },
        };
        let access = match place.reach {
            Reach::List => AccessFs::ReadDir.into(),
            Reach::Read => read,
            Reach::Write => write,
        };
        opened.push((file, directory, access));
    }
    let build = || -> io::Result<()> {
        // Before ABI 4 there are none for sockets.
        let mut ruleset = confine::opening_nothing(abi, all, AccessNet::from_all(abi))?;
        for (file, directory, access) in opened {
            let access = match directory {
                true => access,
                false => access & AccessFs::from_file(abi),
            };
            ruleset = ruleset
                .add_rule(PathBeneath::new(file, access))
                .map_err(landlock_error)?;
        }
        for name in DEVICES {
            let device = PathFd::new(Path::new("/dev").join(name)).map_err(landlock_error)?;
            ruleset = ruleset
                .add_rule(PathBeneath::new(
                    device,
                    AccessFs::from_file(abi) & !BitFlags::from(AccessFs::Execute),
                ))
                .map_err(landlock_error)?;
        }
        enforce(ruleset)
    };
    build().step("confine files with Landlock")
}

fn regular_file(file: OwnedFd) -> io::Result<OwnedFd> {
    let file = File::from(file);
    match file.metadata()?.is_file() {
        true => Ok(file.into()),
        false => Err(io::Error::other("it is no file")),
    }
}

/// A directory for temporary files that belongs to the owner of the workspace
/// where root asks.
pub(super) fn scratch(owner: (u32, u32)) -> io::Result<Scratch> {
    let made = Scratch::make()?;
    if namespace::user().0 == 0 {
        std::os::unix::fs::lchown(made.path(), Some(owner.0), Some(owner.1))?;
    }
    Ok(made)
}

/// The place to open for the command.
pub(super) fn place(scratch: &Scratch) -> io::Result<Place> {
    let metadata = std::fs::symlink_metadata(scratch.path())?;
    Ok(Place {
        path: scratch.path().to_owned(),
        identity: Some(Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            directory: true,
            stamp: [0; 3],
        }),
        reach: Reach::Write,
    })
}
