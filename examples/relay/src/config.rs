//! What a relay has to be told, already checked: addresses are addresses, the
//! public URL is an `https` origin, and limits are numbers with a unit.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use http::Uri;
use http::uri::Scheme;

use crate::cloudflare::CloudflareConfig;
use crate::cluster::keyset::ClusterId;
use crate::limits::Limits;
use crate::sign_in::{MailConfig, ProviderConfig};

/// Everything a relay has to be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The origin that browsers and agents use. Where absent and the listener
    /// is on loopback: `https://katachi.localhost:PORT`.
    pub public_url: Option<PublicUrl>,
    /// Directory for the vault, the database and the certificate authority.
    pub state_dir: PathBuf,
    /// Where accounts, agents and sessions are kept.
    pub database: DatabaseSource,
    /// Where the certificate comes from.
    pub tls: TlsSource,
    /// Whether the vault may ask the keychain of the operating system.
    pub keychain: KeychainUse,
    /// Where reports about vulnerabilities go (`security.txt`), a URI.
    pub security_contact: String,
    /// Whether strangers may open accounts.
    pub sign_up: SignUpPolicy,
    /// Where else people may have accounts that open one here.
    pub providers: Vec<ProviderConfig>,
    /// How mail goes out; without it no address is verified and no password reset.
    pub mail: Option<MailConfig>,
    /// The account at Cloudflare in which agents get tunnels, if there is one.
    pub cloudflare: Option<CloudflareConfig>,
    /// Whether agents may open their tunnels inside of a WebSocket, which is not bound
    /// to the TLS connection.
    pub tunnel_websocket: bool,
    /// Where to serve `/metrics`, without TLS: on loopback, or nowhere.
    pub metrics: Option<SocketAddr>,
    /// The cluster that this relay is a node of, on PostgreSQL.
    pub cluster: Option<ClusterConfig>,
    /// Bounds on what a peer can make the relay hold, and for how long.
    pub limits: Limits,
}

/// A relay's place among several that serve as one.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The cluster, by the name that `key init` printed.
    pub id: ClusterId,
    /// Where to listen for the other nodes.
    pub listen: SocketAddr,
    /// Where the other nodes reach it, `HOST:PORT`; where it listens if absent.
    pub address: Option<String>,
}

impl Config {
    /// A relay on a free loopback port, with its state in `state_dir`, a
    /// self-made certificate, and every limit at its default.
    #[must_use]
    pub fn local(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            public_url: None,
            state_dir: state_dir.into(),
            database: DatabaseSource::Embedded,
            tls: TlsSource::SelfMade,
            keychain: KeychainUse::Allowed,
            security_contact: DEFAULT_SECURITY_CONTACT.to_owned(),
            sign_up: SignUpPolicy::Open,
            providers: Vec::new(),
            mail: None,
            cloudflare: None,
            tunnel_websocket: false,
            metrics: None,
            cluster: None,
            limits: Limits::default(),
        }
    }
}

/// Contact of [`Config::security_contact`] where nothing else is given.
pub const DEFAULT_SECURITY_CONTACT: &str =
    "https://github.com/katachi-rs/katachi/security/advisories/new";

/// Where accounts, agents and sessions are kept.
#[derive(Clone, Debug, Default)]
pub enum DatabaseSource {
    /// An encrypted file in the state directory.
    #[default]
    Embedded,
    /// A PostgreSQL, with private columns sealed under the vault.
    Postgres(Box<PostgresUrl>),
}

/// Where a PostgreSQL is, and how it proves itself.
#[derive(Clone, Debug)]
pub struct PostgresUrl {
    config: tokio_postgres::Config,
    authority: Option<PathBuf>,
}

/// What is given is not the address of a PostgreSQL. It is not repeated here,
/// as it may hold a password.
#[derive(Debug, thiserror::Error)]
#[error(
    "write postgres://USER:PASSWORD@HOST/DATABASE, or postgres://USER@%2FDIRECTORY/DATABASE for a local socket"
)]
pub struct ParsePostgresUrlError;

impl PostgresUrl {
    /// Reads a `postgres://` URL. A host is reached by TLS alone, under the
    /// authority of [`PostgresUrl::trusting`]; a local socket without.
    ///
    /// # Errors
    ///
    /// Returns [`ParsePostgresUrlError`] if it is no such URL.
    pub fn parse(url: &str) -> Result<Self, ParsePostgresUrlError> {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        if !matches!(scheme, Some("postgres" | "postgresql")) {
            return Err(ParsePostgresUrlError);
        }
        let config: tokio_postgres::Config = url.parse().map_err(|_| ParsePostgresUrlError)?;
        if config.get_hosts().is_empty() {
            return Err(ParsePostgresUrlError);
        }
        Ok(Self {
            config,
            authority: None,
        })
    }

    /// Trusts the authorities in this PEM file, and no others.
    #[must_use]
    pub fn trusting(mut self, authority: impl Into<PathBuf>) -> Self {
        self.authority = Some(authority.into());
        self
    }

    pub(crate) fn config(&self) -> &tokio_postgres::Config {
        &self.config
    }

    pub(crate) fn authority(&self) -> Option<&Path> {
        self.authority.as_deref()
    }
}

/// Where the certificate comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TlsSource {
    /// An authority of our own in the state directory, for loopback names only.
    SelfMade,
    /// PEM files.
    Files {
        /// The chain, leaf first.
        certificate: PathBuf,
        /// The private key.
        key: PathBuf,
    },
    /// An ACME authority, asked again before the certificate ends.
    #[cfg(feature = "acme")]
    Acme(crate::Acme),
}

/// Whether the vault may ask the keychain of the operating system.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum KeychainUse {
    /// Where one answers in time.
    #[default]
    Allowed,
    /// Never; for services without a session, and for tests.
    Never,
}

/// Whether strangers may open accounts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum SignUpPolicy {
    /// Whoever reaches the relay may open an account.
    #[default]
    Open,
    /// Nobody may; the accounts that exist go on.
    Closed,
}

impl fmt::Display for SignUpPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Closed => "closed",
        })
    }
}

/// An `https` origin: no path, no query, no user.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicUrl {
    host: String,
    port: u16,
}

/// A public URL has the wrong shape.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an https origin; write https://HOST or https://HOST:PORT, without a path")]
pub struct ParsePublicUrlError(String);

impl PublicUrl {
    /// The origin of the service on loopback under our own host name.
    ///
    /// Cookies ignore ports, so that a session on plain `localhost` would be
    /// sent to every other program that listens there.
    #[must_use]
    pub fn local(port: u16) -> Self {
        Self {
            host: LOCAL_HOST.to_owned(),
            port,
        }
    }

    /// The host name, lower case.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `HOST` or `HOST:PORT`, as a browser sends it.
    #[must_use]
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

/// The host name of a relay on loopback.
pub const LOCAL_HOST: &str = "katachi.localhost";

/// `HOST` or `HOST:PORT`; the port of https is left out, as clients do.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if port == 443 {
        host.to_owned()
    } else {
        format!("{host}:{port}")
    }
}

impl FromStr for PublicUrl {
    type Err = ParsePublicUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParsePublicUrlError(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let is_https = uri.scheme() == Some(&Scheme::HTTPS);
        if !bare || !is_https || authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            host: authority.host().to_ascii_lowercase(),
            port: authority.port_u16().unwrap_or(443),
        })
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::PublicUrl;

    #[test]
    fn an_origin_prints_as_a_browser_writes_it() {
        for (given, printed) in [
            ("https://Relay.Example", "https://relay.example"),
            ("https://relay.example:443/", "https://relay.example"),
            (
                "https://katachi.localhost:8443",
                "https://katachi.localhost:8443",
            ),
        ] {
            assert_eq!(given.parse::<PublicUrl>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn anything_but_an_https_origin_is_refused() {
        for wrong in [
            "",
            "relay.example",
            "http://relay.example",
            "https://relay.example/path",
            "https://relay.example/?q",
            "https://user@relay.example",
            "https://",
        ] {
            assert!(wrong.parse::<PublicUrl>().is_err(), "{wrong}");
        }
    }
}
