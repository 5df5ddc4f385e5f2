//! What happens when a step of the start fails: nothing starts, or the report
//! says what is missing.
//!
//! Each fault is laid on a process of its own, and so on the helper, the first
//! process and the command that it starts: from then on the kernel answers one
//! system call with an error. What the command then tries has its effect under
//! the same fault outside.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use katachi_sandbox::{Enforcement, Plan, PlanOptions, Policy, SpawnError};

use super::Case;
use super::crash::{nothing_is_left, tree};
use crate::attempts::{attempt, keep_open};
use crate::bed::{Bed, Ground, Verdict, must, text};
use crate::raw::{self, Fault};
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[Case {
    name: "a start whose step fails starts nothing or says what is missing",
    run: sweep,
    needs: &["true", "touch"],
}];

/// Errors that a step can meet: forbidden, and not there.
const ERRORS: [i32; 2] = [libc::EPERM, libc::ENOSYS];

/// Steps of a start: a system call, or one of the things it does.
fn steps() -> Vec<(String, Fault)> {
    let mut steps = Vec::new();
    let mut whole = |name: &str, call| steps.push((name.to_owned(), Fault::of(call)));
    for (name, call) in [
        ("landlock_create_ruleset", libc::SYS_landlock_create_ruleset),
        ("landlock_add_rule", libc::SYS_landlock_add_rule),
        ("landlock_restrict_self", libc::SYS_landlock_restrict_self),
        ("seccomp", libc::SYS_seccomp),
        ("mount", libc::SYS_mount),
        ("move_mount", libc::SYS_move_mount),
        ("open_tree", libc::SYS_open_tree),
        ("mount_setattr", libc::SYS_mount_setattr),
        ("fsopen", libc::SYS_fsopen),
        ("fsconfig", libc::SYS_fsconfig),
        ("fsmount", libc::SYS_fsmount),
        ("pivot_root", libc::SYS_pivot_root),
        ("umount2", libc::SYS_umount2),
        ("chdir", libc::SYS_chdir),
        ("fchdir", libc::SYS_fchdir),
        ("capset", libc::SYS_capset),
        ("capget", libc::SYS_capget),
        ("setresuid", libc::SYS_setresuid),
        ("setresgid", libc::SYS_setresgid),
        ("setgroups", libc::SYS_setgroups),
        ("setsid", libc::SYS_setsid),
        ("close_range", libc::SYS_close_range),
        ("ptrace", libc::SYS_ptrace),
        ("kill", libc::SYS_kill),
        ("process_vm_readv", libc::SYS_process_vm_readv),
        ("unshare", libc::SYS_unshare),
        ("setns", libc::SYS_setns),
        ("clone3", libc::SYS_clone3),
        ("memfd_create", libc::SYS_memfd_create),
        ("pidfd_open", libc::SYS_pidfd_open),
        ("prlimit64", libc::SYS_prlimit64),
        ("socket", libc::SYS_socket),
        ("bind", libc::SYS_bind),
        ("listen", libc::SYS_listen),
        ("sethostname", libc::SYS_sethostname),
        ("signalfd4", libc::SYS_signalfd4),
        ("rt_sigprocmask", libc::SYS_rt_sigprocmask),
        ("socketpair", libc::SYS_socketpair),
        ("sendmsg", libc::SYS_sendmsg),
        ("recvmsg", libc::SYS_recvmsg),
        ("pipe2", libc::SYS_pipe2),
        ("openat2", libc::SYS_openat2),
        ("mkdirat", libc::SYS_mkdirat),
        ("symlinkat", libc::SYS_symlinkat),
        ("umask", libc::SYS_umask),
        ("inotify_init1", libc::SYS_inotify_init1),
        ("inotify_add_watch", libc::SYS_inotify_add_watch),
    ] {
        whole(name, call);
    }
    // Kinds of one call come at different moments, and the first that fails would
    // hide the others.
    let mut one = |name: &str, call, argument, value| {
        steps.push((
            name.to_owned(),
            Fault::of(call).where_argument_is(argument, value),
        ));
    };
    for (name, option) in [
        ("PR_SET_PDEATHSIG", libc::PR_SET_PDEATHSIG),
        ("PR_SET_CHILD_SUBREAPER", libc::PR_SET_CHILD_SUBREAPER),
        ("PR_SET_DUMPABLE", libc::PR_SET_DUMPABLE),
        ("PR_CAPBSET_DROP", libc::PR_CAPBSET_DROP),
        ("PR_CAPBSET_READ", libc::PR_CAPBSET_READ),
        ("PR_SET_SECUREBITS", libc::PR_SET_SECUREBITS),
        ("PR_CAP_AMBIENT", libc::PR_CAP_AMBIENT),
        ("PR_SET_NO_NEW_PRIVS", libc::PR_SET_NO_NEW_PRIVS),
        ("PR_SET_SECCOMP", libc::PR_SET_SECCOMP),
    ] {
        one(name, libc::SYS_prctl, 0, option as u32);
    }
    for (name, command) in [
        ("F_SETFD", libc::F_SETFD),
        ("F_ADD_SEALS", libc::F_ADD_SEALS),
        ("F_GET_SEALS", libc::F_GET_SEALS),
    ] {
        one(name, libc::SYS_fcntl, 1, command as u32);
    }
    for (name, resource) in [
        ("RLIMIT_CORE", libc::RLIMIT_CORE),
        ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
        ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
    ] {
        one(name, libc::SYS_prlimit64, 1, resource);
    }
    one(
        "SIOCSIFFLAGS",
        libc::SYS_ioctl,
        1,
        libc::SIOCSIFFLAGS as u32,
    );
    // Descriptors are closed first, and later marked to be closed.
    one(
        "CLOSE_RANGE_CLOEXEC",
        libc::SYS_close_range,
        2,
        libc::CLOSE_RANGE_CLOEXEC,
    );
    // The first mounts come from the host, and the root directory is the last.
    one(
        "mount_setattr of one mount",
        libc::SYS_mount_setattr,
        2,
        libc::AT_EMPTY_PATH as u32,
    );
    const SEIZE: u32 = 0x4206;
    const INTERRUPT: u32 = 0x4207;
    const CONT: u32 = 7;
    for (name, request) in [
        ("PTRACE_SEIZE", SEIZE),
        ("PTRACE_INTERRUPT", INTERRUPT),
        ("PTRACE_CONT", CONT),
    ] {
        one(name, libc::SYS_ptrace, 0, request);
    }
    one(
        "Landlock's version",
        libc::SYS_landlock_create_ruleset,
        2,
        1,
    );
    for (name, call, kind) in [
        (
            "unshare with CLONE_NEWUSER",
            libc::SYS_unshare,
            libc::CLONE_NEWUSER,
        ),
        (
            "unshare with CLONE_NEWPID",
            libc::SYS_unshare,
            libc::CLONE_NEWPID,
        ),
        (
            "unshare with CLONE_NEWNS",
            libc::SYS_unshare,
            libc::CLONE_NEWNS,
        ),
        (
            "unshare with CLONE_NEWNET",
            libc::SYS_unshare,
            libc::CLONE_NEWNET,
        ),
        (
            "clone with CLONE_NEWUSER",
            libc::SYS_clone,
            libc::CLONE_NEWUSER,
        ),
    ] {
        steps.push((
            name.to_owned(),
            Fault::of(call).where_argument_has(0, kind as u32),
        ));
    }
    steps
}

/// Steps that a start does without, or in another way that holds as much.
const DISPENSABLE: &[&str] = &[
    "setns",
    "pidfd_open",
    "PR_SET_SECCOMP",
    // The C library makes threads and processes with the older call.
    "clone3",
    // What cannot be read is taken for the worst.
    "process_vm_readv",
    // The caller's stays as it is.
    "umask",
];

/// Steps of starts with namespaces.
const OF_NAMESPACES: &[&str] = &[
    "mount",
    "move_mount",
    "open_tree",
    "mount_setattr",
    "mount_setattr of one mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "pivot_root",
    "umount2",
    "fchdir",
    "unshare",
    "unshare with CLONE_NEWNS",
    "unshare with CLONE_NEWNET",
    "sethostname",
    "socket",
    "SIOCSIFFLAGS",
    "bind",
    "listen",
    "mkdirat",
    "symlinkat",
    "inotify_init1",
    "inotify_add_watch",
];

/// And of those without.
const OF_THE_OTHERS: &[&str] = &["PR_SET_CHILD_SUBREAPER", "SECCOMP_FILTER_FLAG_NEW_LISTENER"];

/// Steps of whoever has something to give up.
const OF_ROOT: &[&str] = &[
    "setresuid",
    "setresgid",
    "PR_CAPBSET_DROP",
    "PR_CAPBSET_READ",
    "PR_SET_SECUREBITS",
];

/// Whether a start here does without the step.
fn is_dispensable(step: &str, root: bool) -> bool {
    let ground = Ground::here();
    let namespaces = ground != Ground::Nothing;
    match step {
        // Root makes the first namespaces with the new process, if it may.
        "clone with CLONE_NEWUSER" => !(root && ground == Ground::All),
        "unshare with CLONE_NEWUSER" => root || !namespaces,
        "unshare with CLONE_NEWPID" => !namespaces || (root && ground == Ground::All),
        "setgroups" => !root,
        step if OF_ROOT.contains(&step) => !(root || namespaces),
        step if OF_NAMESPACES.contains(&step) => !namespaces,
        step if OF_THE_OTHERS.contains(&step) => namespaces,
        step => DISPENSABLE.contains(&step),
    }
}

/// What every control is there for, each of which the attack does outside.
const EFFECTS: &[&str] = &[
    "append outside",
    "read outside",
    "append to what is for reading",
    "mode of what is for reading",
    "tcp",
    "abstract socket",
    "unix socket",
    "signal",
    "netlink",
    "unlisted program",
    "copy of a program",
    "argument",
    "descriptor",
    "capability",
    "session",
    "core",
    "groups",
];

/// What no fault keeps it from.
const ALWAYS: [&str; 2] = ["append outside", "read outside"];

/// The attack: prints each thing that had its effect.
pub(crate) fn attack(words: &[String]) -> io::Result<()> {
    let [workspace, outside, address, name, process, descriptor] = words else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let (inside, out) = (
        |name: &str| text(&Path::new(workspace).join(name)),
        |name: &str| text(&Path::new(outside).join(name)),
    );
    fs::write(inside("ran"), "")?;
    let words = |words: &[&str]| -> Vec<String> { words.iter().map(|w| (*w).to_owned()).collect() };
    let program = |name: &str| format!("/usr/bin/{name}");
    let netlink = [libc::AF_NETLINK, libc::SOCK_RAW, 0].map(|number| number.to_string());
    let tries = [
        ("append outside", "append", words(&[&out("victim")])),
        ("read outside", "read", words(&[&out("secret")])),
        (
            "append to what is for reading",
            "append",
            words(&[&out("shown/file")]),
        ),
        (
            "mode of what is for reading",
            "mode",
            words(&[&out("shown/file")]),
        ),
        ("tcp", "tcp", words(&[address])),
        ("abstract socket", "abstract-connect", words(&[name])),
        ("unix socket", "unix-connect", words(&[&out("socket")])),
        ("signal", "signal", words(&[process])),
        ("netlink", "socket", netlink.to_vec()),
        ("unlisted program", "execute", words(&[&program("true")])),
        (
            "copy of a program",
            "execute-copy",
            words(&[&program("true"), &inside("copy")]),
        ),
        ("descriptor", "descriptor", words(&[descriptor])),
        ("capability", "capability", Vec::new()),
        ("core", "core", Vec::new()),
    ];
    for (effect, name, arguments) in tries {
        if attempt(name, &arguments).is_ok() {
            println!("{effect}");
        }
    }
    let _ = attempt("execute", &words(&[&program("touch"), &inside("refused")]));
    if Path::new(&inside("refused")).exists() {
        println!("argument");
    }
    if attempt("leads-session", &[]).is_err() {
        println!("session");
    }
    if raw::call(libc::SYS_getgroups, &[0, 0])? > 0 {
        println!("groups");
    }
    Ok(())
}

/// What the attack of one fault is made with.
struct Target {
    argv: Vec<String>,
    /// The first file that it makes.
    ran: PathBuf,
    _listeners: (TcpListener, UnixListener, UnixListener),
    _held: fs::File,
}

impl Target {
    fn new(bed: &Bed) -> Self {
        use std::os::linux::net::SocketAddrExt as _;
        let shown = bed.outside.join("shown");
        fs::create_dir(&shown).unwrap();
        fs::write(shown.join("file"), "shown").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let named = UnixListener::bind(bed.outside.join("socket")).unwrap();
        let name = format!("katachi-faults-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let nameless = UnixListener::bind_addr(&address).unwrap();
        let held = fs::File::open(bed.outside.join("secret")).unwrap();
        let argv = vec![
            "faults".to_owned(),
            text(&bed.workspace),
            text(&bed.outside),
            tcp.local_addr().unwrap().to_string(),
            name,
            std::process::id().to_string(),
            keep_open(&held).to_string(),
        ];
        Self {
            argv,
            ran: bed.workspace.join("ran"),
            _listeners: (tcp, named, nameless),
            _held: held,
        }
    }

    fn words(&self) -> Vec<&str> {
        self.argv.iter().map(String::as_str).collect()
    }
}

/// Bytes that the C library maps for the thread of the proxy, alone of all
/// threads: half a megabyte and a page that guards it.
const PROXY_STACK: u32 = (512 << 10) + 4096;

/// A caller that can have no thread for the proxy starts nothing, not for a moment
/// either. It is a program of its own, since a thread that was there before would
/// leave its stack to the next.
fn without_a_thread(bed: &Bed) -> Verdict {
    let fault = Fault::of(libc::SYS_mmap).where_argument_is(1, PROXY_STACK);
    let start = |faulty: bool| {
        raw::in_child(|| {
            let mut caller = Command::new(Bed::program());
            caller.args(["--attempt", "start-with-proxy", &text(&bed.workspace)]);
            // A thread that ended leaves its stack to the next, unless it is much larger.
            caller.env("RUST_MIN_STACK", (64 << 20).to_string());
            if faulty {
                fault.lay(libc::EPERM).unwrap();
            }
            // It returns only when it failed.
            let _ = caller.exec();
            false
        })
    };
    let made = bed.workspace.join("made");
    start(false).map_err(|error| format!("without a fault: {error}"))?;
    must(made.exists(), "without a fault nothing started")?;
    fs::remove_file(&made).map_err(|error| error.to_string())?;
    let refused = start(true).is_err();
    nothing_is_left("without a thread for the proxy")?;
    must(
        refused && !made.exists(),
        &format!("refused: {refused}, and it ran: {}", made.exists()),
    )
}

/// Starts a command that makes a file, with a proxy. Fails with the step that does.
pub(crate) fn start_with_proxy(words: &[String]) -> io::Result<()> {
    let [workspace] = words else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let policy = Policy::default()
        .read("@system")
        .write(".")
        .allow("touch")
        .allow_host("example.com:443");
    let plan = policy.plan(&PlanOptions::new(workspace));
    let command = plan.map_err(io::Error::other)?.command(["touch", "made"]);
    match command.spawn() {
        Ok(mut child) => child.wait().map(drop),
        Err(SpawnError::Machine { step, .. }) if step.contains("thread of the proxy") => {
            Err(io::Error::other(step))
        }
        // That is no verdict, and looks like none.
        Err(error) => {
            fs::write(Path::new(workspace).join("made"), "")?;
            Err(io::Error::other(error))
        }
    }
}

fn policy(bed: &Bed) -> Policy {
    let policy = bed
        .policy()
        .read(bed.out("shown"))
        .deny("**/*.pem")
        .allow(["touch", "--version"]);
    match Ground::here() {
        Ground::Nothing => policy,
        Ground::All | Ground::NoUsers => policy.allow_host("example.com:443"),
    }
}

fn sweep(bed: &Bed) -> Verdict {
    bed.shows(Seen::RefusedStarted);
    let target = Target::new(bed);
    let root = raw::call(libc::SYS_geteuid, &[]).is_ok_and(|user| user == 0);
    if root {
        // Some that a command must not keep.
        let groups = [4_u32, 24];
        raw::call(libc::SYS_setgroups, &[2, raw::address(&groups)]).unwrap();
    }
    let adopts = [libc::PR_SET_CHILD_SUBREAPER as u64, 1, 0, 0, 0];
    raw::call(libc::SYS_prctl, &adopts).map_err(|error| error.to_string())?;
    let plan = bed.plan(&policy(bed))?;
    let usual = start(&plan, &target).map_err(|error| format!("without a fault: {error}"))?;
    must(
        usual.effects.is_empty(),
        &format!("without a fault: {:?}", usual.effects),
    )?;
    reset(bed);
    let before = tree(&bed.workspace);

    let (mut outside, mut wrong) = (BTreeSet::new(), Vec::new());
    for (name, fault) in steps() {
        if Ground::here() == Ground::Nothing && OF_NAMESPACES.contains(&name.as_str()) {
            continue;
        }
        let effects = possible_outside(bed, fault, &target)?;
        must(
            ALWAYS.iter().all(|effect| effects.contains(*effect)),
            &format!("the control of {name} shows nothing: {effects:?}"),
        )?;
        outside.extend(effects);
        for error in ERRORS {
            reset(bed);
            let shown = format!("{name} ({})", io::Error::from_raw_os_error(error));
            let judged = raw::in_child(|| {
                let verdict = fault
                    .lay(error)
                    .map_err(|error| error.to_string())
                    .and_then(|()| usual.judge(&name, root, &plan, &target));
                verdict
                    .map_err(|problem| eprintln!("{shown}: {problem}"))
                    .is_ok()
            });
            let left = nothing_is_left(&shown);
            reset(bed);
            let after = tree(&bed.workspace);
            let same = must(after == before, &format!("{before:?} became {after:?}"));
            let judged = judged.map_err(|error| error.to_string());
            if let Err(problem) = judged.and(left).and(same) {
                wrong.push(format!("{shown}: {problem}"));
            }
        }
    }
    let wanted = EFFECTS.iter().filter(|effect| root || **effect != "groups");
    let mut never = wanted.filter(|effect| !outside.contains(**effect));
    must(
        never.next().is_none(),
        &format!("the controls show nothing but {outside:?}"),
    )?;
    must(wrong.is_empty(), &wrong.join("\n"))?;
    match Ground::here() {
        Ground::Nothing => Ok(()),
        Ground::All | Ground::NoUsers => without_a_thread(bed),
    }
}

/// As it was before an attack.
fn reset(bed: &Bed) {
    for made in ["ran", "copy", "refused"] {
        let _ = fs::remove_file(bed.workspace.join(made));
    }
}

/// What the attack does under the fault and in no sandbox.
fn possible_outside(bed: &Bed, fault: Fault, target: &Target) -> Result<BTreeSet<String>, String> {
    let said = bed.outside.join("said");
    raw::in_child(|| {
        let mut attack = Command::new(Bed::program());
        attack
            .arg("--attempt")
            .args(&target.argv)
            .stdout(fs::File::create(&said).unwrap())
            .stderr(Stdio::null());
        std::env::set_current_dir(&bed.workspace).unwrap();
        fault.lay(ERRORS[0]).unwrap();
        // It returns only when it failed.
        let _ = attack.exec();
        false
    })
    .map_err(|error| format!("the control: {error}"))?;
    let said = fs::read_to_string(said).map_err(|error| error.to_string())?;
    Ok(said.lines().map(str::to_owned).collect())
}

/// A command that started.
struct Started {
    enforcement: Enforcement,
    effects: BTreeSet<String>,
}

fn start(plan: &Plan, target: &Target) -> Result<Started, SpawnError> {
    let mut child = plan
        .command(Bed::argv(&target.words()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let enforcement = child.enforcement().clone();
    let mut said = String::new();
    let mut pipe = child.stdout.take().expect("a pipe");
    pipe.read_to_string(&mut said)?;
    child.wait()?;
    Ok(Started {
        enforcement,
        effects: said.lines().map(str::to_owned).collect(),
    })
}

impl Started {
    /// Starts under a fault that lies on this process, and compares it with this
    /// start without one.
    fn judge(&self, name: &str, root: bool, plan: &Plan, target: &Target) -> Verdict {
        let started = match start(plan, target) {
            Ok(started) => started,
            Err(error) => {
                must(!target.ran.exists(), &format!("it ran, and {error}"))?;
                return match error {
                    SpawnError::Machine { step, .. } if !step.is_empty() => Ok(()),
                    // A call of the caller's own, or one that looks at a path.
                    SpawnError::Io(_) | SpawnError::Replaced { .. } => Ok(()),
                    other => Err(format!("it names no step: {other}")),
                };
            }
        };
        must(
            started.effects.is_empty(),
            &format!("possible inside: {:?}", started.effects),
        )?;
        let declared = started.enforcement.controls != self.enforcement.controls;
        must(
            declared || is_dispensable(name, root),
            "it started, and no gap is declared",
        )
    }
}
