//! Trying every command that the README shows.
//!
//! Each line of a `sh` block is run as it stands, in the workspace's root and
//! with a home of its own. A program that stays is started, waited for until it
//! prints its link at a terminal, and stopped with Ctrl-C. A `rust` block has to
//! stand, to the letter but for hidden lines, in the README of a crate, where it
//! is a documentation test.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::run;

/// How long a program that stays may take to show its link.
const LINK_DEADLINE: Duration = Duration::from_secs(120);

/// How long it may take to stop when asked.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// Has the system's OpenSSL taken, which a newcomer may not have.
const PREPARED: &str = "OPENSSL_NO_VENDOR";

/// What a terminal sends for Ctrl-C.
const CTRL_C: u8 = 3;

/// How a command of the README is tried.
#[derive(Debug, Eq, PartialEq)]
enum Trial {
    /// It ends by itself with success.
    Run,
    /// It stays until it is asked to stop.
    Stays,
    /// It is the suite that is running now.
    ThisRun,
}

/// Tries every command and says which succeeded.
pub(crate) fn try_all() -> Result<Vec<(String, bool)>> {
    let text = std::fs::read_to_string(run::root().join("README.md")).context("README.md")?;
    let home = run::root().join("target/readme-home");
    let _ = std::fs::remove_dir_all(&home);
    let mut outcomes = Vec::new();
    for line in commands(&text) {
        println!("--- {line}");
        let success = match trial(&line) {
            Trial::ThisRun => true,
            Trial::Run => shell(&line, &home).status()?.success(),
            Trial::Stays => stays_and_stops(terminal(&line, &home))?,
        };
        outcomes.push((line, success));
    }
    outcomes.extend(rust_blocks_stand_in_a_crate(&text)?);
    Ok(outcomes)
}

/// The command that builds what the README runs first.
pub(crate) fn building() -> Command {
    let mut command = run::cargo(["build", "--release", "-p", "katachi-agent"]);
    command.env_remove(PREPARED);
    command
}

/// Says for each `rust` block whether a crate's README has it too.
fn rust_blocks_stand_in_a_crate(text: &str) -> Result<Vec<(String, bool)>> {
    let mut tested = Vec::new();
    for entry in std::fs::read_dir(run::root().join("crates"))? {
        let readme = entry?.path().join("README.md");
        let text =
            std::fs::read_to_string(&readme).with_context(|| format!("{}", readme.display()))?;
        tested.extend(rust_blocks(&text));
    }
    Ok(rust_blocks(text)
        .into_iter()
        .map(|block| {
            let first = block.lines().next().unwrap_or_default();
            (
                format!("rust block {first:?} is a documentation test"),
                tested.contains(&block),
            )
        })
        .collect())
}

/// The text of all `rust` blocks, without the lines that documentation hides;
/// attributes such as `no_run` may follow the word.
fn rust_blocks(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    for line in markdown.lines() {
        match &mut block {
            Some(text) if line.starts_with("```") => {
                found.push(std::mem::take(text));
                block = None;
            }
            Some(_) if line == "#" || line.starts_with("# ") => {}
            Some(text) => {
                text.push_str(line);
                text.push('\n');
            }
            None if line.starts_with("```rust") => block = Some(String::new()),
            None => {}
        }
    }
    found
}

/// The lines of all `sh` blocks, continued lines joined, comments dropped.
fn commands(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    let mut pending = String::new();
    for line in markdown.lines() {
        if line.starts_with("```") {
            inside = !inside && line.trim_end() == "```sh";
            continue;
        }
        let line = line.trim();
        if !inside || line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(start) = line.strip_suffix('\\') {
            pending.push_str(start);
            continue;
        }
        pending.push_str(line);
        found.push(std::mem::take(&mut pending));
    }
    found
}

fn trial(command: &str) -> Trial {
    if command.starts_with("cargo xtask test") {
        Trial::ThisRun
    } else if command.ends_with("-- up") || command.contains("katachi-relay -- serve") {
        Trial::Stays
    } else {
        Trial::Run
    }
}

/// Runs `line` as a newcomer would: with a home of its own, and without what
/// this machine prepared to build faster.
fn shell(line: &str, home: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]).stdin(Stdio::null());
    at_home(&mut command, line, home);
    command
}

/// Runs `line` at a terminal of its own, as a program that may ask expects.
///
/// The shell makes way for the program: one that waited for it would get the
/// Ctrl-C too, and some (dash) then report their own death instead of how the
/// program ended.
fn terminal(line: &str, home: &Path) -> Command {
    let replaced = format!("exec {line}");
    let mut command = Command::new("script");
    command
        .args([
            "--quiet",
            "--return",
            "--flush",
            "--command",
            &replaced,
            "/dev/null",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    at_home(&mut command, line, home);
    command
}

fn at_home(command: &mut Command, line: &str, home: &Path) {
    command.current_dir(run::root()).env("KATACHI_HOME", home);
    if line.starts_with("cargo run --release -p katachi-agent") {
        command.env_remove(PREPARED);
    }
}

/// Waits until the program shows its link, then presses Ctrl-C.
fn stays_and_stops(mut command: Command) -> Result<bool> {
    let mut child = command
        .spawn()
        .context("cannot start `script`, of util-linux")?;
    let (sender, receiver) = mpsc::channel();
    let output = child.stdout.take().context("the output is piped")?;
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            println!("{line}");
            let _ = sender.send(line);
        }
    });
    let deadline = Instant::now() + LINK_DEADLINE;
    let mut shown = false;
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        match receiver.recv_timeout(left) {
            Ok(line) if line.contains("https://") => {
                shown = true;
                break;
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    let mut keyboard = child.stdin.take().context("the input is piped")?;
    // A program that has ended already is noticed below.
    let _ = keyboard
        .write_all(&[CTRL_C])
        .and_then(|()| keyboard.flush());
    let ended_well = ends_well(&mut child)?;
    Ok(shown && ended_well)
}

fn ends_well(child: &mut Child) -> Result<bool> {
    let deadline = Instant::now() + STOP_DEADLINE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            println!("it ended with {status}");
            return Ok(status.success());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill()?;
    child.wait()?;
    println!("it did not stop within {} s", STOP_DEADLINE.as_secs());
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::{Trial, commands, trial};

    #[test]
    fn reads_only_shell_blocks_and_joins_continued_lines() {
        let text = "```sh\n# why\ncargo a \\\n  -b\ncargo c\n```\n```rust\nlet x = 1;\n```\n";
        assert_eq!(commands(text), ["cargo a -b", "cargo c"]);
    }

    #[test]
    fn does_not_start_the_suite_inside_itself() {
        assert_eq!(trial("cargo xtask test --install"), Trial::ThisRun);
        assert_eq!(
            trial("cargo run --release -p katachi-agent -- up"),
            Trial::Stays
        );
        assert_eq!(trial("cargo xtask bench verify"), Trial::Run);
    }
}
