//! The paired browser of the story: whatever it asks goes through an end-to-end
//! channel of its own.

use anyhow::{Context as _, bail};
use katachi_protocol::channel::{ChannelRequest, PairingFragment};
use katachi_protocol::mcp::{McpSignature, PutMcp};
use katachi_protocol::routes::tunnel;
use katachi_protocol::run::RunEvent;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::browser::Browser;
use super::device::{Answer, Device, Place};
use crate::relay_client::Registration;

/// A device, and where the agent is that it talks to.
pub(super) struct Paired {
    device: Device,
    relay: String,
    account: String,
    agent: String,
}

impl Paired {
    /// A device that was shown the link with `fragment`; it pairs with what it
    /// asks first.
    pub(super) fn new(
        fragment: &PairingFragment,
        name: &str,
        registration: &Registration,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            device: Device::new(fragment, name)?,
            relay: registration.endpoint().url,
            account: registration.account.clone(),
            agent: registration.agent_id.clone(),
        })
    }

    /// Signs an MCP configuration for its agent.
    pub(super) fn sign_mcp(&self, name: &str, config: &PutMcp) -> anyhow::Result<McpSignature> {
        self.device.sign_mcp(&self.agent, name, config)
    }

    /// Asks one thing; the body of the answer is still to come.
    pub(super) async fn ask(
        &self,
        browser: &Browser,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Answer<TlsStream<TcpStream>>> {
        let query = self.device.query()?;
        let socket = browser.channel(&self.agent, &query).await?;
        let request = ChannelRequest {
            method: method.to_owned(),
            path: path.to_owned(),
            body,
            name: None,
            signing_key: None,
        };
        let place = Place {
            relay: &self.relay,
            account: &self.account,
            agent: &self.agent,
        };
        self.device.ask(socket, &query, place, request).await
    }

    /// Reads one thing.
    pub(super) async fn get<T: serde::de::DeserializeOwned>(
        &self,
        browser: &Browser,
        path: &str,
    ) -> anyhow::Result<T> {
        let answer = self.ask(browser, "GET", path, None).await?;
        let status = answer.status;
        let body = answer.whole().await?;
        match status {
            200 => Ok(serde_json::from_slice(&body)?),
            _ => bail!("the agent answered {status} to {path}"),
        }
    }

    /// Runs a command and collects what streams back.
    pub(super) async fn run(
        &self,
        browser: &Browser,
        argv: &[&str],
    ) -> anyhow::Result<Vec<RunEvent>> {
        let body = json!({ "argv": argv });
        events(self.ask(browser, "POST", tunnel::RUN, Some(body)).await?).await
    }

    /// Sends a message to the AI and collects what streams back.
    pub(super) async fn message(
        &self,
        browser: &Browser,
        text: &str,
    ) -> anyhow::Result<Vec<RunEvent>> {
        let body = json!({ "text": text });
        events(
            self.ask(browser, "POST", tunnel::MESSAGE, Some(body))
                .await?,
        )
        .await
    }
}

async fn events(answer: Answer<TlsStream<TcpStream>>) -> anyhow::Result<Vec<RunEvent>> {
    let status = answer.status;
    let text = String::from_utf8(answer.whole().await?).context("the answer is not UTF-8")?;
    if status != 200 {
        bail!("the agent answered {status}: {}", text.trim());
    }
    let events = text.lines().map(RunEvent::from_line);
    let events = events.collect::<Result<Vec<_>, _>>()?;
    match events.last().is_some_and(RunEvent::is_last) {
        true => Ok(events),
        false => bail!("the stream of the command was cut off"),
    }
}
