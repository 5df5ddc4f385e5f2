//! `memory`: what the AI remembers about a workspace.

use std::io::Read as _;
use std::process::ExitCode;

use katachi_store::memory::Memory;
use serde::Serialize;

use crate::chat::seconds;
use crate::cli;
use crate::config::Config;
use crate::home::Home;
use crate::mistake::Mistake;
use crate::output::{BOLD, QUIET, note, paint, print, print_json, printable};

/// Longest value read from standard input; the memory's own limit is lower.
const MAX_INPUT: u64 = 1 << 20;

/// Does what was asked.
///
/// # Errors
///
/// Returns an error if the database cannot be opened or has no such entry.
pub(crate) fn memory(config: &Config, command: &cli::Memory) -> anyhow::Result<ExitCode> {
    match command {
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

fn search(config: &Config, json: bool, limit: u32, words: &str) -> anyhow::Result<()> {
    let entries = match existing(config)? {
        Some(memory) => memory.search(Some(&namespace(config)), words, limit)?,
        None => Vec::new(),
    };
    let found: Vec<Found> = entries
        .into_iter()
        .map(|entry| Found {
            key: entry.key,
            value: entry.value,
            tags: entry.tags,
            updated: seconds(entry.updated_ms),
        })
        .collect();
    if json {
        return print_json(&found);
    }
    if found.is_empty() {
        note("Nothing fits.");
    }
    let text: String = found
        .iter()
        .map(|entry| {
            let tags: String = entry
                .tags
                .iter()
                .map(|tag| format!(" #{}", printable(tag)))
                .collect();
            format!(
                "{}{}\n    {}\n",
                paint(BOLD, printable(&entry.key)),
                paint(QUIET, tags),
                printable(entry.value.trim_end()).replace('\n', "\n    ")
            )
        })
        .collect();
    print(&text)?;
    Ok(())
}
