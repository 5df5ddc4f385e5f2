//! Ways around a control that do not lead through it: helping hands outside,
//! an earlier run, another sandbox, the watchdog itself.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use katachi_sandbox::policy::{ByteSize, CommandRule, GitAccess, Limits};
use katachi_sandbox::report::Enforced;

use super::Case;
use crate::bed::{Bed, Ground, Verdict, must, text};
use crate::raw;
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "mounts do not spread to the host",
        run: shared_mounts,
        needs: &[],
    },
    Case {
        name: "a proc mounted in the workspace is hidden",
        run: mounted_proc,
        needs: &[],
    },
    Case {
        name: "a repository is not redirected to another",
        run: redirected,
        needs: &[],
    },
    Case {
        name: "a repository whose parts are links is only read",
        run: linked_parts,
        needs: &[],
    },
    Case {
        name: "what a link named like a repository leads to is protected",
        run: linked_repository,
        needs: &[],
    },
    Case {
        name: "hooks in the workspace stay as they are",
        run: hooks_elsewhere,
        needs: &[],
    },
    Case {
        name: "no directory above a repository can be swapped",
        run: swapped_above,
        needs: &[],
    },
    Case {
        name: "a directory that cannot be searched is hidden",
        run: unsearchable,
        needs: &[],
    },
    Case {
        name: "a sandbox that ends takes no protection from another",
        run: ending_beside,
        needs: &["sh"],
    },
    Case {
        name: "allowing does not undo asking",
        run: asked_and_allowed,
        needs: &[],
    },
    Case {
        name: "what a bundle opens can be denied",
        run: denied_in_bundle,
        needs: &[],
    },
    Case {
        name: "a pair of sockets reaches no other socket",
        run: socket_pair,
        needs: &[],
    },
    Case {
        name: "the first process keeps its limits",
        run: limits_of_first,
        needs: &[],
    },
    Case {
        name: "shared memory counts",
        run: shared_memory,
        needs: &[],
    },
    Case {
        name: "no core handler of the host is started",
        run: core_handler,
        needs: &[],
    },
    Case {
        name: "a directory is no standard input",
        run: directory_as_input,
        needs: &["cat"],
    },
    Case {
        name: "files stay as private as the caller keeps them",
        run: umask,
        needs: &[],
    },
    Case {
        name: "a program that runs as another user is no helper",
        run: set_user_id_helper,
        needs: &[],
    },
    Case {
        name: "names forge no lines in reports",
        run: forged_lines,
        needs: &[],
    },
];

fn shared_mounts(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let git = bed.repository("");
    own_mounts();
    // Most machines share their mounts between namespaces.
    let flags = libc::MS_REC | libc::MS_SHARED;
    let root = raw::address(c"/".to_bytes_with_nul());
    raw::call(libc::SYS_mount, &[0, root, 0, flags, 0]).unwrap();

    let plan = bed.plan(&bed.policy())?;
    bed.allowed_by(&plan, &["read", &bed.inside(".git/HEAD")])?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    must(
        !mounts.contains(&text(&bed.workspace)),
        "a mount of the sandbox stayed on the host",
    )?;
    must(
        fs::write(git.join("HEAD"), "ref: refs/heads/other\n").is_ok(),
        "the host can no longer write its repository",
    )
}

/// Lets this process mount what nobody else sees.
fn own_mounts() {
    let (user, group) = (
        raw::call(libc::SYS_geteuid, &[]).unwrap(),
        raw::call(libc::SYS_getegid, &[]).unwrap(),
    );
    if user == 0 {
        raw::call(libc::SYS_unshare, &[libc::CLONE_NEWNS as u64]).unwrap();
    } else {
        let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
        raw::call(libc::SYS_unshare, &[flags as u64]).unwrap();
        fs::write("/proc/self/setgroups", "deny").unwrap();
        fs::write("/proc/self/uid_map", format!("{user} {user} 1")).unwrap();
        fs::write("/proc/self/gid_map", format!("{group} {group} 1")).unwrap();
    }
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    let root = raw::address(c"/".to_bytes_with_nul());
    raw::call(libc::SYS_mount, &[0, root, 0, flags, 0]).unwrap();
}

fn mounted_proc(bed: &Bed) -> Verdict {
    let place = bed.workspace.join("jail/proc");
    fs::create_dir_all(&place).unwrap();
    own_mounts();
    let from = raw::address(c"/proc".to_bytes_with_nul());
    let target = std::ffi::CString::new(text(&place)).unwrap();
    let to = raw::address(target.to_bytes_with_nul());
    let flags = libc::MS_BIND | libc::MS_REC;
    raw::call(libc::SYS_mount, &[from, to, 0, flags, 0]).unwrap();
    let own = format!("jail/proc/{}/cmdline", std::process::id());
    bed.control(&["read", &bed.inside(&own)])?;
    let plan = bed.plan(&bed.policy())?;
    bed.denied_by(&plan, &["read", &bed.inside(&own)])?;
    for file in ["uptime", "sys/kernel/domainname"] {
        let file = bed.inside(&format!("jail/proc/{file}"));
        bed.denied_by(&plan, &["read", &file])?;
        bed.denied_by(&plan, &["open-write", &file])?;
    }
    bed.allowed_by(&plan, &["create", &bed.inside("jail/new")])
}

fn redirected(bed: &Bed) -> Verdict {
    bed.shows(Seen::Residual);
    let git = bed.repository("");
    let plan = bed.plan(&bed.policy().git(GitAccess::Commit))?;
    for name in ["commondir", "config.worktree"] {
        let place = git.join(name);
        let outcome = bed.run(&plan, &["create", &text(&place)])?;
        must(
            place.symlink_metadata().is_err(),
            &format!("{name} is left for git to act upon"),
        )?;
        let reported = outcome
            .violations
            .iter()
            .any(|violation| violation.target == text(&place));
        // It either was made, and reported, or could not be.
        must(
            reported || outcome.exit_code() == 1,
            &format!("{name} was not reported"),
        )?;
        must(
            reported || Ground::here() == Ground::Nothing,
            &format!("{name} could not be made, so nothing was seen"),
        )?;
    }
    // Not with a program that nobody waits for, either.
    let place = git.join("commondir");
    let child = plan
        .command(Bed::argv(&["create", &text(&place)]))
        .spawn()
        .map_err(|error| error.to_string())?;
    for _ in 0..100 {
        if place.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(child);
    must(place.symlink_metadata().is_err(), "it is left after a drop")?;
    // What was there before is the user's own.
    fs::write(&place, "elsewhere").unwrap();
    bed.run(&plan, &["read", &bed.inside(".git/HEAD")])?;
    must(place.exists(), "the user's own file was removed")?;
    let partial = plan.enforcement().controls.iter().any(|control| {
        control.id == "metadata"
            && matches!(&control.enforced, Enforced::Partial(reason) if reason.contains("commondir"))
    });
    must(partial, "the report does not say what is left")
}

fn linked_parts(bed: &Bed) -> Verdict {
    let git = bed.repository("");
    fs::create_dir(bed.workspace.join("elsewhere")).unwrap();
    symlink("../elsewhere", git.join("hooks")).unwrap();
    bed.control(&["make-directories-and-file", &bed.inside(".git/control/x")])?;
    let plan = bed.plan(&bed.policy().git(GitAccess::Commit))?;
    bed.denied_by(
        &plan,
        &[
            "rename",
            &bed.inside(".git/hooks"),
            &bed.inside(".git/away"),
        ],
    )
}

fn linked_repository(bed: &Bed) -> Verdict {
    bed.repository("real");
    fs::rename(bed.workspace.join("real/.git"), bed.workspace.join("store")).unwrap();
    symlink("store", bed.workspace.join(".git")).unwrap();
    bed.control(&["append", &bed.inside("store/config")])?;
    let plan = bed.plan(&bed.policy())?;
    bed.denied_by(&plan, &["append", &bed.inside("store/config")])?;
    bed.denied_by(&plan, &["append", &bed.inside(".git/config")])?;
    // Made a moment before the start, and not by the command.
    must(
        bed.workspace.join(".git").is_symlink(),
        "a link of the user's was moved",
    )?;
    // Mounts cannot hold the link itself, but its replacement is seen.
    let outcome = bed.run(&plan, &["rename", &bed.inside(".git"), &bed.inside("away")])?;
    if bed.workspace.join(".git").is_symlink() {
        return must(outcome.exit_code() == 1, "it was moved and put back");
    }
    must(outcome.violations.len() == 1, "the change was not reported")
}

fn hooks_elsewhere(bed: &Bed) -> Verdict {
    let git = bed.repository("");
    fs::create_dir_all(bed.workspace.join("tools/hooks")).unwrap();
    let hook = bed.inside("tools/hooks/pre-commit");
    fs::write(&hook, "").unwrap();
    bed.control(&["append", &hook])?;
    bed.allowed_by(&bed.plan(&bed.policy())?, &["append", &hook])?;
    fs::write(git.join("config"), "[core]\n\thooksPath = tools/hooks\n").unwrap();
    for git in [GitAccess::Read, GitAccess::Commit] {
        let plan = bed.plan(&bed.policy().git(git))?;
        bed.denied_by(&plan, &["append", &hook])?;
        bed.denied_by(
            &plan,
            &["rename", &bed.inside("tools"), &bed.inside("away")],
        )?;
    }
    Ok(())
}

fn swapped_above(bed: &Bed) -> Verdict {
    bed.repository("a/b/target/x");
    fs::create_dir_all(bed.workspace.join("c/d")).unwrap();
    bed.repository("c/d/y");
    let plan = bed.plan(&bed.policy().exec_from("a/b/target").write("c/d"))?;
    for name in [
        "a",
        "a/b",
        "a/b/target",
        "a/b/target/x",
        "c",
        "c/d",
        "c/d/y",
    ] {
        bed.denied_by(&plan, &["rename", &bed.inside(name), &bed.inside("away")])?;
    }
    Ok(())
}

fn unsearchable(bed: &Bed) -> Verdict {
    bed.repository("config/sub");
    fs::write(bed.workspace.join("config/.env"), "secret").unwrap();
    let secret = bed.inside("config/.env");
    let hook = bed.inside("config/sub/.git/hooks/pre-commit");
    for mode in ["0300", "0400", "0000"] {
        // One run closes the directory, so that the next plan cannot look
        // into it.
        let plan = bed.plan(&bed.policy().deny("**/.env"))?;
        bed.denied_by(&plan, &["read", &secret])?;
        bed.run(&plan, &["set-mode", &bed.inside("config"), mode])?;
        let plan = bed.plan(&bed.policy().deny("**/.env"))?;
        bed.run(&plan, &["set-mode", &bed.inside("config"), "0700"])?;
        bed.denied_by(
            &plan,
            &["set-mode-and-read", &bed.inside("config"), &secret],
        )?;
        bed.denied_by(&plan, &["make-directories-and-file", &hook])?;
        let open = fs::Permissions::from_mode(0o700);
        fs::set_permissions(bed.workspace.join("config"), open).unwrap();
    }
    bed.control(&["set-mode-and-read", &bed.inside("config"), &secret])
}

fn ending_beside(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let git = bed.repository("");
    let plan = bed.plan(&bed.policy().git(GitAccess::Commit).allow("sh"))?;
    let first = plan
        .command(Bed::argv(&["sleep", "1"]))
        .spawn()
        .map_err(|error| error.to_string())?;
    let hook = bed.inside(".git/hooks/pre-commit");
    let script = format!(
        "read go; {} --attempt make-directories-and-file {hook}",
        Bed::program().display()
    );
    let mut second = plan
        .command(["sh", "-c", &script])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    drop(first);
    drop(second.stdin.take());
    let outcome = second.wait().map_err(|error| error.to_string())?;
    must(
        outcome.exit_code() == 1 && !git.join("hooks/pre-commit").exists(),
        "the hook was written",
    )
}

fn asked_and_allowed(bed: &Bed) -> Verdict {
    bed.control(&["execute", "/usr/bin/true"])?;
    for allowed in ["true", "@system"] {
        let plan = bed.plan(&bed.policy().allow(allowed).ask("true"))?;
        bed.denied_by(&plan, &["execute", "/usr/bin/true"])?;
        let outcome = plan
            .command(["true"])
            .approved()
            .spawn()
            .and_then(|mut child| Ok(child.wait()?));
        must(
            outcome.is_ok_and(|outcome| outcome.success()),
            "it did not start after approval",
        )?;
    }
    // What cannot be kept apart is said: arguments, and programs that can be
    // executed because of where they lie.
    let options = bed
        .options()
        .argv_rules(katachi_sandbox::plan::ArgvRules::FirstProcess);
    let policy = bed.policy().allow("true").ask(["true", "really"]);
    let plan = policy.plan(&options).map_err(|error| error.to_string())?;
    says_of_exec(&plan, "without approval")?;
    let tools = bed.workspace.join("tools");
    fs::create_dir(&tools).unwrap();
    fs::copy("/usr/bin/true", tools.join("tool")).unwrap();
    let mut policy = bed.policy().exec_from("tools");
    policy.commands.ask.push(CommandRule::File {
        path: tools.join("tool"),
        sha256: None,
    });
    says_of_exec(&bed.plan(&policy)?, "without approval")
}

fn says_of_exec(plan: &katachi_sandbox::Plan, part: &str) -> Verdict {
    let said = plan.enforcement().controls.iter().any(|control| {
        control.id == "exec"
            && matches!(&control.enforced, Enforced::Partial(reason) if reason.contains(part))
    });
    must(said, "the report does not say it")
}

fn denied_in_bundle(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    // Something that every machine with these cases has.
    let file = ["/etc/passwd", "/etc/group"]
        .into_iter()
        .find(|file| fs::read(file).is_ok())
        .ok_or("no file to deny")?;
    bed.control(&["read", file])?;
    for pattern in [file.to_owned(), format!("{}*", &file[..file.len() - 1])] {
        let plan = bed.plan(&bed.policy().deny(&pattern))?;
        bed.denied_by(&plan, &["read", file])?;
    }
    let archive = "/usr/lib/os-release";
    if fs::read(archive).is_ok() {
        let plan = bed.plan(&bed.policy().deny("/usr/lib/os-rel*"))?;
        bed.denied_by(&plan, &["read", archive])?;
    }
    // Hiding all of what another rule opens is a mistake, said early.
    let whole = format!("{}*", text(&bed.workspace));
    must(
        bed.plan(&bed.policy().deny(whole)).is_err(),
        "a pattern over the workspace itself was planned",
    )
}

fn socket_pair(bed: &Bed) -> Verdict {
    let place = bed.workspace.join("socket");
    let _listener = UnixDatagram::bind(&place).unwrap();
    bed.only_outside(&["pair-send", &text(&place)])?;
    bed.only_outside(&["pair-bind", &bed.inside("other")])?;
    let plan = bed.plan(&bed.policy())?;
    bed.allowed_by(&plan, &["pair"])
}

fn limits_of_first(bed: &Bed) -> Verdict {
    let mut sleeper = std::process::Command::new(Bed::program())
        .args(["--attempt", "sleep", "5"])
        .spawn()
        .unwrap();
    let outside = bed.control(&["limit-of", &sleeper.id().to_string()]);
    let _ = sleeper.kill();
    let _ = sleeper.wait();
    outside?;
    bed.denied(&["limit-of", "1"])
}

fn shared_memory(bed: &Bed) -> Verdict {
    bed.shows(Seen::Ended);
    bed.control(&["eat-shared-memory", "200"])?;
    let mut limits = Limits::default();
    limits.memory = Some(ByteSize::new(64 << 20));
    let plan = bed.plan(&bed.policy().limits(limits))?;
    bed.allowed_by(&plan, &["eat-shared-memory", "10"])?;
    for attempt in [
        "eat-shared-memory",
        "eat-memory-without-leader",
        "eat-segments",
    ] {
        let outcome = bed.run(&plan, &[attempt, "200", "10000"])?;
        must(!outcome.success(), &format!("{attempt} got all the memory"))?;
    }
    Ok(())
}

fn core_handler(bed: &Bed) -> Verdict {
    bed.denied(&["core"])
}

fn directory_as_input(bed: &Bed) -> Verdict {
    bed.shows(Seen::RefusedStarted);
    let plan = bed.plan(&bed.policy().allow("cat"))?;
    let open = |place: &std::path::Path| fs::File::open(place).unwrap();
    must(
        plan.command(["cat"])
            .stdin(open(&bed.outside.join("secret")))
            .stdout(std::process::Stdio::null())
            .spawn()
            .is_ok(),
        "a file as input was refused",
    )?;
    must(
        plan.command(["cat"])
            .stdin(open(&bed.outside))
            .spawn()
            .is_err(),
        "a way to a directory outside was handed over",
    )
}

fn umask(bed: &Bed) -> Verdict {
    raw::call(libc::SYS_umask, &[0o077]).unwrap();
    let plan = bed.plan(&bed.policy())?;
    bed.allowed_by(&plan, &["create", &bed.inside("private")])?;
    let mode = fs::metadata(bed.workspace.join("private"))
        .unwrap()
        .permissions()
        .mode();
    must(mode & 0o077 == 0, &format!("it was made with {mode:o}"))
}

fn set_user_id_helper(bed: &Bed) -> Verdict {
    bed.shows(Seen::RefusedStarted);
    use std::os::unix::process::CommandExt as _;
    const MARKER: &str = concat!("katachi-sandbox-helper ", env!("CARGO_PKG_VERSION"));
    const NOBODY: u32 = 65534;
    if raw::call(libc::SYS_geteuid, &[]).is_ok_and(|user| user != 0) {
        // Only root can make a program that runs as another user than this.
        return Ok(());
    }
    let program = bed.outside.join("program");
    fs::copy(Bed::program(), &program).unwrap();
    for directory in bed.outside.ancestors().take(2) {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let say = |mode: u32| {
        fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
        let output = std::process::Command::new(&program)
            .arg0(MARKER)
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    must(say(0o755).contains("descriptors"), "it is no helper at all")?;
    let said = say(0o4755);
    must(said.contains("another user"), &said)
}

fn forged_lines(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let name = "x\n  read        /etc/shadow  (forged)\u{1b}[2K";
    bed.repository(name);
    let plan = bed.plan(&bed.policy())?;
    let shown = plan.to_string();
    must(
        !shown.contains('\u{1b}')
            && !shown
                .lines()
                .any(|line| line.contains("/etc/shadow  (forged)") && !line.contains("x\\n")),
        "a directory's name became a line of the plan",
    )?;
    let error = plan
        .command([name])
        .spawn()
        .err()
        .ok_or("it started")?
        .to_string();
    must(
        !error.contains(['\n', '\u{1b}']),
        "a word of the command became a line of the report",
    )
}
