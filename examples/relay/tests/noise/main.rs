//! The page's own end of a channel, `noise.js` as it is served, in node's
//! WebCrypto, against the crate at the agent's end and a relay that may do
//! anything to what passes: every bit changed, every order, every length. What
//! the console shows of it in a browser is tested with the agent.
//!
//! Needs node; without it the tests are listed as ignored, and fail where
//! `KATACHI_REQUIRE_ALL=1`.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod agent;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};

use agent::Agent;

/// Names of the cases in `page.mjs`.
const CASES: [&str; 9] = [
    "every_changed_bit_of_a_handshake_is_refused",
    "every_changed_bit_of_a_record_is_refused",
    "what_is_replayed_reordered_left_out_or_cut_ends_the_channel",
    "lengths_that_do_not_exist_are_refused_before_anything_is_kept",
    "records_have_one_encoding",
    "nobody_without_the_agents_key_is_believed",
    "a_number_that_was_not_committed_to_is_refused",
    "counters_end_before_they_come_again",
    "keys_change_within_a_message_too",
];

fn main() -> ExitCode {
    let is_here = Command::new("node")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1");
    let trials = CASES.into_iter().map(|case| {
        let name = match is_here {
            true => case.to_owned(),
            false => format!("{case} (needs node)"),
        };
        Trial::test(name, move || played(case)).with_ignored_flag(!is_here && !required)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Has node play one case, and is the agent that it asks.
fn played(case: &str) -> Result<(), Failed> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut page = Command::new("node")
        .arg(package.join("tests/noise/page.mjs"))
        .arg(package.join("src/console/noise.js"))
        .arg(case)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = page.stdin.take().unwrap();
    let mut agent = Agent::new();
    let mut said = Vec::new();
    for line in BufReader::new(page.stdout.take().unwrap()).lines() {
        let line = line?;
        match line.strip_prefix("agent ") {
            Some(question) => writeln!(input, "{}", agent.answer(question))?,
            None => said.push(line),
        }
    }
    let status = page.wait()?;
    match status.success() && said.last().is_some_and(|line| line == "done") {
        true => Ok(()),
        false => Err(said.join("\n").into()),
    }
}
