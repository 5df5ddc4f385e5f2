//! The command line of a relay, for its own binary and for programs that
//! embed one.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use etcetera::app_strategy::{AppStrategy as _, AppStrategyArgs, choose_native_strategy};

use crate::config::{
    Config, DEFAULT_SECURITY_CONTACT, KeychainUse, Limits, PublicUrl, SignUpPolicy, TlsSource,
};
use crate::service::{Relay, ServeError};

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

    /// Where accounts and agents are kept: an encrypted file in the state
    /// directory if absent
    #[arg(long, value_name = "URL", env = "KATACHI_RELAY_DATABASE")]
    pub database: Option<String>,

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

    /// Loopback address to serve `/metrics` on, for Prometheus
    #[arg(long, value_name = "ADDR", env = "KATACHI_RELAY_METRICS")]
    pub metrics: Option<SocketAddr>,

    /// Do not ask the keychain of the operating system
    #[arg(long, env = "KATACHI_RELAY_NO_KEYCHAIN")]
    pub no_keychain: bool,

    /// Print one line of JSON on standard output once the relay listens
    #[arg(long)]
    pub ready_json: bool,
}

impl Serve {
    /// Checks the arguments.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError::Config`] with the option to change.
    pub fn to_config(&self) -> Result<Config, ServeError> {
        if let Some(url) = &self.database {
            return Err(refuse_database(url));
        }
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => TlsSource::Files {
                certificate: certificate.clone(),
                key: key.clone(),
            },
            _ => TlsSource::SelfMade,
        };
        Ok(Config {
            listen: self.listen,
            public_url: self.public_url.clone(),
            state_dir: self.state_dir.clone().map_or_else(default_state_dir, Ok)?,
            tls,
            keychain: if self.no_keychain {
                KeychainUse::Never
            } else {
                KeychainUse::Allowed
            },
            security_contact: self.security_contact.clone(),
            sign_up: self.sign_up,
            metrics: self.metrics,
            limits: Limits::default(),
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
fn print_line(line: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn refuse_database(url: &str) -> ServeError {
    let scheme = url.split(':').next().unwrap_or_default();
    ServeError::Config(match scheme {
        "postgres" | "postgresql" => {
            "--database: PostgreSQL is not supported by this version; leave the option out to use the encrypted \
             file in the state directory"
                .to_owned()
        }
        _ => format!("--database: `{scheme}` is not a kind of database that is known; leave the option out"),
    })
}

fn default_state_dir() -> Result<PathBuf, ServeError> {
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
