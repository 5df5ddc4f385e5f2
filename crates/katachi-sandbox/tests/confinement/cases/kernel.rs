//! Other processes, privileges, and the kernel's own interfaces.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use katachi_sandbox::policy::{ByteSize, Limits, TimeSpan};
use katachi_sandbox::report::{Enforced, Tier};
use katachi_sandbox::{Policy, SpawnError};

use super::{Case, OWN_PLACE, ROOT};
use crate::attempts::keep_open;
use crate::bed::{Bed, Ground, Verdict, must, text};
use crate::interfaces::give_capability;
use crate::raw;
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "other processes are neither seen nor reached",
        run: processes,
        needs: &[],
    },
    Case {
        name: "where the system forbids user namespaces nothing starts",
        run: forbidden_by_system,
        needs: &["unshare", "setpriv", "sh", OWN_PLACE],
    },
    Case {
        name: "where the system forbids user namespaces root's command starts",
        run: root_where_forbidden,
        needs: &["unshare", "sh", OWN_PLACE],
    },
    Case {
        name: "where a container forbids user namespaces nothing starts",
        run: forbidden_by_container,
        needs: &[OWN_PLACE],
    },
    Case {
        name: "a self-test sees the tier without namespaces hold",
        run: tier_below,
        needs: &[],
    },
    Case {
        name: "a self-test sees each control hold",
        run: each_control,
        needs: &["cat", "touch"],
    },
    Case {
        name: "no capability is held",
        run: capabilities,
        needs: &[],
    },
    Case {
        name: "root's command is nobody outside",
        run: outside_identity,
        needs: &[],
    },
    Case {
        name: "root's command is the owner of the workspace and nobody more",
        run: owner,
        needs: &[ROOT],
    },
    Case {
        name: "set-user-id programs gain nothing",
        run: no_new_privileges,
        needs: &[],
    },
    Case {
        name: "root's programs with privileges of their own gain nothing",
        run: privileged_programs,
        needs: &[ROOT],
    },
    Case {
        name: "no namespace can be made",
        run: namespaces,
        needs: &[],
    },
    Case {
        name: "mounts cannot be changed",
        run: mounts,
        needs: &[],
    },
    Case {
        name: "files cannot be opened by handle",
        run: handles,
        needs: &[],
    },
    Case {
        name: "keyrings, bpf, io_uring and the like are closed",
        run: interfaces,
        needs: &[],
    },
    Case {
        name: "32-bit and x32 calls are closed",
        run: architectures,
        needs: &[],
    },
    Case {
        name: "open descriptors of the caller are not inherited",
        run: descriptors,
        needs: &[],
    },
    Case {
        name: "the caller's environment is not inherited",
        run: environment,
        needs: &[],
    },
];

fn processes(bed: &Bed) -> Verdict {
    let mut host = Command::new("/usr/bin/sleep")
        .arg("60")
        .env("KATACHI_SECRET", "host-secret")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = host.id().to_string();
    let of = |part: &str| format!("/proc/{pid}/{part}");
    let attempts: &[&[&str]] = &[
        &["signal", &pid],
        &["environment-of", &pid, "host-secret"],
        &["trace", &pid],
        &["read-memory-of", &pid],
        &["take-descriptor-of", &pid],
        &["read", &of("cmdline")],
        &["open-read", &of("mem")],
        &["open-write", &of("mem")],
        &["open-write", &of("oom_score_adj")],
        &["list", &of("fd")],
        &["list", &of("task")],
    ];
    let verdict = attempts.iter().try_for_each(|attempt| {
        must(bed.possible_outside(attempt), "the control shows nothing")?;
        bed.denied(attempt)
    });
    host.kill().unwrap();
    host.wait().unwrap();
    verdict?;
    // The first process of the sandbox keeps its memory to itself.
    bed.denied(&["read", "/proc/1/environ"])?;
    bed.denied(&["read", "/proc/1/maps"])?;
    bed.denied(&["signal", "1"])?;
    bed.denied(&["trace", "1"])
}

fn tier_below(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let options = bed.options().only(Tier::Landlock);
    // Without this very program, which is what is executed.
    let policy = Policy::default().read("@system").write(".").allow("cat");
    let plan = policy.plan(&options).map_err(|error| error.to_string())?;
    let seen = katachi_sandbox::doctor::witness(&plan).map_err(|error| error.to_string())?;
    must(seen.tier == Tier::Landlock, &seen.to_string())?;
    for control in ["files", "exec", "network", "unix", "kernel", "privileges"] {
        let control = seen.control(control).ok_or("it is not in the report")?;
        let holds = !matches!(control.enforced, Enforced::Off(_));
        must(control.witnessed && holds, &seen.to_string())?;
        must(
            !control.mechanism.contains("namespace"),
            &format!("{control:?} is not what holds it"),
        )?;
    }
    // And what it cannot hold is refused, also where more could be done.
    let refused = bed.policy().allow_host("example.com:443").plan(&options);
    must(
        refused.is_err_and(|error| error.to_string().contains("network.allow")),
        "hosts were planned for without namespaces",
    )
}

fn each_control(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    bed.repository("");
    raw::set_variable("KATACHI_SECRET", "x");
    // Without this very program, which is what is executed.
    let policy = Policy::default().read("@system").write(".").allow("cat");
    let policy = policy.allow(["touch", "good"]);
    // Without namespaces nothing holds what is written.
    let namespaces = Ground::here() != Ground::Nothing;
    let mut limits = Limits::default();
    limits.memory = Some(ByteSize::new(8 << 30));
    limits.processes = Some(4000);
    limits.disk = namespaces.then_some(ByteSize::new(8 << 30));
    limits.wall_time = Some(TimeSpan::new(Duration::from_secs(3600)));
    limits.cpu_time = Some(TimeSpan::new(Duration::from_secs(3600)));
    limits.network = Some(ByteSize::new(8 << 30));
    let plan = bed.plan(&policy.limits(limits))?;
    let seen = katachi_sandbox::doctor::witness(&plan).map_err(|error| error.to_string())?;
    for control in &seen.controls {
        let holds = !matches!(control.enforced, Enforced::Off(_));
        must(
            control.witnessed && holds,
            &format!("{} was not seen to hold: {seen}", control.id),
        )?;
    }
    must(
        !seen.to_string().contains("the self-test"),
        &format!("something is left out: {seen}"),
    )
}

fn capabilities(bed: &Bed) -> Verdict {
    bed.only_outside(&["capability"])
}

/// An ordinary user.
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    raw::call(libc::SYS_geteuid, &[]).is_ok_and(|user| user == 0)
}

fn outside_identity(bed: &Bed) -> Verdict {
    let plan = bed.plan(&bed.policy())?;
    if !is_root() {
        return bed.denied(&["outside-root"]);
    }
    bed.control(&["outside-root"])?;
    if Ground::here() == Ground::All {
        bed.denied(&["outside-root"])?;
    } else {
        // Nothing maps owners, and the workspace is root's.
        let mut child = plan
            .command(Bed::argv(&["outside-root"]))
            .spawn()
            .map_err(|error| error.to_string())?;
        let privileges = child.enforcement().control("privileges").cloned();
        child.wait().map_err(|error| error.to_string())?;
        let declared = privileges.is_some_and(
            |control| matches!(control.enforced, Enforced::Partial(gap) if gap.contains("root")),
        );
        must(declared, "the report does not say that the command is root")?;
    }
    std::os::unix::fs::chown(&bed.workspace, Some(NOBODY), Some(NOBODY)).unwrap();
    bed.denied(&["outside-root"])
}

fn owner(bed: &Bed) -> Verdict {
    std::os::unix::fs::chown(&bed.workspace, Some(NOBODY), Some(NOBODY)).unwrap();
    // A file that root alone may read, in a directory that is opened.
    let private = bed.outside.join("private");
    std::fs::write(&private, "").unwrap();
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&bed.outside, Some(0), Some(0)).unwrap();
    let plan = bed.plan(&bed.policy().read(text(&bed.outside)))?;
    bed.control(&["read", &bed.out("private")])?;
    bed.denied_by(&plan, &["read", &bed.out("private")])?;
    must(
        !bed.possible_outside(&["is-user-alone", &NOBODY.to_string()]),
        "the control shows nothing",
    )?;
    bed.allowed_by(&plan, &["is-user-alone", &NOBODY.to_string()])?;
    bed.allowed_by(&plan, &["create", &bed.inside("made")])?;
    let made = std::fs::metadata(bed.workspace.join("made")).unwrap();
    must(
        (made.uid(), made.gid()) == (NOBODY, NOBODY),
        "what it makes is not the owner's",
    )?;
    if Ground::here() != Ground::NoUsers {
        return Ok(());
    }
    // There the first process has those of the machine.
    let status = bed
        .plan(&bed.policy().allow("cat"))?
        .command(["cat", "/proc/1/status"])
        .output()
        .map_err(|error| error.to_string())?;
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    must(
        status.contains("CapPrm:\t00000000002815ef")
            && status.contains("CapEff:\t00000000002815ef"),
        &format!("the first process keeps more than it needs: {status}"),
    )
}

fn no_new_privileges(bed: &Bed) -> Verdict {
    // An ordinary user has to give them up to be refused namespaces.
    if is_root() || Ground::here() == Ground::All {
        bed.control(&["may-gain-privileges"])?;
    }
    bed.denied(&["may-gain-privileges"])?;
    bed.only_outside(&["unfiltered"])?;
    // Without namespaces, an ordinary user's command has no set to empty.
    if is_root() || Ground::here() != Ground::Nothing {
        bed.only_outside(&["bounded-capabilities"])?;
    }
    if !bed.has_namespaces_for("mounts") {
        return Ok(());
    }
    let plan = bed.plan(&bed.policy().allow("cat"))?;
    let mounts = plan
        .command(["cat", "/proc/self/mounts"])
        .output()
        .map_err(|error| error.to_string())?;
    let mounts = String::from_utf8_lossy(&mounts.stdout).into_owned();
    must(mounts.lines().count() > 5, "no mounts were seen")?;
    must(
        mounts.lines().all(|line| line.contains("nosuid")),
        "a mount honours set-user-id",
    )
}

/// Set-user-id, and with a capability of the file's, both allowed by name.
fn privileged_programs(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    use std::os::unix::process::CommandExt as _;

    std::os::unix::fs::chown(&bed.workspace, Some(NOBODY), Some(NOBODY)).unwrap();
    for directory in bed.outside.ancestors().take(2) {
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    for (name, mode) in [("user", 0o4755), ("capability", 0o755)] {
        let program = bed.outside.join(name);
        std::fs::copy(Bed::program(), &program).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(mode)).unwrap();
        if name == "capability" {
            give_capability(&program).map_err(|error| error.to_string())?;
        }
        let control = Command::new(&program)
            .args(["--attempt", "gained"])
            .current_dir("/")
            .uid(NOBODY)
            .gid(NOBODY)
            .status();
        must(
            control.is_ok_and(|status| status.success()),
            &format!("the control shows nothing: {name}"),
        )?;
        let plan = bed.plan(&bed.policy().allow(text(&program)))?;
        let argv = [program.as_os_str(), "--attempt".as_ref(), "gained".as_ref()];
        let started = plan.command(argv).stderr(Stdio::null()).spawn();
        let outcome = match started.and_then(|mut child| Ok(child.wait()?)) {
            // What the file wants and cannot have is no start where the mount
            // honours it.
            Err(SpawnError::Exec { .. }) if name == "capability" => continue,
            ended => ended.map_err(|error| error.to_string())?,
        };
        must(
            outcome.exit_code() == 1,
            &format!("{name}: {:?}", outcome.ending),
        )?;
    }
    Ok(())
}

fn namespaces(bed: &Bed) -> Verdict {
    let kinds = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        0x80, // CLONE_NEWTIME
    ]
    .map(|kind| kind.to_string());
    let attempts = kinds
        .iter()
        .map(|kind| vec!["new-namespace", kind.as_str()])
        .chain([vec!["clone-namespace"]]);
    let mut possible = 0;
    for attempt in attempts {
        possible += u32::from(bed.possible_outside(&attempt));
        bed.denied(&attempt)?;
    }
    // An ordinary user may make none by itself where none of users can be made.
    let may = is_root() || Ground::here() == Ground::All;
    must(possible > 0 || !may, "the control shows nothing")?;
    // clone3 says that it does not exist, so that libraries fall back.
    bed.denied(&["call", &libc::SYS_clone3.to_string(), "0", "0"])
}

/// Calls that are closed, each made with arguments that mean nothing. Outside,
/// the kernel reaches the point of complaining about them, for root at least.
fn closed(bed: &Bed, calls: &[(libc::c_long, &[u64])], least: (usize, usize)) -> Verdict {
    let mut reached = 0;
    for (call, arguments) in calls {
        let words: Vec<String> = std::iter::once(call.to_string())
            .chain(arguments.iter().map(u64::to_string))
            .collect();
        let mut attempt = vec!["reach-call"];
        attempt.extend(words.iter().map(String::as_str));
        reached += usize::from(bed.possible_outside(&attempt));
        bed.denied(&attempt)?;
    }
    let (root, user) = least;
    let least = if is_root() { root } else { user };
    must(
        reached >= least,
        &format!("the control shows nothing: {reached} calls are open outside"),
    )
}

/// A descriptor that is none, an address where nothing lies, flags that no call
/// knows.
const NO_FD: u64 = u64::MAX;
const NOWHERE: u64 = 1;
const NO_FLAGS: u64 = 0x4000_0000;

fn mounts(bed: &Bed) -> Verdict {
    let calls: &[(libc::c_long, &[u64])] = &[
        (libc::SYS_mount, &[NOWHERE, NOWHERE, NOWHERE]),
        (libc::SYS_umount2, &[NOWHERE]),
        (libc::SYS_pivot_root, &[NOWHERE, NOWHERE]),
        (libc::SYS_chroot, &[NOWHERE]),
        (libc::SYS_open_tree, &[NO_FD, NOWHERE]),
        (OPEN_TREE_ATTR, &[NO_FD, NOWHERE]),
        (libc::SYS_move_mount, &[NO_FD, NOWHERE, NO_FD, NOWHERE]),
        (libc::SYS_fsopen, &[NOWHERE]),
        (libc::SYS_fsconfig, &[NO_FD]),
        (libc::SYS_fsmount, &[NO_FD]),
        (libc::SYS_fspick, &[NO_FD, NOWHERE]),
        (libc::SYS_mount_setattr, &[NO_FD, NOWHERE]),
        (libc::SYS_setns, &[NO_FD]),
    ];
    closed(bed, calls, (8, 2))
}

/// `open_tree_attr`, which libc does not name everywhere.
const OPEN_TREE_ATTR: libc::c_long = 467;

fn handles(bed: &Bed) -> Verdict {
    let calls: &[(libc::c_long, &[u64])] = &[
        (libc::SYS_open_by_handle_at, &[NO_FD, NOWHERE]),
        (
            libc::SYS_name_to_handle_at,
            &[NO_FD, NOWHERE, NOWHERE, NOWHERE],
        ),
    ];
    closed(bed, calls, (2, 1))
}

fn interfaces(bed: &Bed) -> Verdict {
    // Asks for the number of the session keyring; makes nothing.
    let keyring = [
        "call",
        &libc::SYS_keyctl.to_string(),
        "0",
        "18446744073709551613",
        "0",
    ];
    bed.only_outside(&keyring)?;
    bed.possible_outside(&["io-uring"]);
    bed.denied(&["io-uring"])?;
    // Only asks for the current value.
    let personality = libc::SYS_personality.to_string();
    bed.only_outside(&["call", &personality, "4194304"])?;
    let calls: &[(libc::c_long, &[u64])] = &[
        (libc::SYS_bpf, &[NO_FLAGS, NOWHERE, 8]),
        (libc::SYS_perf_event_open, &[NOWHERE]),
        (libc::SYS_userfaultfd, &[NO_FLAGS]),
        (libc::SYS_add_key, &[NOWHERE, NOWHERE, NOWHERE, 1]),
        (libc::SYS_request_key, &[NOWHERE]),
        (libc::SYS_kexec_load, &[0, 0, 0, NO_FLAGS]),
        (libc::SYS_init_module, &[NOWHERE, 1, NOWHERE]),
        (libc::SYS_finit_module, &[NO_FD, NOWHERE, NO_FLAGS]),
        (libc::SYS_delete_module, &[NOWHERE]),
        (libc::SYS_swapon, &[NOWHERE]),
        (libc::SYS_swapoff, &[NOWHERE]),
        (libc::SYS_acct, &[NOWHERE]),
        (libc::SYS_quotactl, &[0, NOWHERE]),
        (libc::SYS_syslog, &[NO_FLAGS]),
        (libc::SYS_reboot, &[0, 0, 0]),
        (libc::SYS_settimeofday, &[NOWHERE, 0]),
        (libc::SYS_clock_settime, &[NO_FLAGS, NOWHERE]),
        (libc::SYS_fanotify_init, &[NO_FLAGS]),
        (libc::SYS_process_vm_readv, &[0, 0, 0, 0, 0, NO_FLAGS]),
        (libc::SYS_process_vm_writev, &[0, 0, 0, 0, 0, NO_FLAGS]),
        (libc::SYS_process_madvise, &[NO_FD]),
        (libc::SYS_pidfd_getfd, &[NO_FD]),
        (libc::SYS_kcmp, &[NO_FD, NO_FD]),
        (libc::SYS_memfd_secret, &[NO_FLAGS]),
        (libc::SYS_io_uring_enter, &[NO_FD]),
        (libc::SYS_io_uring_register, &[NO_FD]),
        (libc::SYS_quotactl_fd, &[NO_FD]),
        (libc::SYS_clock_adjtime, &[0, NOWHERE]),
        (libc::SYS_adjtimex, &[NOWHERE]),
        (libc::SYS_openat2, &[NO_FD, NOWHERE, NOWHERE, 1]),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_kexec_file_load, &[NO_FD, NO_FD, 0, 0, NO_FLAGS]),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_iopl, &[4]),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_ioperm, &[u64::MAX, 1, 1]),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_modify_ldt, &[0, 0, 0]),
    ];
    closed(bed, calls, (18, 10))
}

fn architectures(bed: &Bed) -> Verdict {
    #[cfg(target_arch = "x86_64")]
    {
        let plan = bed.plan(&bed.policy())?;
        // getpid, execve, socketcall and socket as programs of 32 bits number
        // them. Kernels can be built without it; then there is nothing to close.
        for call in ["20", "11", "102", "359"] {
            bed.possible_outside(&["call-32-bit", call]);
            let outcome = bed.run(&plan, &["call-32-bit", call])?;
            let killed = outcome.ending == katachi_sandbox::Ending::Signal(libc::SIGSYS);
            must(killed, &format!("{:?}", outcome.ending))?;
            must(outcome.violations.len() == 1, "the kill was not reported")?;
        }
        bed.denied(&["call-x32"])?;
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bed;
    Ok(())
}

fn descriptors(bed: &Bed) -> Verdict {
    let open = |place: &std::path::Path| std::fs::File::open(place).unwrap();
    let file = open(&bed.outside.join("secret"));
    let fd = keep_open(&file).to_string();
    bed.control(&["descriptor", &fd])?;
    let again = open(&bed.outside.join("secret"));
    bed.denied(&["descriptor", &keep_open(&again).to_string()])?;
    // A way to a directory, somebody who listens, a pipe, and one far away.
    let directory = open(&bed.outside);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (pipe, _kept) = std::io::pipe().unwrap();
    let far = raw::call(libc::SYS_dup3, &[keep_open(&file) as u64, 900, 0]).unwrap();
    let epoll = raw::call(libc::SYS_epoll_create1, &[0]).unwrap();
    for fd in [
        keep_open(&directory),
        keep_open(&listener),
        keep_open(&pipe),
        far as i32,
        epoll as i32,
    ] {
        bed.only_outside(&["is-open", &fd.to_string()])?;
    }
    let plan = bed.plan(&bed.policy())?;
    for fd in 3..20 {
        bed.denied_by(&plan, &["is-open", &fd.to_string()])?;
    }
    bed.allowed_by(&plan, &["is-open", "2"])
}

/// What holds secrets, and what makes programs load and run something.
const VARIABLES: &[&str] = &[
    "AWS_SECRET_ACCESS_KEY",
    "GITHUB_TOKEN",
    "SSH_AUTH_SOCK",
    "KUBECONFIG",
    "DBUS_SESSION_BUS_ADDRESS",
    "GIT_SSH_COMMAND",
    "GIT_DIR",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LD_AUDIT",
    "GCONV_PATH",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "NODE_OPTIONS",
    "BASH_ENV",
    "ENV",
    "PERL5OPT",
    "RUSTC_WRAPPER",
    "PAGER",
    "HTTPS_PROXY",
];

fn environment(bed: &Bed) -> Verdict {
    for name in VARIABLES {
        raw::set_variable(name, "katachi");
    }
    let plan = bed.plan(&bed.policy())?;
    for name in VARIABLES {
        bed.control(&["variable", name])?;
        bed.denied_by(&plan, &["variable", name])?;
    }
    let name = VARIABLES[0];
    let plan = bed.plan(&bed.policy().pass_env(name))?;
    bed.allowed_by(&plan, &["variable", name])?;
    bed.denied_by(&plan, &["variable", VARIABLES[1]])
}

/// Starts a sandbox from a place that forbids it, and looks at what is said.
fn refused_with(bed: &Bed, mut place: Command, wanted: &str) -> Verdict {
    let output = place.current_dir(&bed.workspace).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    must(
        said.contains("tier none") && said.contains("start refused") && said.contains(wanted),
        &format!("{said}\n{}", String::from_utf8_lossy(&output.stderr)),
    )?;
    must(
        !bed.workspace.join("started").exists(),
        "the command ran unconfined",
    )
}

/// The same program, where nothing forbids it.
fn starts_elsewhere(bed: &Bed) -> Verdict {
    bed.control(&["start-sandbox"])?;
    must(
        bed.workspace.join("started").exists(),
        "the control shows nothing",
    )?;
    std::fs::remove_file(bed.workspace.join("started")).unwrap();
    Ok(())
}

/// This program as root of a user namespace in which no other can be made,
/// and, with no `left`, without any capability there.
fn forbidding_system(left: &str) -> Command {
    let mut place = Command::new("unshare");
    let forbid = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && exec {left} \"$0\" --attempt start-sandbox"
    );
    place.args(["--user", "--map-root-user", "sh", "-c", &forbid]);
    place.arg(Bed::program());
    place
}

fn forbidden_by_system(bed: &Bed) -> Verdict {
    bed.shows(Seen::RefusedStarted);
    starts_elsewhere(bed)?;
    let nobody = "setpriv --bounding-set=-all";
    refused_with(bed, forbidding_system(nobody), "max_user_namespaces")
}

fn root_where_forbidden(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    starts_elsewhere(bed)?;
    let output = forbidding_system("")
        .current_dir(&bed.workspace)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    must(
        said.contains("tier namespaces") && said.contains("user namespaces are forbidden here"),
        &format!("{said}\n{}", String::from_utf8_lossy(&output.stderr)),
    )?;
    must(
        bed.workspace.join("started").exists(),
        "the command did not run",
    )
}

fn forbidden_by_container(bed: &Bed) -> Verdict {
    bed.shows(Seen::RefusedStarted);
    starts_elsewhere(bed)?;
    let mut place = Command::new(Bed::program());
    place.args(["--attempt", "start-sandbox-without-namespaces"]);
    refused_with(bed, place, "allow unprivileged user namespaces")
}
