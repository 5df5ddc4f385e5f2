//! What a caller has of a command: signals, refusals as they happen, and the
//! same from async code.

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use katachi_sandbox::report::Tier;
use katachi_sandbox::{Ending, Plan, PlanError, PlanOptions, Policy, Signal, SpawnError};

use super::Case;
use crate::bed::{Bed, Verdict, must};
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a signal reaches the command and its group and nobody else",
        run: signals,
        needs: &["sh", "sleep"],
    },
    Case {
        name: "refusals are told as they happen",
        run: refusals,
        needs: &["sh", "cat", "git"],
    },
    Case {
        name: "a helper of its own serves a program that is none",
        run: helper,
        needs: &["cat"],
    },
    Case {
        name: "a helper that a command could replace is refused",
        run: replaceable_helper,
        needs: &["cat"],
    },
    #[cfg(feature = "tokio")]
    Case {
        name: "async programs start, stream, wait and drop",
        run: asynchronous::everything,
        needs: &["sh", "cat", "sleep"],
    },
    #[cfg(feature = "tokio")]
    Case {
        name: "a dropped async command leaves nothing",
        run: asynchronous::dropped,
        needs: &["sh", "sleep"],
    },
];

fn shell(bed: &Bed) -> Policy {
    bed.policy().allow("sh").allow("sleep").allow("cat")
}

fn plan(bed: &Bed, policy: &Policy) -> Result<Plan, String> {
    bed.plan(policy)
}

fn signals(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let plan = plan(bed, &shell(bed))?;
    // One that listens goes on; the loop shows that it was not ended.
    let script = "trap 'echo one' USR1; trap 'echo end; exit 7' TERM; echo ready; \
                  while :; do sleep 0.05; done";
    let start = |script: &str| {
        let command = plan.command(["sh", "-c", script]).piped();
        command.spawn().map_err(|error| error.to_string())
    };
    let (mut child, mut other) = (start(script)?, start("echo ready; sleep 600")?);
    let mut said = child.stdout.take().ok_or("no pipe")?;
    let mut line = |wanted: &str| -> Verdict {
        let mut buffer = vec![0; wanted.len()];
        said.read_exact(&mut buffer).map_err(|e| e.to_string())?;
        must(
            buffer == wanted.as_bytes(),
            &format!("{buffer:?} is not {wanted:?}"),
        )
    };
    line("ready\n")?;
    child.signal(Signal::User1);
    line("one\n")?;
    child.signal(Signal::Terminate);
    line("end\n")?;
    let outcome = child.wait().map_err(|error| error.to_string())?;
    must(
        outcome.ending == Ending::Code(7),
        "the handler's exit code is lost",
    )?;
    // After the end it reaches nobody.
    child.signal(Signal::Terminate);
    std::thread::sleep(Duration::from_millis(100));
    let mut ready = [0; 6];
    let pipe = other.stdout.as_mut().ok_or("no pipe")?;
    pipe.read_exact(&mut ready).map_err(|e| e.to_string())?;
    other.signal(Signal::Interrupt);
    let outcome = other.wait().map_err(|error| error.to_string())?;
    must(
        outcome.ending == Ending::Signal(libc::SIGINT),
        &format!("an interrupt gave {:?}", outcome.ending),
    )
}

fn refusals(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let policy = shell(bed).allow("@git").allow(["git", "version"]);
    let mut policy = policy;
    policy
        .commands
        .allow
        .retain(|rule| !format!("{rule:?}").contains("@git"));
    let plan = plan(bed, &policy)?;
    let script = "git status; cat";
    let mut child = plan
        .command(["sh", "-c", script])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut stream = child.violation_stream();
    // The command still runs: `cat` waits for the pipe that we hold.
    let first = stream.next().ok_or("the stream ended")?;
    must(first.target.contains("git status"), &format!("{first:?}"))?;
    must(stream.so_far().len() == 1, "one refusal is told twice")?;
    let outcome = child.wait().map_err(|error| error.to_string())?;
    must(
        outcome.violations.first() == Some(&first),
        "the end tells another story",
    )?;
    let rest: Vec<_> = stream.collect();
    must(
        rest.len() + 1 == outcome.violations.len(),
        "the stream does not end with the command",
    )
}

/// The program that this crate installs.
const HELPER: &str = env!("CARGO_BIN_EXE_katachi-sandbox-helper");

/// The second life of this program for [`helper`]: it never became a helper.
pub(crate) fn without_helper(words: &[std::ffi::OsString]) -> ExitCode {
    let mut options = PlanOptions::new(&words[0]);
    if let Some(helper) = words.get(1) {
        options = options.helper(helper);
    }
    if words.get(2).is_some() {
        options = options.accept(Tier::Landlock);
    }
    let policy = Policy::default().read("@system").write(".").allow("cat");
    let plan = policy.plan(&options).expect("a plan");
    let read = |file: &str| plan.command(["cat", file]).output();
    match (read("inside"), read("../outside/secret")) {
        (Err(SpawnError::HelperNotInstalled), _) => ExitCode::from(3),
        (Ok(inside), Ok(outside)) => {
            let confined = inside.stdout == b"here" && !outside.outcome.success();
            ExitCode::from(if confined { 0 } else { 4 })
        }
        other => panic!("{other:?}"),
    }
}

fn helper(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    std::fs::write(bed.workspace.join("inside"), "here").map_err(|error| error.to_string())?;
    let start = |words: &[&str]| {
        let mut bare = std::process::Command::new(Bed::program());
        bare.arg("--without-helper").arg(&bed.workspace).args(words);
        bare.status().map(|status| status.code())
    };
    let without = start(&[]).map_err(|error| error.to_string())?;
    must(
        without == Some(3),
        &format!("without a helper it ended with {without:?}"),
    )?;
    let landlock = bed.plan(&shell(bed))?.enforcement().tier == Tier::Landlock;
    let with = start(if landlock {
        &[HELPER, "landlock"]
    } else {
        &[HELPER]
    })
    .map_err(|error| error.to_string())?;
    must(
        with == Some(0),
        &format!("with a helper it ended with {with:?}"),
    )
}

fn replaceable_helper(bed: &Bed) -> Verdict {
    bed.shows(Seen::RefusedPlanned);
    let copy = |directory: &Path| {
        let copy = directory.join("helper");
        std::fs::copy(HELPER, &copy)
            .map(|_| copy)
            .map_err(|error| error.to_string())
    };
    let policy = shell(bed);
    let options = |helper: &Path| bed.options().helper(helper);
    let inside = copy(&bed.workspace)?;
    match policy.plan(&options(&inside)) {
        Err(PlanError::Contradiction { rule, .. }) if rule.contains("helper") => {}
        other => return Err(format!("a helper in the workspace: {other:?}")),
    }
    let outside = copy(&bed.outside)?;
    let plan = policy
        .plan(&options(&outside))
        .map_err(|error| error.to_string())?;
    let start = || plan.command(["sh", "-c", ":"]).output();
    must(
        start().is_ok_and(|output| output.outcome.success()),
        "it serves nobody",
    )?;
    std::fs::remove_file(&outside).map_err(|error| error.to_string())?;
    copy(&bed.outside)?;
    match start() {
        Err(SpawnError::Replaced { path, .. }) if path == outside => Ok(()),
        other => Err(format!("a replaced helper: {other:?}")),
    }
}

#[cfg(feature = "tokio")]
mod asynchronous {
    use std::future::Future;
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use katachi_sandbox::Ending;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::{plan, shell};
    use crate::bed::{Bed, Verdict, must};
    use crate::verdicts::Seen;

    fn on_tokio<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(work)
    }

    fn text(error: impl std::fmt::Display) -> String {
        error.to_string()
    }

    pub(super) fn everything(bed: &Bed) -> Verdict {
        bed.shows(Seen::Works);
        let plan = plan(bed, &shell(bed))?;
        on_tokio(async {
            // Threads of the caller come and go while commands run.
            let mut tasks = tokio::task::JoinSet::new();
            for index in 0..8 {
                let plan = plan.clone();
                tasks.spawn(async move {
                    let mut child = plan
                        .command(["sh", "-c", "cat; echo done >&2"])
                        .piped()
                        .stdin(Stdio::piped())
                        .spawn_async()
                        .await
                        .map_err(text)?;
                    let mut stdin = child.stdin.take().ok_or("no pipe")?;
                    let mut stdout = child.stdout.take().ok_or("no pipe")?;
                    let sent = format!("line {index}\n").repeat(5000);
                    let write = async {
                        stdin.write_all(sent.as_bytes()).await?;
                        stdin.shutdown().await?;
                        drop(stdin);
                        std::io::Result::Ok(())
                    };
                    let mut heard = String::new();
                    let read = stdout.read_to_string(&mut heard);
                    tokio::try_join!(write, read).map_err(text)?;
                    let output = child.wait_with_output().await.map_err(text)?;
                    must(heard == sent, "what was written does not come back")?;
                    must(output.stderr == b"done\n", "standard error is lost")?;
                    must(output.outcome.success(), "it did not end well")
                });
            }
            while let Some(result) = tasks.join_next().await {
                result.map_err(text)??;
            }
            // A wait that is given up can be taken up again.
            let mut child = plan
                .command(["sh", "-c", "sleep 600"])
                .spawn_async()
                .await
                .map_err(text)?;
            let waited = tokio::time::timeout(Duration::from_millis(50), child.wait()).await;
            must(waited.is_err(), "the wait ended before the command")?;
            child.kill();
            let outcome = child.wait().await.map_err(text)?;
            must(outcome.ending == Ending::Killed, "it was not killed")?;
            let again = child.wait().await.map_err(text)?;
            must(again == outcome, "a second wait tells something else")?;
            let output = plan.command(["sh", "-c", "echo a; echo b >&2; exit 3"]);
            let output = output.output_async().await.map_err(text)?;
            must(
                (output.stdout, output.stderr) == (b"a\n".to_vec(), b"b\n".to_vec())
                    && output.outcome.ending == Ending::Code(3),
                "the output is not complete",
            )
        })
    }

    pub(super) fn dropped(bed: &Bed) -> Verdict {
        bed.shows(Seen::Ended);
        let plan = plan(bed, &shell(bed))?;
        let mark = bed.workspace.join("beat");
        let script = format!("while :; do echo x >> {}; sleep 0.02; done", mark.display());
        let size = || std::fs::metadata(&mark).map_or(0, |found| found.len());
        let beats = |wanted: bool| -> Verdict {
            let deadline = Instant::now() + Duration::from_secs(10);
            while Instant::now() < deadline {
                let before = size();
                std::thread::sleep(Duration::from_millis(200));
                if (size() > before) == wanted {
                    return Ok(());
                }
            }
            Err(format!("the command should be alive: {wanted}"))
        };
        on_tokio(async {
            let command = plan.command(["sh", "-c", &script]);
            let child = command.spawn_async().await.map_err(text)?;
            beats(true)?;
            drop(child);
            beats(false)?;
            // One that is given up while it starts does not start unnoticed. On a
            // busy machine it can have started before anybody looks.
            for _ in 0..100 {
                let command = plan.command(["sh", "-c", &script]);
                let start = tokio::time::timeout(Duration::ZERO, command.spawn_async());
                if start.await.is_err() {
                    return beats(false);
                }
            }
            Err("each start took no time".to_owned())
        })?;
        beats(false)
    }
}
