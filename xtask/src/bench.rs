//! Our figures beside our peers', held against their bars.
//!
//! Every row is a ratio of two figures from one round on one machine. The
//! rounds are repeated with ours and the peer's interleaved, and the median of
//! the ratios is what is reported; a criterion estimate stands behind each
//! figure, or the processor time of whole processes. Only this program writes the table in the README.

mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::run::{cargo, root};
use rows::{Bar, COMPARISONS, Comparison, Source};

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Only these rows or groups of rows, such as `seal-bulk` or `verify`
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Print the rows as JSON, alone on stdout
    #[arg(long)]
    json: bool,
    /// How often ours and the peer are measured in turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Measure what is large at its full size: a million messages to search
    #[arg(long)]
    long: bool,
    /// Write the table into the README
    #[arg(long)]
    write: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    id: String,
    /// Median figure of ours, in `unit`.
    ours: f64,
    /// Median figure of the peer, in `unit`.
    peer: f64,
    unit: &'static str,
    ratio: f64,
    bar: f64,
    holds: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: String,
    rows: Vec<Row>,
    missing: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<bool> {
    ensure!(options.rounds > 0, "--rounds wants at least 1");
    let chosen: Vec<&Comparison> = COMPARISONS
        .iter()
        .filter(|row| {
            options.ids.is_empty() || options.ids.iter().any(|id| row.id.starts_with(id.as_str()))
        })
        .collect();
    let known: Vec<&str> = COMPARISONS.iter().map(|row| row.id).collect();
    ensure!(
        !chosen.is_empty(),
        "no such row; there are: {}",
        known.join(", ")
    );
    let mut figures: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    // One bench that fails takes nothing from the others.
    let mut failed = BTreeSet::new();
    for round in 1..=options.rounds {
        eprintln!("--- round {round} of {}", options.rounds);
        let printed = measure(&chosen, options.long, &mut failed)?;
        for row in chosen.iter().filter(|row| !failed.contains(row.bench)) {
            let figure = |name| match row.source {
                Source::Criterion(group) => estimate(group, name),
                Source::Printed => printed.get(&(row.bench, name.to_owned())).copied(),
            };
            if let (Some(ours), Some(peer)) = (figure(row.ours), figure(row.peer)) {
                figures.entry(row.id).or_default().push((ours, peer));
            }
        }
    }
    let report = summarise(&chosen, &figures);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", table(&report));
    }
    if options.write {
        ensure!(
            failed.is_empty(),
            "the README stays as it is: some benches failed"
        );
        write_readme(&report)?;
    }
    // A bar that is missed is reported as missed; it is not an error of the run.
    Ok(failed.is_empty())
}

/// Figures that benches printed, by bench and name.
type Printed = BTreeMap<(&'static str, String), f64>;

/// Runs every bench once that has not `failed` before, and returns what was printed;
/// the rest lies where criterion leaves it.
fn measure(
    chosen: &[&Comparison],
    long: bool,
    failed: &mut BTreeSet<&'static str>,
) -> Result<Printed> {
    let criterion = root().join("target/benches/criterion");
    let mut benches: BTreeMap<&'static str, Vec<&str>> = BTreeMap::new();
    let mut printed = Printed::new();
    for row in chosen {
        if failed.contains(row.bench) {
            continue;
        }
        let Source::Criterion(group) = row.source else {
            // One run prints the figures of all its rows.
            if !printed.keys().any(|(bench, _)| *bench == row.bench) {
                match print(row.bench, long)? {
                    Some(figures) => printed.extend(figures),
                    None => give_up(row.bench, failed),
                }
            }
            continue;
        };
        let groups = benches.entry(row.bench).or_default();
        if !groups.contains(&group) {
            groups.push(group);
            let _ = std::fs::remove_dir_all(criterion.join(group));
        }
    }
    for (bench, groups) in benches {
        for group in groups {
            let mut command = cargo_bench(bench);
            command.args(["--"]).args([
                "--noplot",
                "--quiet",
                "--warm-up-time",
                "0.5",
                "--measurement-time",
                "2",
            ]);
            command.arg(format!("^{group}/")).stdout(std::io::stderr());
            command.env("CRITERION_HOME", &criterion);
            said(&mut command, long);
            if !command.status()?.success() {
                give_up(bench, failed);
                break;
            }
        }
    }
    Ok(printed)
}

fn give_up(bench: &'static str, failed: &mut BTreeSet<&'static str>) {
    eprintln!("--- the bench {bench} failed");
    failed.insert(bench);
}

fn cargo_bench(bench: &str) -> Command {
    let mut command = cargo([
        "bench",
        "--quiet",
        "--locked",
        "--manifest-path",
        "benches/Cargo.toml",
        "--target-dir",
        "target/benches",
        "--bench",
        bench,
    ]);
    if let Some(area) = area(bench) {
        command.args(["--features", area]);
    }
    command
}

/// The feature that a bench requires: what only its area needs to be built.
fn area(bench: &str) -> Option<&'static str> {
    match bench {
        "store" | "column" => Some("store"),
        "relay" | "idle" | "channel" => Some("relay"),
        _ => None,
    }
}

/// Whether the bench measures at full size: always said, so that a variable left
/// over decides nothing.
fn said(command: &mut Command, long: bool) {
    command.env("KATACHI_LONG", if long { "1" } else { "0" });
}

/// Runs a bench that prints its figures, one line of JSON for each; nothing if it
/// failed.
fn print(bench: &'static str, long: bool) -> Result<Option<Printed>> {
    #[derive(serde::Deserialize)]
    struct Line {
        figure: String,
        #[serde(alias = "bytes")]
        ns: f64,
    }
    let mut command = cargo_bench(bench);
    said(&mut command, long);
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Ok(None);
    }
    let figures = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| {
            let line: Line = serde_json::from_str(line)
                .with_context(|| format!("the bench {bench} printed {line:?}"))?;
            Ok(((bench, line.figure), line.ns))
        })
        .collect::<Result<_>>()?;
    Ok(Some(figures))
}

/// The median that criterion found, in nanoseconds.
fn estimate(group: &str, function: &str) -> Option<f64> {
    let path = root()
        .join("target/benches/criterion")
        .join(group)
        .join(function)
        .join("new/estimates.json");
    let text = std::fs::read_to_string(path).ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    value.get("median")?.get("point_estimate")?.as_f64()
}

fn summarise(chosen: &[&Comparison], figures: &BTreeMap<&str, Vec<(f64, f64)>>) -> Report {
    let mut rows = Vec::new();
    let mut missing = Vec::new();
    for row in chosen {
        let Some(found) = figures.get(row.id).filter(|found| !found.is_empty()) else {
            missing.push(format!("{}: {} was not measured here", row.id, row.peer));
            continue;
        };
        let (ratio, bar, holds) = match row.bar {
            Bar::TimeAtMost(bar) | Bar::BytesAtMost(bar) => {
                let ratio = median(found.iter().map(|(ours, peer)| ours / peer));
                (ratio, bar, ratio <= bar)
            }
            Bar::SpeedAtLeast(bar) => {
                let ratio = median(found.iter().map(|(ours, peer)| peer / ours));
                (ratio, bar, ratio >= bar)
            }
        };
        rows.push(Row {
            id: row.id.to_owned(),
            ours: median(found.iter().map(|(ours, _)| *ours)),
            peer: median(found.iter().map(|(_, peer)| *peer)),
            unit: row.bar.unit(),
            ratio,
            bar,
            holds,
        });
    }
    Report {
        machine: machine(),
        rows,
        missing,
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Processor, count of cores and system, as a reader would name the machine.
fn machine() -> String {
    let processor = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            text.lines().find_map(|line| {
                line.strip_prefix("model name")?
                    .split_once(':')
                    .map(|(_, name)| name.trim().to_owned())
            })
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{processor}, {cores} cores, {}", std::env::consts::OS)
}

fn table(report: &Report) -> String {
    let mut text = format!("Measured on: {}.\n\n", report.machine);
    text.push_str("| row | ours | peer | ratio | bar | holds |\n|---|---:|---:|---:|---:|---|\n");
    for row in &report.rows {
        let comparison = COMPARISONS
            .iter()
            .find(|comparison| comparison.id == row.id);
        let sign = match comparison.map(|comparison| comparison.bar) {
            Some(Bar::SpeedAtLeast(_)) => "≥",
            _ => "≤",
        };
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {:.2} | {sign} {} | {} |",
            row.id,
            human(row.ours, row.unit),
            human(row.peer, row.unit),
            row.ratio,
            row.bar,
            if row.holds { "yes" } else { "**no**" },
        );
    }
    for name in &report.missing {
        let _ = writeln!(text, "\nMissing: {name}.");
    }
    text
}

fn human(figure: f64, unit: &str) -> String {
    match figure {
        bytes if unit == "bytes" => format!("{:.1} KiB", bytes / 1024.0),
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e6 => format!("{:.2} µs", n / 1e3),
        n if n < 1e9 => format!("{:.2} ms", n / 1e6),
        n => format!("{:.2} s", n / 1e9),
    }
}

/// Writes the table into the README; a run of some rows replaces those alone.
fn write_readme(report: &Report) -> Result<()> {
    const BEGIN: &str = "<!-- bench:begin -->\n";
    const END: &str = "<!-- bench:end -->";
    let path = root().join("README.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    let (head, rest) = text
        .split_once(BEGIN)
        .context("no bench:begin in README.md")?;
    let (old, tail) = rest.split_once(END).context("no bench:end in README.md")?;
    let fresh = table(report);
    let inner = match report.rows.len() == COMPARISONS.len() {
        true => format!("{fresh}\n"),
        false => {
            ensure!(
                old.lines().next() == fresh.lines().next(),
                "the table in the README is of another machine: measure every row"
            );
            replace_rows(old, &fresh)
        }
    };
    std::fs::write(path, format!("{head}{BEGIN}{inner}{END}{tail}"))?;
    Ok(())
}

/// `old` with the rows of `fresh` in place of its own, and those that it lacks
/// below the last.
fn replace_rows(old: &str, fresh: &str) -> String {
    let id = |line: &str| {
        line.strip_prefix("| `")?
            .split_once('`')
            .map(|(id, _)| id.to_owned())
    };
    let fresh_row = |wanted: &str| {
        fresh
            .lines()
            .find(|row| id(row).as_deref() == Some(wanted))
            .map(str::to_owned)
    };
    let mut lines: Vec<String> = old
        .lines()
        .map(|line| {
            let newer = id(line).and_then(|wanted| fresh_row(&wanted));
            newer.unwrap_or_else(|| line.to_owned())
        })
        .collect();
    let known: Vec<String> = lines.iter().filter_map(|line| id(line)).collect();
    let added = fresh
        .lines()
        .filter(|row| id(row).is_some_and(|id| !known.contains(&id)))
        .map(str::to_owned);
    let last = lines.iter().rposition(|line| id(line).is_some());
    let end = last.map_or(lines.len(), |last| last + 1);
    lines.splice(end..end, added);
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::replace_rows;

    #[test]
    fn a_run_of_some_rows_leaves_the_others() {
        let old = "Measured.\n| `a/b` | 1 |\n| `a` | 2 |\n";
        assert_eq!(
            replace_rows(old, "| `a` | 3 |\n"),
            "Measured.\n| `a/b` | 1 |\n| `a` | 3 |\n"
        );
        assert_eq!(
            replace_rows("| `a` | 2 |\n\nMissing.\n", "| `c` | 4 |\n"),
            "| `a` | 2 |\n| `c` | 4 |\n\nMissing.\n"
        );
    }
}
