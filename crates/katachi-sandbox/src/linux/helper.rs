//! The helper: the program's second life, with one thread.
//!
//! It forks the first process of the sandbox, which builds the root directory
//! and starts the command. The helper itself stays outside only to wait for that
//! first process, whose end the kernel gives to nobody else.
//!
//! Where root starts it, the two share the work: the first process makes its
//! namespaces while the helper, which has root's privileges still, says who its
//! users are and opens the mounts for it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;

use super::spec::{Mount, Source, Spec};
use super::sys::process::Fork;
use super::sys::{c_string, caps, fd, mount, namespace, net, process};
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
    process::new_session().step("start a session")?;
    let processor = match &spec.cgroup {
        Some(group) => Some(cgroup::join(&group.path).step("join the command's control group")?),
        None => None,
    };
    let mut gaps = Vec::new();
    match split(&spec, &mut gaps)? {
        Side::First(way) => {
            let ends = init::Ends {
                control,
                channel,
                processor,
            };
            let failure = match first(&spec, way, gaps, status, ends) {
                Ok(never) => match never {},
                Err(failure) => failure,
            };
            let _ = failure.0.send(&mut &*status);
            process::exit(125)
        }
        Side::Helper(first) => {
            drop((control, channel, processor));
            if let Ok(null) = File::open("/dev/null") {
                let _ = fd::silence(null.as_fd());
            }
            let _ = process::wait(first);
            process::exit(0)
        }
    }
}

/// The two processes after the fork.
enum Side {
    /// With the first process.
    Helper(libc::pid_t),
    First(Way),
}

/// What the first process still has to do before it builds anything.
enum Way {
    /// It has no namespaces.
    Floor,
    /// Nothing.
    Entered(Trees, Identities),
    /// Make its namespaces, and hear from the helper what its mounts are.
    Joining(OwnedFd, Users),
}

/// Forks the first process.
fn split(spec: &Spec, gaps: &mut Gaps) -> Result<Side, Failure> {
    let way = match spec.floor {
        Some(_) => Way::Floor,
        None if namespace::user().0 == 0
            && caps::holds(&[CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN]) =>
        {
            return split_as_root(spec, gaps);
        }
        None => {
            let (trees, who) = enter_namespaces(spec, gaps)?;
            Way::Entered(trees, who)
        }
    };
    fork(way)
}

fn fork(way: Way) -> Result<Side, Failure> {
    Ok(match process::fork().step("fork the first process")? {
        Fork::Child => Side::First(way),
        Fork::Parent(first) => Side::Helper(first),
    })
}

/// The life of the first process.
fn first(
    spec: &Spec,
    way: Way,
    mut gaps: Gaps,
    status: &File,
    ends: init::Ends,
) -> Result<init::Never, Failure> {
    let (trees, who) = match way {
        Way::Floor => return floor::run(spec, status, ends),
        Way::Entered(trees, who) => (trees, who),
        Way::Joining(helper, users) => join(spec, &helper, users, &mut gaps)?,
    };
    init::run(spec, trees, who, gaps, status, ends)
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

/// Says that descriptors come with it.
const MORE: &[u8; 1] = b"m";
/// Says that all have come.
const LAST: &[u8; 1] = b"l";

/// Opened mount trees, one for each mount that comes from the host.
pub(super) type Trees = Vec<Option<OwnedFd>>;

/// What is enforced less than planned: control and reason.
type Gaps = Vec<(String, String)>;

/// As a user, in the helper, whose children are then inside.
fn enter_namespaces(spec: &Spec, gaps: &mut Gaps) -> Result<(Trees, Identities), Failure> {
    let (user, group) = namespace::user();
    namespace::unshare(libc::CLONE_NEWUSER).step("create a user namespace")?;
    std::fs::write("/proc/self/setgroups", "deny").step("give up group changes")?;
    std::fs::write("/proc/self/uid_map", format!("{user} {user} 1")).step("map the user")?;
    std::fs::write("/proc/self/gid_map", format!("{group} {group} 1")).step("map the group")?;
    namespace::unshare(namespace::OTHERS | libc::CLONE_NEWPID).step("create namespaces")?;
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

/// Who the users of a sandbox started by root are outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Users {
    /// A range in which nobody owns anything.
    Apart,
    /// Root is root.
    Root,
}

/// Root can do better than a user: the command gets a user of its own that
/// owns nothing outside, and sees the workspace through a mount that maps
/// owners. Where a file system cannot be mapped it stays root, without
/// capabilities.
fn split_as_root(spec: &Spec, gaps: &mut Gaps) -> Result<Side, Failure> {
    let mut users = Users::Apart;
    loop {
        let forbids = |error: &io::Error| users == Users::Apart && is_forbidden(error);
        let (to_first, to_helper) = net::pair().step("create a pair of sockets")?;
        let first = match namespace::fork_apart() {
            Ok(Fork::Child) => return Ok(Side::First(Way::Joining(to_helper, users))),
            Ok(Fork::Parent(first)) => first,
            Err(error) if forbids(&error) => return split_without_users(spec, gaps),
            Err(error) => return Err(error).step("create a user namespace"),
        };
        drop(to_helper);
        let mapped = map_users(first, users);
        let forbidden = mapped.as_ref().is_err_and(forbids);
        let opened = mapped
            .step("create a user namespace")
            .and_then(|namespace| open_for(spec, users, &namespace))
            .and_then(|trees| match trees {
                Some(trees) => hand_over(&trees, &to_first).map(Some),
                None => Ok(None),
            });
        if let Ok(Some(())) = opened {
            return Ok(Side::Helper(first));
        }
        // It waits for what comes from here, and ends when nothing can come.
        drop(to_first);
        process::kill(first);
        let _ = process::wait(first);
        if forbidden {
            return split_without_users(spec, gaps);
        }
        opened?;
        gaps.push((
            "privileges".to_owned(),
            "a file system here cannot map owners, so the command keeps the caller's user outside, with no capabilities".to_owned(),
        ));
        users = Users::Root;
    }
}

/// Opens the mounts. `None` where a file system cannot map owners.
fn open_for(spec: &Spec, users: Users, namespace: &OwnedFd) -> Result<Option<Trees>, Failure> {
    if users == Users::Root {
        return open_trees(spec, None).map(Some);
    }
    match open_trees(spec, Some(namespace.as_fd())) {
        Err(Failure(Message::Failed { code, .. }))
            if code == libc::EINVAL || code == libc::EPERM =>
        {
            Ok(None)
        }
        opened => opened.map(Some),
    }
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
fn split_without_users(spec: &Spec, gaps: &mut Gaps) -> Result<Side, Failure> {
    namespace::unshare(namespace::OTHERS | libc::CLONE_NEWPID).step("create namespaces")?;
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
    fork(Way::Entered(trees, who))
}

/// Says who the users of the first process's namespace are, and opens it.
fn map_users(first: libc::pid_t, users: Users) -> io::Result<OwnedFd> {
    let map = match users {
        Users::Apart => format!("0 {BASE} {RANGE}"),
        Users::Root => "0 0 1".to_owned(),
    };
    let directory = format!("/proc/{first}");
    std::fs::write(format!("{directory}/uid_map"), &map)?;
    std::fs::write(format!("{directory}/gid_map"), &map)?;
    File::open(format!("{directory}/ns/user")).map(OwnedFd::from)
}

/// Gives the first process its mounts.
fn hand_over(trees: &Trees, to_first: &OwnedFd) -> Result<(), Failure> {
    let opened: Vec<BorrowedFd<'_>> = trees.iter().flatten().map(OwnedFd::as_fd).collect();
    let send = || -> io::Result<()> {
        for part in opened.chunks(net::MOST_DESCRIPTORS) {
            net::send(to_first.as_fd(), MORE, part)?;
        }
        net::send(to_first.as_fd(), LAST, &[])
    };
    send().step("hand over the mounts")
}

/// In the first process: makes its namespaces and becomes their root.
fn join(
    spec: &Spec,
    helper: &OwnedFd,
    users: Users,
    gaps: &mut Gaps,
) -> Result<(Trees, Identities), Failure> {
    namespace::unshare(namespace::OTHERS).step("create namespaces")?;
    mount::make_private().step("detach mounts")?;
    let mut opened = Vec::with_capacity(spec.mounts.len());
    loop {
        let mut what = [0];
        let (count, fds) = net::receive(helper.as_fd(), &mut what).step("receive the mounts")?;
        if count == 0 {
            // The helper said why, or is gone.
            process::exit(125);
        }
        opened.extend(fds);
        if what == *LAST {
            break;
        }
    }
    namespace::become_user(0, 0, true).step("become the namespace's user")?;
    let mut opened = opened.into_iter();
    let trees = spec
        .mounts
        .iter()
        .map(|mount| match mount.source {
            Source::Host(_) => opened.next(),
            _ => None,
        })
        .collect();
    // The last of the range is nobody by convention.
    let within = |id: u32| id.min(RANGE - 2);
    let (user, group) = match users {
        Users::Apart => (within(spec.owner.0), within(spec.owner.1)),
        Users::Root => (0, 0),
    };
    if users == Users::Apart && spec.owner.0 >= RANGE {
        gaps.push((
            "privileges".to_owned(),
            format!(
                "the owner of the workspace, user {}, does not exist inside, so the command is nobody and writes only what everybody may",
                spec.owner.0
            ),
        ));
    }
    Ok((
        trees,
        Identities {
            user,
            group,
            many: true,
            apart: true,
        },
    ))
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
