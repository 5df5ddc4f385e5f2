//! The command line of a relay, for its own binary and for programs that
//! embed one.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use etcetera::app_strategy::{AppStrategy as _, AppStrategyArgs, choose_native_strategy};

pub use crate::backup::{Backup, Restore};
pub use crate::cloudflare::args::Cloudflare;
pub use crate::cluster::cli::Key;
use crate::cluster::keyset::ClusterId;
use crate::config::{
    ClusterConfig, Config, DEFAULT_SECURITY_CONTACT, DatabaseSource, KeychainUse, PostgresUrl,
    PublicUrl, SignUpPolicy, TlsSource,
};
pub use crate::limits::LimitOptions;
use crate::records::postgres;
use crate::service::{Relay, ServeError};
pub use crate::sign_in::args::SignIn;

/// Arguments of `serve`. Each can be given as `KATACHI_RELAY_*` too.
#[derive(Args, Clone, Debug)]
pub struct Serve {
    /// Address to listen on; port 0 picks a free one
    #[arg(
        long,
        value_name = "ADDR",
        env = "KATACHI_RELAY_LISTEN",
        default_value = "127.0.0.1:8443"
    )]
    pub listen: SocketAddr,

    /// Origin that browsers and agents use, such as `https://relay.example`
    ///
    /// Needed unless the relay listens on loopback, where it is
    /// `https://katachi.localhost:PORT`.
    #[arg(long, value_name = "URL", env = "KATACHI_RELAY_PUBLIC_URL")]
    pub public_url: Option<PublicUrl>,

    /// Where accounts and agents are kept
    #[command(flatten)]
    pub database: Database,

    /// Certificate chain in PEM; a self-made one for loopback if absent
    #[arg(
        long,
        value_name = "FILE",
        env = "KATACHI_RELAY_TLS_CERT",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the certificate in PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "KATACHI_RELAY_TLS_KEY",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,

    /// A certificate that is asked for
    #[cfg(feature = "acme")]
    #[command(flatten)]
    pub acme: crate::acme::AcmeOptions,

    /// Directory for the vault, the database and the certificate authority
    #[arg(long, value_name = "DIR", env = "KATACHI_RELAY_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// URI for reports about vulnerabilities, shown in security.txt
    #[arg(long, value_name = "URI", env = "KATACHI_RELAY_SECURITY_CONTACT", default_value = DEFAULT_SECURITY_CONTACT)]
    pub security_contact: String,

    /// Whether strangers may open accounts
    #[arg(
        long,
        value_name = "WHO",
        env = "KATACHI_RELAY_SIGN_UP",
        value_enum,
        default_value_t
    )]
    pub sign_up: SignUpPolicy,

    /// Other ways in than a password
    #[command(flatten)]
    pub sign_in: SignIn,

    /// Tunnels at Cloudflare
    #[command(flatten)]
    pub cloudflare: Cloudflare,

    /// Take tunnels inside of a WebSocket too, from agents behind proxies that end TLS
    ///
    /// Such a tunnel is not bound to the TLS connection: whoever ends TLS in between can
    /// take it over, and then sees what this relay sees. What browsers and agents say to
    /// each other stays encrypted.
    #[arg(long, env = "KATACHI_RELAY_TUNNEL_WEBSOCKET")]
    pub tunnel_websocket: bool,

    /// Loopback address to serve `/metrics` on, for Prometheus
    #[arg(long, value_name = "ADDR", env = "KATACHI_RELAY_METRICS")]
    pub metrics: Option<SocketAddr>,

    /// Do not ask the keychain of the operating system
    #[arg(long, env = "KATACHI_RELAY_NO_KEYCHAIN")]
    pub no_keychain: bool,

    /// Serve as a node of this cluster, on its PostgreSQL
    ///
    /// `katachi-relay key init` makes a cluster and prints its name; `key add-node`
    /// takes others into it.
    #[arg(
        long,
        value_name = "CLUSTER",
        env = "KATACHI_RELAY_CLUSTER",
        requires = "node_listen",
        requires = "database"
    )]
    pub cluster: Option<ClusterId>,

    /// Address to listen on for the other nodes, which alone are let in
    #[arg(
        long,
        value_name = "ADDR",
        env = "KATACHI_RELAY_NODE_LISTEN",
        requires = "cluster"
    )]
    pub node_listen: Option<SocketAddr>,

    /// Where the other nodes reach that address, if it is another for them
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "KATACHI_RELAY_NODE_ADDRESS",
        requires = "cluster"
    )]
    pub node_address: Option<String>,

    /// What peers can make it hold
    #[command(flatten)]
    pub limits: LimitOptions,

    /// Print one line of JSON on standard output once the relay listens
    #[arg(long)]
    pub ready_json: bool,
}

/// Where accounts and agents are kept.
#[derive(Args, Clone)]
pub struct Database {
    /// PostgreSQL to keep accounts and agents in: an encrypted file in the
    /// state directory if absent
    ///
    /// `postgres://USER@%2Frun%2Fpostgresql/DATABASE` is a local socket. A URL
    /// with a password belongs into the variable, where other users of this
    /// machine do not see it.
    #[arg(
        id = "database",
        long = "database",
        value_name = "URL",
        env = "KATACHI_RELAY_DATABASE",
        hide_env_values = true
    )]
    pub url: Option<String>,

    /// Authority of the PostgreSQL's certificate in PEM; needed for a host
    #[arg(
        id = "database_ca",
        long = "database-ca",
        value_name = "FILE",
        env = "KATACHI_RELAY_DATABASE_CA",
        requires = "database"
    )]
    pub authority: Option<PathBuf>,
}

impl std::fmt::Debug for Database {
    /// Leaves out the URL, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database")
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// Checks the arguments.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError::Config`] with the option to change.
    pub fn to_source(&self) -> Result<DatabaseSource, ServeError> {
        let Some(url) = &self.url else {
            return Ok(DatabaseSource::Embedded);
        };
        let scheme = url.split(':').next().unwrap_or_default();
        if !matches!(scheme, "postgres" | "postgresql") {
            return Err(ServeError::Config(format!(
                "--database: `{scheme}` is not a kind of database that is known; write postgres://… or leave the option out"
            )));
        }
        let parsed = PostgresUrl::parse(url)
            .map_err(|error| ServeError::Config(format!("--database: {error}")))?;
        Ok(DatabaseSource::Postgres(Box::new(match &self.authority {
            Some(authority) => parsed.trusting(authority),
            None => parsed,
        })))
    }
}

/// Arguments of `migrate`.
#[derive(Args, Clone, Debug)]
pub struct Migrate {
    #[command(flatten)]
    database: Database,
}

impl Migrate {
    /// Brings the tables of a PostgreSQL up to date, as `serve` does when it
    /// starts.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if there is nothing to do or it cannot be done.
    pub async fn run(&self) -> Result<(), ServeError> {
        let DatabaseSource::Postgres(url) = self.database.to_source()? else {
            return Err(ServeError::Config(
                "migrate: give --database; the encrypted file is brought up to date by `serve`"
                    .to_owned(),
            ));
        };
        let migrated = tokio::task::spawn_blocking(move || postgres::migrate(&url)).await?;
        migrated.map_err(|error| ServeError::Storage(error.to_string()))
    }
}

impl Serve {
    /// Checks the arguments.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError::Config`] with the option to change.
    pub fn to_config(&self) -> Result<Config, ServeError> {
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => TlsSource::Files {
                certificate: certificate.clone(),
                key: key.clone(),
            },
            _ => TlsSource::SelfMade,
        };
        #[cfg(feature = "acme")]
        let tls = self.acme.source().map_or(tls, TlsSource::Acme);
        Ok(Config {
            listen: self.listen,
            public_url: self.public_url.clone(),
            state_dir: self.state_dir.clone().map_or_else(default_state_dir, Ok)?,
            database: self.database.to_source()?,
            tls,
            keychain: if self.no_keychain {
                KeychainUse::Never
            } else {
                KeychainUse::Allowed
            },
            security_contact: self.security_contact.clone(),
            sign_up: self.sign_up,
            providers: self.sign_in.to_providers()?,
            mail: self.sign_in.to_mail()?,
            cloudflare: self.cloudflare.to_config()?,
            tunnel_websocket: self.tunnel_websocket,
            metrics: self.metrics,
            cluster: match (&self.cluster, self.node_listen) {
                (Some(id), Some(listen)) => Some(ClusterConfig {
                    id: id.clone(),
                    listen,
                    address: self.node_address.clone(),
                }),
                _ => None,
            },
            limits: self.limits.to_limits(),
        })
    }

    /// Serves until `shutdown` ends.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`] if the relay cannot start.
    pub async fn run(&self, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
        let relay = Relay::bind(self.to_config()?).await?;
        if self.ready_json {
            let ready = serde_json::to_string(&relay.ready()).map_err(|error| {
                ServeError::Config(format!("cannot write the ready line: {error}"))
            })?;
            print_line(&ready);
        } else {
            eprintln!("katachi-relay: open {}", relay.public_url());
            if let Some(authority) = relay.authority() {
                eprintln!(
                    "katachi-relay: its certificate is self-made; clients trust {}",
                    authority.display()
                );
            }
        }
        relay.serve(shutdown).await
    }
}

/// Writes a line at once; a parent that has gone away is no reason to stop.
pub(crate) fn print_line(line: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

pub(crate) fn default_state_dir() -> Result<PathBuf, ServeError> {
    if let Some(home) = std::env::var_os("KATACHI_HOME") {
        return Ok(PathBuf::from(home).join("relay"));
    }
    let platform = choose_native_strategy(AppStrategyArgs {
        top_level_domain: "live".to_owned(),
        author: "katachi".to_owned(),
        app_name: "katachi".to_owned(),
    })
    .map_err(|_| ServeError::Config("there is no home directory; give --state-dir".to_owned()))?;
    // What is bound to this machine must not roam with a Windows profile.
    let data = match cfg!(windows) {
        true => platform.cache_dir().with_file_name("data"),
        false => platform.data_dir(),
    };
    Ok(data.join("relay"))
}
