//! Tunnels at Cloudflare for agents that run `cloudflared`: made when an agent asks,
//! reached by their public name, removed with the agent.
//!
//! A tunnel is made with `config_src` `local`: where its connector forwards to is
//! written on the agent's machine, and not by whoever holds the account. Its token is
//! handed to that agent alone and stored nowhere here.
//!
//! A row is written before the first call to the API and deleted after the last one,
//! so that a crash between two of them leaves something to tidy up from.

mod api;
pub(crate) mod args;
mod dial;
pub(crate) mod work;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use katachi_protocol::Sensitive;
use rustls::ClientConfig;

use api::Api;
pub(crate) use api::ApiError;

/// An account at Cloudflare in which agents get tunnels.
#[derive(Clone, Debug)]
pub struct CloudflareConfig {
    /// A token that may edit tunnels of the account and DNS of the zone.
    pub token: Sensitive,
    /// The account's identifier.
    pub account: String,
    /// The zone's identifier.
    pub zone: String,
    /// A name in the zone below which agents get names of their own.
    pub domain: String,
    /// Where the API is, without a slash at its end.
    pub api: String,
    /// Where public names are reached, in place of their addresses.
    pub edge: Option<SocketAddr>,
    /// Authority of the public names' certificates in PEM, in place of the web's.
    pub authority: Option<PathBuf>,
}

/// The API of Cloudflare.
pub const CLOUDFLARE_API: &str = "https://api.cloudflare.com/client/v4";

/// Time for everything that one agent needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(12);

/// The account, ready to be used.
#[derive(Debug)]
pub(crate) struct Cloudflare {
    api: Api,
    domain: String,
    edge: Option<SocketAddr>,
    tls: Arc<ClientConfig>,
}

impl Cloudflare {
    /// Checks `config` and prepares TLS.
    ///
    /// # Errors
    ///
    /// Returns what to change.
    pub(crate) fn new(config: CloudflareConfig) -> Result<Self, String> {
        let identifier =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !identifier(&config.account) || !identifier(&config.zone) {
            return Err(
                "--cloudflare-account and --cloudflare-zone are identifiers of letters and digits"
                    .to_owned(),
            );
        }
        let label = |label: &str| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        if !config.domain.split('.').all(label) || !config.domain.contains('.') {
            return Err(format!(
                "--cloudflare-domain: `{}` is not a domain in lower case",
                config.domain
            ));
        }
        Ok(Self {
            tls: Arc::new(dial::tls(config.authority.as_deref())?),
            api: Api::new(config.api, config.account, config.zone, config.token)?,
            domain: config.domain,
            edge: config.edge,
        })
    }

    /// A public name for an agent, which tells nothing of it.
    pub(crate) fn new_hostname(&self, random: &[u8; 10]) -> String {
        format!("k-{}.{}", crate::records::audit::hex(random), self.domain)
    }

    /// Makes what is missing of an agent's tunnel, and fetches its token.
    ///
    /// # Errors
    ///
    /// Returns [`ApiError`] if Cloudflare refuses or does not answer.
    pub(crate) async fn provide(&self, agent: &str, hostname: &str) -> Result<Sensitive, ApiError> {
        let name = tunnel_name(agent);
        let id = match self.api.tunnels(&name).await?.into_iter().next() {
            Some(id) => id,
            None => self.api.create_tunnel(&name).await?,
        };
        self.api.point(hostname, &id).await?;
        self.api.token(&id).await
    }

    /// Removes everything of an agent's tunnel, whatever of it is there.
    ///
    /// # Errors
    ///
    /// Returns [`ApiError`] if Cloudflare refuses or does not answer; what was removed
    /// until then stays so.
    pub(crate) async fn remove(&self, agent: &str, hostname: &str) -> Result<(), ApiError> {
        self.api.unpoint(hostname).await?;
        for id in self.api.tunnels(&tunnel_name(agent)).await? {
            // A tunnel with connections cannot be deleted.
            self.api.disconnect(&id).await?;
            self.api.delete_tunnel(&id).await?;
        }
        Ok(())
    }
}

/// By this name a tunnel is found again whose identifier was never written down.
fn tunnel_name(agent: &str) -> String {
    format!("katachi-{agent}")
}
