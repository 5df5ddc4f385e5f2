//! At the end: what crossed the tunnel, as the log on this machine has it.

use std::collections::BTreeMap;

use anyhow::Context as _;

use super::Story;
use crate::audit::{self, Direction};
use crate::tunnel::ROUTES;

pub(super) fn count(story: &mut Story) -> anyhow::Result<()> {
    story
        .registration
        .as_ref()
        .context("this machine was not approved")?;
    let log = audit::read(&story.config.paths.audit_log())?;
    let mut asked: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in log
        .entries
        .iter()
        .filter(|entry| entry.direction == Direction::In && entry.outcome != "refused")
    {
        *asked.entry(entry.call.as_str()).or_default() += 1;
    }
    let received = |call: &str| {
        log.entries
            .iter()
            .filter(|entry| entry.call == call && entry.outcome == "received")
            .count()
    };
    let complete = received("POST /v1/run") == story.asked.commands
        && received("POST /v1/message") == story.asked.messages;
    let published = asked.keys().all(|call| {
        ROUTES
            .iter()
            .any(|(method, path)| *call == format!("{method} {path}"))
    });
    story.check(
        1,
        complete && published && log.broken_at.is_none(),
        format!(
            "{} commands and {} message were asked for, and exactly those are in the hash-chained log here; \
             the API has {} routes, none hands out a file, and what a command prints crosses inside of a channel",
            story.asked.commands,
            story.asked.messages,
            ROUTES.len()
        ),
    );
    Ok(())
}
