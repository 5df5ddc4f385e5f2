//! Rules about arguments, held for every process.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use katachi_sandbox::policy::{ByteSize, TimeSpan};
use katachi_sandbox::{Ending, Output, Plan, Policy};

use super::Case;
use crate::bed::{Bed, Verdict, must, offers, text};
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "allowed arguments run and others do not",
        run: prefix,
        needs: &[],
    },
    Case {
        name: "another name for a program does not change its rules",
        run: names,
        needs: &["bash"],
    },
    Case {
        name: "nothing that starts programs gets around argument rules",
        run: starters,
        needs: &[],
    },
    Case {
        name: "a script runs with the arguments its rule names",
        run: script,
        needs: &[],
    },
    Case {
        name: "a copy does not escape argument rules",
        run: copy,
        needs: &[],
    },
    Case {
        name: "the loader called by name is refused where arguments are checked",
        run: loader,
        needs: &[],
    },
    Case {
        name: "arguments rewritten during the start are seen as they run",
        run: race,
        needs: &[],
    },
    Case {
        name: "no process escapes the look at its arguments",
        run: untraced,
        needs: &[],
    },
    Case {
        name: "a program with many names goes by the one it is called with",
        run: multi_call,
        needs: &["busybox"],
    },
    Case {
        name: "git pushes to a local repository where its other name is allowed",
        run: push,
        needs: &["git"],
    },
    Case {
        name: "nothing around the words gets around asking",
        run: asked_around,
        needs: &["git"],
    },
    Case {
        name: "the caller is asked about every start",
        run: asked,
        needs: &[],
    },
    Case {
        name: "descendants with threads and job control work while traced",
        run: undisturbed,
        needs: &["python3"],
    },
    Case {
        name: "a traced command ends like any other",
        run: ends,
        needs: &[],
    },
    Case {
        name: "an answer that never comes holds up nobody else",
        run: unanswered,
        needs: &[],
    },
];

fn output(plan: &Plan, argv: &[&str]) -> Result<Output, String> {
    plan.command(argv.iter().copied())
        .output()
        .map_err(|error| error.to_string())
}

/// `touch good` and nothing else of touch, beside a shell.
fn touching(bed: &Bed) -> Result<Plan, String> {
    bed.plan(&bed.policy().allow("sh").allow(["touch", "good"]))
}

fn exists(bed: &Bed, name: &str) -> bool {
    bed.workspace.join(name).exists()
}

fn reported(output: &Output, part: &str) -> Verdict {
    let violations = &output.outcome.violations;
    let found = violations.iter().any(|violation| {
        violation.control == "argv"
            && violation.target.contains(part)
            && violation.allow_with.is_some()
    });
    must(found, &format!("not reported: {part} in {violations:?}"))
}

fn prefix(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let plan = touching(bed)?;
    // As the command itself.
    must(
        output(&plan, &["touch", "good", "more"])?.outcome.success(),
        "the allowed form",
    )?;
    must(exists(bed, "more"), "it did nothing")?;
    let refused = plan
        .command(["touch", "bad"])
        .spawn()
        .err()
        .ok_or("it started")?;
    must(refused.denial().is_some(), "not a denial")?;
    // Started by another program.
    let seen = output(&plan, &["sh", "-c", "touch good two; exit $?"])?;
    must(
        seen.outcome.success() && exists(bed, "two"),
        "the allowed form from a shell",
    )?;
    must(seen.outcome.violations.is_empty(), "something was reported")?;
    let seen = output(&plan, &["sh", "-c", "touch bad; echo $?"])?;
    must(
        seen.stdout == b"137\n",
        &String::from_utf8_lossy(&seen.stdout),
    )?;
    must(!exists(bed, "bad"), "another argument had its effect")?;
    reported(&seen, "touch bad")?;
    // In place of the command itself.
    let seen = output(&plan, &["sh", "-c", "exec touch bad"])?;
    must(
        seen.outcome.ending == Ending::Signal(9),
        "it was not killed",
    )?;
    reported(&seen, "touch bad")
}

/// Every git of this machine: in one the other names are links to the same
/// file, in another links to a copy in git's own directory.
fn gits() -> Vec<PathBuf> {
    let places = ["/usr/local/bin", "/usr/bin"].map(PathBuf::from);
    let has_git = |place: &PathBuf| place.join("git").exists();
    places.into_iter().filter(has_git).collect()
}

/// Two repositories, one to push from and one to push to, with one git.
struct Remote {
    base: PathBuf,
    path: std::ffi::OsString,
    home: PathBuf,
}

impl Remote {
    fn new(bed: &Bed, place: &Path) -> Result<Self, String> {
        let name = place.display().to_string().replace('/', "-");
        let base = bed.workspace.join(name.trim_start_matches('-'));
        std::fs::create_dir(&base).unwrap();
        let places = [place, Path::new("/usr/bin"), Path::new("/bin")];
        let made = Self {
            base,
            path: std::env::join_paths(places).unwrap(),
            home: bed.outside.clone(),
        };
        let make = "git init -q -b main a && git init -q --bare b && cd a && \
                    git -c user.name=a -c user.email=a@example.com commit -q --allow-empty -m x";
        must(
            made.outside(&made.base, make, ""),
            "there is nothing to push",
        )?;
        Ok(made)
    }

    fn from(&self) -> PathBuf {
        self.base.join("a")
    }

    fn outside(&self, directory: &Path, script: &str, word: &str) -> bool {
        let ended = std::process::Command::new("sh")
            .args(["-c", script, "sh", word])
            .current_dir(directory)
            .env("PATH", &self.path)
            .env("HOME", &self.home)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .status();
        ended.is_ok_and(|status| status.success())
    }

    fn has(&self, branch: &str) -> bool {
        self.base.join("b/refs/heads").join(branch).exists()
    }

    /// Both repositories are the user's own.
    fn plan(&self, bed: &Bed, policy: &Policy) -> Result<Plan, String> {
        let policy = policy.clone().git(katachi_sandbox::policy::GitAccess::Full);
        let policy = policy.set_env("GIT_CONFIG_NOSYSTEM", "1");
        let options = bed.options().search_path(std::env::split_paths(&self.path));
        policy.plan(&options).map_err(|error| error.to_string())
    }
}

fn push(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    for place in gits() {
        push_with(bed, &place).map_err(|problem| format!("{}: {problem}", place.display()))?;
    }
    Ok(())
}

fn push_with(bed: &Bed, place: &Path) -> Verdict {
    let remote = Remote::new(bed, place)?;
    let usual = || bed.policy().allow("@system");
    let asking = || usual().allow("@git").ask(["git", "push"]);
    must(
        remote.outside(&remote.from(), "git push -q ../b main:control", "")
            && remote.has("control"),
        "the control shows nothing",
    )?;
    let push = |plan: &Plan, name: &str| {
        plan.command(["git", "push", "-q", "../b", &format!("main:{name}")])
            .current_dir(remote.from())
            .approved()
            .output()
            .map_err(|error| error.to_string())
    };
    let seen = push(&remote.plan(bed, &asking())?, "refused")?;
    must(
        !seen.outcome.success() && !remote.has("refused"),
        "another name ran",
    )?;
    let line = seen.outcome.violations.iter().any(|violation| {
        let line = violation.allow_with.as_deref().unwrap_or_default();
        violation.target.contains("git") && line.contains("\"git-receive-pack\"")
    });
    must(line, &format!("{:?}", seen.outcome.violations))?;
    let plan = remote.plan(bed, &asking().allow("git-receive-pack"))?;
    let seen = push(&plan, "allowed")?;
    must(
        seen.outcome.success() && remote.has("allowed"),
        &format!(
            "{:?} {}",
            seen.outcome,
            String::from_utf8_lossy(&seen.stderr)
        ),
    )?;
    let error = plan.command(["git", "push"]).spawn().err();
    must(
        error.is_some_and(|error| error.denial().is_some()),
        "it needs no approval",
    )?;
    // That name is not all of git.
    let plan = remote.plan(
        bed,
        &usual().allow(["git", "status"]).allow("git-receive-pack"),
    )?;
    for (script, works) in [("git status", true), ("git log", false)] {
        let seen = plan
            .command(["sh", "-c", script])
            .current_dir(remote.from())
            .output()
            .map_err(|error| error.to_string())?;
        must(
            seen.outcome.success() == works,
            &format!("{script}: {:?}", seen.outcome),
        )?;
    }
    let error = plan.command(["git", "log"]).spawn().err();
    must(
        error.is_some_and(|error| error.denial().is_some()),
        "all of git is allowed",
    )
}

fn asked_around(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let ways = [
        "git push -q ../b main:$1",
        "git -C . push -q ../b main:$1",
        "git --no-pager push -q ../b main:$1",
        "git -c x.y=z push -q ../b main:$1",
        "git -c alias.p=push p -q ../b main:$1",
        "git -c alias.p='!git push' p -q ../b main:$1",
        "$(git --exec-path)/git push -q ../b main:$1",
        "$(git --exec-path)/git -C . push -q ../b main:$1",
        "$(git --exec-path)/git-push -q ../b main:$1",
    ];
    for place in gits() {
        let remote = Remote::new(bed, &place)?;
        let policy = bed
            .policy()
            .allow("@git")
            .allow("@system")
            .allow("git-receive-pack")
            .ask(["git", "push"]);
        let plan = remote.plan(bed, &policy)?;
        for (index, way) in ways.into_iter().enumerate() {
            let (control, word) = (format!("control{index}"), format!("word{index}"));
            must(
                remote.outside(&remote.from(), way, &control) && remote.has(&control),
                &format!("the control shows nothing: {} {way}", place.display()),
            )?;
            let run = |answer: bool| {
                let asked = Arc::new(AtomicUsize::new(0));
                let count = asked.clone();
                plan.command(["sh", "-c", way, "sh", &word])
                    .current_dir(remote.from())
                    .ask_with(move |_| {
                        count.fetch_add(1, Ordering::Relaxed);
                        answer
                    })
                    .output()
                    .map(|output| (output, asked.load(Ordering::Relaxed)))
                    .map_err(|error| error.to_string())
            };
            let (seen, asked) = run(false)?;
            let denied = !seen.outcome.violations.is_empty();
            must(
                !remote.has(&word) && denied,
                &format!("{} {way}: asked {asked} times", place.display()),
            )?;
            // A name that no rule allows is not asked about.
            if way.contains("/git-push") {
                continue;
            }
            let (seen, asked) = run(true)?;
            must(
                remote.has(&word) && asked == 1,
                &format!(
                    "{} {way}: asked {asked} times, {:?} {}",
                    place.display(),
                    seen.outcome,
                    String::from_utf8_lossy(&seen.stderr)
                ),
            )?;
        }
        // The plan says so before anything starts.
        let words = ["git", "-C", ".", "push"];
        let answer = plan.explain(&katachi_sandbox::Query::Exec(
            words.iter().map(Into::into).collect(),
        ));
        must(!answer.allowed, &answer.to_string())?;
        must(
            plan.command(words)
                .spawn()
                .is_err_and(|error| error.denial().is_some()),
            "the command itself ran unasked",
        )?;
        // What has nothing of them is not asked about.
        let seen = plan
            .command(["git", "log", "--oneline"])
            .current_dir(remote.from())
            .ask_with(|_| false)
            .output()
            .map_err(|error| error.to_string())?;
        must(
            seen.outcome.success() && seen.outcome.violations.is_empty(),
            &format!("{:?}", seen.outcome),
        )?;
    }
    Ok(())
}

fn names(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let plan = bed.plan(&bed.policy().allow("bash").allow(["touch", "good"]))?;
    std::os::unix::fs::symlink("/usr/bin/touch", bed.workspace.join("link")).unwrap();
    for script in [
        "exec -a good touch bad",
        "exec -a good touch good bad",
        "exec -a touch touch bad good",
        "exec -a '' touch good bad",
        "./link good bad",
        "/usr/bin/touch -- good bad",
        "/proc/self/root/usr/bin/touch bad good",
        "touch 'good ' bad",
        // Another letter that looks the same.
        "touch g\u{43e}od bad",
        "touch $'good\\n' bad",
        "touch '' good bad",
        "touch --no-create good bad; touch bad",
    ] {
        let control = std::process::Command::new("bash")
            .args(["-c", script])
            .current_dir(&bed.workspace)
            .stderr(Stdio::null())
            .status();
        must(
            control.is_ok() && exists(bed, "bad"),
            &format!("the control shows nothing: {script}"),
        )?;
        std::fs::remove_file(bed.workspace.join("bad")).unwrap();
        output(&plan, &["bash", "-c", script])?;
        must(!exists(bed, "bad"), script)?;
    }
    // Directories before the name mean nothing.
    let seen = output(&plan, &["bash", "-c", "/usr/bin/touch good bad"])?;
    must(
        seen.outcome.success() && exists(bed, "bad"),
        "the allowed form by path",
    )
}

fn starters(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let touch = "/usr/bin/touch";
    let ways: &[(&str, &[&str])] = &[
        ("sh", &["-c", "touch bad"]),
        ("sh", &["-c", "(touch bad) & wait"]),
        ("sh", &["-c", "$(echo touch) bad"]),
        ("bash", &["-c", "`echo touch` bad"]),
        ("bash", &["-c", "touch good && touch bad || :"]),
        ("bash", &["-c", "touch good ;#\ntouch bad"]),
        ("bash", &["-c", "bash <<end\ncommand touch bad\nend"]),
        ("bash", &["-c", ". ./script"]),
        ("bash", &["-c", ": <(touch bad); wait $!"]),
        ("bash", &["-c", "cd /; cd \"$OLDPWD\"; eval 'tou''ch bad'"]),
        ("env", &[touch, "bad"]),
        ("xargs", &["-a", "names", touch]),
        ("find", &["names", "-exec", touch, "bad", ";"]),
        (
            "python3",
            &["-c", "import subprocess; subprocess.call(['touch', 'bad'])"],
        ),
        (
            "python3",
            &[
                "-c",
                "import os; os.execv('/usr/bin/touch', ['touch', 'bad'])",
            ],
        ),
    ];
    std::fs::write(bed.workspace.join("names"), "bad").unwrap();
    std::fs::write(bed.workspace.join("script"), "touch bad").unwrap();
    for (program, arguments) in ways {
        let path = ["/usr/bin", "/bin"]
            .map(|directory| Path::new(directory).join(program))
            .into_iter()
            .find(|path| path.exists());
        offers(path.is_some(), program)?;
        let Some(path) = path else { continue };
        let control = std::process::Command::new(&path)
            .args(*arguments)
            .current_dir(&bed.workspace)
            .status();
        must(
            control.is_ok() && exists(bed, "bad"),
            &format!("the control shows nothing: {program}"),
        )?;
        std::fs::remove_file(bed.workspace.join("bad")).unwrap();
        let plan = bed.plan(&bed.policy().allow(text(&path)).allow(["touch", "good"]))?;
        let mut argv = vec![path.to_str().unwrap()];
        argv.extend(*arguments);
        let seen = output(&plan, &argv)?;
        must(!exists(bed, "bad"), &format!("{program} {arguments:?}"))?;
        reported(&seen, "bad")?;
    }
    Ok(())
}

fn script(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    use std::os::unix::fs::PermissionsExt as _;

    let make = |name: &str, first: &str| {
        let place = bed.outside.join(name);
        std::fs::write(&place, format!("{first}\necho \"$1\" > said\n")).unwrap();
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755)).unwrap();
        text(&place)
    };
    for first in ["#!/bin/sh", "#!/bin/sh -e", "#!/usr/bin/env sh"] {
        let tool = make("tool", first);
        let plan = bed.plan(&bed.policy().allow([tool.as_str(), "good"]))?;
        let _ = std::fs::remove_file(bed.workspace.join("said"));
        bed.allowed_by(&plan, &["execute", &tool, "good"])?;
        must(exists(bed, "said"), first)?;
        std::fs::remove_file(bed.workspace.join("said")).unwrap();
        bed.denied_by(&plan, &["execute", &tool, "bad"])?;
        // The interpreter is there for the script alone.
        std::fs::write(bed.workspace.join("own"), "echo bad > said").unwrap();
        bed.denied_by(&plan, &["execute", "/bin/sh", &bed.inside("own")])?;
        bed.denied_by(&plan, &["execute", "/bin/sh", "-c", "echo bad > said"])?;
        must(!exists(bed, "said"), first)?;
    }
    // Where its interpreter is allowed anyway, this is said.
    let tool = make("tool", "#!/bin/sh");
    let plan = bed.plan(&bed.policy().allow("sh").allow([tool.as_str(), "good"]))?;
    bed.denied_by(&plan, &["execute", &tool, "bad"])?;
    let report = plan.enforcement().to_string();
    must(report.contains("can read the script"), &report)?;
    // What cannot be held is refused early.
    let tool = make("tool", "#!/usr/bin/env -S sh -e");
    let error = bed.plan(&bed.policy().allow([tool.as_str(), "good"])).err();
    must(
        error.is_some_and(|error| error.contains("more than a name")),
        "it was planned",
    )
}

fn copy(bed: &Bed) -> Verdict {
    let plan = touching(bed)?;
    let bad = bed.inside("bad");
    for place in [
        bed.inside("copy"),
        "/tmp/touch".into(),
        "/dev/shm/touch".into(),
    ] {
        bed.denied_by(&plan, &["execute-copy", "/usr/bin/touch", &place, &bad])?;
    }
    bed.denied_by(&plan, &["execute-memory", "/usr/bin/true", "0"])?;
    must(!exists(bed, "bad"), "a copy had its effect")?;
    // Where copies run, the report says so.
    std::fs::create_dir(bed.workspace.join("target")).unwrap();
    let plan = bed.plan(&bed.policy().exec_from("target").allow(["touch", "good"]))?;
    bed.allowed_by(
        &plan,
        &[
            "execute-copy",
            "/usr/bin/touch",
            &bed.inside("target/x"),
            &bad,
        ],
    )?;
    let report = plan.enforcement().to_string();
    must(report.contains("a copy of a program"), &report)
}

fn loader(bed: &Bed) -> Verdict {
    let loader = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let Some(loader) = loader else { return Ok(()) };
    let bad = bed.inside("bad");
    bed.control(&["execute", loader, "/usr/bin/touch", &bad])?;
    std::fs::remove_file(&bad).unwrap();
    let plan = touching(bed)?;
    bed.denied_by(&plan, &["execute", loader, "/usr/bin/touch", &bad])?;
    must(!exists(bed, "bad"), "it had its effect")?;
    // Not even to say what it is: nothing is run by it.
    bed.denied_by(&plan, &["execute", loader, "--version"])
}

fn race(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let (good, bad) = (bed.inside("good"), bed.inside("evil"));
    let long = std::env::var_os("KATACHI_LONG").is_some_and(|long| long == "1");
    let times = if long { "20000" } else { "400" };
    bed.control(&["execute-flipping", "/usr/bin/touch", &good, &bad, "400"])?;
    must(
        exists(bed, "good") && exists(bed, "evil"),
        "the control never met both",
    )?;
    std::fs::remove_file(&good).unwrap();
    std::fs::remove_file(&bad).unwrap();
    let plan = bed.plan(&bed.policy().allow(["touch", good.as_str()]))?;
    bed.run(
        &plan,
        &["execute-flipping", "/usr/bin/touch", &good, &bad, times],
    )?;
    must(
        exists(bed, "good"),
        "not one start was allowed, which shows nothing",
    )?;
    must(!exists(bed, "evil"), "other arguments ran than were seen")
}

fn untraced(bed: &Bed) -> Verdict {
    // Flags of clone: nobody traces the child; a thread of another group; a
    // child of the same parent; one that shares memory.
    let (bad, good) = (bed.inside("evil"), bed.inside("good"));
    let plan = bed.plan(&bed.policy().allow(["touch", good.as_str()]))?;
    for flags in [
        libc::CLONE_UNTRACED,
        libc::CLONE_PARENT,
        libc::CLONE_PTRACE,
        0,
    ] {
        let flags = flags.to_string();
        bed.control(&["execute-cloned", &flags, "/usr/bin/touch", &bad])?;
        must(exists(bed, "evil"), "the control shows nothing")?;
        std::fs::remove_file(&bad).unwrap();
        bed.run(&plan, &["execute-cloned", &flags, "/usr/bin/touch", &bad])?;
        must(!exists(bed, "evil"), &format!("flags {flags}"))?;
    }
    bed.run(&plan, &["execute-cloned", "0", "/usr/bin/touch", &good])?;
    must(exists(bed, "good"), "the allowed form")
}

fn multi_call(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let real = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .ok_or("no busybox")?;
    for name in ["echo", "touch"] {
        std::os::unix::fs::symlink(real, bed.outside.join(name)).unwrap();
    }
    let echo = bed.out("echo");
    let plan = bed.plan(&bed.policy().allow("bash").allow([echo.as_str(), "good"]))?;
    let seen = output(&plan, &["bash", "-c", &format!("{echo} good")])?;
    must(seen.stdout == b"good\n", "the allowed name")?;
    for script in [
        format!("{real} touch bad"),
        format!("exec -a touch {real} bad"),
        format!("exec -a touch {real} good bad"),
        format!("exec -a echo {real} bad"),
        format!("{} good bad", bed.out("touch")),
    ] {
        let has_effect = |said: &[u8]| {
            // One of them only says it.
            let made = std::fs::remove_file(bed.workspace.join("bad")).is_ok();
            made || said == b"bad\n"
        };
        let control = std::process::Command::new("bash")
            .args(["-c", &script])
            .current_dir(&bed.workspace)
            .output()
            .unwrap();
        must(
            has_effect(&control.stdout),
            &format!("the control shows nothing: {script}"),
        )?;
        let seen = output(&plan, &["bash", "-c", &script])?;
        must(!has_effect(&seen.stdout), &script)?;
    }
    Ok(())
}

fn asked(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let plan = bed.plan(
        &bed.policy()
            .allow("sh")
            .allow("touch")
            .ask(["touch", "asked"]),
    )?;
    let run = |script: &str, answer: bool| {
        let count = Arc::new(AtomicUsize::new(0));
        let (kept, wanted) = (count.clone(), bed.workspace.clone());
        let output = plan
            .command(["sh", "-c", script])
            .ask_with(move |question| {
                let right = question.program.ends_with("touch")
                    && question.argv.get(1).is_some_and(|word| word == "asked")
                    && question.rule.contains("commands.ask")
                    // It waits before its first instruction.
                    && !wanted.join("asked").exists();
                kept.fetch_add(1, Ordering::Relaxed);
                answer && right
            })
            .output()
            .map_err(|error| error.to_string())?;
        Ok::<_, String>((output, count.load(Ordering::Relaxed)))
    };
    let (seen, count) = run("touch unasked; touch asked; echo $?", false)?;
    must(
        count == 1 && seen.stdout == b"137\n",
        &format!("{count} {seen:?}"),
    )?;
    must(
        !exists(bed, "asked") && exists(bed, "unasked"),
        "refusing did nothing",
    )?;
    reported(&seen, "touch asked")?;
    let (seen, count) = run("touch asked; rm -f x; touch asked2; echo $?", true)?;
    must(
        count == 1 && exists(bed, "asked"),
        &format!("{count} {seen:?}"),
    )?;
    std::fs::remove_file(bed.workspace.join("asked")).unwrap();
    // Each start is asked about by itself, an approved command's too.
    let (_, count) = run("for i in 1 2 3; do touch asked; rm -f asked; done", true)?;
    must(count >= 2, "approval was taken for more than one start")?;
    let _ = std::fs::remove_file(bed.workspace.join("asked"));
    // Nobody to ask.
    let seen = output(&plan, &["sh", "-c", "touch asked"])?;
    must(!exists(bed, "asked"), "it ran unasked")?;
    reported(&seen, "touch asked")?;
    must(
        plan.command(["touch", "asked"])
            .spawn()
            .is_err_and(|error| error.denial().is_some()),
        "the command itself ran unasked",
    )?;
    let yes = plan.command(["touch", "asked"]).ask_with(|_| true).output();
    must(
        yes.is_ok_and(|output| output.outcome.success()) && exists(bed, "asked"),
        "approved and not run",
    )?;
    let no = plan
        .command(["touch", "asked"])
        .ask_with(|_| false)
        .output();
    must(
        no.is_err_and(|error| error.denial().is_some()),
        "refused and started",
    )
}

fn undisturbed(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let plan = bed.plan(
        &bed.policy()
            .allow("@python")
            .allow("sh")
            .allow(["touch", "good"]),
    )?;
    let script = "import os, signal, subprocess, threading, time\n\
        seen = []\n\
        ts = [threading.Thread(target=lambda: seen.append(1)) for _ in range(50)]\n\
        [t.start() for t in ts]; [t.join() for t in ts]\n\
        signal.signal(signal.SIGUSR1, lambda *a: seen.append(2))\n\
        os.kill(os.getpid(), signal.SIGUSR1)\n\
        p = subprocess.Popen(['sh', '-c', 'kill -STOP $$; exit 3'])\n\
        pid, status = os.waitpid(p.pid, os.WUNTRACED); assert os.WIFSTOPPED(status)\n\
        os.kill(p.pid, signal.SIGCONT)\n\
        pid, status = os.waitpid(p.pid, 0); assert os.WEXITSTATUS(status) == 3\n\
        outs = [subprocess.check_output(['sh', '-c', 'echo x | (read a; echo $a)']) for _ in range(20)]\n\
        assert outs == [b'x\\n'] * 20\n\
        def threaded(): subprocess.check_call(['touch', 'good'])\n\
        ts = [threading.Thread(target=threaded) for _ in range(8)]\n\
        [t.start() for t in ts]; [t.join() for t in ts]\n\
        assert seen.count(1) == 50 and seen.count(2) == 1\n\
        print('fine')";
    let seen = output(&plan, &["python3", "-c", script])?;
    must(
        seen.stdout == b"fine\n",
        &String::from_utf8_lossy(&seen.stderr),
    )?;
    // A thread that is not the first one becomes another program.
    let script = "import os, threading\n\
        threading.Thread(target=lambda: os.execv('/usr/bin/touch', ['touch', 'NAME'])).start()\n\
        threading.Event().wait()";
    output(&plan, &["python3", "-c", &script.replace("NAME", "bad")])?;
    must(!exists(bed, "bad"), "from a thread")?;
    std::fs::remove_file(bed.workspace.join("good")).unwrap();
    let seen = output(&plan, &["python3", "-c", &script.replace("NAME", "good")])?;
    must(
        seen.outcome.success() && exists(bed, "good"),
        "the allowed form from a thread",
    )
}

fn ends(bed: &Bed) -> Verdict {
    bed.shows(Seen::Ended);
    let policy = bed.policy().allow("sh").allow(["touch", "good"]);
    let plan = bed.plan(&policy)?;
    for (script, ending) in [
        ("exit 7", Ending::Code(7)),
        ("kill -TERM $$", Ending::Signal(15)),
    ] {
        let seen = output(&plan, &["sh", "-c", script])?;
        must(
            seen.outcome.ending == ending,
            &format!("{:?}", seen.outcome.ending),
        )?;
    }
    let mut limits = katachi_sandbox::policy::Limits::default();
    limits.processes = Some(40);
    limits.memory = Some(ByteSize::new(512 << 20));
    limits.wall_time = Some(TimeSpan::new(Duration::from_secs(2)));
    let bounded = bed.plan(&policy.limits(limits))?;
    let started = Instant::now();
    // It does nothing but start processes, each of which stops for the tracer.
    let outcome = bed.run(&bounded, &["fork-bomb"])?;
    let ended = matches!(
        outcome.ending,
        Ending::Code(1) | Ending::LimitExceeded(_) | Ending::TimedOut
    );
    must(
        ended && started.elapsed() < Duration::from_secs(20),
        &format!("{outcome:?}"),
    )?;
    let outcome = bed.run(&bounded, &["sleep", "60"])?;
    must(
        outcome.ending == Ending::TimedOut,
        &format!("{:?}", outcome.ending),
    )?;
    let child = plan
        .command(Bed::argv(&["survive", &bed.inside("beat")]))
        .spawn()
        .map_err(|error| error.to_string())?;
    let size = || std::fs::metadata(bed.workspace.join("beat")).map_or(0, |file| file.len());
    let started = Instant::now();
    while size() == 0 && started.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(5));
    }
    must(size() > 0, "a traced process did not begin")?;
    drop(child);
    let before = size();
    std::thread::sleep(Duration::from_millis(200));
    must(size() == before, "a traced process outlived the handle")
}

fn unanswered(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let plan = bed.plan(&bed.policy().allow("sh").ask(["touch", "asked"]))?;
    let (hold, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let mut child = plan
        .command(["sh", "-c", "touch asked & echo done > said; exit 0"])
        .ask_with(move |_| held.lock().unwrap().recv().is_ok())
        .spawn()
        .map_err(|error| error.to_string())?;
    let started = Instant::now();
    let outcome = child.wait().map_err(|error| error.to_string())?;
    must(
        outcome.success() && exists(bed, "said"),
        &format!("{outcome:?}"),
    )?;
    must(
        started.elapsed() < Duration::from_secs(5),
        "it waited for the answer",
    )?;
    drop(hold);
    must(!exists(bed, "asked"), "it ran without an answer")
}
