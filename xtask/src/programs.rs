//! Test programs of several packages: built by one call of cargo, then run side by
//! side.
//!
//! Cargo runs one after the other, and most of these wait: for a clock, for another
//! process, for a peer that must not answer.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::run::{Finished, Tally, cargo, observe};

/// Programs that run at once beyond one for each processor.
const MORE: usize = 1;
/// Longest time of one program; a suite that hangs tells nobody where.
const LONGEST: Duration = Duration::from_secs(10 * 60);
/// The same where tests may take long.
const LONGEST_LONG: Duration = Duration::from_secs(2 * 60 * 60);
/// How often it is looked whether a program ended.
const LOOK: Duration = Duration::from_millis(50);

/// What cargo says of a program that it built, as far as it matters here.
#[derive(Deserialize)]
struct Artifact {
    executable: Option<PathBuf>,
    manifest_path: PathBuf,
    profile: Profile,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// A test program and the directory of its package.
struct Program {
    file: PathBuf,
    package: PathBuf,
}

/// Builds what `packages` (options of `cargo test`) name, runs the programs as
/// `prepared` has them, and then the examples in the documentation. `selected`, if it
/// is not empty, names the programs; examples are not among them.
///
/// # Errors
///
/// Returns an error if they cannot be built or started.
pub(crate) fn run(
    packages: &[&str],
    selected: &[&str],
    long: bool,
    prepared: impl Fn(Command) -> Command + Sync,
) -> Result<Finished> {
    let began = Instant::now();
    let programs = build(&[packages, selected].concat())?;
    let longest = if long { LONGEST_LONG } else { LONGEST };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let (waiting, tally) = (
        Mutex::new(programs.into_iter()),
        Mutex::new(Tally::default()),
    );
    let next = || waiting.lock().ok()?.next();
    let work = || -> Result<bool> {
        let mut success = true;
        while let Some(program) = next() {
            success &= one(&program, longest, &prepared, &tally)?;
        }
        Ok(success)
    };
    let succeeded = std::thread::scope(|scope| {
        let running: Vec<_> = (0..processors + MORE).map(|_| scope.spawn(work)).collect();
        let ended = running
            .into_iter()
            .map(|thread| thread.join().unwrap_or(Ok(false)));
        // Each of them ends before the first error is told.
        ended
            .collect::<Vec<_>>()
            .into_iter()
            .collect::<Result<Vec<_>>>()
    })?;
    let mut success = succeeded.into_iter().all(|success| success);
    let mut tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    if selected.is_empty() {
        let mut documentation = cargo(["test", "--doc", "--no-fail-fast", "--locked"]);
        documentation.args(packages);
        let documentation = observe(prepared(documentation))?;
        success &= documentation.success;
        tally.add(documentation.tally);
    }
    Ok(Finished {
        success,
        tally,
        took: began.elapsed(),
    })
}

fn build(packages: &[&str]) -> Result<Vec<Program>> {
    let mut command = cargo(["test", "--no-run", "--locked"]);
    command
        .arg("--message-format=json-render-diagnostics")
        .args(packages)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start cargo")?;
    let mut programs = Vec::new();
    let told = child.stdout.take().context("cargo says nothing")?;
    for line in BufReader::new(told).lines() {
        // Other messages have other members.
        let Ok(artifact) = serde_json::from_str::<Artifact>(&line?) else {
            continue;
        };
        if let (Some(file), true) = (artifact.executable, artifact.profile.test) {
            let package = artifact.manifest_path.parent().map(Path::to_owned);
            let package = package.context("a manifest lies nowhere")?;
            programs.push(Program { file, package });
        }
    }
    if !child.wait()?.success() {
        bail!("the test programs do not build");
    }
    Ok(programs)
}

/// Runs a program and shows what it said when it ended, so that what several say
/// does not mix.
fn one(
    program: &Program,
    longest: Duration,
    prepared: &impl Fn(Command) -> Command,
    tally: &Mutex<Tally>,
) -> Result<bool> {
    let began = Instant::now();
    let mut said = tempfile::tempfile()?;
    let mut command = prepared(Command::new(&program.file));
    command
        .current_dir(&program.package)
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said.try_clone()?);
    let status = wait(&mut command, longest)
        .with_context(|| format!("cannot run {}", program.file.display()))?;
    let said = whole(&mut said)?;
    let name = program.file.file_name().unwrap_or_default();
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    println!(
        "     Running {} ({:.1} s)",
        name.to_string_lossy(),
        began.elapsed().as_secs_f64()
    );
    let failed = tally.count.failed;
    said.lines().for_each(|line| {
        println!("{line}");
        tally.see(line);
    });
    let failure = match status {
        Some(status) if status.success() => return Ok(true),
        // It said what failed.
        Some(_) if tally.count.failed > failed => return Ok(false),
        Some(status) => format!("ended with {status}"),
        None => format!("did not end within {longest:?} and was killed"),
    };
    println!("it {failure}");
    tally.count.failed += 1;
    let failure = format!("{} {failure}", name.to_string_lossy());
    tally.failed_names.push(failure);
    Ok(false)
}

fn whole(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits for `command`, which is killed after `longest`.
fn wait(command: &mut Command, longest: Duration) -> Result<Option<ExitStatus>> {
    let mut child = command.spawn()?;
    let end = Instant::now() + longest;
    while Instant::now() < end {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(LOOK);
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}
