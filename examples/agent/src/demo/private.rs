//! Chapter 8: an end-to-end channel between a paired device and this machine,
//! and what the relay in between holds of it.

use anyhow::Context as _;
use katachi_protocol::channel::ChannelRequest;
use katachi_protocol::routes::tunnel;
use katachi_protocol::run::{OutputStream, RunEvent};

use super::device::{Device, Place};
use super::outside::in_memory;
use super::{Story, vault};
use crate::channel::Pairing;

pub(super) async fn talk(story: &mut Story) -> anyhow::Result<()> {
    let home = story.home.clone().context("there is no vault")?;
    let browser = story.browser.as_ref().context("there is no browser")?;
    let registration = story.registration.as_ref();
    let registration = registration.context("this machine was not approved")?;
    let (agent, account) = (registration.agent_id.clone(), registration.account.clone());
    let relay = registration.endpoint().url;
    let place = Place {
        relay: &relay,
        account: &account,
        agent: &agent,
    };

    // Text that is typed into the channel, and must be in no byte of the relay.
    // It is made anew: the relay is this very program, constants and all.
    let random = u64::from_be_bytes(katachi_crypto::random::bytes()?);
    let canary = format!("quince-jelly-{random:016x}");
    let fragment = Pairing::of(&story.config.paths).open(&home.vault)?;
    let mut device = Device::new(&fragment, "the demo's browser")?;
    let mut thief = Device::new(&fragment, "somebody who saw the link later")?;
    let print = ChannelRequest {
        method: "POST".to_owned(),
        path: tunnel::RUN.to_owned(),
        body: Some(serde_json::json!({ "argv": ["echo", canary] })),
        name: None,
    };
    let query = device.query()?;
    let socket = browser.channel(&agent, &query).await?;
    let answer = device.ask(socket, &query, place, print.clone()).await?;
    let status = answer.status;
    let said = String::from_utf8(answer.whole().await?).context("the answer is not UTF-8")?;
    let query = thief.query()?;
    let socket = browser.channel(&agent, &query).await?;
    let stolen = thief.ask(socket, &query, place, print).await;
    let plain = browser.run(&agent, &["echo", "outside"]).await;
    story.asked.commands += 1;
    let echoed = said.lines().any(|line| {
        matches!(RunEvent::from_line(line), Ok(RunEvent::Output { stream: OutputStream::Stdout, data }) if data.trim() == canary)
    });
    let confined = said
        .lines()
        .any(|line| matches!(RunEvent::from_line(line), Ok(RunEvent::Started { .. })));
    if confined {
        story.check(
            2,
            status == 200 && echoed,
            "a device paired by a link ran a command through a Noise channel and read its output",
        );
    } else {
        // Where nothing can be confined the refusal has come through the channel.
        story.ledger.unavailable(
            2,
            "no command can be confined here to run through the channel",
        );
    }

    let refused = plain.is_err_and(|error| error.to_string().contains("403"));
    story.check(
        2,
        stolen.is_err() && refused,
        "the link pairs nobody twice, and what does not come through a channel gets 403",
    );
    story.ledger.weaker(
        2,
        "before the first pairing an agent obeys its relay, which reads what passes, as in the chapters above",
    );

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
            "the relay's memory cannot be read here, so it was not searched",
        ),
    }
    Ok(())
}
