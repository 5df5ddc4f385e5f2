//! What has to hold on every system, by whatever means it has.
//!
//! Each case first makes its attempt unconfined and sees it work, and then makes
//! it confined. On Linux this repeats a little of `tests/confinement`. On macOS
//! and Windows it is all there is, and a run there is a witness: each case that
//! holds prints a line that says so.

// All of this is test code, in a harness that the lint does not know.
#![allow(clippy::unwrap_used)]

mod attempts;
mod bed;
mod cases;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// A variable that no command may see.
const SECRET: &str = "KATACHI_PORTABLE_SECRET";

fn main() -> ExitCode {
    katachi_sandbox::helper::run_if_requested();

    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("--attempt", [name, arguments @ ..])) = words
        .split_first()
        .map(|(word, rest)| (word.as_str(), rest))
    {
        return attempts::run(name, arguments);
    }
    // SAFETY: there is one thread yet.
    unsafe { std::env::set_var(SECRET, "secret") };
    let found = katachi_sandbox::doctor::probe().unwrap();
    eprintln!("{found}");
    let able = found.tier != katachi_sandbox::report::Tier::None;
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1");
    let trials = cases::all()
        .into_iter()
        .map(|case| {
            let lacking = match able {
                true => "",
                false => " (ignored: this machine cannot confine)",
            };
            let trial = Trial::test(format!("{}{lacking}", case.name), move || {
                (case.run)(&bed::Bed::new())?;
                println!(
                    "witness on {} {}: {}",
                    std::env::consts::OS,
                    std::env::consts::ARCH,
                    case.name
                );
                Ok(())
            });
            trial.with_ignored_flag(!able && !required)
        })
        .chain([Trial::test(
            "CONFINEMENT.md lists every case",
            documentation_is_complete,
        )])
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn documentation_is_complete() -> Result<(), libtest_mimic::Failed> {
    let page = include_str!("../../CONFINEMENT.md");
    let missing: Vec<&str> = cases::all()
        .into_iter()
        .map(|case| case.name)
        .filter(|name| !page.contains(&format!("`{name}`")))
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!("not listed: {missing:#?}").into()),
    }
}
