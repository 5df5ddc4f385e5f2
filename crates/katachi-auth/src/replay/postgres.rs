//! A replay store in PostgreSQL.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::shared::{self, Answer, SharedLimits, Trace};
use super::{AsyncReplayStore, Epoch, Spend, Spending, Unavailable};

const SCHEMA: &str = include_str!("postgres.sql");
/// A statement is done one after the other on a connection.
const CONNECTIONS: usize = 4;
/// Bytes of the table that an entry takes, without its index.
const ENTRY: i64 = 52;
const DEADLINE: Duration = Duration::from_secs(3);

/// A replay store in PostgreSQL 12 or newer, for any number of servers.
///
/// # The guarantee
///
/// One copy of a request at most is fresh, whichever servers they reach. Comparing the
/// epoch and recording the nonce is one statement in one transaction. The tables are
/// `UNLOGGED`: they survive a clean restart and lose everything, never a part, in a
/// crash, on a promoted replica and in a restored backup; whenever that may have
/// happened (the server process is another, its timeline is another, the tables are
/// empty) a new epoch begins, and what was signed for the former one is refused as
/// [`Spend::StaleEpoch`]. A logged table would cost a disk flush for each request and
/// hold less: a replica that was promoted may lack its last rows.
///
/// The clock of PostgreSQL is the one that counts. If it steps back by more than the
/// window, a new epoch begins. Old entries are dropped by the half window; a store
/// that is full refuses and forgets nothing. What takes longer than the deadline is
/// [`Unavailable`]. A request of one key waits for the one before it.
///
/// ```no_run
/// # async fn example(roots: rustls::RootCertStore) -> Result<(), Box<dyn std::error::Error>> {
/// use katachi_auth::replay::{AsyncReplayStore, PostgresReplay, SharedLimits};
///
/// let config = "postgres://relay:secret@db.example.com/relay".parse()?;
/// let store = PostgresReplay::tls(config, roots, SharedLimits::default())?;
/// store.install().await?; // once, by a role that may make a schema
/// let epoch = store.epoch().await?;
/// # Ok(())
/// # }
/// ```
pub struct PostgresReplay {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    limits: SharedLimits,
    deadline: Duration,
    next: AtomicUsize,
    connections: [Mutex<Option<Arc<Client>>>; CONNECTIONS],
}

impl PostgresReplay {
    /// A store reached over TLS (by ring), on a server whose name a certificate under
    /// `roots` proves. What `config` says about TLS is replaced. Connects when needed.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if a host is not a name or address.
    pub fn tls(
        mut config: Config,
        roots: RootCertStore,
        limits: SharedLimits,
    ) -> Result<Self, Unavailable> {
        let named = |host: &Host| matches!(host, Host::Tcp(_));
        if config.get_hosts().is_empty() || !config.get_hosts().iter().all(named) {
            return Err(Unavailable::new("TLS needs the server's name"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Unavailable::new)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.ssl_mode(SslMode::Require);
        Ok(Self::new(config, Some(MakeRustlsConnect::new(tls)), limits))
    }

    /// A store reached by a Unix socket of this machine.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if a host is anything else.
    pub fn local(mut config: Config, limits: SharedLimits) -> Result<Self, Unavailable> {
        let remote = |host: &Host| matches!(host, Host::Tcp(_));
        if config.get_hosts().is_empty() || config.get_hosts().iter().any(remote) {
            return Err(Unavailable::new("only a Unix socket goes without TLS"));
        }
        config.ssl_mode(SslMode::Disable);
        Ok(Self::new(config, None, limits))
    }

    fn new(config: Config, tls: Option<MakeRustlsConnect>, limits: SharedLimits) -> Self {
        Self {
            config,
            tls,
            limits,
            deadline: DEADLINE,
            next: AtomicUsize::new(0),
            connections: Default::default(),
        }
    }

    /// Bounds every call, connecting included. Three seconds unless set.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Makes the schema `katachi_replay` with its tables and functions, or brings its
    /// functions up to date.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the server cannot be asked or refuses.
    pub async fn install(&self) -> Result<(), Unavailable> {
        let install = async {
            let client = self.connect().await?;
            // Several servers may start at once.
            let alone = format!("SELECT pg_advisory_lock(7310877421); BEGIN; {SCHEMA} COMMIT");
            client.batch_execute(&alone).await.map_err(Unavailable::new)
        };
        self.within(install).await
    }

    /// Takes a new epoch and forgets everything: every signature made so far is dead.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store cannot be asked.
    pub async fn start_new_epoch(&self) -> Result<Epoch, Unavailable> {
        let current = self.epoch().await?;
        self.begin(Some(current)).await
    }

    /// The epoch in force; a new one if there is none, or if it is still `replace`.
    async fn begin(&self, replace: Option<Epoch>) -> Result<Epoch, Unavailable> {
        let fresh = Epoch::generate()?;
        let replace = replace.as_ref().map(|epoch| epoch.as_bytes().as_slice());
        let row = self
            .ask(
                "SELECT katachi_replay.epoch($1, $2, $3)",
                &[&fresh.as_bytes().as_slice(), &replace, &self.width()],
            )
            .await?;
        shared::epoch(row.try_get(0).map_err(Unavailable::new)?)
    }

    fn width(&self) -> i64 {
        self.limits.bucket().into()
    }

    async fn ask(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, Unavailable> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % CONNECTIONS;
        let answered = async {
            let client = self.client(turn).await?;
            client
                .query_one(sql, parameters)
                .await
                .map_err(Unavailable::new)
        };
        let outcome = self.within(answered).await;
        if outcome.is_err() {
            // Whatever state that connection is in, the next call gets a new one.
            *self.connections[turn].lock().await = None;
        }
        outcome
    }

    async fn client(&self, turn: usize) -> Result<Arc<Client>, Unavailable> {
        let mut kept = self.connections[turn].lock().await;
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let client = Arc::new(self.connect().await?);
        *kept = Some(client.clone());
        Ok(client)
    }

    async fn connect(&self) -> Result<Client, Unavailable> {
        let client = match &self.tls {
            Some(tls) => {
                let connected = self.config.connect(tls.clone()).await;
                let (client, connection) = connected.map_err(Unavailable::new)?;
                tokio::spawn(connection);
                client
            }
            None => {
                let connected = self.config.connect(NoTls).await;
                let (client, connection) = connected.map_err(Unavailable::new)?;
                tokio::spawn(connection);
                client
            }
        };
        // Under another isolation, what is read after the lock could be older than it.
        let settings = format!(
            "SET default_transaction_isolation = 'read committed'; SET statement_timeout = {}",
            self.deadline.as_millis().clamp(1, 2_000_000_000)
        );
        client
            .batch_execute(&settings)
            .await
            .map_err(Unavailable::new)?;
        let logged = client
            .query_opt(
                "SELECT FROM pg_class WHERE relnamespace = to_regnamespace('katachi_replay')
                 AND relkind = 'r' AND relpersistence <> 'u'",
                &[],
            )
            .await
            .map_err(Unavailable::new)?;
        match logged {
            Some(_) => Err(Unavailable::new(
                "a table of katachi_replay is not UNLOGGED",
            )),
            None => Ok(client),
        }
    }

    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, Unavailable>>,
    ) -> Result<T, Unavailable> {
        timeout(self.deadline, work)
            .await
            .unwrap_or_else(|_| Err(Unavailable::new("no answer from PostgreSQL in time")))
    }
}

impl AsyncReplayStore for PostgresReplay {
    async fn epoch(&self) -> Result<Epoch, Unavailable> {
        let row = self
            .ask("SELECT katachi_replay.current_epoch()", &[])
            .await?;
        match row
            .try_get::<_, Option<&[u8]>>(0)
            .map_err(Unavailable::new)?
        {
            Some(bytes) => shared::epoch(bytes),
            None => self.begin(None).await,
        }
    }

    async fn spend(&self, spending: &Spending<'_>) -> Result<Spend, Unavailable> {
        let Ok(created) = i64::try_from(spending.created) else {
            return Ok(Spend::Replayed);
        };
        let trace = Trace::of(spending);
        let most_bytes = i64::from(self.limits.requests) * ENTRY;
        let most_of_client = i32::try_from(self.limits.requests_per_key).unwrap_or(i32::MAX);
        for _ in 0..2 {
            let row = self
                .ask(
                    "SELECT katachi_replay.spend($1, $2, $3, $4, $5, $6, $7)",
                    &[
                        &spending.epoch.as_bytes().as_slice(),
                        &trace.nonce.as_slice(),
                        &trace.key.as_slice(),
                        &created,
                        &self.width(),
                        &most_bytes,
                        &most_of_client,
                    ],
                )
                .await?;
            match Answer::read(row.try_get(0).map_err(Unavailable::new)?)? {
                Answer::Settled(spend) => return Ok(spend),
                Answer::NeedsEpoch => {
                    self.begin(None).await?;
                    return Ok(Spend::StaleEpoch);
                }
                Answer::NeedsRoom => {
                    self.ask("SELECT katachi_replay.make_room()", &[]).await?;
                }
            }
        }
        Ok(Spend::Full)
    }
}

impl fmt::Debug for PostgresReplay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresReplay")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
