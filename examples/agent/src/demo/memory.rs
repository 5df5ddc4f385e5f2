//! Chapter 7: a conversation and a memory, found again, and worth nothing elsewhere.

use anyhow::{Context as _, bail};
use katachi_protocol::record::History;
use katachi_protocol::routes::tunnel;
use katachi_protocol::run::RunEvent;
use katachi_store::memory::Memory;

use super::{MARKER, Story, vault};

/// How a plain SQLite database begins.
const SQLITE: &[u8] = b"SQLite format 3\0";

pub(super) async fn remember(story: &mut Story) -> anyhow::Result<()> {
    let browser = story.browser.as_ref().context("there is no browser")?;
    let home = story.home.clone().context("there is no vault")?;
    let device = story.device.as_ref().context("no device was paired")?;

    let question = format!("how do I bake {MARKER}?");
    let events = device.message(browser, &question).await?;
    story.asked.messages += 1;
    let answer: String = events
        .iter()
        .filter_map(|event| match event {
            RunEvent::Output { data, .. } => Some(data.as_str()),
            _ => None,
        })
        .collect();
    let path = format!("{}?q={MARKER}", tunnel::HISTORY);
    let found = device.get::<History>(browser, &path).await?.hits;
    let asked = found.iter().any(|hit| hit.role == "user");
    let answered = found.iter().any(|hit| hit.role == "assistant");
    match events.last() {
        Some(RunEvent::Error { message }) => {
            story
                .progress
                .detail(format_args!("no AI process could be started: {message}"));
            story.check(7, asked, "a message was kept and found by search");
        }
        _ => story.check(
            7,
            asked && answered && answer.contains(MARKER),
            format!(
                "a message and its answer were kept; {} hits by search",
                found.len()
            ),
        ),
    }

    let database = home.database()?;
    let memory = Memory::open(&database)?;
    let namespace = crate::commands::memory::namespace(&story.config);
    memory.set(
        &namespace,
        "favourite",
        &format!("the best one is {MARKER}"),
        &["cake"],
    )?;
    let hits = memory.search(Some(&namespace), "best", 10)?;
    story.check(
        7,
        hits.len() == 1 && hits[0].value.contains(MARKER),
        "workspace memory was set and found by search",
    );
    database.checkpoint()?;

    let file = std::fs::read(story.config.paths.database())?;
    if file.len() < 4096 {
        bail!("the database file has only {} bytes", file.len());
    }
    let leaks = vault::holding(&story.home_dir, MARKER.as_bytes())?;
    let head: String = file[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    story.check(
        7,
        !file.starts_with(SQLITE) && leaks.is_empty(),
        format!("the file begins with {head}, not as SQLite does, and no file holds the text"),
    );

    let refusal = vault::elsewhere(&story.config.paths, story.config.keychain)?;
    story.check(
        7,
        true,
        format!("another machine does not get the key: {refusal}"),
    );
    if home.vault.report().is_copy_deterrent() {
        let strength = home.vault.report().strength.unwrap_or_default();
        story.ledger.weaker(
            7,
            format!("without a keychain that binding is worth {strength}"),
        );
    }
    Ok(())
}
