//! `history`: conversations in the encrypted database.

use std::process::ExitCode;
use std::time::Duration;

use katachi_store::history::{History, HistoryError, Role, State};
use serde::Serialize;

use crate::chart;
use crate::chat::{seconds, session_id};
use crate::cli;
use crate::config::Config;
use crate::home::Home;
use crate::mistake::Mistake;
use crate::output::{BOLD, GOOD, QUIET, WEAK, note, paint, print, print_json, printable};

/// Days in the chart.
const DAYS: usize = 28;
pub(crate) const MILLIS_PER_DAY: i64 = 24 * 60 * 60 * 1000;

/// Does what was asked.
///
/// # Errors
///
/// Returns an error if the database cannot be opened or has no such session.
pub(crate) fn history(config: &Config, command: &cli::History) -> anyhow::Result<ExitCode> {
    match command {
        cli::History::List { json, limit } => list(config, *json, *limit)?,
        cli::History::Show { session, json } => show(config, session, *json)?,
        cli::History::Search { json, limit, words } => {
            search(config, *json, *limit, &words.join(" "))?
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens the history if there is a database; looking never makes one.
fn open(config: &Config) -> anyhow::Result<Option<History>> {
    let Some(home) = Home::open_existing(config)?.filter(|home| home.paths.database().exists())
    else {
        return Ok(None);
    };
    let history = History::open_beside(&home.database()?)?;
    // A tool may be silent for hours: not time but the lock of `up` tells whether an
    // answer is still being written.
    if let Some(_alone) = super::up::alone(config)? {
        history.close_abandoned_streams(Duration::ZERO)?;
    }
    Ok(Some(history))
}

#[derive(Debug, Serialize)]
struct Listed {
    session: i64,
    title: String,
    messages: u64,
    /// How many of them were cut off.
    interrupted: u64,
    updated: Option<u64>,
}

fn list(config: &Config, json: bool, limit: u32) -> anyhow::Result<()> {
    let mut sessions = Vec::new();
    let mut chart = String::new();
    if let Some(history) = open(config)? {
        for session in history.list_sessions(None, limit, 0)? {
            sessions.push(Listed {
                session: session.id.0,
                title: session.title,
                messages: session.messages,
                interrupted: session.interrupted,
                updated: seconds(session.updated_ms),
            });
        }
        chart = activity(&history)?;
    }
    if json {
        return print_json(&sessions);
    }
    if sessions.is_empty() {
        note("No conversations yet. They begin when a message arrives through `katachi-agent up`.");
        return Ok(());
    }
    let mut text = chart;
    for session in sessions {
        let interrupted = match session.interrupted {
            0 => String::new(),
            count => format!("  {count} interrupted"),
        };
        text.push_str(&format!(
            "{:>6}  {}  {:>4} messages  {}{}\n",
            session.session,
            crate::time::show(session.updated.unwrap_or_default()),
            session.messages,
            paint(BOLD, printable(&session.title).replace('\n', " ")),
            paint(WEAK, interrupted)
        ));
    }
    print(&text)?;
    Ok(())
}

/// The first of the last `days`, in days since 1970.
pub(crate) fn first_day(days: usize) -> anyhow::Result<i64> {
    let today = i64::try_from(crate::audit::now())? * 1000 / MILLIS_PER_DAY;
    Ok(today - i64::try_from(days)? + 1)
}

/// One line with a bar for each of the last days.
fn activity(history: &History) -> anyhow::Result<String> {
    let first = first_day(DAYS)?;
    let mut counts = vec![0; DAYS];
    for day in history.activity(first * MILLIS_PER_DAY)? {
        if let Some(count) = usize::try_from(day.day - first)
            .ok()
            .and_then(|at| counts.get_mut(at))
        {
            *count = day.messages;
        }
    }
    let total: u64 = counts.iter().sum();
    Ok(format!(
        "{}  {}\n",
        paint(GOOD, chart::bars(&counts)),
        paint(QUIET, format_args!("{total} messages in {DAYS} days"))
    ))
}

#[derive(Debug, Serialize)]
struct Shown {
    role: Role,
    at: Option<u64>,
    /// `complete`, `streaming` or `interrupted`.
    state: State,
    text: String,
}

fn show(config: &Config, session: &str, json: bool) -> anyhow::Result<()> {
    let id = session_id(session)?;
    let missing = || {
        Mistake::new(
            "history show",
            format!("there is no session {id}"),
            "take one from `katachi-agent history list`",
        )
    };
    let history = open(config)?.ok_or_else(missing)?;
    match history.session(id) {
        Err(HistoryError::NoSuchSession(_)) => return Err(missing().into()),
        other => drop(other?),
    }
    let mut messages = Vec::new();
    let mut after = None;
    loop {
        let page = history.show(id, after, 200)?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        messages.extend(page.into_iter().map(|message| Shown {
            role: message.role,
            at: seconds(message.created_ms),
            state: message.state,
            text: message.text,
        }));
    }
    if json {
        return print_json(&messages);
    }
    let text: String = messages
        .iter()
        .map(|message| {
            let state = match message.state {
                State::Complete => "",
                State::Interrupted => " interrupted",
                State::Streaming => " being written",
            };
            format!(
                "{} {}{}\n{}\n\n",
                paint(BOLD, message.role),
                paint(QUIET, crate::time::show(message.at.unwrap_or_default())),
                paint(WEAK, state),
                printable(message.text.trim_end())
            )
        })
        .collect();
    print(&text)?;
    Ok(())
}

#[derive(Debug, Serialize)]
struct Found {
    session: i64,
    message: i64,
    role: Role,
    at: Option<u64>,
    snippet: String,
}

fn search(config: &Config, json: bool, limit: u32, words: &str) -> anyhow::Result<()> {
    let hits = match open(config)? {
        Some(history) => history.search(words, limit)?,
        None => Vec::new(),
    };
    let found: Vec<Found> = hits
        .into_iter()
        .map(|hit| Found {
            session: hit.session.0,
            message: hit.message.0,
            role: hit.role,
            at: seconds(hit.created_ms),
            snippet: hit.snippet,
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
        .map(|hit| {
            format!(
                "{:>6}  {}  {}  {}\n",
                hit.session,
                crate::time::show(hit.at.unwrap_or_default()),
                paint(QUIET, hit.role),
                printable(&hit.snippet).replace('\n', " ")
            )
        })
        .collect();
    print(&text)?;
    Ok(())
}
