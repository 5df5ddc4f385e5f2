//! The options of `serve` for Cloudflare.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use katachi_protocol::Sensitive;

use super::{CLOUDFLARE_API, CloudflareConfig};
use crate::service::ServeError;

/// The variable that holds the token where no file does.
const TOKEN: &str = "KATACHI_RELAY_CLOUDFLARE_TOKEN";

/// Tunnels at Cloudflare for agents that run `cloudflared`.
#[derive(Args, Clone, Debug)]
pub struct Cloudflare {
    /// Account at Cloudflare in which agents get tunnels; needs a token, zone and domain
    ///
    /// The token, which may edit tunnels of the account and DNS of the zone, comes
    /// from --cloudflare-token-file or KATACHI_RELAY_CLOUDFLARE_TOKEN.
    #[arg(
        long,
        value_name = "ID",
        env = "KATACHI_RELAY_CLOUDFLARE_ACCOUNT",
        requires_all = ["cloudflare_zone", "cloudflare_domain"]
    )]
    pub cloudflare_account: Option<String>,

    /// Zone at Cloudflare in which agents get names
    #[arg(
        long,
        value_name = "ID",
        env = "KATACHI_RELAY_CLOUDFLARE_ZONE",
        requires = "cloudflare_account"
    )]
    pub cloudflare_zone: Option<String>,

    /// Domain of that zone, below which the names lie
    #[arg(
        long,
        value_name = "NAME",
        env = "KATACHI_RELAY_CLOUDFLARE_DOMAIN",
        requires = "cloudflare_account"
    )]
    pub cloudflare_domain: Option<String>,

    /// File with the token for Cloudflare's API, readable by its owner alone
    #[arg(
        long,
        value_name = "FILE",
        env = "KATACHI_RELAY_CLOUDFLARE_TOKEN_FILE",
        requires = "cloudflare_account"
    )]
    pub cloudflare_token_file: Option<PathBuf>,

    /// Where Cloudflare's API is
    #[arg(
        long,
        value_name = "URL",
        env = "KATACHI_RELAY_CLOUDFLARE_API",
        default_value = CLOUDFLARE_API,
        hide = true
    )]
    pub cloudflare_api: String,

    /// Where the agents' public names are reached, in place of their addresses
    #[arg(
        long,
        value_name = "ADDR",
        env = "KATACHI_RELAY_CLOUDFLARE_EDGE",
        hide = true
    )]
    pub cloudflare_edge: Option<SocketAddr>,

    /// Authority of the public names' certificates in PEM, in place of the web's
    #[arg(
        long,
        value_name = "FILE",
        env = "KATACHI_RELAY_CLOUDFLARE_CA",
        hide = true
    )]
    pub cloudflare_ca: Option<PathBuf>,
}

impl Cloudflare {
    /// Checks the arguments and reads the token; `None` where no account is given.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError::Config`] with the option to change.
    pub fn to_config(&self) -> Result<Option<CloudflareConfig>, ServeError> {
        let (Some(account), Some(zone), Some(domain)) = (
            &self.cloudflare_account,
            &self.cloudflare_zone,
            &self.cloudflare_domain,
        ) else {
            return Ok(None);
        };
        let token = match &self.cloudflare_token_file {
            Some(path) => read(path)?,
            None => std::env::var(TOKEN).map(Sensitive::new).map_err(|_| {
                ServeError::Config(format!(
                    "--cloudflare-account: give the token for the API in --cloudflare-token-file or {TOKEN}"
                ))
            })?,
        };
        Ok(Some(CloudflareConfig {
            token: Sensitive::new(token.expose_secret().trim()),
            account: account.clone(),
            zone: zone.clone(),
            domain: domain.clone(),
            api: self.cloudflare_api.trim_end_matches('/').to_owned(),
            edge: self.cloudflare_edge,
            authority: self.cloudflare_ca.clone(),
        }))
    }
}

fn read(path: &Path) -> Result<Sensitive, ServeError> {
    let wrong = |why: String| {
        ServeError::Config(format!("--cloudflare-token-file {}: {why}", path.display()))
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let metadata = path.metadata().map_err(|error| wrong(error.to_string()))?;
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(wrong(
                "others on this machine can read it; run chmod 600 on it".to_owned(),
            ));
        }
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    Ok(Sensitive::new(text))
}
