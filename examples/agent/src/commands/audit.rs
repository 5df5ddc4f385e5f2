//! `audit`: what crossed the tunnel.

use std::process::ExitCode;

use anyhow::bail;

use crate::audit::{self, Direction};
use crate::cli;
use crate::config::Config;
use crate::output::{BAD, QUIET, note, one_line, paint, print};

/// Shows the latest entries of the log, oldest first.
///
/// # Errors
///
/// Returns an error if the log cannot be read or its chain is broken.
pub(crate) fn audit(config: &Config, args: &cli::Audit) -> anyhow::Result<ExitCode> {
    let path = config.paths.audit_log();
    if !path.exists() {
        note("Nothing has crossed the tunnel yet.");
        return Ok(ExitCode::SUCCESS);
    }
    let log = audit::read(&path)?;
    let from = log.entries.len().saturating_sub(args.limit);
    let mut text = String::new();
    for entry in &log.entries[from..] {
        if args.json {
            text.push_str(&serde_json::to_string(entry)?);
            text.push('\n');
            continue;
        }
        let arrow = match entry.direction {
            Direction::In => "relay → here",
            Direction::Out => "here → relay",
        };
        text.push_str(&format!(
            "{:>5}  {}  {arrow}  {:<26} {}  {}\n",
            entry.sequence,
            crate::time::show(entry.at),
            one_line(&entry.call),
            one_line(&entry.outcome),
            paint(QUIET, one_line(&entry.detail)),
        ));
        if let Some(denial) = &entry.denial {
            text.push_str(&format!(
                "       {} {} of {}: {}\n",
                paint(BAD, "denied"),
                one_line(&denial.operation),
                one_line(&denial.target),
                one_line(&denial.reason)
            ));
        }
    }
    print(&text)?;
    if let Some(sequence) = log.broken_at {
        bail!(
            "the log {} was altered: entry {sequence} does not follow from the one before it",
            path.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}
