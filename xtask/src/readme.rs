//! Trying every command that the README shows.
//!
//! Each line of a `sh` block is run as it stands, in the workspace's root and
//! with a home of its own. A program that stays is started, waited for until it
//! prints its link, and asked to stop. A `rust` block has to stand, to the
//! letter but for hidden lines, in the README of a crate, where it is a
//! documentation test.

use std::io::{BufRead, BufReader};
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
            Trial::Stays => stays_and_stops(shell(&line, &home))?,
        };
        outcomes.push((line, success));
    }
    outcomes.extend(rust_blocks_stand_in_a_crate(&text)?);
    Ok(outcomes)
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
    let is_compound = line.contains('|') || line.contains("&&");
    // Without `exec` the signal that ends a program would end its shell alone.
    let script = if is_compound {
        line.to_owned()
    } else {
        format!("exec {line}")
    };
    let mut command = Command::new("sh");
    command
        .args(["-c", &script])
        .current_dir(run::root())
        .env("KATACHI_HOME", home)
        .stdin(Stdio::null());
    if line.starts_with("cargo run --release -p katachi-agent") {
        command.env_remove("OPENSSL_NO_VENDOR");
    }
    command
}

fn stays_and_stops(mut command: Command) -> Result<bool> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (sender, receiver) = mpsc::channel();
    let streams: Vec<Box<dyn std::io::Read + Send>> = [
        child
            .stdout
            .take()
            .map(|stream| Box::new(stream) as Box<dyn std::io::Read + Send>),
        child
            .stderr
            .take()
            .map(|stream| Box::new(stream) as Box<dyn std::io::Read + Send>),
    ]
    .into_iter()
    .flatten()
    .collect();
    for stream in streams {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                println!("{line}");
                let _ = sender.send(line);
            }
        });
    }
    drop(sender);
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
    let ended_well = ask_to_stop(&mut child)?;
    Ok(shown && ended_well)
}

fn ask_to_stop(child: &mut Child) -> Result<bool> {
    let _ = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    let deadline = Instant::now() + STOP_DEADLINE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
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
