//! Chapter 2: an account, and the device authorization flow.

use anyhow::{Context as _, bail};
use katachi_auth::device::PollAnswer;

use super::Story;
use super::sign_in::{self, EMAIL};
use crate::output::printable;
use crate::relay_client::Registration;
use crate::relay_client::login::{Flow, Poll};

pub(super) async fn approve(story: &mut Story) -> anyhow::Result<()> {
    let browser = story
        .browser
        .clone()
        .context("there is no relay to sign in to")?;
    let relay = story
        .relay
        .as_ref()
        .context("there is no relay to sign in to")?;
    let endpoint = relay.endpoint().clone();

    sign_in::enter(story, &browser).await?;

    let flow = Flow::begin(&endpoint).await?;
    let code = flow.user_code();
    let early = flow.poll().await?;
    let pending = matches!(&early, Poll::Answer(PollAnswer::Pending));
    story
        .progress
        .good(format_args!("the terminal shows the code {code}"));

    let foreign = browser.approve_from_elsewhere(&code).await?;
    let shown = browser.device(&code).await?;
    let named = shown.host_name == crate::relay_client::login::host_name();
    story.progress.good(format_args!(
        "the page shows {} ({}), asked from {}",
        printable(&shown.host_name),
        printable(&shown.os),
        printable(&shown.address)
    ));
    browser.approve(&code).await?;

    let overheard = flow.overheard()?.poll().await?;
    let useless = matches!(overheard, Poll::Answer(_));
    // The relay asks for a pause between polls; ours counts from the one above.
    let token = flow.wait().await?;
    let again = flow.poll().await?;
    let once = matches!(
        again,
        Poll::Answer(PollAnswer::Other(_) | PollAnswer::Denied | PollAnswer::Expired)
    );
    let account = token.approved_by.clone();
    let checks = [
        (pending, "nothing before approval"),
        (foreign == 403, "a page of another site cannot approve"),
        (named, "the page names this machine"),
        (
            useless,
            "whoever overheard the code gets nothing without its key (DPoP)",
        ),
        (once, "the grant is redeemed once"),
        (account == EMAIL, "the terminal is told who approved"),
    ];
    for (held, what) in checks {
        story.check(10, held, what);
    }
    if account != EMAIL {
        bail!("{} approved instead of {EMAIL}", printable(&account));
    }
    story.progress.good(format_args!("approved by {account}"));
    story.registration = Some(Registration::new(&endpoint, true, token));
    Ok(())
}
