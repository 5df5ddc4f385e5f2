//! Chapter 2, first half: an account by e-mail and password, and one by a provider.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use katachi_protocol::routes;

use super::Story;
use super::browser::Browser;
use super::provider::Provider;

/// The person of the story.
pub(super) const EMAIL: &str = "demo@katachi.example";
/// Who signs in through a provider.
pub(super) const ELSEWHERE: &str = "elsewhere@katachi.example";
/// The provider, as the relay names it.
pub(super) const PROVIDER: &str = "demo";
/// Folder below the relay's state that its mail goes to.
pub(super) const MAIL: &str = "mail";

pub(super) async fn enter(story: &mut Story, browser: &Browser) -> anyhow::Result<()> {
    by_password(story, browser).await?;
    by_provider(story).await?;
    if let Some(provider) = story.provider.take() {
        provider.stop().await;
    }
    story
        .ledger
        .unwitnessed(9, "GitHub and Google themselves, where it takes an account");
    Ok(())
}

async fn by_password(story: &mut Story, browser: &Browser) -> anyhow::Result<()> {
    let password = random_password()?;
    let told = browser.sign_up(EMAIL, &password).await?;
    let (early, _) = browser.log_in(EMAIL, &password, None).await?;
    let mail = story.config.paths.embedded_relay().join(MAIL);
    let token = token_in(&mail, EMAIL).await?;
    let (wrong, _) = browser
        .log_in(EMAIL, "not the password", Some(&token))
        .await?;
    let (right, cookie) = browser.log_in(EMAIL, &password, Some(&token)).await?;
    let attributes = ["Secure", "HttpOnly", "SameSite=", "Path=/"];
    let locked = cookie.starts_with(routes::SESSION_COOKIE)
        && attributes
            .iter()
            .all(|attribute| cookie.contains(attribute))
        && !cookie.contains("Domain=");
    story.ledger.check(
        3,
        locked,
        "the session cookie is `__Host-`, Secure, HttpOnly and SameSite",
    );
    let me = browser.me().await?;
    story.ledger.check(
        9,
        told == 202 && early == 401 && wrong == 401 && right.is_success() && me.verified,
        "an account with e-mail and password (Argon2id) opens by the link in its mail and its \
         password, and by neither alone",
    );
    if me.email != EMAIL {
        bail!("signed in as {} and not as {EMAIL}", me.email);
    }
    story.progress.good(format_args!(
        "signed up and in as {EMAIL} by the link in a mail; a wrong password got {wrong}"
    ));
    Ok(())
}

async fn by_provider(story: &mut Story) -> anyhow::Result<()> {
    let relay = story.relay.as_ref().context("there is no relay")?;
    let browser = Browser::new(relay.endpoint())?;
    let page = browser.start_sign_in(PROVIDER).await?;
    let overheard = browser.agree(&page).await?;
    let stranger = Browser::new(relay.endpoint())?;
    let stolen = stranger.come_back(&overheard).await?;
    let page = browser.start_sign_in(PROVIDER).await?;
    let back = browser.agree(&page).await?;
    let entered = browser.come_back(&back).await?;
    let me = browser.me().await?;
    let again = browser.come_back(&back).await?;
    story.check(
        9,
        entered.is_redirection() && me.email == ELSEWHERE,
        "an OpenID provider on loopback (OAuth 2.0 code, PKCE, ID token) signs a person in",
    );
    story.check(
        9,
        stolen.is_client_error() && again.is_client_error(),
        "what it sends back is worth nothing in another browser, and once in this one",
    );
    Ok(())
}

/// Starts the provider that the relay is to know.
pub(super) async fn provider() -> anyhow::Result<Provider> {
    Provider::start(ELSEWHERE)
        .await
        .context("an OpenID provider on loopback")
}

/// The token in the link that was sent to `address`.
async fn token_in(folder: &Path, address: &str) -> anyhow::Result<String> {
    const MARK: &str = "/#verify/";
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(25)).await;
        let Ok(entries) = std::fs::read_dir(folder) else {
            continue;
        };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.extension().is_none_or(|kind| kind != "eml") {
                continue;
            }
            // Without the soft line breaks of quoted-printable (RFC 2045 section 6.7).
            let mail = std::fs::read_to_string(&path)?.replace("=\r\n", "");
            let link = mail.split_once(MARK).map(|(_, rest)| rest);
            if let Some(rest) = link.filter(|_| mail.contains(&format!("To: {address}"))) {
                return Ok(rest
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || "-_".contains(*c))
                    .collect());
            }
        }
    }
    bail!("no mail came to {address} in {}", folder.display())
}

fn random_password() -> anyhow::Result<String> {
    let bytes = katachi_crypto::random::bytes::<16>()?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
