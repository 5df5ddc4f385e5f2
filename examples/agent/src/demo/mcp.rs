//! Chapter 8: an MCP configuration with a secret, and what the database holds of it.

use std::collections::BTreeMap;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use katachi_protocol::Sensitive;
use katachi_protocol::mcp::PutMcp;

use super::{Story, vault};

const NAME: &str = "weather";
const SECRET: &str = "mcp-secret-93b1d0e5";

pub(super) async fn configure(story: &mut Story) -> anyhow::Result<()> {
    let browser = story.browser.as_ref().context("there is no browser")?;
    let service = story.service.clone().context("there is no tunnel")?;
    let client = service.client();
    let mut config = PutMcp {
        command: ["weather-mcp", "--stdio"].map(str::to_owned).to_vec(),
        env: BTreeMap::from([("UNITS".to_owned(), "metric".to_owned())]),
        secrets: BTreeMap::from([("WEATHER_TOKEN".to_owned(), Sensitive::new(SECRET))]),
        released_to: Vec::new(),
        signatures: BTreeMap::new(),
    };
    browser.put_mcp(NAME, &config).await?;
    let (listed, text) = browser.mcp().await?;
    let named = listed
        .configs
        .iter()
        .any(|known| known.name == NAME && known.secret_names == ["WEATHER_TOKEN"]);

    let before = client.mcp().await?;
    let withheld = before
        .configs
        .iter()
        .all(|known| !known.released && known.secrets.is_empty());
    config.released_to = vec![client.agent_id().to_owned()];
    browser.put_mcp(NAME, &config).await?;
    let after = client.mcp().await?;
    let released = after.configs.iter().any(|known| {
        known.released
            && known
                .secrets
                .get("WEATHER_TOKEN")
                .is_some_and(|secret| secret.expose_secret() == SECRET)
    });

    let device = story.device.as_ref().context("no browser is paired")?;
    let signature = device.sign_mcp(NAME, &config)?;
    config.signatures = BTreeMap::from([(client.agent_id().to_owned(), signature)]);
    let judged = async |config: &PutMcp| -> anyhow::Result<Option<String>> {
        browser.put_mcp(NAME, config).await?;
        let servers = crate::mcp::listed(&service).await?;
        let server = servers.into_iter().find(|server| server.name == NAME);
        Ok(server.context("the configuration is gone")?.refused)
    };
    let signed = judged(&config).await?;
    let mut changed = config.clone();
    changed.command.push("--send-everything".to_owned());
    let changed = judged(&changed).await?;

    let sealed = browser.sealed_mcp(NAME).await?;
    let cell = sealed
        .cells
        .iter()
        .find(|cell| cell.name == "WEATHER_TOKEN")
        .context("the database holds no cell")?
        .clone();
    let bytes = STANDARD.decode(&cell.sealed)?;
    let opaque = bytes.starts_with(b"KTC") && !vault::contains(&bytes, SECRET.as_bytes());
    let leaks = vault::holding(&story.home_dir, SECRET.as_bytes())?;
    let place = &cell.context;

    story.check(
        8,
        named && !text.contains(SECRET),
        "the browser gets the name of the secret back and never its value",
    );
    let shown: String = cell.sealed.chars().take(48).collect();
    story.progress.detail(format_args!(
        "{}.{} row {} version {}: {shown}…",
        place.table, place.column, place.row, place.version
    ));
    story.check(
        8,
        opaque && leaks.is_empty(),
        format!("the database holds {} bytes of AES-256-GCM envelope bound to tenant, table, column, row and version; the secret is in no file", bytes.len()),
    );
    story.check(
        8,
        withheld && released,
        "this machine gets the secret only after it was released to it",
    );
    story.check(
        8,
        signed.is_none() && changed.is_some(),
        "this machine would start it as the paired device signed it, and not with one word more",
    );
    story.progress.detail(changed.unwrap_or_default());
    Ok(())
}
