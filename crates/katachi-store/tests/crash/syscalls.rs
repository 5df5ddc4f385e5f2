//! The process is killed at every system call of a save, and told of a disk
//! that cannot flush, both by `strace`, which stops it there.
//!
//! Which system calls a job makes is found out first, from the moment on at
//! which it touches its home. Then it runs once for each of them, and dies
//! instead of making it. The ordinary run takes every seventh; `KATACHI_LONG=1`
//! takes them all.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output};

use katachi_store::vault::RecoveryCode;
use libtest_mimic::{Failed, Trial};
use rustix::process::Signal;

use crate::unix::{HOME, JOB, JOBS, Trace, duplicate, open, prepare};

/// How many system calls lie between those that the ordinary run takes.
const STRIDE: usize = 7;

pub(crate) fn trials() -> Vec<Trial> {
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1");
    let works = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .output()
        .is_ok_and(|output| output.status.success());
    let mut trials = Vec::new();
    for (job, _) in JOBS {
        for (title, run) in [
            ("killed at every system call", killed as fn(&'static str)),
            ("a disk that cannot flush", unflushed),
        ] {
            let name = format!("{title}: {job}");
            trials.push(if works || required {
                Trial::test(name, move || {
                    if !works {
                        return Err(Failed::from("strace does not work here"));
                    }
                    run(job);
                    Ok(())
                })
            } else {
                Trial::test(
                    format!("{name} (ignored: strace does not work here)"),
                    || Ok(()),
                )
                .with_ignored_flag(true)
            });
        }
    }
    trials
}

/// A home from before the job, of which copies are made.
struct Template {
    home: tempfile::TempDir,
    code: RecoveryCode,
    notes: katachi_store::KeyId,
}

impl Template {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let code = prepare(home.path());
        let notes = open(home.path()).data_key("notes").unwrap().id();
        Self { home, code, notes }
    }

    fn copy_for(&self, job: &str) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        if job != "create" {
            duplicate(self.home.path(), home.path());
        }
        home
    }

    fn check(&self, job: &str, home: &Path, died: bool, what: String) {
        let trace = Trace { job, died, what };
        trace.check(home, self.code.to_text().expose_secret(), self.notes);
    }
}

fn strace(job: &str, home: &Path, output: &Path, arguments: &[&str]) -> Output {
    Command::new("strace")
        .arg("-o")
        .arg(output)
        .args(arguments)
        .arg(std::env::current_exe().unwrap())
        .env(JOB, job)
        .env(HOME, home)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap()
}

/// The system calls of a job, each with its number among those of its name,
/// beginning with the first that touches the home.
fn calls(job: &str, template: &Template) -> Vec<(String, usize)> {
    let home = template.copy_for(job);
    let log = tempfile::NamedTempFile::new().unwrap();
    let output = strace(job, home.path(), log.path(), &[]);
    assert!(output.status.success(), "{job}: {output:?}");
    let log = std::fs::read_to_string(log.path()).unwrap();
    let mut numbers = HashMap::new();
    let mut calls = Vec::new();
    let touch = format!("\"{}", home.path().display());
    for line in log.lines() {
        let Some((name, arguments)) = line.split_once('(') else {
            continue;
        };
        let number = numbers.entry(name.to_owned()).or_insert(0);
        *number += 1;
        if !calls.is_empty() || (name != "execve" && arguments.contains(&touch)) {
            calls.push((name.to_owned(), *number));
        }
    }
    assert!(calls.len() > 20, "{job} makes only {calls:?}");
    calls
}

fn killed(job: &'static str) {
    let template = Template::new();
    let calls = calls(job, &template);
    let stride = if is_long() { 1 } else { STRIDE };
    // Each job begins elsewhere, so that together they take different ones.
    let first = job.len() % stride;
    let (mut tried, mut killed) = (0, 0);
    for (name, number) in calls.iter().skip(first).step_by(stride) {
        let home = template.copy_for(job);
        let inject = format!("inject={name}:signal=KILL:when={number}");
        let output = strace(job, home.path(), Path::new("/dev/null"), &["-e", &inject]);
        let died = output.status.signal() == Some(Signal::KILL.as_raw());
        assert!(died || output.status.success(), "{job}, {name}: {output:?}");
        tried += 1;
        killed += usize::from(died);
        template.check(job, home.path(), died, format!("{name} {number}"));
    }
    // Two runs do not always ask for memory alike.
    assert!(
        killed * 10 >= tried * 9,
        "{job}: killed {killed} of {tried}"
    );
}

fn unflushed(job: &'static str) {
    let template = Template::new();
    let flushes = calls(job, &template)
        .iter()
        .filter(|(name, _)| name == "fsync")
        .count();
    assert!(
        flushes >= 2,
        "{job} flushes a file and a directory at least"
    );
    let mut refused = 0;
    for number in 1..=flushes {
        let home = template.copy_for(job);
        let inject = format!("inject=fsync:error=EIO:when={number}");
        let output = strace(job, home.path(), Path::new("/dev/null"), &["-e", &inject]);
        // The job says so in its error, unless what it could not save was not
        // needed, or can be made up for.
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                said.contains("os error 5") || said.contains("code: 5"),
                "{job}: {said}"
            );
            refused += 1;
        }
        let failed = !output.status.success();
        template.check(job, home.path(), failed, format!("flush {number}"));
    }
    assert!(
        refused > 0 || job == "heal after a changed part",
        "{job} never said that the disk does not flush"
    );
}

fn is_long() -> bool {
    std::env::var_os("KATACHI_LONG").is_some_and(|value| value == "1")
}
