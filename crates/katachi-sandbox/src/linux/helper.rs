//! The helper: the program's second life, with one thread.
//!
//! It enters new namespaces and forks the first process of the sandbox, which
//! builds the root directory and starts the command. The helper itself stays
//! outside only to wait for that first process, whose end the kernel gives to
//! nobody else.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;

use super::spec::{Mount, Source, Spec};
use super::sys::process::Fork;
use super::sys::{c_string, caps, fd, mount, namespace, process};
use super::{cgroup, floor, init};
use crate::helper::MARKER;
use crate::message::Message;
pub(super) use crate::message::{Failure, Step};

/// See [`crate::helper::run_if_requested`].
pub(crate) fn run_helper_if_requested() {
    let mut words = std::env::args_os();
    if words.next().as_deref() != Some(OsStr::new(MARKER)) {
        return;
    }
    // Whoever calls a set-user-id program chooses its first word, and could
    // hand in a plan of their own.
    if process::is_privileged_by_file() {
        eprintln!("{MARKER}: not for a program that runs as another user than its caller");
        process::exit(125);
    }
    let numbers: Vec<RawFd> = words
        .filter_map(|word| word.to_str().and_then(|word| word.parse().ok()))
        .collect();
    let [spec, status, control, channel, alive] = numbers.as_slice() else {
        eprintln!(
            "{MARKER}: started without its descriptors; it is started by katachi-sandbox only"
        );
        process::exit(125);
    };
    let (Some(spec), Some(status), Some(control)) = (
        fd::inherited(*spec),
        fd::inherited(*status),
        fd::inherited(*control),
    ) else {
        eprintln!("{MARKER}: its descriptors are not open; it is started by katachi-sandbox only");
        process::exit(125);
    };
    let (channel, alive) = (fd::inherited(*channel), fd::inherited(*alive));
    let mut status = File::from(status);
    let failure = match run(spec, &status, control, channel, alive) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    // If the caller is gone there is nobody left to tell.
    let _ = failure.0.send(&mut status);
    process::exit(125);
}

/// Who the command is inside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identities {
    pub(super) user: u32,
    pub(super) group: u32,
    /// Whether the namespace has more than one user, so that groups can be
    /// dropped and users changed.
    pub(super) many: bool,
    /// Whether there is a user namespace of the sandbox's own, in which limits
    /// for each user count nobody else's processes.
    pub(super) apart: bool,
}

impl Identities {
    /// Who the command is without a user namespace: the owner of the workspace
    /// where root starts it, and else the caller.
    pub(super) fn of_owner(spec: &Spec) -> Self {
        let (user, group) = namespace::user();
        // In a namespace with one user, as containers without root have, there
        // is nobody else to become.
        let groups = std::fs::read_to_string("/proc/self/setgroups");
        let alone = groups.is_ok_and(|groups| groups.trim() == "deny");
        let many = user == 0 && !alone && caps::holds(&[CAP_SETGID, CAP_SETUID]);
        let (user, group) = if many { spec.owner } else { (user, group) };
        Self {
            user,
            group,
            many,
            apart: false,
        }
    }
}

enum Never {}

fn run(
    spec: OwnedFd,
    status: &File,
    control: OwnedFd,
    channel: Option<OwnedFd>,
    // Held by this process and the first one to their ends, which it shows.
    alive: Option<OwnedFd>,
) -> Result<Never, Failure> {
    let spec = read_spec(spec)?;
    let mut keep = vec![status.as_raw_fd(), control.as_raw_fd()];
    keep.extend(channel.iter().chain(&alive).map(AsRawFd::as_raw_fd));
    close_others(&keep).step("close descriptors")?;
    refuse_directories().step("take over the standard descriptors")?;
    process::new_session();
    let processor = match &spec.cgroup {
        Some(group) => Some(cgroup::join(&group.path).step("join the command's control group")?),
        None => None,
    };
    let mut gaps = Vec::new();
    let entered = match spec.floor {
        None => Some(enter_namespaces(&spec, &mut gaps)?),
        Some(_) => None,
    };
    match process::fork().step("fork the first process")? {
        Fork::Child => {
            let ends = init::Ends {
                control,
                channel,
                processor,
            };
            let ended = match entered {
                Some((trees, who)) => init::run(&spec, trees, who, gaps, status, ends),
                None => floor::run(&spec, status, ends),
            };
            let failure = match ended {
                Ok(never) => match never {},
                Err(failure) => failure,
            };
            let _ = failure.0.send(&mut &*status);
            process::exit(125)
        }
        Fork::Parent(first) => {
            drop((entered, control, channel, processor));
            if let Ok(null) = File::open("/dev/null") {
                let _ = fd::silence(null.as_fd());
            }
            let _ = process::wait(first);
            process::exit(0)
        }
    }
}

/// A directory handed over as a standard descriptor would lead out of every
/// mount of the sandbox.
fn refuse_directories() -> io::Result<()> {
    for standard in [
        io::stdin().as_fd(),
        io::stdout().as_fd(),
        io::stderr().as_fd(),
    ] {
        if File::from(standard.try_clone_to_owned()?)
            .metadata()?
            .is_dir()
        {
            return Err(io::Error::other("one of them is a directory"));
        }
    }
    Ok(())
}

pub(super) fn read_spec(file: OwnedFd) -> Result<Spec, Failure> {
    if !fd::is_sealed(file.as_fd()) {
        return Err(io::Error::other("it could still be changed")).step("read the plan");
    }
    // By position: another process may read the same open file.
    let file = File::from(file);
    let length = file.metadata().step("read the plan")?.len();
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, 0).step("read the plan")?;
    Spec::decode(&bytes)
        .ok_or_else(|| io::Error::other("not a plan"))
        .step("read the plan")
}

fn close_others(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.cast_unsigned()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        if first < fd {
            fd::close_range(first, fd - 1, false)?;
        }
        first = fd + 1;
    }
    fd::close_range(first, u32::MAX, false)
}

/// Where the users of a sandbox started by root lie outside: above all ranges
/// that distributions and systemd hand out.
const BASE: u32 = 0x7000_0000;
const RANGE: u32 = 65536;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SYS_ADMIN: u32 = 21;

/// Opened mount trees, one for each mount that comes from the host.
pub(super) type Trees = Vec<Option<OwnedFd>>;

fn enter_namespaces(
    spec: &Spec,
    gaps: &mut Vec<(String, String)>,
) -> Result<(Trees, Identities), Failure> {
    let (user, group) = namespace::user();
    if user == 0 && caps::holds(&[CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN]) {
        return enter_as_root(spec, gaps);
    }
    namespace::unshare(libc::CLONE_NEWUSER).step("create a user namespace")?;
    std::fs::write("/proc/self/setgroups", "deny").step("give up group changes")?;
    std::fs::write("/proc/self/uid_map", format!("{user} {user} 1")).step("map the user")?;
    std::fs::write("/proc/self/gid_map", format!("{group} {group} 1")).step("map the group")?;
    namespace::unshare(namespace::ALL_BUT_USER).step("create namespaces")?;
    mount::make_private().step("detach mounts")?;
    let trees = open_trees(spec, None)?;
    if user == 0 {
        gaps.push((
            "privileges".to_owned(),
            "the command runs as root of a namespace that is root outside, with no capabilities"
                .to_owned(),
        ));
    }
    Ok((
        trees,
        Identities {
            user,
            group,
            many: false,
            apart: true,
        },
    ))
}

/// Root can do better than a user: the command gets a user of its own that
/// owns nothing outside, and sees the workspace through a mount that maps
/// owners. Where a file system cannot be mapped it stays root, without
/// capabilities.
fn enter_as_root(
    spec: &Spec,
    gaps: &mut Vec<(String, String)>,
) -> Result<(Trees, Identities), Failure> {
    let mapped = match user_namespace(&format!("0 {BASE} {RANGE}")) {
        Ok(mapped) => mapped,
        Err(error) if is_forbidden(&error) => return enter_without_users(spec, gaps),
        Err(error) => return Err(error).step("create a user namespace"),
    };
    // The last of the range is nobody by convention.
    let within = |id: u32| id.min(RANGE - 2);
    if spec.owner.0 >= RANGE {
        gaps.push((
            "privileges".to_owned(),
            format!(
                "the owner of the workspace, user {}, does not exist inside, so the command is nobody and writes only what everybody may",
                spec.owner.0
            ),
        ));
    }
    let (namespace_fd, identities, trees) = match open_trees(spec, Some(mapped.as_fd())) {
        Ok(trees) => {
            let (user, group) = (within(spec.owner.0), within(spec.owner.1));
            (
                mapped,
                Identities {
                    user,
                    group,
                    many: true,
                    apart: true,
                },
                trees,
            )
        }
        Err(Failure(Message::Failed { code, .. }))
            if code == libc::EINVAL || code == libc::EPERM =>
        {
            gaps.push((
                "privileges".to_owned(),
                "a file system here cannot map owners, so the command keeps the caller's user outside, with no capabilities".to_owned(),
            ));
            let plain = user_namespace("0 0 1").step("create a user namespace")?;
            (
                plain,
                Identities {
                    user: 0,
                    group: 0,
                    many: true,
                    apart: true,
                },
                open_trees(spec, None)?,
            )
        }
        Err(failure) => return Err(failure),
    };
    namespace::enter_user(namespace_fd.as_fd()).step("enter the user namespace")?;
    namespace::become_user(0, 0, true).step("become the namespace's user")?;
    namespace::unshare(namespace::ALL_BUT_USER).step("create namespaces")?;
    mount::make_private().step("detach mounts")?;
    Ok((trees, identities))
}

/// Whether user namespaces cannot be had here, for whatever reason: a filter, a
/// limit, a kernel without them, a container whose users end too early.
fn is_forbidden(error: &io::Error) -> bool {
    let codes = [libc::EPERM, libc::ENOSPC, libc::EINVAL, libc::ENOSYS];
    error
        .raw_os_error()
        .is_some_and(|code| codes.contains(&code))
}

/// Root where user namespaces are forbidden: it may make all others by itself.
/// The command then is the owner of the workspace as the machine knows them,
/// since nothing can map owners.
fn enter_without_users(
    spec: &Spec,
    gaps: &mut Vec<(String, String)>,
) -> Result<(Trees, Identities), Failure> {
    namespace::unshare(namespace::ALL_BUT_USER).step("create namespaces")?;
    mount::make_private().step("detach mounts")?;
    let trees = open_trees(spec, None)?;
    let who = Identities::of_owner(spec);
    let whom = match who.user {
        0 => "root, since root owns the workspace (give it to another user and the command is that user)".to_owned(),
        user => format!("user {user}, who owns the workspace"),
    };
    gaps.push((
        "privileges".to_owned(),
        format!("user namespaces are forbidden here, so the command is {whom}, on this machine itself, with no capabilities; files keep the owners they have"),
    ));
    Ok((trees, who))
}

/// A user namespace with this map for users and groups.
fn user_namespace(map: &str) -> io::Result<OwnedFd> {
    let parked = namespace::park_in_user_namespace()?;
    let opened = (|| {
        let directory = format!("/proc/{parked}");
        std::fs::write(format!("{directory}/uid_map"), map)?;
        std::fs::write(format!("{directory}/gid_map"), map)?;
        File::open(format!("{directory}/ns/user"))
    })();
    process::kill(parked);
    let _ = process::wait(parked);
    opened.map(OwnedFd::from)
}

/// Opens every host path again, compares it with what the plan pinned, and
/// takes a copy of its mount with the wanted restrictions.
fn open_trees(spec: &Spec, map: Option<BorrowedFd<'_>>) -> Result<Trees, Failure> {
    let root = File::open("/").step("open the root directory")?;
    spec.mounts
        .iter()
        .map(|mount| open_tree(&root, mount, map))
        .collect()
}

fn open_tree(
    root: &File,
    place: &Mount,
    map: Option<BorrowedFd<'_>>,
) -> Result<Option<OwnedFd>, Failure> {
    let Source::Host(pinned) = place.source else {
        return Ok(None);
    };
    let shown = place.target.display();
    let path = c_string(&place.target).step("read a path")?;
    let opened = fd::open_path(root.as_fd(), &path).map_err(|error| {
        Failure(Message::Replaced {
            path: shown.to_string(),
            detail: error.to_string(),
        })
    })?;
    let opened = init::check_identity(opened, &pinned, &place.target)?;
    let tree = mount::clone_tree(opened.as_fd()).step(&format!("take the mount of {shown}"))?;
    let mut attributes = mount::NOSUID | mount::NODEV;
    if !place.write {
        attributes |= mount::RDONLY;
    }
    if !place.load {
        attributes |= mount::NOEXEC;
    }
    mount::restrict(tree.as_fd(), attributes, map, true)
        .step(&format!("restrict the mount of {shown}"))?;
    Ok(Some(tree))
}
