//! Building and running the fuzz targets.
//!
//! libFuzzer needs coverage instrumentation, which the stable compiler can emit
//! by naming the pass, so no nightly toolchain and no extra cargo command is
//! needed. The crates under test forbid `unsafe` in what is fuzzed; the targets
//! therefore look for broken laws, panics, overflows and runaway memory rather
//! than for memory errors.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::run;

const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1";

/// Memory a target may use before it counts as a finding, in MiB.
const MEMORY_LIMIT: u32 = 1024;

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The target; all of them, one after the other, when absent
    target: Option<String>,
    /// How long each target runs, in seconds
    #[arg(default_value_t = 60)]
    seconds: u32,
    /// List the targets and stop
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(options: &Options) -> Result<bool> {
    let all = targets()?;
    if options.list {
        all.iter().for_each(|name| println!("{name}"));
        return Ok(true);
    }
    let chosen = match &options.target {
        None => all,
        Some(name) if all.contains(name) => vec![name.clone()],
        Some(name) => bail!("no target {name:?}; `cargo xtask fuzz --list` names them"),
    };
    let programs = build()?;
    let mut green = true;
    for name in chosen {
        println!("--- fuzz {name} for {} s", options.seconds);
        green &= fuzz(&programs, &name, options.seconds)?;
    }
    Ok(green)
}

/// The names of all targets, sorted.
pub(crate) fn targets() -> Result<Vec<String>> {
    let folder = run::root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "rs")
            && let Some(stem) = path.file_stem()
        {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    ensure!(!names.is_empty(), "no fuzz target in {}", folder.display());
    Ok(names)
}

/// Builds every target and returns the folder of the programs.
pub(crate) fn build() -> Result<PathBuf> {
    ensure!(
        building()?.status()?.success(),
        "the fuzz targets do not build"
    );
    let folder = run::root().join("target/fuzz").join(host_triple()?);
    Ok(folder.join("release"))
}

/// The command that builds every target.
pub(crate) fn building() -> Result<Command> {
    let mut command = run::cargo([
        "build",
        "--release",
        "--bins",
        "--locked",
        "--manifest-path",
        "fuzz/Cargo.toml",
        // Naming the target keeps the instrumentation out of build scripts.
        "--target",
    ]);
    command
        .arg(host_triple()?)
        .args(["--target-dir", "target/fuzz"])
        .env("RUSTFLAGS", FLAGS);
    Ok(command)
}

/// Replays the corpus of `name`, then fuzzes for `seconds`.
pub(crate) fn fuzz(programs: &Path, name: &str, seconds: u32) -> Result<bool> {
    let root = run::root();
    let corpus = root.join("fuzz/corpus").join(name);
    // What the fuzzer finds goes into a scratch folder: the committed corpus
    // stays small and named.
    let found = root.join("target/fuzz/found").join(name);
    let artifacts = root.join("fuzz/artifacts").join(name);
    for folder in [&corpus, &found, &artifacts] {
        std::fs::create_dir_all(folder)?;
    }
    let output = Command::new(programs.join(name))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={MEMORY_LIMIT}"))
        .arg("-timeout=10")
        .arg("-print_final_stats=1")
        .arg("-verbosity=0")
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(&found)
        .arg(&corpus)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start the fuzz target {name}"))?;
    let log = String::from_utf8_lossy(&output.stderr);
    let runs = log
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .unwrap_or("?")
        .trim();
    if output.status.success() {
        println!("fuzz {name}: ok, {runs} runs in {seconds} s");
        return Ok(true);
    }
    println!("{log}");
    println!(
        "fuzz {name}: FAILED; the input is in {}",
        artifacts.display()
    );
    Ok(false)
}

fn host_triple() -> Result<String> {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--version", "--verbose"]);
    let version = run::capture(rustc).context("cannot ask rustc for its version")?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc did not name its host")
}
