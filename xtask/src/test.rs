//! Everything that a change must pass, stage by stage.
//!
//! Each stage prints its own output as it runs; the end names every stage with
//! its time, every skipped test, and one line that counts them all. A stage
//! that is not a test harness counts as one test.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use crate::foreign::FOREIGN;
use crate::run::{self, Count, Finished, cargo, root};
use crate::{fuzz, install, machine, package, programs, readme, wine};

/// Seconds that each fuzz target runs in the suite.
const FUZZ_SECONDS: u32 = 10;

/// The five crates that stand on their own.
const CRATES: [&str; 5] = [
    "katachi-crypto",
    "katachi-fingerprint",
    "katachi-auth",
    "katachi-store",
    "katachi-sandbox",
];

/// The programs, what they share, and this one. They are built together, so that
/// what they rest on is built once.
const PROGRAMS: [&str; 4] = [
    "katachi-protocol",
    "katachi-relay",
    "katachi-agent",
    "xtask",
];

/// The only feature of a program.
const PROGRAM_FEATURES: [&str; 2] = ["--features", "katachi-relay/acme"];

/// Whether tests may take long, which they read from `KATACHI_LONG`.
static LONG: AtomicBool = AtomicBool::new(false);

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Install what the full suite needs first
    ///
    /// Debian packages where this is root, everything else in `.tools`; where
    /// it is not root it prints the exact line.
    #[arg(long)]
    install: bool,
    /// Also run what takes long: fuzzing for minutes, soaks, crash tests by the hundred
    #[arg(long)]
    long: bool,
    /// Run only the stages whose name contains one of these words
    #[arg(value_name = "STAGE")]
    stages: Vec<String>,
    /// Name the stages and stop
    #[arg(long)]
    list: bool,
}

/// A named part of the suite.
struct Stage {
    name: String,
    work: Box<dyn Fn() -> Result<Verdict>>,
}

/// What a stage came to.
struct Verdict {
    success: bool,
    count: Count,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Verdict {
    fn single(success: bool) -> Self {
        let count = Count {
            passed: u64::from(success),
            failed: u64::from(!success),
            skipped: 0,
        };
        Self {
            success,
            count,
            failed: Vec::new(),
            skipped: Vec::new(),
        }
    }

    fn of(finished: Finished) -> Self {
        let mut count = finished.tally.count;
        // A build that fails, or a harness that dies, prints no result.
        if !finished.success && count.failed == 0 {
            count.failed = 1;
        }
        println!("{:.1} s", finished.took.as_secs_f64());
        Self {
            success: finished.success,
            count,
            failed: finished.tally.failed_names,
            skipped: finished.tally.skipped_names,
        }
    }

    fn skipped(why: &str) -> Self {
        // CI asks for everything: there, what cannot run has failed.
        if require_all() {
            println!("KATACHI_REQUIRE_ALL=1 and {why}");
            return Self::single(false);
        }
        let count = Count {
            skipped: 1,
            ..Count::default()
        };
        Self {
            success: true,
            count,
            failed: Vec::new(),
            skipped: vec![why.to_owned()],
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<bool> {
    let started = Instant::now();
    LONG.store(options.long, Ordering::Relaxed);
    if options.install {
        install::install(options.long)?;
    }
    let stages: Vec<Stage> = stages(options.long)
        .into_iter()
        .filter(|stage| {
            options.stages.is_empty()
                || options
                    .stages
                    .iter()
                    .any(|word| stage.name.contains(word.as_str()))
        })
        .collect();
    if options.list {
        stages.iter().for_each(|stage| println!("{}", stage.name));
        return Ok(true);
    }
    if options.stages.is_empty() {
        std::thread::spawn(build_ahead);
    }
    let mut total = Count::default();
    let mut rows: Vec<(String, bool, Duration)> = Vec::new();
    let (mut failed, mut skipped) = (Vec::new(), Vec::new());
    for (number, stage) in stages.iter().enumerate() {
        println!("\n=== [{}/{}] {}", number + 1, stages.len(), stage.name);
        let begun = Instant::now();
        let verdict = (stage.work)().unwrap_or_else(|error| {
            println!("{error:#}");
            Verdict::single(false)
        });
        total.add(verdict.count);
        let of_stage = |name: String| format!("{}: {name}", stage.name);
        failed.extend(verdict.failed.into_iter().map(of_stage));
        skipped.extend(verdict.skipped.into_iter().map(of_stage));
        rows.push((stage.name.clone(), verdict.success, begun.elapsed()));
    }
    println!("\n=== summary");
    for (name, success, took) in &rows {
        let mark = if *success { "ok    " } else { "FAILED" };
        println!("{mark} {:>6.1} s  {name}", took.as_secs_f64());
    }
    skipped.iter().for_each(|name| println!("skipped {name}"));
    failed.iter().for_each(|name| println!("failed {name}"));
    println!("{:.1} minutes", started.elapsed().as_secs_f64() / 60.0);
    println!(
        "{} passed, {} failed, {} skipped",
        total.passed, total.failed, total.skipped
    );
    Ok(total.failed == 0 && rows.iter().all(|(_, success, _)| *success))
}

/// Builds what the last stages want, in folders of their own, while others wait for
/// tests. Whether it builds is theirs to say.
fn build_ahead() {
    let builds = [Ok(readme::building()), fuzz::building()];
    for command in builds.iter().flatten() {
        let _ = run::gently(command).status();
    }
}

fn stages(long: bool) -> Vec<Stage> {
    let mut stages = vec![
        check("format", || cargo(["fmt", "--all", "--check"])),
        check("clippy workspace, all features", || {
            let mut command = cargo(["clippy", "--workspace", "--all-features"]);
            command.args(["--all-targets", "--locked", "--", "-D", "warnings"]);
            command
        }),
    ];
    let metadata = metadata();
    for name in CRATES {
        let sets = feature_sets(metadata.as_ref(), name);
        // With all features each was linted as part of the workspace; alone, what it
        // depends on has fewer.
        let chosen = |set: &FeatureSet| *set == NONE || (long && *set == ALL);
        for (features, flag) in sets.iter().copied().filter(chosen) {
            stages.push(check(
                &format!("clippy {name}, {features} features"),
                move || {
                    let mut command = cargo(["clippy", "--all-targets", "--locked", "-p", name]);
                    command.args(flag).args(["--", "-D", "warnings"]);
                    command
                },
            ));
        }
    }
    for name in CRATES {
        for (features, flag) in feature_sets(metadata.as_ref(), name).iter().copied() {
            let mut packages = vec!["-p", name];
            packages.extend(flag);
            // No feature changes what a sandbox confines: attacks run once.
            let once = name == "katachi-sandbox" && features != ALL.0 && !long;
            let selected: &[_] = if once {
                &["--lib", "--test", "portable"]
            } else {
                &[]
            };
            let name = format!("test {name}, {features} features");
            stages.push(side_by_side(name, packages, selected, long));
        }
    }
    // Both together and ring alone were tested above.
    stages.push(tests("test katachi-crypto with rustcrypto alone", || {
        let mut command = cargo(["test", "--no-fail-fast", "--locked", "-p", "katachi-crypto"]);
        command.args([
            "--no-default-features",
            "--features",
            "rustcrypto,password,channel,tokio",
        ]);
        command
    }));
    let mut packages = PROGRAM_FEATURES.to_vec();
    PROGRAMS
        .iter()
        .for_each(|name| packages.extend(["-p", name]));
    let name = format!("test {}", PROGRAMS.join(", "));
    stages.push(side_by_side(name, packages, &[], long));
    for foreign in FOREIGN {
        stages.push(Stage {
            name: foreign.stage(),
            work: Box::new(|| match foreign.command()? {
                Some(command) => Ok(Verdict::single(run::observe(command)?.success)),
                None => Ok(Verdict::skipped(&format!(
                    "no toolchain for {} (`cargo xtask test --install` gets what is missing)",
                    foreign.target
                ))),
            }),
        });
    }
    if long {
        stages.push(Stage {
            name: "the launcher for Windows under Wine (runs, confines nothing)".into(),
            work: Box::new(|| match wine::missing() {
                Some(what) => Ok(Verdict::skipped(&format!(
                    "{what} (`cargo xtask test --long --install` gets it)"
                ))),
                None => wine::run().map(Verdict::of),
            }),
        });
    }
    stages.push(Stage {
        name: "control groups in a virtual machine".into(),
        work: Box::new(|| match machine::missing() {
            Some(what) => Ok(Verdict::skipped(&format!(
                "{what} (`cargo xtask test --install` gets it)"
            ))),
            None => machine::run().map(Verdict::of),
        }),
    });
    stages.push(check("documentation", || {
        let mut command = cargo([
            "doc",
            "--workspace",
            "--no-deps",
            "--all-features",
            "--locked",
        ]);
        command.env("RUSTDOCFLAGS", "-D warnings");
        command
    }));
    stages.push(Stage {
        name: "fuzz".into(),
        work: Box::new(move || fuzz_all(long)),
    });
    // What memory holds and how long a comparison takes depends on the compiler's
    // work, so this is seen in the profile that is shipped, for each backend.
    for backend in ["ring", "rustcrypto"] {
        stages.push(tests(
            &format!("test katachi-crypto in release with {backend}"),
            move || {
                let mut command = cargo(["test", "--release", "--no-fail-fast", "--locked"]);
                command.args([
                    "-p",
                    "katachi-crypto",
                    "--no-default-features",
                    "--features",
                ]);
                command.arg(format!("{backend},password,channel"));
                ["wiping", "channel_wiping", "hardening", "timing"]
                    .iter()
                    .for_each(|name| {
                        command.args(["--test", name]);
                    });
                command
            },
        ));
    }
    stages.push(Stage {
        name: "benches compile".into(),
        work: Box::new(move || benches(long)),
    });
    stages.push(Stage {
        name: "deny".into(),
        work: Box::new(deny),
    });
    stages.push(Stage {
        name: "package".into(),
        work: Box::new(move || package::run(long).map(Verdict::single)),
    });
    stages.push(Stage {
        name: "readme".into(),
        work: Box::new(readme_commands),
    });
    stages
}

/// What a set of features is called, and how cargo is told.
type FeatureSet = (&'static str, Option<&'static str>);

const NONE: FeatureSet = ("no", Some("--no-default-features"));
const DEFAULT: FeatureSet = ("default", None);
const ALL: FeatureSet = ("all", Some("--all-features"));

/// What cargo says of the workspace's packages.
fn metadata() -> Option<serde_json::Value> {
    let command = cargo(["metadata", "--no-deps", "--format-version", "1"]);
    serde_json::from_str(&run::capture(command)?).ok()
}

/// The sets of features of a package that differ from each other; all three
/// where cargo does not say.
fn feature_sets(metadata: Option<&serde_json::Value>, name: &str) -> &'static [FeatureSet] {
    let features = metadata
        .and_then(|metadata| metadata["packages"].as_array())
        .and_then(|packages| packages.iter().find(|package| package["name"] == name))
        .and_then(|package| package["features"].as_object());
    let Some(features) = features else {
        return &[NONE, DEFAULT, ALL];
    };
    let chosen = features.get("default").and_then(|set| set.as_array());
    let by_default = chosen.is_some_and(|set| !set.is_empty());
    match features.keys().any(|feature| feature != "default") {
        false => &[ALL],
        true if by_default => &[NONE, DEFAULT, ALL],
        true => &[NONE, ALL],
    }
}

/// The benches, type-checked with everything; where there is time, each area as `cargo
/// xtask bench` builds it. The README's row is built and run in any case.
fn benches(long: bool) -> Result<Verdict> {
    let all: &[&str] = &["--all-features"];
    let areas: &[&[&str]] = match long {
        true => &[all, &["--features", "store"], &[]],
        false => &[all],
    };
    for area in areas {
        let mut command = match long {
            true => cargo(["bench", "--no-run", "--target-dir", "target/benches"]),
            // Beside the workspace, with which it shares what both rest on.
            false => cargo(["check", "--benches", "--target-dir", "target"]),
        };
        command.args(*area).arg("--locked");
        command.args(["--manifest-path", "benches/Cargo.toml"]);
        if !run::observe(command)?.success {
            return Ok(Verdict::single(false));
        }
    }
    Ok(Verdict::single(true))
}

/// A stage that counts as one test.
fn check(name: &str, command: impl Fn() -> Command + 'static) -> Stage {
    Stage {
        name: name.to_owned(),
        work: Box::new(move || Ok(Verdict::single(run::observe(prepared(command()))?.success))),
    }
}

/// A stage whose output is counted test by test.
fn tests(name: &str, command: impl Fn() -> Command + 'static) -> Stage {
    Stage {
        name: name.to_owned(),
        work: Box::new(move || run::observe(prepared(command())).map(Verdict::of)),
    }
}

/// The same, with test programs that run beside each other.
fn side_by_side(
    name: String,
    packages: Vec<&'static str>,
    selected: &'static [&'static str],
    long: bool,
) -> Stage {
    Stage {
        name,
        work: Box::new(move || programs::run(&packages, selected, long, prepared).map(Verdict::of)),
    }
}

/// Tells the tests where the peers are, and whether they may take long.
fn prepared(mut command: Command) -> Command {
    if let Some(python) = install::python() {
        command.env("KATACHI_PYTHON", python);
    }
    if let Some(modules) = install::node_modules() {
        command.env("NODE_PATH", modules);
    }
    if LONG.load(Ordering::Relaxed) {
        command.env("KATACHI_LONG", "1");
    }
    command
}

fn fuzz_all(long: bool) -> Result<Verdict> {
    let seconds = if long { 60 } else { FUZZ_SECONDS };
    let programs = fuzz::build()?;
    let mut verdict = Verdict::single(true);
    verdict.count = Count::default();
    // Two at a time: the suite is sized for two cores.
    for pair in fuzz::targets()?.chunks(2) {
        let outcomes: Vec<Result<bool>> = std::thread::scope(|scope| {
            let running: Vec<_> = pair
                .iter()
                .map(|name| scope.spawn(|| fuzz::fuzz(&programs, name, seconds)))
                .collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap_or(Ok(false)))
                .collect()
        });
        for outcome in outcomes {
            let success = outcome?;
            verdict.count.add(Verdict::single(success).count);
            verdict.success &= success;
        }
    }
    Ok(verdict)
}

fn deny() -> Result<Verdict> {
    let Some(program) = install::cargo_deny() else {
        return Ok(Verdict::skipped(
            "cargo-deny is not installed (`cargo xtask test --install`)",
        ));
    };
    let mut rules = Command::new(&program);
    rules
        .args(["--all-features", "check", "bans", "licenses", "sources"])
        .current_dir(root());
    let mut verdict = Verdict::single(run::observe(rules)?.success);
    let mut fetch = Command::new(&program);
    fetch.args(["fetch", "db"]).current_dir(root());
    if run::capture(fetch).is_none() {
        // Said, and not failed: the database lives on a host of its own that a
        // closed network does not reach.
        println!("advisories: the database cannot be reached from here, not checked");
        return Ok(verdict);
    }
    let mut advisories = Command::new(&program);
    advisories
        .args(["--all-features", "check", "--disable-fetch", "advisories"])
        .current_dir(root());
    let found = Verdict::single(run::observe(advisories)?.success);
    verdict.success &= found.success;
    verdict.count.add(found.count);
    Ok(verdict)
}

fn readme_commands() -> Result<Verdict> {
    let mut verdict = Verdict::single(true);
    verdict.count = Count::default();
    for (command, success) in readme::try_all()? {
        println!(
            "readme: {} {command}",
            if success { "ok    " } else { "FAILED" }
        );
        verdict.success &= success;
        verdict.count.add(Verdict::single(success).count);
    }
    Ok(verdict)
}

fn require_all() -> bool {
    std::env::var("KATACHI_REQUIRE_ALL").is_ok_and(|value| value == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_features_are_not_tested_twice() {
        let metadata = serde_json::json!({"packages": [
            {"name": "none", "features": {}},
            {"name": "optional", "features": {"default": [], "more": []}},
            {"name": "chosen", "features": {"default": ["more"], "more": []}},
        ]});
        let of = |name| feature_sets(Some(&metadata), name);
        assert_eq!(of("none"), [ALL]);
        assert_eq!(of("optional"), [NONE, ALL]);
        assert_eq!(of("chosen"), [NONE, DEFAULT, ALL]);
        assert_eq!(of("unknown"), [NONE, DEFAULT, ALL]);
        assert_eq!(feature_sets(None, "none"), [NONE, DEFAULT, ALL]);
    }
}
