//! What the relay remembers, in an encrypted file or in PostgreSQL, and in it
//! sealed cells for what must stay secret from whoever reads the database.
//! In a cluster a keyset that all nodes share stands where the vault stands here.
//!
//! ```text
//! vault ──▶ database key ──▶ every page of the file
//!       ├─▶ wrapping key ──▶ one key for each account ──▶ agent keys, MCP secrets,
//!       │                                                 in PostgreSQL what else is private
//!       └─▶ audit key ─────▶ the chain of each account's log
//! ```

pub(crate) mod agents;
pub(crate) mod audit;
pub(crate) mod cloudflare;
mod grants;
pub(crate) mod guesses;
pub(crate) mod identities;
pub(crate) mod keys;
mod mail_tokens;
pub(crate) mod mcp;
pub(crate) mod nodes;
pub(crate) mod postgres;
pub(crate) mod rotation;
mod schema;
mod sessions;
pub(crate) mod sign_ins;
pub(crate) mod store;
pub(crate) mod throttles;
pub(crate) mod tunnels;
pub(crate) mod users;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use katachi_crypto::mac::HmacKey;
use katachi_crypto::{Secret, random};
use katachi_protocol::Sensitive;
use katachi_protocol::mcp::{CellContext, SealedCell};
use katachi_store::Vault;
use katachi_store::column::{Cell, ColumnCipher, ColumnError};
use katachi_store::database::{Database, DatabaseError, DatabaseKey, Options, Profile};
use katachi_store::vault::VaultError;

pub(crate) use grants::Grants;
pub(crate) use mail_tokens::MailTokens;
pub(crate) use sessions::SessionRows;

use audit::Event;
use keys::{ClusterKeys, Keys};
use mcp::SecretRow;
use postgres::{Outage, Postgres};
use store::{ReadTx, Store, Tx};

use crate::cluster::keyset::NodeKey;
use crate::config::{ClusterConfig, DatabaseSource};

/// What storage can do wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordsError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("PostgreSQL: {0}")]
    Postgres(#[source] tokio_postgres::Error),
    #[error("{0}")]
    Outage(#[from] Outage),
    #[error("another relay has taken this database over")]
    Superseded,
    #[error("this database belongs to another relay: its keys are of another vault")]
    OtherVault,
    #[error("this database is of cluster {0}: give --cluster {0} and --node-listen ADDR")]
    InCluster(String),
    #[error("this database is of no cluster: `katachi-relay key init` makes one")]
    NoCluster,
    #[error(
        "this database, or this node's keys in it, are of another cluster than --cluster names"
    )]
    OtherCluster,
    #[error(
        "this node is not of the cluster, or no more: on a node that is, run `katachi-relay key add-node NAME {0}`"
    )]
    NotAdded(NodeKey),
    #[error("the cluster has a node of this name or key already")]
    NodeExists,
    #[error("the cluster has no node of this name")]
    NoSuchNode,
    #[error("this is the node that the command runs on; remove it from another one")]
    ThisNode,
    #[error("no relay has kept anything in this database yet")]
    NoService,
    #[error("there is no relay's database in {0}: give --state-dir, or --database")]
    NoDatabase(PathBuf),
    #[error("{place}: {source}")]
    Reseal { place: String, source: ColumnError },
    #[error("this database was made by a newer version")]
    Newer,
    #[error("over a network the database needs TLS: give --database-ca FILE, its authority in PEM")]
    NoAuthority,
    #[error("--database-ca {path}: {why}")]
    Authority { path: PathBuf, why: String },
    #[error("the replay store: {0}")]
    Replay(#[from] katachi_auth::replay::Unavailable),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Column(#[from] ColumnError),
    #[error(transparent)]
    Crypto(#[from] katachi_crypto::Error),
    #[error("the database is damaged")]
    Damaged,
    #[error("a stored record cannot be read: {0}")]
    Record(#[from] serde_json::Error),
    #[error("an account has no key for its secrets")]
    NoTenantKey,
    #[error("a secret is not text")]
    NotText,
    #[error("a task of the relay ended early: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl RecordsError {
    /// Whether the same may succeed in a moment.
    fn is_passing(&self) -> bool {
        match self {
            Self::Outage(_) | Self::Database(DatabaseError::Busy) => true,
            _ => self.is_of_a_writer(),
        }
    }

    /// Whether it comes of what one account has, or of who works on that.
    fn is_of_one_account(&self) -> bool {
        match self {
            Self::Reseal { .. } | Self::Column(_) | Self::Crypto(_) | Self::NoTenantKey => true,
            Self::Outage(outage) => outage.is_of_a_lock(),
            _ => self.is_of_a_writer(),
        }
    }

    /// Whether rows and their account's key do not agree: somebody wrote who does not
    /// hold the key, such as a relay of an older version.
    fn is_of_a_writer(&self) -> bool {
        matches!(self, Self::Postgres(error) if postgres::names_another_key(error))
    }
}

/// The open database and the keys around it. Clones are handles to the same.
#[derive(Clone, Debug)]
pub(crate) struct Records(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sessions: SessionRows,
    store: Store,
    keys: Keys,
    audit_key: Secret<32>,
}

/// The embedded database, in the state directory.
pub(crate) const FILE: &str = "relay.db";
/// Name of the key that wraps the accounts' keys.
const TENANTS: &str = "relay";
const AGENT_KEYS: &str = "agent_keys";
const MCP_SECRETS: &str = "mcp_secrets";
const SEALED: &str = "sealed";

impl Records {
    /// Opens or creates the records. It waits for a disk or a server.
    pub(crate) fn open(
        source: &DatabaseSource,
        cluster: Option<&ClusterConfig>,
        state_dir: &Path,
        vault: Vault,
    ) -> Result<Self, RecordsError> {
        let vault = Arc::new(vault);
        let (store, keys) = match source {
            DatabaseSource::Embedded => {
                let key = DatabaseKey::from_vault(&vault, "relay")?;
                let options = Options::new()
                    .profile(Profile::Fast)
                    .migrations(schema::MIGRATIONS);
                let database = Database::open(state_dir.join(FILE), &key, options)?;
                (Store::Embedded(database), Keys::Vault(vault))
            }
            DatabaseSource::Postgres(url) => {
                let postgres = Arc::new(Postgres::open(url, cluster, vault)?);
                let keys = postgres.keys().clone();
                (Store::Postgres(postgres), keys)
            }
        };
        Ok(Self::of(store, keys))
    }

    /// Opens the records that there are for a command, beside whoever serves them.
    pub(crate) fn open_beside(
        source: &DatabaseSource,
        state_dir: &Path,
        vault: Vault,
    ) -> Result<Self, RecordsError> {
        match source {
            // Several processes may have the file open: SQLite has one of them write at a time.
            DatabaseSource::Embedded => Self::open(source, None, state_dir, vault),
            DatabaseSource::Postgres(url) => {
                let postgres = Arc::new(Postgres::open_beside(url, Arc::new(vault))?);
                let keys = postgres.keys().clone();
                Ok(Self::of(Store::Postgres(postgres), keys))
            }
        }
    }

    fn of(store: Store, keys: Keys) -> Self {
        Self(Arc::new(Inner {
            sessions: SessionRows::new(store.clone()),
            store,
            audit_key: keys.audit(),
            keys,
        }))
    }

    /// A secret of its own for `label`, the same on every node.
    pub(crate) fn derive(&self, label: &str) -> Secret<32> {
        self.0.keys.derive(label)
    }

    /// The PostgreSQL and the keys that several nodes share; `None` for a relay
    /// that is alone.
    pub(crate) fn shared(&self) -> Option<(Arc<Postgres>, Arc<ClusterKeys>)> {
        match (&self.0.store, &self.0.keys) {
            (Store::Postgres(postgres), Keys::Cluster(keys)) => {
                Some((Arc::clone(postgres), Arc::clone(keys)))
            }
            _ => None,
        }
    }

    /// Copies the embedded database to `path`, while others use it.
    pub(crate) fn backup(&self, path: &Path) -> Result<(), RecordsError> {
        match &self.0.store {
            Store::Embedded(database) => Ok(database.backup(path)?),
            Store::Postgres(_) => Ok(()),
        }
    }

    /// Looks whether every page of the embedded database is what was written.
    pub(crate) fn verify(&self) -> Result<(), RecordsError> {
        match &self.0.store {
            Store::Embedded(database) if !database.verify()?.is_sound() => {
                Err(RecordsError::Damaged)
            }
            Store::Embedded(_) | Store::Postgres(_) => Ok(()),
        }
    }

    /// Device authorizations, kept in the same database.
    pub(crate) fn grants(&self) -> Grants {
        Grants::new(self.0.store.clone())
    }

    /// Links in mail, kept in the same database.
    pub(crate) fn mail_tokens(&self) -> MailTokens {
        MailTokens::new(self.0.store.clone())
    }

    /// Sessions of browsers, kept in the same database.
    pub(crate) fn sessions(&self) -> SessionRows {
        self.0.sessions.clone()
    }

    /// The key under which audit entries are chained.
    pub(crate) fn audit_key(&self) -> HmacKey {
        HmacKey::new(&self.0.audit_key)
    }

    /// Reads at once, waiting for a disk or a server.
    pub(crate) fn read_now<T>(
        &self,
        work: impl FnOnce(&ReadTx<'_>) -> Result<T, RecordsError>,
    ) -> Result<T, RecordsError> {
        self.0.store.read(work)
    }

    /// Reads, on a thread that may wait for that.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ReadTx<'_>) -> Result<T, RecordsError> + Send + 'static,
    ) -> Result<T, RecordsError> {
        let store = self.0.store.clone();
        tokio::task::spawn_blocking(move || store.read(work)).await?
    }

    /// Writes, on a thread that may wait for that and for other writers.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, RecordsError> + Send + 'static,
    ) -> Result<T, RecordsError> {
        let store = self.0.store.clone();
        tokio::task::spawn_blocking(move || store.write(work)).await?
    }

    /// Writes at once, waiting for a disk or a server.
    pub(crate) fn write_now<T>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, RecordsError>,
    ) -> Result<T, RecordsError> {
        self.0.store.write(work)
    }

    /// Appends to an account's audit log.
    pub(crate) async fn audit(
        &self,
        user_id: &str,
        event: Event,
    ) -> Result<(u64, [u8; 32]), RecordsError> {
        let (user, key) = (user_id.to_owned(), self.audit_key());
        self.write(move |tx| audit::append(tx, &key, &user, &event))
            .await
    }

    /// Makes the wrapped key of a new account.
    pub(crate) fn new_tenant_key(&self, user_id: &str) -> Result<Vec<u8>, RecordsError> {
        self.0.keys.generate(user_id)
    }

    fn cipher(&self, tx: &ReadTx<'_>, user_id: &str) -> Result<ColumnCipher, RecordsError> {
        let wrapped = users::tenant_key(tx, user_id)?;
        self.0.keys.open(user_id, &wrapped)
    }

    /// Seals the secret of an agent's key.
    pub(crate) fn seal_agent_key(
        &self,
        tx: &ReadTx<'_>,
        key: &agents::KeyRow,
        secret: &Secret<32>,
    ) -> Result<Vec<u8>, RecordsError> {
        Ok(self
            .cipher(tx, &key.user_id)?
            .seal(&agent_key_cell(key), secret.expose_secret())?)
    }

    /// Opens the secret of an agent's key.
    pub(crate) fn open_agent_key(
        &self,
        tx: &ReadTx<'_>,
        key: &agents::KeyRow,
    ) -> Result<Secret<32>, RecordsError> {
        let opened = self
            .cipher(tx, &key.user_id)?
            .open(&agent_key_cell(key), &key.sealed)?;
        Ok(Secret::from_slice(opened.expose_secret())?)
    }

    /// Seals secrets of one configuration, filling in [`SecretRow::sealed`].
    pub(crate) fn seal_mcp(
        &self,
        tx: &ReadTx<'_>,
        user_id: &str,
        rows: &mut [(SecretRow, Sensitive)],
    ) -> Result<(), RecordsError> {
        let cipher = self.cipher(tx, user_id)?;
        for (row, value) in rows {
            let place = mcp_row(row);
            row.sealed = cipher.seal(&mcp_cell(row, &place), value.expose_secret().as_bytes())?;
        }
        Ok(())
    }

    /// Opens secrets of configurations, in order.
    pub(crate) fn open_mcp(
        &self,
        tx: &ReadTx<'_>,
        user_id: &str,
        rows: &[SecretRow],
    ) -> Result<Vec<Sensitive>, RecordsError> {
        let cipher = self.cipher(tx, user_id)?;
        rows.iter()
            .map(|row| {
                let opened = cipher.open(&mcp_cell(row, &mcp_row(row)), &row.sealed)?;
                let text = std::str::from_utf8(opened.expose_secret())
                    .map_err(|_| RecordsError::NotText)?;
                Ok(Sensitive::new(text))
            })
            .collect()
    }
}

fn agent_key_cell(key: &agents::KeyRow) -> Cell<'_> {
    Cell {
        table: AGENT_KEYS,
        column: SEALED,
        row: key.id.as_bytes(),
        version: key.version,
    }
}

/// Neither part can have a slash in it.
fn mcp_row(row: &SecretRow) -> String {
    format!("{}/{}", row.config, row.name)
}

fn mcp_cell<'a>(row: &SecretRow, place: &'a str) -> Cell<'a> {
    Cell {
        table: MCP_SECRETS,
        column: SEALED,
        row: place.as_bytes(),
        version: row.version,
    }
}

/// Describes a sealed secret to its owner.
pub(crate) fn describe_mcp(user_id: &str, row: &SecretRow) -> SealedCell {
    SealedCell {
        name: row.name.clone(),
        context: CellContext {
            tenant: user_id.to_owned(),
            table: MCP_SECRETS.to_owned(),
            column: SEALED.to_owned(),
            row: mcp_row(row),
            version: row.version,
        },
        sealed: STANDARD.encode(&row.sealed),
    }
}

/// A new identifier: 128 random bits, hexadecimal.
pub(crate) fn new_id() -> Result<String, RecordsError> {
    Ok(audit::hex(&random::bytes::<16>()?))
}
