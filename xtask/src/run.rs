//! Running a command, showing what it prints, and counting the tests in it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// What became of the tests of one or more commands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Count {
    pub(crate) fn add(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// What test harnesses printed so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) count: Count,
    pub(crate) failed_names: Vec<String>,
    pub(crate) skipped_names: Vec<String>,
}

impl Tally {
    /// Takes a line of their output.
    pub(crate) fn see(&mut self, line: &str) {
        if let Some(found) = parse_result_line(line) {
            self.count.add(found);
        } else if let Some((name, verdict)) = parse_test_line(line) {
            match verdict {
                "FAILED" => self.failed_names.push(name.to_owned()),
                _ if verdict.starts_with("ignored") => self.skipped_names.push(name.to_owned()),
                _ => {}
            }
        }
    }

    /// Takes what others printed.
    pub(crate) fn add(&mut self, other: Tally) {
        self.count.add(other.count);
        self.failed_names.extend(other.failed_names);
        self.skipped_names.extend(other.skipped_names);
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) success: bool,
    pub(crate) tally: Tally,
    pub(crate) took: Duration,
}

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let xtask = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().map(PathBuf::from).unwrap_or(xtask)
}

/// `cargo`, as this program was started by it, in the workspace's root.
pub(crate) fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// `command` at the lowest priority and without a word: it takes what nobody else wants.
pub(crate) fn gently(command: &Command) -> Command {
    let mut nice = Command::new("nice");
    nice.args(["-n", "19"])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(folder) = command.get_current_dir() {
        nice.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => nice.env(name, value),
            None => nice.env_remove(name),
        };
    }
    nice
}

/// Runs `command`, passing its output through and counting the tests in it.
pub(crate) fn observe(mut command: Command) -> Result<Finished> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let mut tally = Tally::default();
    if let Some(stdout) = child.stdout.take() {
        relay_lines(stdout, |line| tally.see(line))?;
    }
    let success = child.wait()?.success();
    Ok(Finished {
        success,
        tally,
        took: started.elapsed(),
    })
}

/// Runs `command` quietly and returns what it printed if it succeeded.
pub(crate) fn capture(mut command: Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn relay_lines(source: impl Read, mut seen: impl FnMut(&str)) -> Result<()> {
    let mut reader = BufReader::new(source);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes)? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&bytes);
        seen(line.trim_end());
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(line.as_bytes())?;
        stdout.flush()?;
    }
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`, which both
/// Rust's own harness and libtest-mimic print.
fn parse_result_line(line: &str) -> Option<Count> {
    let (_, counts) = line
        .trim()
        .strip_prefix("test result: ")?
        .split_once(". ")?;
    let mut count = Count::default();
    for part in counts.split(';') {
        let mut words = part.split_whitespace();
        let (Some(number), Some(word)) = (words.next(), words.next()) else {
            continue;
        };
        let Ok(number) = number.parse::<u64>() else {
            continue;
        };
        match word {
            "passed" => count.passed = number,
            "failed" => count.failed = number,
            "ignored" => count.skipped = number,
            _ => {}
        }
    }
    Some(count)
}

/// Reads `test a::name ... ok` as the name and the verdict.
fn parse_test_line(line: &str) -> Option<(&str, &str)> {
    let (name, verdict) = line.strip_prefix("test ")?.rsplit_once("... ")?;
    Some((name.trim(), verdict.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::{Tally, parse_result_line};

    #[test]
    fn counts_what_a_harness_reports() {
        let line = "test result: FAILED. 41 passed; 2 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.10s";
        let count = parse_result_line(line).unwrap();
        assert_eq!((count.passed, count.failed, count.skipped), (41, 2, 3));
        assert!(parse_result_line("running 3 tests").is_none());
    }

    #[test]
    fn names_what_failed_and_what_was_ignored() {
        let mut tally = Tally::default();
        for line in [
            "test keychain::works (needs gnome-keyring) ... ignored",
            "test a ... ok",
            "test b::c ... FAILED",
        ] {
            tally.see(line);
        }
        assert_eq!(tally.failed_names, ["b::c"]);
        assert_eq!(
            tally.skipped_names,
            ["keychain::works (needs gnome-keyring)"]
        );
    }
}
