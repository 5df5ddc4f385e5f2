//! Time, memory, processes, disk, and what is left afterwards.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use katachi_sandbox::Ending;
use katachi_sandbox::policy::{ByteSize, Limits, TimeSpan};

use super::Case;
use crate::bed::{Bed, Ground, Verdict, in_time, must};
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "nothing outlives the command",
        run: survivors,
        needs: &[],
    },
    Case {
        name: "nothing outlives the handle",
        run: dropped,
        needs: &[],
    },
    Case {
        name: "a killed command ends at once",
        run: killed,
        needs: &[],
    },
    Case {
        name: "wall time ends the command",
        run: wall_time,
        needs: &[],
    },
    Case {
        name: "a fork bomb ends at its limit",
        run: fork_bomb,
        needs: &[],
    },
    Case {
        name: "a memory hog ends at its limit",
        run: memory,
        needs: &[],
    },
    Case {
        name: "open files end at their limit",
        run: open_files,
        needs: &[],
    },
    Case {
        name: "a file ends at its limit",
        run: file_size,
        needs: &[],
    },
    Case {
        name: "the private directories end at their limit",
        run: private_size,
        needs: &[],
    },
    Case {
        name: "the command's own exit code and signal come back",
        run: exit_codes,
        needs: &[],
    },
    Case {
        name: "a command has a terminal of its own",
        run: terminal,
        needs: &["bash", "stty", "tty"],
    },
    Case {
        name: "nothing is typed into a terminal from inside",
        run: typed,
        needs: &["bash"],
    },
    Case {
        name: "a command from a pool is confined like any other",
        run: pool,
        needs: &["sh", "touch"],
    },
    Case {
        name: "a waiting sandbox is used once and never out of date",
        run: pool_once,
        needs: &["sh"],
    },
    Case {
        name: "many sandboxes at once do not disturb each other",
        run: many,
        needs: &[],
    },
];

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

/// Whether the heartbeat goes on.
fn beats(bed: &Bed) -> bool {
    let size = || std::fs::metadata(bed.workspace.join("beat")).map_or(0, |file| file.len());
    let before = size();
    std::thread::sleep(Duration::from_millis(200));
    size() > before
}

fn survivors(bed: &Bed) -> Verdict {
    bed.shows(Seen::Ended);
    bed.control(&["survive", &bed.inside("beat")])?;
    must(beats(bed), "the control does not survive")?;
    // The control ends by itself once its file cannot be opened.
    let plan = bed.plan(&bed.policy())?;
    std::fs::remove_file(bed.workspace.join("beat")).unwrap();
    std::fs::create_dir(bed.workspace.join("beat")).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    std::fs::remove_dir(bed.workspace.join("beat")).unwrap();
    let other = bed.inside("other");
    let outcome = bed.run(&plan, &["survive", &other])?;
    must(
        outcome.success(),
        "the process that should stay did not start",
    )?;
    let size = std::fs::metadata(&other).unwrap().len();
    std::thread::sleep(Duration::from_millis(200));
    must(
        std::fs::metadata(&other).unwrap().len() == size,
        "a process outlived the command",
    )
}

fn dropped(bed: &Bed) -> Verdict {
    bed.shows(Seen::Ended);
    let plan = bed.plan(&bed.policy())?;
    let child = plan
        .command(["/bin/sh"])
        .spawn()
        .err()
        .map(|_| {
            plan.command(Bed::argv(&["sleep", "60"]))
                .stderr(Stdio::null())
                .spawn()
        })
        .ok_or("sh started although nothing allows it")?
        .map_err(|error| error.to_string())?;
    let started = Instant::now();
    drop(child);
    must(
        started.elapsed() < Duration::from_secs(2),
        "dropping took long",
    )?;
    let child = plan
        .command(Bed::argv(&["survive", &bed.inside("beat")]))
        .spawn()
        .map_err(|error| error.to_string())?;
    for _ in 0..100 {
        if bed.workspace.join("beat").exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(child);
    must(!beats(bed), "a process outlived the handle")?;
    // A crowd, each in a session of its own and deaf to signals.
    let mark = bed.inside("crowd");
    let child = plan
        .command(Bed::argv(&["crowd", "60", &mark]))
        .spawn()
        .map_err(|error| error.to_string())?;
    let started = Instant::now();
    while called(&mark) < 60 && started.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(5));
    }
    must(called(&mark) >= 60, "there is no crowd")?;
    drop(child);
    let left = called(&mark);
    must(left == 0, &format!("{left} outlived the handle"))
}

/// Processes of this machine that have a word among theirs.
fn called(word: &str) -> usize {
    let list = std::fs::read_dir("/proc").unwrap().flatten();
    list.filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0)
            .any(|known| known == word.as_bytes())
    })
    .count()
}

fn killed(bed: &Bed) -> Verdict {
    bed.shows(Seen::Ended);
    let plan = bed.plan(&bed.policy())?;
    let mut child = plan
        .command(Bed::argv(&["sleep", "60"]))
        .spawn()
        .map_err(|error| error.to_string())?;
    let killer = child.killer();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        killer.kill();
    });
    let outcome = child.wait().map_err(|error| error.to_string())?;
    thread.join().unwrap();
    must(
        outcome.ending == Ending::Killed,
        &format!("{:?}", outcome.ending),
    )?;
    must(outcome.time < Duration::from_secs(5), "it took long")
}

fn wall_time(bed: &Bed) -> Verdict {
    let time = TimeSpan::new(Duration::from_millis(300));
    let plan = bed.plan(
        &bed.policy()
            .limits(limits(|limits| limits.wall_time = Some(time))),
    )?;
    let outcome = bed.run(&plan, &["sleep", "60"])?;
    must(
        outcome.ending == Ending::TimedOut,
        &format!("{:?}", outcome.ending),
    )?;
    must(outcome.time < Duration::from_secs(5), "it took long")?;
    must(!outcome.violations.is_empty(), "nothing was reported")
}

fn fork_bomb(bed: &Bed) -> Verdict {
    bed.shows(Seen::Ended);
    let plan = bed.plan(&bed.policy().limits(limits(|limits| {
        limits.processes = Some(40);
        limits.wall_time = Some(TimeSpan::new(Duration::from_secs(20)));
    })))?;
    // Outside it goes past the limit, which stands far below what harms anybody.
    let count = |said: &[u8]| said.split(|byte| *byte == b'\n').count() - 1;
    let control = std::process::Command::new(Bed::program())
        .args(["--attempt", "fork-bomb", "60"])
        .output()
        .map_err(|error| error.to_string())?;
    must(count(&control.stdout) == 60, "the control shows nothing")?;
    // Meanwhile somebody outside starts processes and writes.
    let stop = AtomicBool::new(false);
    let (output, worked) = std::thread::scope(|scope| {
        let host = scope.spawn(|| host_works(bed, &stop));
        let output = plan.command(Bed::argv(&["fork-bomb"])).output();
        stop.store(true, Ordering::Relaxed);
        (output, host.join().unwrap_or(0))
    });
    let output = output.map_err(|error| error.to_string())?;
    let ending = output.outcome.ending;
    must(
        matches!(ending, Ending::Code(1) | Ending::LimitExceeded(_)),
        &format!("{ending:?}"),
    )?;
    // The kernel counts those of a user of the sandbox's own, and the limit leaves
    // room for its first two. Where there is none, who is looked at ten times a
    // second is seen a little later.
    let most = match Ground::here() {
        Ground::All => 42,
        Ground::NoUsers | Ground::Nothing => 20_000,
    };
    let made = count(&output.stdout);
    must(
        (20..=most).contains(&made),
        &format!("{made} processes were made"),
    )?;
    must(worked > 0, "the host could not work beside it")
}

/// Starts processes and writes files until it is told to stop, and says how often
/// that worked; zero if it ever did not.
fn host_works(bed: &Bed, stop: &AtomicBool) -> usize {
    let mut worked = 0;
    loop {
        let file = bed.outside.join(format!("work-{worked}"));
        let touched = std::process::Command::new("touch").arg(&file).status();
        let written = std::fs::write(&file, "work").and_then(|()| std::fs::read(&file));
        if !touched.is_ok_and(|status| status.success()) || written.is_err() {
            return 0;
        }
        worked += 1;
        if stop.load(Ordering::Relaxed) {
            return worked;
        }
    }
}

fn memory(bed: &Bed) -> Verdict {
    bed.shows(Seen::Ended);
    bed.control(&["eat-memory", "200"])?;
    let plan = bed.plan(&bed.policy().limits(limits(|limits| {
        limits.memory = Some(ByteSize::new(64 << 20));
    })))?;
    bed.allowed_by(&plan, &["eat-memory", "10"])?;
    let outcome = bed.run(&plan, &["eat-memory", "200"])?;
    must(!outcome.success(), "it got all the memory")?;
    // Many processes, each within the limit.
    let sum = bed.plan(&bed.policy().allow("sh").limits(limits(|limits| {
        limits.memory = Some(ByteSize::new(128 << 20));
    })))?;
    let program = Bed::program();
    let script = format!(
        "for i in 1 2 3; do {} --attempt eat-memory 70 30000 & done; wait; echo all",
        program.display()
    );
    let output = sum
        .command(["sh", "-c", &script])
        .output()
        .map_err(|error| error.to_string())?;
    let ending = output.outcome.ending;
    must(
        ending == Ending::LimitExceeded("memory".into()),
        &format!("{ending:?}"),
    )
}

fn open_files(bed: &Bed) -> Verdict {
    bed.control(&["open-many", "10000"])?;
    let plan = bed.plan(&bed.policy())?;
    bed.allowed_by(&plan, &["open-many", "4000"])?;
    bed.denied_by(&plan, &["open-many", "10000"])
}

fn file_size(bed: &Bed) -> Verdict {
    bed.shows(Seen::Ended);
    bed.control(&["fill", &bed.inside("control"), "64"])?;
    let plan = bed.plan(&bed.policy().limits(limits(|limits| {
        limits.disk = Some(ByteSize::new(1 << 20));
    })))?;
    let outcome = bed.run(&plan, &["fill", &bed.inside("large"), "64"])?;
    must(!outcome.success(), "the file grew past the limit")?;
    must(
        std::fs::metadata(bed.workspace.join("large"))
            .unwrap()
            .len()
            <= 1 << 20,
        "it is larger",
    )
}

fn private_size(bed: &Bed) -> Verdict {
    bed.shows(Seen::Ended);
    let plan = bed.plan(
        &bed.policy()
            .allow("sh")
            .allow("rm")
            .limits(limits(|limits| {
                limits.disk = Some(ByteSize::new(1 << 20));
            })),
    )?;
    // Twelve times 64 KiB, twice, against one MiB.
    let program = Bed::program();
    let fill = |place: &str| format!("{} --attempt fill {place} 12", program.display());
    let end = |script: String| {
        plan.command(["sh", "-c", &script])
            .output()
            .map(|output| output.outcome.exit_code())
            .map_err(|error| error.to_string())
    };
    let (one, other) = (fill("/tmp/a"), fill("/tmp/b"));
    // Each fits in by itself, and both fit in where one goes first.
    must(
        end(one.clone())? == 0,
        "less than the limit does not fit in",
    )?;
    must(
        end(format!("{one} && rm /tmp/a && {other}"))? == 0,
        "what was removed counts",
    )?;
    must(
        end(format!("{one} && {{ {other}; test $? = 1; }}"))? == 0,
        "more than the limit fitted in",
    )
}

fn exit_codes(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let plan = bed.plan(&bed.policy().allow("sh"))?;
    for (script, expected) in [
        ("exit 7", Ending::Code(7)),
        ("kill -TERM $$", Ending::Signal(15)),
    ] {
        let outcome = plan
            .command(["sh", "-c", script])
            .spawn()
            .and_then(|mut child| Ok(child.wait()?))
            .map_err(|error| error.to_string())?;
        must(outcome.ending == expected, &format!("{:?}", outcome.ending))?;
    }
    let output = plan
        .command(["sh", "-c", "echo out; echo err >&2"])
        .output()
        .map_err(|error| error.to_string())?;
    must(
        output.stdout == b"out\n" && output.stderr == b"err\n",
        "the output is different",
    )
}

fn many(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let plan = bed.plan(&bed.policy().allow("sh"))?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|index| {
                let plan = plan.clone();
                scope.spawn(move || {
                    (0..4).all(|_| {
                        let output = plan
                            .command(["sh", "-c", &format!("echo {index}")])
                            .output();
                        output.is_ok_and(|output| output.stdout == format!("{index}\n").as_bytes())
                    })
                })
            })
            .collect();
        let fine = threads.into_iter().all(|thread| thread.join().unwrap());
        must(fine, "a command did not end as it should")
    })
}

fn terminal(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    use std::io::{Read as _, Write as _};

    use katachi_sandbox::TerminalSize;

    let tools = ["@system", "bash", "tty", "stty"];
    let plan = bed.plan(
        &tools
            .into_iter()
            .fold(bed.policy(), |policy, tool| policy.allow(tool)),
    )?;
    let size = TerminalSize {
        rows: 30,
        columns: 99,
    };
    let script = "test -t 0 && test -t 1 && test -t 2 && tty && tty > /dev/tty && stty size && \
                  read line && echo got $line; trap 'echo resized; stty size; exit 0' WINCH; \
                  echo ready; while :; do sleep 0.05; done";
    let child = plan
        .command(["bash", "-c", script])
        .terminal(size)
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut terminal = child.terminal.as_ref().ok_or("no terminal")?;
    terminal.write_all(b"hello\n").unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 1024];
    let mut resized = false;
    loop {
        let count = terminal.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        seen.extend(&buffer[..count]);
        if !resized && String::from_utf8_lossy(&seen).contains("ready") {
            resized = true;
            let larger = TerminalSize {
                rows: 31,
                columns: 100,
            };
            terminal.resize(larger).unwrap();
        }
    }
    let seen = String::from_utf8_lossy(&seen).into_owned();
    // What was typed is shown as well, somewhere among them.
    // Without a /dev of its own it has one of the machine's, with some number.
    let name = seen
        .split("\r\n")
        .find(|line| line.starts_with("/dev/pts/"));
    let name = name.ok_or(&seen)?;
    must(
        name == "/dev/pts/0" || Ground::here() == Ground::Nothing,
        &seen,
    )?;
    must(seen.matches(&format!("{name}\r\n")).count() == 2, &seen)?;
    for part in ["30 99\r\n", "got hello\r\n", "resized\r\n31 100"] {
        must(seen.contains(part), &seen)?;
    }
    // A session of its own, in which no terminal of the caller's is.
    must(
        !bed.possible_outside(&["leads-session"]),
        "the control shows nothing",
    )?;
    bed.allowed_by(&plan, &["leads-session"])?;
    // Without one there is none, not even the caller's.
    let output = plan
        .command(["bash", "-c", "tty; echo x > /dev/tty"])
        .output()
        .map_err(|error| error.to_string())?;
    must(
        !output.outcome.success() && !bed.possible_in(&plan, &["list", "/dev/pts"]),
        "there is a terminal",
    )?;
    // All of it, as output.
    let output = plan
        .command(["bash", "-c", "echo one; echo two >&2"])
        .terminal(size)
        .output()
        .map_err(|error| error.to_string())?;
    must(
        output.stdout == b"one\r\ntwo\r\n",
        "the output is different",
    )
}

fn typed(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    // Where the kernel allows it at all, the control would type into the
    // terminal of whoever runs these tests, so a terminal of a sandbox stands
    // in: there the attempt is refused for what it is.
    let plan = bed.plan(&bed.policy())?;
    let run = |attempt: &str| {
        plan.command(Bed::argv(&[attempt]))
            .terminal(katachi_sandbox::TerminalSize::default())
            .output()
            .map(|output| output.outcome.exit_code())
            .map_err(|error| error.to_string())
    };
    must(run("terminal-size")? == 0, "the control shows nothing")?;
    must(run("type-into-terminal")? == 1, "something was typed")
}

/// One that is ready, so that nothing starts cold.
fn ready(plan: &katachi_sandbox::Plan) -> Result<katachi_sandbox::Pool, String> {
    let pool = katachi_sandbox::Pool::new(plan, 1).map_err(|error| error.to_string())?;
    // Without namespaces nothing waits, and each command starts by itself.
    let wanted = usize::from(Ground::here() != Ground::Nothing);
    must(pool.ready() == wanted, "nothing is ready")?;
    Ok(pool)
}

fn pool(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    std::fs::write(bed.workspace.join("file"), "here").unwrap();
    let (secret, outside) = (bed.out("secret"), bed.out("new"));
    let attempts: &[(&[&str], i32)] = &[
        (&["read", &bed.inside("file")], 0),
        (&["create", &bed.inside("made")], 0),
        (&["read", &secret], 1),
        (&["create", &outside], 1),
        (&["execute", "/usr/bin/true"], 1),
        (&["execute-copy", "/usr/bin/true", &bed.inside("copy")], 1),
    ];
    bed.control(&["read", &secret])?;
    bed.control(&["execute", "/usr/bin/true"])?;
    let plan = bed.plan(&bed.policy())?;
    for (attempt, expected) in attempts {
        let pool = ready(&plan)?;
        let output = pool
            .command(Bed::argv(attempt))
            .output()
            .map_err(|error| error.to_string())?;
        must(
            output.outcome.exit_code() == *expected,
            &format!("{attempt:?} ended with {:?}", output.outcome.ending),
        )?;
    }
    // Arguments, variables, directory, outputs, code.
    std::fs::create_dir(bed.workspace.join("below")).unwrap();
    let policy = bed.policy().allow("sh").allow(["touch", "good"]);
    let plan = bed.plan(&policy.clone().allow("@system"))?;
    let output = ready(&plan)?
        .command(["sh", "-c", "pwd; echo $A >&2; exit 9"])
        .env("A", "b")
        .current_dir("below")
        .output()
        .map_err(|error| error.to_string())?;
    must(
        output.stdout == format!("{}\n", bed.inside("below")).as_bytes()
            && output.stderr == b"b\n"
            && output.outcome.exit_code() == 9,
        &format!("{output:?}"),
    )?;
    // Rules about arguments hold there as well.
    let plan = bed.plan(&policy)?;
    let output = ready(&plan)?
        .command(["sh", "-c", "touch good; touch bad; true"])
        .output()
        .map_err(|error| error.to_string())?;
    must(
        bed.workspace.join("good").exists()
            && !bed.workspace.join("bad").exists()
            && output.outcome.violations.len() == 1,
        &format!("{output:?}"),
    )?;
    must(
        ready(&plan)?
            .command(["touch", "bad"])
            .spawn()
            .is_err_and(|error| error.denial().is_some()),
        "it started",
    )?;
    // Limits begin with the command and not with the sandbox.
    let plan = bed.plan(&bed.policy().limits(limits(|limits| {
        limits.wall_time = Some(TimeSpan::new(Duration::from_millis(600)));
    })))?;
    let pool = ready(&plan)?;
    std::thread::sleep(Duration::from_millis(700));
    let run = |pool: &katachi_sandbox::Pool, attempt: &[&str]| {
        pool.command(Bed::argv(attempt))
            .output()
            .map_err(|error| error.to_string())
    };
    must(
        run(&pool, &["read", &bed.inside("file")])?
            .outcome
            .success(),
        "time ran while it waited",
    )?;
    let ending = run(&ready(&plan)?, &["sleep", "60"])?.outcome.ending;
    must(ending == Ending::TimedOut, &format!("{ending:?}"))
}

fn pool_once(bed: &Bed) -> Verdict {
    bed.shows(Seen::RefusedStarted);
    let plan = bed.plan(&bed.policy().allow("sh"))?;
    let pool = ready(&plan)?;
    let leave = "l=${TMPDIR:-/tmp}/left; test -e $l && echo met; echo x > $l";
    for _ in 0..6 {
        let output = pool
            .command(["sh", "-c", leave])
            .output()
            .map_err(|error| error.to_string())?;
        must(
            output.outcome.success() && output.stdout.is_empty(),
            "it met another's file",
        )?;
    }
    if !bed.has_namespaces_for("waiting sandboxes") {
        return Ok(());
    }
    let started = Instant::now();
    while pool.ready() == 0 && started.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(5));
    }
    must(pool.ready() == 1, "the next was not built")?;
    // A directory replaced while it waits.
    let moved = bed.outside.join("moved");
    std::fs::rename(&bed.workspace, &moved).unwrap();
    std::fs::create_dir(&bed.workspace).unwrap();
    let error = pool.command(["sh", "-c", "exit 0"]).output();
    must(
        matches!(error, Err(katachi_sandbox::SpawnError::Replaced { .. })),
        "it started in a directory that is not the workspace any more",
    )?;
    // Nothing waits on when the pool is gone.
    let plan = bed.plan(&bed.policy().allow("sh"))?;
    let pool = katachi_sandbox::Pool::new(&plan, 3).map_err(|error| error.to_string())?;
    let before = helpers().len();
    in_time("dropping a pool", move || drop(pool));
    must(
        before >= 3 && helpers().is_empty(),
        "a waiting sandbox is left",
    )?;
    // One that was ended from outside is not taken.
    let pool = ready(&plan)?;
    for helper in helpers() {
        crate::raw::call(libc::SYS_kill, &[helper, libc::SIGKILL as u64]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    let output = pool.command(["sh", "-c", "exit 3"]).output();
    must(
        output.is_ok_and(|output| output.outcome.exit_code() == 3),
        "it did not start without one that waits",
    )
}

/// Children of this process that are helpers.
fn helpers() -> Vec<u64> {
    let me = std::process::id().to_string();
    let list = std::fs::read_dir("/proc").unwrap();
    list.flatten()
        .filter(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| rest.split_whitespace().nth(1) == Some(&me))
                && line.starts_with(b"katachi-sandbox-helper")
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}
