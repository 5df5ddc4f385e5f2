//! Chapter 5: the relay asks by itself and is refused; a device is paired, and
//! what it says is between it and this machine.

use anyhow::Context as _;
use axum::body::Body;
use http::{Request, StatusCode};
use katachi_protocol::routes::tunnel as routes;
use katachi_protocol::run::{OutputStream, RunEvent};
use tower::ServiceExt as _;

use super::outside::in_memory;
use super::paired::Paired;
use super::{Story, vault};
use crate::channel::Pairing;
use crate::tunnel::{self, ROUTES};

pub(super) async fn talk(story: &mut Story) -> anyhow::Result<()> {
    unpaired(story).await?;
    let home = story.home.clone().context("there is no vault")?;
    let browser = story.browser.as_ref().context("there is no browser")?;
    let registration = story.registration.as_ref();
    let registration = registration.context("this machine was not approved")?;
    let account = registration.account.clone();

    // Text that is typed into the channel, and must be in no byte of the relay.
    // It is made anew: the relay is this very program, constants and all.
    let random = u64::from_be_bytes(katachi_crypto::random::bytes()?);
    let canary = format!("quince-jelly-{random:016x}");
    let fragment = Pairing::of(&story.config.paths).open(&home.vault)?;
    let device = Paired::new(&fragment, "the demo's browser", registration)?;
    let thief = Paired::new(&fragment, "somebody who saw the link later", registration)?;
    let events = device.run(browser, &["echo", &canary]).await?;
    let stolen = thief.run(browser, &["echo", "stolen"]).await;
    story.asked.commands += 1;
    story.device = Some(device);

    let confined = events
        .iter()
        .any(|event| matches!(event, RunEvent::Started { .. }));
    if confined {
        let echoed = events.iter().any(|event| {
            matches!(event, RunEvent::Output { stream: OutputStream::Stdout, data } if data.trim() == canary)
        });
        story.check(
            2,
            echoed,
            "a device paired by a link ran a command through a Noise channel and read its output",
        );
    } else {
        // Where nothing can be confined the refusal has come through the channel.
        story.ledger.unavailable(
            2,
            "no command can be confined here to run through the channel",
        );
    }
    story.check(2, stolen.is_err(), "the link pairs nobody twice");

    let Some(pid) = story.relay.as_ref().and_then(|relay| relay.id()) else {
        return Ok(());
    };
    // What the relay does know shows that the search can find something.
    match (
        in_memory(pid, canary.as_bytes()),
        in_memory(pid, account.as_bytes()),
    ) {
        (Ok(found), Ok(control)) if control > 0 => {
            let files = vault::holding(&story.config.paths.embedded_relay(), canary.as_bytes())?;
            story.check(
                2,
                found == 0 && files.is_empty(),
                format!(
                    "the relay's memory holds the typed text {found} times (the account's address {control} times) and no file of it does"
                ),
            );
        }
        _ => story.ledger.unwitnessed(
            2,
            "the relay's memory cannot be read here (on Linux root alone can), so it was not searched",
        ),
    }
    Ok(())
}

/// Asks for every route but its own two as a relay would that means no good: on the tunnel, and
/// not in a channel. No device was paired yet.
async fn unpaired(story: &mut Story) -> anyhow::Result<()> {
    let service = story.service.clone();
    let service = service.context("the tunnel has no service")?;
    let mut asked = 0;
    let mut refused = 0;
    for (method, path) in ROUTES {
        if [routes::CHANNEL, routes::RECONNECT].contains(&path) {
            continue;
        }
        let request = Request::builder()
            .method(method)
            .uri(path.replace("{id}", "x"))
            .header("content-type", "application/json")
            .body(Body::from(r#"{"argv":["touch","obeyed"],"text":"obey"}"#))?;
        let (leave, _) = tokio::sync::watch::channel(None);
        let outside = tunnel::outside(service.clone(), leave);
        let answer = outside.oneshot(request).await?;
        asked += 1;
        refused += usize::from(answer.status() == StatusCode::FORBIDDEN);
    }
    story.check(
        2,
        asked > 0 && refused == asked && !story.config.workspace.join("obeyed").exists(),
        format!(
            "before any device is paired, what the relay asks by itself gets 403 on {refused} of {asked} routes"
        ),
    );
    Ok(())
}
