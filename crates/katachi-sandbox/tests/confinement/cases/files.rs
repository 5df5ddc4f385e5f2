//! Reading and writing what no rule names.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::process::Stdio;

use katachi_sandbox::Policy;

use super::{Case, ROOT};
use crate::bed::{Bed, Verdict, must, text};
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "files outside cannot be read",
        run: read_outside,
        needs: &[],
    },
    Case {
        name: "a link in the workspace does not lead outside",
        run: read_through_link,
        needs: &[],
    },
    Case {
        name: "proc offers no way to the outside",
        run: read_through_proc,
        needs: &[],
    },
    Case {
        name: "a link made at run time does not lead outside",
        run: write_through_new_link,
        needs: &[],
    },
    Case {
        name: "a link swapped in while a file is written does not lead outside",
        run: flipped_link,
        needs: &[],
    },
    Case {
        name: "no name crosses the border of the workspace",
        run: new_hard_link,
        needs: &[],
    },
    Case {
        name: "mode, times and attributes outside stay as they are",
        run: metadata,
        needs: &[],
    },
    Case {
        name: "files outside cannot be truncated",
        run: truncate,
        needs: &[],
    },
    Case {
        name: "the workspace can be read and written",
        run: workspace_works,
        needs: &[],
    },
    Case {
        name: "denied files in the workspace are hidden",
        run: denied_files,
        needs: &[],
    },
    Case {
        name: "nothing above a denied or read-only place is moved away",
        run: moved_parents,
        needs: &[],
    },
    Case {
        name: "what is for reading in a writable directory stays as it is",
        run: read_only_inside,
        needs: &[],
    },
    Case {
        name: "a named pipe outside is not written",
        run: pipe_outside,
        needs: &[],
    },
    Case {
        name: "a policy that allows what it denies is refused",
        run: contradiction,
        needs: &[],
    },
    Case {
        name: "a workspace replaced after planning is refused",
        run: replaced_workspace,
        needs: &[],
    },
    Case {
        name: "a working directory outside is refused",
        run: foreign_directory,
        needs: &[],
    },
    Case {
        name: "a workspace that no rule opens is not entered",
        run: unopened_workspace,
        needs: &[],
    },
    Case {
        name: "no device can be made",
        run: device,
        needs: &[],
    },
    Case {
        name: "a device in the workspace is not opened",
        run: existing_device,
        needs: &[ROOT],
    },
    Case {
        name: "no file becomes set-user-id",
        run: set_user_id,
        needs: &[],
    },
    Case {
        name: "kernel settings cannot be changed",
        run: kernel_settings,
        needs: &[],
    },
    Case {
        name: "dev holds no dangerous device",
        run: devices,
        needs: &[],
    },
    Case {
        name: "temporary files of others are not seen",
        run: temporary,
        needs: &[],
    },
    Case {
        name: "what runs on the host is not seen",
        run: run_directory,
        needs: &[],
    },
    Case {
        name: "a policy cannot open the whole machine",
        run: too_wide,
        needs: &[],
    },
    Case {
        name: "a policy in the workspace is read once",
        run: policy_inside,
        needs: &[],
    },
    Case {
        name: "a mistake is told with its rule and what to write instead",
        run: mistakes,
        needs: &["git"],
    },
];

fn read_outside(bed: &Bed) -> Verdict {
    bed.only_outside(&["read", &bed.out("secret")])?;
    bed.only_outside(&["list", &bed.out("")])
}

fn read_through_link(bed: &Bed) -> Verdict {
    symlink(&bed.outside, bed.workspace.join("link")).unwrap();
    bed.only_outside(&["read", &bed.inside("link/secret")])
}

fn read_through_proc(bed: &Bed) -> Verdict {
    for process in ["self", "1"] {
        let path = format!("/proc/{process}/root{}", bed.out("secret"));
        if process == "self" {
            bed.control(&["read", &path])?;
        }
        bed.denied(&["read", &path])?;
    }
    let up = "/proc/self/cwd/../outside/secret";
    bed.control(&["read", up])?;
    bed.denied(&["read", up])
}

fn write_through_new_link(bed: &Bed) -> Verdict {
    bed.control(&["write-through-link", &bed.out(""), &bed.inside("control")])?;
    must(
        bed.outside.join("new").exists(),
        "the control wrote nothing",
    )?;
    std::fs::remove_file(bed.outside.join("new")).unwrap();
    bed.denied(&["write-through-link", &bed.out(""), &bed.inside("link")])?;
    must(!bed.outside.join("new").exists(), "a file appeared outside")
}

fn flipped_link(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let long = std::env::var_os("KATACHI_LONG").is_some_and(|long| long == "1");
    let times = if long { "20000" } else { "1000" };
    let flipping = |name: &str| {
        let (place, out) = (bed.inside(name), bed.out(""));
        [
            "write-while-flipping".to_owned(),
            place,
            out,
            times.to_owned(),
        ]
    };
    let escaped = || bed.outside.join("new").exists();
    // On a busy machine the two threads may not meet at once.
    let met = (0..20).any(|round| {
        let attempt = flipping(&format!("control{round}"));
        bed.possible_outside(&attempt.each_ref().map(String::as_str)) && escaped()
    });
    must(met, "the control never met the link")?;
    std::fs::remove_file(bed.outside.join("new")).unwrap();
    let plan = bed.plan(&bed.policy())?;
    // It works where the name is a directory.
    let worked = (0..20).any(|round| {
        let attempt = flipping(&format!("inside{round}"));
        bed.possible_in(&plan, &attempt.each_ref().map(String::as_str)) && !escaped()
    });
    must(!escaped(), "a file appeared outside")?;
    must(worked, "nothing was written, which shows nothing")
}

fn new_hard_link(bed: &Bed) -> Verdict {
    std::fs::write(bed.workspace.join("own"), "").unwrap();
    let (victim, own) = (bed.out("victim"), bed.inside("own"));
    let moves = [
        ["hard-link", &victim, &bed.inside("linked")],
        ["rename", &victim, &bed.inside("moved")],
        ["rename", &own, &bed.out("moved")],
        ["hard-link", &own, &bed.out("linked")],
    ];
    // Not even where the other side can be seen.
    let seen = bed.plan(&bed.policy().read(bed.out("")))?;
    for [how, from, to] in moves {
        bed.denied(&[how, from, to])?;
        bed.denied_by(&seen, &[how, from, to])?;
    }
    for [how, from, to] in moves {
        bed.control(&[how, from, to])?;
        match how {
            "rename" => std::fs::rename(to, from).unwrap(),
            _ => std::fs::remove_file(to).unwrap(),
        }
    }
    Ok(())
}

fn metadata(bed: &Bed) -> Verdict {
    let read = bed.policy().read(bed.out(""));
    let plan = bed.plan(&read)?;
    for attempt in ["mode", "owner", "times", "attribute"] {
        let control = bed.possible_outside(&[attempt, &bed.out("secret")]);
        must(
            control || attempt == "attribute",
            "the control shows nothing",
        )?;
        bed.denied_by(&plan, &[attempt, &bed.out("victim")])?;
        bed.denied(&[attempt, &bed.out("victim")])?;
    }
    bed.allowed_by(&plan, &["read", &bed.out("victim")])
}

fn truncate(bed: &Bed) -> Verdict {
    let plan = bed.plan(&bed.policy().read(bed.out("")))?;
    for attempt in ["truncate", "truncate-by-name"] {
        bed.control(&[attempt, &bed.out("secret")])?;
        bed.denied_by(&plan, &[attempt, &bed.out("victim")])?;
        bed.denied(&[attempt, &bed.out("victim")])?;
    }
    let content = std::fs::read_to_string(bed.outside.join("victim")).unwrap();
    must(content == "victim", "the file outside was cut")
}

fn workspace_works(bed: &Bed) -> Verdict {
    std::fs::write(bed.workspace.join("old"), "x").unwrap();
    let plan = bed.plan(&bed.policy())?;
    bed.allowed_by(&plan, &["read", &bed.inside("old")])?;
    bed.allowed_by(&plan, &["append", &bed.inside("old")])?;
    bed.allowed_by(&plan, &["create", &bed.inside("new")])?;
    bed.allowed_by(&plan, &["rename", &bed.inside("new"), &bed.inside("newer")])?;
    bed.allowed_in_namespaces(&plan, &["create", "/tmp/private"])?;
    bed.allowed_by(&plan, &["open-write", "/dev/null"])?;
    let owner = std::fs::metadata(bed.workspace.join("newer"))
        .unwrap()
        .uid();
    must(
        owner == std::fs::metadata(&bed.workspace).unwrap().uid(),
        "the new file has another owner",
    )
}

fn denied_files(bed: &Bed) -> Verdict {
    std::fs::create_dir_all(bed.workspace.join("deep/er")).unwrap();
    std::fs::create_dir_all(bed.workspace.join("private")).unwrap();
    for name in [".env", "deep/er/.env", "private/key"] {
        std::fs::write(bed.workspace.join(name), "secret").unwrap();
    }
    let plan = bed.plan(&bed.policy().deny("**/.env").deny("private"))?;
    // The plan says so.
    let shown = plan.to_string();
    for name in [".env", "deep/er/.env", "private"] {
        let place = bed.inside(name);
        let mut lines = shown.lines().map(str::split_whitespace);
        must(
            lines.any(|mut words| words.next() == Some("hidden") && words.next() == Some(&place)),
            &format!("{name} is not among what is hidden: {shown}"),
        )?;
    }
    for name in [".env", "deep/er/.env", "private/key"] {
        bed.control(&["read", &bed.inside(name)])?;
        bed.denied_by(&plan, &["read", &bed.inside(name)])?;
        bed.denied_by(&plan, &["append", &bed.inside(name)])?;
    }
    bed.denied_by(&plan, &["mode", &bed.inside(".env")])?;
    bed.denied_by(
        &plan,
        &["rename", &bed.inside(".env"), &bed.inside("visible")],
    )
}

/// What a rule names would lie under another name for the next command, and
/// something else under the name that the rule has.
fn moved_parents(bed: &Bed) -> Verdict {
    for directory in ["a/b", "c/d", "e/f/g"] {
        std::fs::create_dir_all(bed.workspace.join(directory)).unwrap();
    }
    for name in ["a/b/key", "c/d/kept", "e/f/g/.env"] {
        std::fs::write(bed.workspace.join(name), "secret").unwrap();
    }
    let policy = bed.policy().deny("a/b/key").read("c/d/kept");
    let plan = bed.plan(&policy.deny("e/f/**/.env"))?;
    for (from, to) in [
        ("a", "away"),
        ("a/b", "a/away"),
        ("c", "away"),
        ("c/d", "c/away"),
        ("e", "away"),
        ("e/f", "e/away"),
    ] {
        let (from, to) = (bed.inside(from), bed.inside(to));
        bed.control(&["rename", &from, &to])?;
        bed.control(&["rename", &to, &from])?;
        bed.denied_by(&plan, &["rename", &from, &to])?;
    }
    // What is denied and not seen anyway does not come into view.
    let beside = bed.plan(&bed.policy().deny(bed.out("victim")))?;
    bed.control(&["read", &bed.out("secret")])?;
    bed.denied_by(&beside, &["read", &bed.out("secret")])?;
    // A glob finds its matches again, wherever they lie below its beginning.
    bed.allowed_in_namespaces(
        &plan,
        &["rename", &bed.inside("e/f/g"), &bed.inside("e/f/h")],
    )
}

fn read_only_inside(bed: &Bed) -> Verdict {
    let (kept, file) = (bed.workspace.join("kept/deep"), bed.inside("alone"));
    std::fs::create_dir_all(&kept).unwrap();
    std::fs::write(kept.join("file"), "x").unwrap();
    std::fs::write(&file, "x").unwrap();
    std::fs::write(bed.workspace.join("own"), "x").unwrap();
    let (below, own) = (bed.inside("kept/deep/file"), bed.inside("own"));
    let plan = bed.plan(&bed.policy().read("kept").read("alone"))?;
    let attempts: &[&[&str]] = &[
        &["append", &below],
        &["append", &file],
        &["truncate", &below],
        &["truncate-by-name", &file],
        &["mode", &below],
        &["owner", &below],
        &["times", &below],
        &["hard-link", &below, &bed.inside("linked")],
        &["hard-link", &own, &bed.inside("kept/linked")],
        &["create", &bed.inside("kept/deep/new")],
        &["make-directory", &bed.inside("kept/new")],
        &["rename", &own, &bed.inside("kept/moved")],
    ];
    for attempt in attempts {
        bed.denied_by(&plan, attempt)?;
    }
    // Another file in its place is another file for the next plan.
    bed.denied_by(&plan, &["rename", &own, &file])?;
    bed.denied_by(&plan, &["rename", &bed.inside("kept"), &bed.inside("away")])?;
    bed.allowed_by(&plan, &["read", &below])?;
    bed.allowed_by(&plan, &["read", &file])?;
    bed.allowed_by(&plan, &["append", &own])?;
    attempts.iter().try_for_each(|attempt| bed.control(attempt))
}

/// The kernel lets them be written on read-only mounts.
fn pipe_outside(bed: &Bed) -> Verdict {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let place = bed.out("pipe");
    bed.control(&["make-pipe", &place])?;
    let mut reader = std::fs::File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&place)
        .unwrap();
    let mut heard = || reader.read(&mut [0; 8]).is_ok_and(|count| count > 0);
    bed.control(&["write-pipe", &place])?;
    must(heard(), "the control shows nothing")?;
    symlink(&place, bed.workspace.join("link")).unwrap();
    let seen = bed.plan(&bed.policy().read(bed.out("")))?;
    for name in [&place, &bed.inside("link")] {
        bed.denied(&["write-pipe", name])?;
        bed.denied_by(&seen, &["write-pipe", name])?;
    }
    must(!heard(), "somebody wrote")?;
    // Nor one for reading alone in a directory that can be written.
    std::fs::create_dir_all(bed.workspace.join("kept/deep")).unwrap();
    let kept = bed.inside("kept/deep/pipe");
    std::fs::rename(&place, &kept).unwrap();
    bed.denied_by(
        &bed.plan(&bed.policy().read("kept"))?,
        &["write-pipe", &kept],
    )?;
    must(!heard(), "somebody wrote")?;
    bed.allowed_by(&bed.plan(&bed.policy())?, &["write-pipe", &kept])
}

fn contradiction(bed: &Bed) -> Verdict {
    std::fs::create_dir(bed.workspace.join("kept")).unwrap();
    let error = bed
        .plan(&bed.policy().write("kept/").deny("kept"))
        .err()
        .ok_or("it was accepted")?;
    must(
        error.contains("filesystem.deny") && error.contains("filesystem.write"),
        &error,
    )
}

fn replaced_workspace(bed: &Bed) -> Verdict {
    bed.shows(Seen::RefusedStarted);
    let plan = bed.plan(&bed.policy())?;
    bed.allowed_by(&plan, &["create", &bed.inside("before")])?;
    std::fs::rename(&bed.workspace, bed.outside.join("moved")).unwrap();
    symlink(&bed.outside, &bed.workspace).unwrap();
    let swapped = bed
        .run(&plan, &["create", &bed.inside("through-link")])
        .err();
    must(
        swapped.is_some_and(|error| error.contains("make the plan again")),
        "a link was followed",
    )?;
    std::fs::remove_file(&bed.workspace).unwrap();
    std::fs::create_dir(&bed.workspace).unwrap();
    let fresh = bed.run(&plan, &["create", &bed.inside("in-another")]).err();
    must(
        fresh.is_some_and(|error| error.contains("make the plan again")),
        "another directory was used",
    )
}

fn foreign_directory(bed: &Bed) -> Verdict {
    bed.shows(Seen::RefusedStarted);
    let plan = bed.plan(&bed.policy())?;
    symlink(&bed.outside, bed.workspace.join("link")).unwrap();
    // A model chooses where its commands start.
    let places = [bed.out(""), bed.inside("link"), bed.inside("../outside")];
    for place in places
        .iter()
        .map(String::as_str)
        .chain(["link", "../outside"])
    {
        let error = plan
            .command(Bed::argv(&["create", "here"]))
            .current_dir(place)
            .stderr(Stdio::null())
            .spawn()
            .err()
            .ok_or_else(|| format!("it started in {place}"))?;
        must(
            error.to_string().contains("does not open"),
            &error.to_string(),
        )?;
    }
    must(!bed.outside.join("here").exists(), "it had its effect")
}

fn device(bed: &Bed) -> Verdict {
    // Only root can make one outside.
    bed.possible_outside(&["device", &bed.out("device")]);
    bed.denied(&["device", &bed.inside("device")])
}

/// Made by root, in a directory that a command can write.
fn existing_device(bed: &Bed) -> Verdict {
    let device = bed.inside("device");
    bed.control(&["device", &device, "null"])?;
    std::fs::set_permissions(&device, std::fs::Permissions::from_mode(0o666)).unwrap();
    for attempt in ["read", "append"] {
        // Some file systems open none, whoever asks.
        let shown = bed.possible_outside(&[attempt, &device]);
        must(shown, "the control shows nothing")?;
        bed.denied(&[attempt, &device])?;
    }
    Ok(())
}

fn set_user_id(bed: &Bed) -> Verdict {
    for name in ["one", "two"] {
        std::fs::write(bed.workspace.join(name), "").unwrap();
    }
    bed.control(&["set-user-id", &bed.inside("one")])?;
    bed.denied(&["set-user-id", &bed.inside("two")])?;
    bed.control(&["create-set-user-id", &bed.inside("three")])?;
    bed.denied(&["create-set-user-id", &bed.inside("four")])
}

fn kernel_settings(bed: &Bed) -> Verdict {
    let as_root = std::fs::metadata(&bed.workspace).unwrap().uid() == 0;
    for path in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/kernel/hostname",
        "/proc/1/oom_score_adj",
    ] {
        if as_root {
            bed.control(&["open-write", path])?;
        }
        bed.denied(&["open-write", path])?;
    }
    // Not every kernel has it, and opening it does nothing.
    for path in ["/proc/sysrq-trigger", "/sys/kernel/uevent_helper"] {
        bed.possible_outside(&["open-write", path]);
        bed.denied(&["open-write", path])?;
    }
    bed.denied(&["make-directory", "/sys/fs/cgroup/katachi"])?;
    // What tells about the machine, its keys and other users.
    let mut told = 0;
    for name in ["keys", "key-users", "kallsyms", "kcore", "timer_list"] {
        let path = format!("/proc/{name}");
        told += u32::from(bed.possible_outside(&["read-start", &path]));
        bed.denied(&["read-start", &path])?;
    }
    must(told >= 2, "the control shows nothing")?;
    bed.only_outside(&["list", "/sys"])
}

fn devices(bed: &Bed) -> Verdict {
    let harmless = ["/dev/ptmx", "/dev/kmsg", "/dev/fuse", "/dev/kvm"];
    let open = harmless
        .iter()
        .filter(|path| bed.possible_outside(&["open-write", path]));
    let as_root = std::fs::metadata(&bed.workspace).unwrap().uid() == 0;
    must(
        open.count() > usize::from(as_root),
        "the control shows nothing",
    )?;
    for path in [
        "/dev/kmsg",
        "/dev/mem",
        "/dev/vda",
        "/dev/sda",
        "/dev/fuse",
        "/dev/kvm",
        "/dev/ptmx",
        "/dev/pts/0",
    ] {
        bed.denied(&["open-write", path])?;
    }
    Ok(())
}

fn temporary(bed: &Bed) -> Verdict {
    let file = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    bed.only_outside(&["read", &text(file.path())])?;
    if let Ok(shared) = tempfile::NamedTempFile::new_in("/dev/shm") {
        bed.only_outside(&["read", &text(shared.path())])?;
    }
    Ok(())
}

/// Sockets of container engines, of the session's bus, of agents for keys.
fn run_directory(bed: &Bed) -> Verdict {
    let holds = |directory: &&str| std::fs::read_dir(directory).is_ok_and(|list| list.count() > 0);
    let directories: Vec<&str> = ["/run", "/var/run"].into_iter().filter(holds).collect();
    must(!directories.is_empty(), "nothing to list")?;
    directories
        .iter()
        .try_for_each(|directory| bed.only_outside(&["list", directory]))
}

/// A command that writes itself another policy has the one it started with,
/// and so has the next command of the plan.
fn policy_inside(bed: &Bed) -> Verdict {
    let place = bed.workspace.join("policy.toml");
    std::fs::write(&place, bed.policy().to_toml()).unwrap();
    let read = || {
        let written = std::fs::read_to_string(&place).unwrap();
        Policy::from_toml(&written, "policy.toml").map_err(|error| error.to_string())
    };
    let plan = bed.plan(&read()?)?;
    let wider = bed.policy().read(bed.out("")).to_toml();
    bed.allowed_by(&plan, &["write-text", &text(&place), &wider])?;
    bed.denied_by(&plan, &["read", &bed.out("secret")])?;
    // Read again it opens more, which is why nothing does that.
    bed.allowed_by(&bed.plan(&read()?)?, &["read", &bed.out("secret")])
}

fn mistakes(bed: &Bed) -> Verdict {
    std::fs::write(bed.workspace.join("notes"), "").unwrap();
    let policy = || bed.policy();
    let near = format!("write {:?}", bed.inside("notes"));
    let mistakes: &[(Policy, &[&str])] = &[
        (
            policy().read("note"),
            &["filesystem.read = \"note\"", &near],
        ),
        (
            policy().write("no/where"),
            &[
                "filesystem.write = \"no/where\"",
                "does not exist",
                "mkdir -p",
            ],
        ),
        (
            policy().read("*.txt"),
            &["filesystem.read", "patterns are for filesystem.deny"],
        ),
        (
            policy().allow("gti"),
            &["commands.allow = \"gti\"", "write \"git\""],
        ),
        (policy().allow("@systen"), &["@systen", "write \"@system\""]),
        (
            policy().ask(["gti", "push"]),
            &["commands.ask", "write \"git\""],
        ),
        (
            policy().exec_from("/srv"),
            &["filesystem.exec_from", "add the directory to one of them"],
        ),
        (policy().pass_env("A=B"), &["env.pass = \"A=B\"", "such as"]),
    ];
    for (policy, words) in mistakes {
        let error = bed.plan(policy).err();
        let error = error.ok_or_else(|| format!("it was planned: {words:?}"))?;
        must(
            words.iter().all(|word| error.contains(word)),
            &format!("{words:?} is not in: {error}"),
        )?;
    }
    Ok(())
}

fn too_wide(bed: &Bed) -> Verdict {
    for path in [
        "/",
        "/etc",
        "/proc",
        "/sys",
        "/dev",
        "/run",
        "/tmp",
        "/home",
        "/proc/self",
    ] {
        must(bed.plan(&bed.policy().read(path)).is_err(), path)?;
        must(bed.plan(&bed.policy().write(path)).is_err(), path)?;
    }
    for path in ["/usr", "/usr/bin", "/boot", "/etc/ssl"] {
        must(bed.plan(&bed.policy().write(path)).is_err(), path)?;
    }
    Ok(())
}

/// The workspace lies below the private `/tmp`, where it does not exist.
fn unopened_workspace(bed: &Bed) -> Verdict {
    let secret = bed.inside("secret");
    std::fs::write(&secret, "secret").unwrap();
    bed.control(&["read", &secret])?;
    let mut policy = bed.policy();
    policy.filesystem.write.clear();
    let plan = bed.plan(&policy)?;
    bed.denied_by(&plan, &["read", &secret])?;
    let output = plan
        .command(Bed::argv(&["directory"]))
        .output()
        .map_err(|error| error.to_string())?;
    must(output.stdout == b"/\n", "it started somewhere else")?;
    // A directory below it is open, so the way there exists.
    std::fs::create_dir(bed.workspace.join("open")).unwrap();
    let plan = bed.plan(&policy.write("open"))?;
    let output = plan
        .command(Bed::argv(&["directory"]))
        .output()
        .map_err(|error| error.to_string())?;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    must(shown.trim_end() == text(&bed.workspace), &shown)?;
    bed.denied_by(&plan, &["read", &secret])
}
