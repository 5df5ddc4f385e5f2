//! Records in PostgreSQL: connections, transactions, tables.
//!
//! A transaction is used from a thread that may wait; the connection's own
//! work runs on the runtime. At most [`MOST_SESSIONS`] run at once, and
//! connecting, each statement and the wait for a place have a deadline.
//!
//! A relay that is alone has the database to itself: starting takes the next number
//! of `service.generation`, and every transaction of a relay with an older number
//! is refused. Sealed columns and cached keys of two relays can then never
//! contradict each other, however the first one was lost. Nodes of a cluster share
//! the number, which each rotation of their keys raises: a node that meets a higher
//! one takes up its copy of the new keys before it goes on.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use katachi_auth::replay::{PostgresReplay, SharedLimits};
use katachi_store::Vault;
use katachi_store::column::ColumnCipher;
use katachi_store::postgres::{Connector, PostgresError};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{IsNull, ToSql, Type, private::BytesMut};
use tokio_postgres::{Client, GenericClient, Row, SimpleQueryMessage, Statement};

use super::keys::Keys;
use super::store::Value;
use super::{RecordsError, nodes, schema};
use crate::config::{ClusterConfig, PostgresUrl};

/// Most transactions at once, and most connections.
const MOST_SESSIONS: usize = 16;

/// Time for a place, to connect, and for each statement.
const DEADLINE: Duration = Duration::from_secs(5);

/// The first half of our advisory locks' names.
pub(super) const LOCK_SERVICE: &str = "katachi-relay/service";

/// Where nodes tell each other that there is something to look at.
pub(crate) const WAKE: &str = "katachi_relay";

/// The database cannot be asked, now; the request is refused and may be tried
/// again. It is not known whether a commit that failed so took effect.
#[derive(Debug, thiserror::Error)]
#[error("the database cannot be asked: {0}")]
pub(crate) struct Outage(#[source] PostgresError);

impl Outage {
    /// Whether somebody else has what was waited for.
    pub(super) fn is_of_a_lock(&self) -> bool {
        const LOCKS: [SqlState; 3] = [
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::T_R_SERIALIZATION_FAILURE,
        ];
        match &self.0 {
            PostgresError::Database(error) => error.code().is_some_and(|code| LOCKS.contains(code)),
            _ => false,
        }
    }
}

/// Whether a row was refused because it names another key than its account has.
pub(super) fn names_another_key(error: &tokio_postgres::Error) -> bool {
    const REFUSALS: [SqlState; 2] = [SqlState::FOREIGN_KEY_VIOLATION, SqlState::CHECK_VIOLATION];
    error.code().is_some_and(|code| REFUSALS.contains(code))
}

/// The relays' PostgreSQL, as one of them uses it.
pub(crate) struct Postgres {
    connector: Connector,
    runtime: Handle,
    places: Semaphore,
    idle: Mutex<Vec<Connection>>,
    keys: Keys,
    /// Seals what belongs to no account.
    cipher: Arc<ColumnCipher>,
    /// That a relay which is alone has taken; `None` for a command beside it.
    generation: Option<i64>,
}

/// A connection and what it has prepared.
struct Connection {
    client: Client,
    prepared: HashMap<String, Statement>,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("connector", &self.connector)
            .finish_non_exhaustive()
    }
}

/// What a transaction may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    Read,
    Write,
}

/// Brings the tables up to date.
///
/// Runs on a thread that may wait, as everything here that is not `async`.
pub(crate) fn migrate(url: &PostgresUrl) -> Result<(), RecordsError> {
    let connector = connector(url)?;
    Handle::current().block_on(async {
        let mut connection = connect(&connector).await?;
        prepare_tables(&mut connection.client).await
    })
}

impl Postgres {
    /// Connects, brings the tables up to date, and takes the service over, or its
    /// place in the cluster.
    pub(super) fn open(
        url: &PostgresUrl,
        cluster: Option<&ClusterConfig>,
        vault: Arc<Vault>,
    ) -> Result<Self, RecordsError> {
        Self::with(url, async |client| match cluster {
            None => take_over(client, vault).await,
            Some(cluster) => {
                let (keys, cipher) = nodes::join(client, &vault, &cluster.id).await?;
                Ok((keys, cipher, None))
            }
        })
    }

    /// Connects for a command, beside the relay or the nodes that serve, as one who has
    /// the same keys.
    pub(super) fn open_beside(url: &PostgresUrl, vault: Arc<Vault>) -> Result<Self, RecordsError> {
        Self::with(url, async |client| {
            let (keys, cipher) = nodes::beside(client, vault).await?;
            Ok((keys, cipher, None))
        })
    }

    fn with(
        url: &PostgresUrl,
        enter: impl AsyncFnOnce(&mut Client) -> Result<(Keys, ColumnCipher, Option<i64>), RecordsError>,
    ) -> Result<Self, RecordsError> {
        let connector = connector(url)?;
        let runtime = Handle::current();
        let (connection, (keys, cipher, generation)) = runtime.block_on(async {
            let mut connection = connect(&connector).await?;
            prepare_tables(&mut connection.client).await?;
            let entered = enter(&mut connection.client).await?;
            Ok::<_, RecordsError>((connection, entered))
        })?;
        Ok(Self {
            connector,
            runtime,
            places: Semaphore::new(MOST_SESSIONS),
            idle: Mutex::new(vec![connection]),
            keys,
            cipher: Arc::new(cipher),
            generation,
        })
    }

    /// Whether other nodes work on the same tables.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.keys, Keys::Cluster(_))
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// A connection of its own, on which `notified` hears of [`WAKE`].
    pub(crate) async fn listen(
        &self,
        mut notified: impl FnMut() + Send + 'static,
    ) -> Result<Client, RecordsError> {
        let client = self
            .connector
            .connect_notified(move |_| notified())
            .await
            .map_err(sort)?;
        let sql = format!("SET search_path = katachi_relay, pg_temp; LISTEN {WAKE}");
        within(client.batch_execute(&sql)).await?;
        Ok(client)
    }

    /// The cipher for what belongs to no account.
    pub(super) fn cipher(&self) -> &Arc<ColumnCipher> {
        &self.cipher
    }

    /// Opens the key of an account.
    pub(super) fn open_key(
        &self,
        user_id: &str,
        wrapped: &[u8],
    ) -> Result<ColumnCipher, RecordsError> {
        self.keys.open(user_id, wrapped)
    }

    /// Begins a transaction, on a connection that answers.
    pub(super) fn begin(&self, mode: Mode) -> Result<Session<'_>, RecordsError> {
        self.runtime.block_on(async {
            let place = timeout(DEADLINE, self.places.acquire())
                .await
                .map_err(|_| Outage(PostgresError::Timeout(DEADLINE)))?
                .map_err(|_| Outage(PostgresError::Connection("the relay is stopping")))?;
            // One that was idle may have broken, and nothing was lost by it.
            while let Some(mut connection) = self.take_idle() {
                match start(&mut connection, mode).await {
                    Ok(generation) => {
                        return self.session(connection, place, mode, generation).await;
                    }
                    // Others would wait as long.
                    Err(RecordsError::Outage(Outage(PostgresError::Timeout(after)))) => {
                        return Err(Outage(PostgresError::Timeout(after)).into());
                    }
                    Err(_) => {}
                }
            }
            let mut connection = connect(&self.connector).await?;
            let generation = start(&mut connection, mode).await?;
            self.session(connection, place, mode, generation).await
        })
    }

    async fn session<'a>(
        &'a self,
        connection: Connection,
        place: SemaphorePermit<'a>,
        mode: Mode,
        generation: i64,
    ) -> Result<Session<'a>, RecordsError> {
        match &self.keys {
            Keys::Vault(_) if self.generation.is_some_and(|own| own != generation) => {
                return Err(RecordsError::Superseded);
            }
            Keys::Cluster(keys) if generation > keys.generation() => {
                nodes::take_up(&connection.client, keys, generation).await?;
            }
            Keys::Vault(_) | Keys::Cluster(_) => {}
        }
        Ok(Session {
            postgres: self,
            connection: Mutex::new(connection),
            mode,
            _place: place,
        })
    }

    fn take_idle(&self) -> Option<Connection> {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }
}

/// A transaction under way. Dropped, it closes its connection, which rolls it
/// back; only a commit that succeeded gives the connection back.
pub(crate) struct Session<'a> {
    postgres: &'a Postgres,
    connection: Mutex<Connection>,
    mode: Mode,
    _place: SemaphorePermit<'a>,
}

impl<'a> Session<'a> {
    pub(super) fn postgres(&self) -> &'a Postgres {
        self.postgres
    }

    /// Whether it may write.
    pub(super) fn writes(&self) -> bool {
        self.mode == Mode::Write
    }

    pub(super) fn query(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>, RecordsError> {
        self.run(sql, values, async |client, statement, values| {
            client.query(statement, values).await
        })
    }

    pub(super) fn execute(&self, sql: &str, values: &[Value]) -> Result<usize, RecordsError> {
        let rows = self.run(sql, values, async |client, statement, values| {
            client.execute(statement, values).await
        })?;
        Ok(usize::try_from(rows).unwrap_or(usize::MAX))
    }

    pub(super) fn lock(&self, what: &str) -> Result<(), RecordsError> {
        let sql = "SELECT pg_advisory_xact_lock(hashtextextended(?1, 0))";
        self.query(sql, &[what.into()]).map(drop)
    }

    fn run<T>(
        &self,
        sql: &str,
        values: &[Value],
        ask: impl AsyncFnOnce(
            &Client,
            &Statement,
            &[&(dyn ToSql + Sync)],
        ) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, RecordsError> {
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Connection { client, prepared } = &mut *connection;
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
        self.postgres.runtime.block_on(within(async {
            let statement = match prepared.get(sql) {
                Some(statement) => statement.clone(),
                None => {
                    let statement = client.prepare(&sql.replace('?', "$")).await?;
                    prepared.insert(sql.to_owned(), statement.clone());
                    statement
                }
            };
            ask(client, &statement, &values).await
        }))
    }

    pub(super) fn commit(self) -> Result<(), RecordsError> {
        let connection = self
            .connection
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let commit = within(connection.client.batch_execute("COMMIT"));
        self.postgres.runtime.block_on(commit)?;
        let idle = &self.postgres.idle;
        idle.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
        Ok(())
    }
}

/// Begins a transaction and reads which relay has the database. A writer holds
/// off whoever would take it over.
async fn start(connection: &mut Connection, mode: Mode) -> Result<i64, RecordsError> {
    let sql = match mode {
        Mode::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
             SELECT generation FROM service"
            .to_owned(),
        Mode::Write => format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED;
             SELECT pg_advisory_xact_lock_shared(hashtextextended('{LOCK_SERVICE}', 0));
             SELECT generation FROM service"
        ),
    };
    let answers = within(connection.client.simple_query(&sql)).await?;
    let last = answers.iter().rev().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => row.try_get("generation").ok().flatten(),
        _ => None,
    });
    last.and_then(|generation| generation.parse().ok())
        .ok_or(RecordsError::Superseded)
}

/// A replay store in the same PostgreSQL, in a schema of its own.
pub(crate) fn replay(url: &PostgresUrl) -> Result<PostgresReplay, RecordsError> {
    let (config, limits) = (url.config().clone(), SharedLimits::default());
    let store = if is_local(&config) {
        PostgresReplay::local(config, limits)
    } else {
        let authority = url.authority().ok_or(RecordsError::NoAuthority)?;
        PostgresReplay::tls(config, roots(authority)?, limits)
    };
    let store = store?;
    Handle::current().block_on(store.install())?;
    Ok(store)
}

fn is_local(config: &tokio_postgres::Config) -> bool {
    let socket = |host: &Host| !matches!(host, Host::Tcp(_));
    config.get_hosts().iter().all(socket)
}

/// Makes the tables that a former version had, whose last step was `step`.
#[cfg(test)]
pub(super) fn make_former(url: &PostgresUrl, step: usize) -> Result<(), RecordsError> {
    let connector = connector(url)?;
    Handle::current().block_on(async {
        let mut connection = connect(&connector).await?;
        take_steps(&mut connection.client, &schema::POSTGRES[..step]).await
    })
}

/// A connection for `key` commands.
pub(super) async fn client(url: &PostgresUrl) -> Result<Client, RecordsError> {
    let mut connection = connect(&connector(url)?).await?;
    prepare_tables(&mut connection.client).await?;
    Ok(connection.client)
}

async fn connect(connector: &Connector) -> Result<Connection, RecordsError> {
    let client = connector.connect().await.map_err(sort)?;
    within(client.batch_execute("SET search_path = katachi_relay, pg_temp")).await?;
    Ok(Connection {
        client,
        prepared: HashMap::new(),
    })
}

fn connector(url: &PostgresUrl) -> Result<Connector, RecordsError> {
    let config = url.config().clone();
    let connector = if is_local(&config) {
        Connector::local(config)
    } else {
        let authority = url.authority().ok_or(RecordsError::NoAuthority)?;
        Connector::tls(config, roots(authority)?)
    };
    Ok(connector.map_err(sort)?.deadline(DEADLINE))
}

fn roots(path: &Path) -> Result<RootCertStore, RecordsError> {
    let unreadable = |why: String| RecordsError::Authority {
        path: path.to_owned(),
        why,
    };
    let mut roots = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| unreadable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unreadable("it has no certificate".to_owned()));
    }
    Ok(roots)
}

async fn prepare_tables(client: &mut Client) -> Result<(), RecordsError> {
    take_steps(client, schema::POSTGRES).await
}

/// Takes those of `steps` that the tables lack, all or none; others wait meanwhile.
async fn take_steps(client: &mut Client, steps: &[&str]) -> Result<(), RecordsError> {
    let tx = within(client.transaction()).await?;
    within(tx.batch_execute(
        "SELECT pg_advisory_xact_lock(hashtextextended('katachi-relay/migrate', 0));
         CREATE SCHEMA IF NOT EXISTS katachi_relay;
         CREATE TABLE IF NOT EXISTS katachi_relay.migrations (step BIGINT PRIMARY KEY)",
    ))
    .await?;
    let taken: i64 = within(tx.query_one("SELECT count(*) FROM katachi_relay.migrations", &[]))
        .await?
        .get(0);
    let taken = usize::try_from(taken).unwrap_or_default();
    if taken > steps.len() {
        return Err(RecordsError::Newer);
    }
    for (step, sql) in steps.iter().enumerate().skip(taken) {
        within(tx.batch_execute(sql)).await?;
        let number = super::store::int(step as u64);
        within(tx.execute("INSERT INTO migrations VALUES ($1)", &[&number])).await?;
    }
    within(tx.commit()).await
}

/// Takes the next generation. The first relay of a database makes the key for
/// what belongs to no account, under its vault; a later one must open it.
async fn take_over(
    client: &mut Client,
    vault: Arc<Vault>,
) -> Result<(Keys, ColumnCipher, Option<i64>), RecordsError> {
    let keys = Keys::Vault(vault);
    let fresh = keys.generate(SERVICE)?;
    let fresh_proof = keys.proof(&fresh);
    let tx = within(client.transaction()).await?;
    lock_service(&tx).await?;
    let row = within(tx.query_one(
        "INSERT INTO service (id, generation, wrapped_key, proof) VALUES (true, 1, $1, $2)
         ON CONFLICT (id) DO UPDATE SET generation = service.generation + 1
         RETURNING generation, wrapped_key, proof, cluster",
        &[&fresh, &fresh_proof.as_slice()],
    ))
    .await?;
    let (generation, wrapped, found): (i64, Vec<u8>, Vec<u8>) =
        (row.get(0), row.get(1), row.get(2));
    if let Some(cluster) = row.get(3) {
        return Err(RecordsError::InCluster(cluster));
    }
    if found != keys.proof(&wrapped) {
        return Err(RecordsError::OtherVault);
    }
    let cipher = keys.open(SERVICE, &wrapped)?;
    within(tx.commit()).await?;
    Ok((keys, cipher, Some(generation)))
}

/// Waits for every transaction that writes, and holds off the next.
pub(super) async fn lock_service(client: &impl GenericClient) -> Result<(), RecordsError> {
    within(client.batch_execute(&format!(
        "SELECT pg_advisory_xact_lock(hashtextextended('{LOCK_SERVICE}', 0))"
    )))
    .await
}

/// The tenant of what belongs to no account.
pub(super) const SERVICE: &str = "katachi-relay";

/// Waits for PostgreSQL, and not for ever.
pub(super) async fn within<T>(
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, RecordsError> {
    match timeout(DEADLINE, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Outage(PostgresError::Timeout(DEADLINE)).into()),
    }
}

fn sort(error: PostgresError) -> RecordsError {
    match error {
        PostgresError::Database(error) => error.into(),
        error => Outage(error).into(),
    }
}

impl From<tokio_postgres::Error> for RecordsError {
    /// What PostgreSQL says of a statement is our mistake; that it is not
    /// there, stops, is full or late is an outage.
    fn from(error: tokio_postgres::Error) -> Self {
        // Classes of PostgreSQL's appendix A: connection, transaction rollback,
        // resources, intervention of the operator, system error.
        const PASSING: [&str; 6] = ["08", "40", "53", "55", "57", "58"];
        let passes = error.code().map_or_else(
            || {
                error.is_closed()
                    || std::error::Error::source(&error).is_some_and(|s| s.is::<std::io::Error>())
            },
            |code| PASSING.iter().any(|class| code.code().starts_with(class)),
        );
        if passes {
            Outage(PostgresError::Database(error)).into()
        } else {
            Self::Postgres(error)
        }
    }
}

impl ToSql for Value {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Absent => Ok(IsNull::Yes),
            Self::Bool(value) => value.to_sql_checked(ty, out),
            Self::Int(value) => value.to_sql_checked(ty, out),
            Self::Text(value) => value.to_sql_checked(ty, out),
            Self::Bytes(value) => value.to_sql_checked(ty, out),
        }
    }

    /// The value decides, in [`to_sql`](ToSql::to_sql).
    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        self.to_sql(ty, out)
    }
}
