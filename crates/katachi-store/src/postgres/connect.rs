//! Connections that are encrypted, verified and bounded in time, or not made.

use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::ToSql;
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, GenericClient, NoTls, Notification, Row,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::PostgresError;

/// Time to connect, and for a statement, unless asked otherwise.
const DEADLINE: Duration = Duration::from_secs(10);

/// Makes connections to one PostgreSQL.
#[derive(Clone)]
pub struct Connector {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    deadline: Duration,
}

impl Connector {
    /// Connects over TLS 1.2 or 1.3 (by ring) to a server whose name a certificate
    /// under `roots` proves. What `config` says about TLS is replaced.
    ///
    /// # Errors
    ///
    /// Returns [`PostgresError::Connection`] if a host is not a name or address.
    pub fn tls(mut config: Config, roots: RootCertStore) -> Result<Self, PostgresError> {
        let named = |host: &Host| matches!(host, Host::Tcp(_));
        if config.get_hosts().is_empty() || !config.get_hosts().iter().all(named) {
            return Err(PostgresError::Connection(
                "TLS needs the server's name; for a local socket use Connector::local",
            ));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| PostgresError::Connection("the TLS provider has no protocol version"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.ssl_mode(SslMode::Require);
        Ok(Self::new(config, Some(MakeRustlsConnect::new(tls))))
    }

    /// Connects to a Unix socket of this machine, without TLS.
    ///
    /// # Errors
    ///
    /// Returns [`PostgresError::Connection`] if a host is anything else.
    pub fn local(mut config: Config) -> Result<Self, PostgresError> {
        if config.get_hosts().is_empty()
            || config
                .get_hosts()
                .iter()
                .any(|host| matches!(host, Host::Tcp(_)))
        {
            return Err(PostgresError::Connection(
                "only a Unix socket goes without TLS; for a host use Connector::tls",
            ));
        }
        config.ssl_mode(SslMode::Disable);
        Ok(Self::new(config, None))
    }

    fn new(config: Config, tls: Option<MakeRustlsConnect>) -> Self {
        Self {
            config,
            tls,
            deadline: DEADLINE,
        }
    }

    /// Bounds connecting, and each statement, here and in the server. Ten seconds
    /// unless set.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    pub(super) fn statement_deadline(&self) -> Duration {
        self.deadline
    }

    /// Connects. The connection lives on a task of the current tokio runtime and ends
    /// when the client is dropped.
    ///
    /// # Errors
    ///
    /// Returns [`PostgresError`] if the server cannot be reached in time, does not
    /// speak TLS, is not the one it should be, or does not let us in.
    pub async fn connect(&self) -> Result<Client, PostgresError> {
        self.connect_notified(|_| {}).await
    }

    /// As [`connect`](Self::connect), and calls `notified` for whatever arrives on
    /// the channels that the client listens to. What is notified while there is no
    /// connection is lost: look at the tables as well.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn connect_notified(
        &self,
        notified: impl FnMut(Notification) + Send + 'static,
    ) -> Result<Client, PostgresError> {
        let connecting = async {
            let client = match &self.tls {
                Some(tls) => {
                    let (client, connection) = self.config.connect(tls.clone()).await?;
                    tokio::spawn(drive(connection, notified));
                    client
                }
                None => {
                    let (client, connection) = self.config.connect(NoTls).await?;
                    tokio::spawn(drive(connection, notified));
                    client
                }
            };
            // So that what we no longer wait for does not go on for ever. A statement
            // waits for another's row locks for half of its time at most.
            let millis = self.deadline.as_millis().clamp(2, 2_000_000_000);
            client
                .batch_execute(&format!(
                    "SET statement_timeout = {millis}; SET lock_timeout = {}",
                    millis / 2
                ))
                .await?;
            Ok(client)
        };
        within(self.deadline, connecting).await
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector")
            .field("hosts", &self.config.get_hosts())
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

/// Runs a connection to its end; its client learns why it ended.
async fn drive<S, T>(
    mut connection: Connection<S, T>,
    mut notified: impl FnMut(Notification) + Send,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
        if let AsyncMessage::Notification(notification) = message {
            notified(notification);
        }
    }
}

/// Waits for PostgreSQL, but not for ever.
pub(super) async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, PostgresError> {
    match timeout(deadline, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(PostgresError::Timeout(deadline)),
    }
}

/// Runs a statement within `deadline`, and says how many rows it touched.
pub(super) async fn execute(
    client: &impl GenericClient,
    deadline: Duration,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<u64, PostgresError> {
    within(deadline, client.execute(sql, parameters)).await
}

/// Runs a query within `deadline`.
pub(super) async fn query(
    client: &impl GenericClient,
    deadline: Duration,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, PostgresError> {
    within(deadline, client.query(sql, parameters)).await
}
