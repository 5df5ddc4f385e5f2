//! `memory`: what the AI remembers about a workspace.

use std::io::Read as _;
use std::process::ExitCode;

use katachi_store::memory::{Entry, Limits, Memory};
use serde::Serialize;

use crate::chart;
use crate::chat::seconds;
use crate::cli;
use crate::commands::history::{MILLIS_PER_DAY, first_day};
use crate::config::Config;
use crate::home::Home;
use crate::mistake::Mistake;
use crate::output::{BOLD, GOOD, QUIET, note, paint, print, print_json, printable};

/// Longest value read from standard input; the memory's own limit is lower.
const MAX_INPUT: u64 = 1 << 20;

/// Days in the chart.
const DAYS: usize = 14;

/// Does what was asked.
///
/// # Errors
///
/// Returns an error if the database cannot be opened or has no such entry.
pub(crate) fn memory(config: &Config, command: &cli::Memory) -> anyhow::Result<ExitCode> {
    match command {
        cli::Memory::List { json, limit, tag } => list(config, *json, *limit, tag.as_deref())?,
        cli::Memory::Get { key } => get(config, key)?,
        cli::Memory::Set { key, value, tags } => set(config, key, value.as_deref(), tags)?,
        cli::Memory::Search { json, limit, words } => {
            search(config, *json, *limit, &words.join(" "))?
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Entries of one workspace stay apart from those of others.
pub(crate) fn namespace(config: &Config) -> String {
    let path = config.workspace.display().to_string();
    match path.len() <= 256 {
        true => path,
        // A name may not be longer; the directory's own name and a digest tell them apart.
        false => {
            use sha2::{Digest as _, Sha256};
            let digest = Sha256::digest(path.as_bytes());
            let short: String = digest[..8]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            format!("workspace-{short}")
        }
    }
}

fn existing(config: &Config) -> anyhow::Result<Option<Memory>> {
    let Some(home) = Home::open_existing(config)?.filter(|home| home.paths.database().exists())
    else {
        return Ok(None);
    };
    Ok(Some(Memory::open(&home.database()?)?))
}

/// How full a namespace is and when it was filled.
#[derive(Debug, Serialize)]
struct Filled {
    namespace: String,
    entries: u64,
    bytes: u64,
    /// Entries last set on each of the last days, today last.
    days: Vec<u64>,
}

fn filled(memory: &Memory) -> anyhow::Result<Vec<Filled>> {
    let mut filled: Vec<Filled> = memory
        .namespaces()?
        .into_iter()
        .map(|used| Filled {
            namespace: used.namespace,
            entries: used.entries,
            bytes: used.bytes,
            days: vec![0; DAYS],
        })
        .collect();
    let first = first_day(DAYS)?;
    for day in memory.activity(first * MILLIS_PER_DAY)? {
        let row = filled
            .iter_mut()
            .find(|row| row.namespace == day.namespace)
            .and_then(|row| row.days.get_mut(usize::try_from(day.day - first).ok()?));
        if let Some(count) = row {
            *count = day.entries;
        }
    }
    Ok(filled)
}

fn list(config: &Config, json: bool, limit: u32, tag: Option<&str>) -> anyhow::Result<()> {
    let (mut namespaces, mut entries) = (Vec::new(), Vec::new());
    if let Some(memory) = existing(config)? {
        namespaces = filled(&memory)?;
        let listed = memory.list(&namespace(config), tag, limit, 0)?;
        entries.extend(listed.into_iter().map(found));
    }
    if json {
        return print_json(&serde_json::json!({ "namespaces": namespaces, "entries": entries }));
    }
    if namespaces.is_empty() {
        note("Nothing is remembered yet. `katachi-agent memory set KEY` begins.");
        return Ok(());
    }
    let mut text = picture(&namespaces, &namespace(config));
    for entry in &entries {
        text.push_str(&format!(
            "{}  {}{}\n",
            crate::time::show(entry.updated.unwrap_or_default()),
            paint(BOLD, printable(&entry.key)),
            paint(QUIET, tags(entry)),
        ));
    }
    print(&text)?;
    Ok(())
}

/// A line for each namespace, this workspace's first: its last days, how much
/// of the room it takes, its name.
fn picture(namespaces: &[Filled], here: &str) -> String {
    let room = Limits::default().namespace_bytes;
    let mut ordered: Vec<&Filled> = namespaces.iter().collect();
    ordered.sort_by_key(|row| (row.namespace != here, std::cmp::Reverse(row.bytes)));
    let most = ordered.iter().map(|row| row.bytes).max().unwrap_or(0);
    let line = |row: &&Filled| {
        let percent = row.bytes.saturating_mul(100).div_ceil(room);
        format!(
            "{}  {}  {:>5} entries {:>9} ({percent}% full)  {}\n",
            paint(GOOD, chart::bars(&row.days)),
            paint(GOOD, chart::share(row.bytes, most, 12)),
            row.entries,
            size(row.bytes),
            paint(BOLD, printable(&row.namespace)),
        )
    };
    let lines: String = ordered.iter().map(line).collect();
    let legend = format!("entries set on each of {DAYS} days; room taken, beside the largest");
    format!("{lines}{}\n\n", paint(QUIET, legend))
}

/// Bytes, as a person reads them.
fn size(bytes: u64) -> String {
    match bytes {
        0..=1023 => format!("{bytes} B"),
        1024..=1_048_575 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

fn get(config: &Config, key: &str) -> anyhow::Result<()> {
    let found = match existing(config)? {
        Some(memory) => memory.get(&namespace(config), key)?,
        None => None,
    };
    let Some(entry) = found else {
        return Err(Mistake::new(
            "memory get",
            format!(
                "nothing is remembered under `{}` for {}",
                printable(key),
                config.workspace.display()
            ),
            "find it with `katachi-agent memory search WORDS`, or name another --workspace",
        )
        .into());
    };
    let newline = if entry.value.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    print(&format!("{}{newline}", entry.value))?;
    Ok(())
}

fn set(config: &Config, key: &str, value: Option<&str>, tags: &[String]) -> anyhow::Result<()> {
    let value = match value {
        Some(value) => value.to_owned(),
        None => {
            let mut text = String::new();
            std::io::stdin().take(MAX_INPUT).read_to_string(&mut text)?;
            text
        }
    };
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    let home = Home::open(config)?;
    Memory::open(&home.database()?)?.set(&namespace(config), key, &value, &tags)?;
    note(format_args!(
        "Remembered {} for {}.",
        printable(key),
        config.workspace.display()
    ));
    Ok(())
}

#[derive(Debug, Serialize)]
struct Found {
    key: String,
    value: String,
    tags: Vec<String>,
    updated: Option<u64>,
}

fn found(entry: Entry) -> Found {
    Found {
        key: entry.key,
        value: entry.value,
        tags: entry.tags,
        updated: seconds(entry.updated_ms),
    }
}

/// Its tags, each with the sign before it.
fn tags(entry: &Found) -> String {
    entry
        .tags
        .iter()
        .map(|tag| format!(" #{}", printable(tag)))
        .collect()
}

fn search(config: &Config, json: bool, limit: u32, words: &str) -> anyhow::Result<()> {
    let entries = match existing(config)? {
        Some(memory) => memory.search(Some(&namespace(config)), words, limit)?,
        None => Vec::new(),
    };
    let found: Vec<Found> = entries.into_iter().map(found).collect();
    if json {
        return print_json(&found);
    }
    if found.is_empty() {
        note("Nothing fits.");
    }
    let text: String = found
        .iter()
        .map(|entry| {
            format!(
                "{}{}\n    {}\n",
                paint(BOLD, printable(&entry.key)),
                paint(QUIET, tags(entry)),
                printable(entry.value.trim_end()).replace('\n', "\n    ")
            )
        })
        .collect();
    print(&text)?;
    Ok(())
}
