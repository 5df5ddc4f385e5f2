//! The nodes of a cluster: who has a copy of its keys, how a cluster begins, takes
//! nodes in, lets them go, and changes its key.
//!
//! Everything here is one transaction that no other writer overlaps. A node that
//! was killed in the middle of one finds the state before it or after it.

use std::sync::Arc;

use katachi_crypto::envelope::{Context, DataKey};
use katachi_crypto::{KeyEncryptor, LocalKeyEncryptor};
use katachi_store::Vault;
use katachi_store::column::{ColumnCipher, ColumnError, TenantKeys};
use tokio::runtime::Handle;
use tokio_postgres::{Client, GenericClient, Transaction};

use super::keys::{self, ClusterKeys, Keys};
use super::postgres::{self, SERVICE, WAKE, lock_service, within};
use super::{RecordsError, TENANTS};
use crate::cluster::keyset::{ClusterId, Keyset, NodeKey, NodeName, NodeSecret};
use crate::config::PostgresUrl;

/// A node, as `key list` shows it.
pub(crate) struct NodeRow {
    pub(crate) name: String,
    pub(crate) key: NodeKey,
    pub(crate) address: String,
    pub(crate) alive: bool,
    pub(crate) tunnels: i64,
}

/// Opens this node's copy of the keys, and with it the service.
pub(super) async fn join(
    client: &Client,
    vault: &Vault,
    cluster: &ClusterId,
) -> Result<(Keys, ColumnCipher), RecordsError> {
    let service = service(client).await?.ok_or(RecordsError::NoCluster)?;
    match &service.cluster {
        None => return Err(RecordsError::NoCluster),
        Some(found) if found != cluster.as_str() => return Err(RecordsError::OtherCluster),
        Some(_) => {}
    }
    let secret = NodeSecret::of(vault);
    let copy = copy_of(client, &secret.public()).await?;
    let keys = ClusterKeys::open(secret, cluster.clone(), service.generation, &copy)?;
    let keys = Keys::Cluster(Arc::new(keys));
    if service.proof != keys.proof(&service.wrapped) {
        return Err(RecordsError::OtherCluster);
    }
    let cipher = keys.open(SERVICE, &service.wrapped)?;
    Ok((keys, cipher))
}

/// Opens the service as whoever serves it does: as a node of its cluster, or with the
/// vault of the relay that is alone, which goes on.
pub(super) async fn beside(
    client: &Client,
    vault: Arc<Vault>,
) -> Result<(Keys, ColumnCipher), RecordsError> {
    let service = service(client).await?.ok_or(RecordsError::NoService)?;
    if let Some(cluster) = service.cluster {
        let cluster = cluster.parse().map_err(|_| RecordsError::OtherCluster)?;
        return join(client, &vault, &cluster).await;
    }
    let keys = Keys::Vault(vault);
    if service.proof != keys.proof(&service.wrapped) {
        return Err(RecordsError::OtherVault);
    }
    let cipher = keys.open(SERVICE, &service.wrapped)?;
    Ok((keys, cipher))
}

/// Takes up the copy that a rotation left for this node.
pub(crate) async fn take_up(
    client: &Client,
    keys: &ClusterKeys,
    generation: i64,
) -> Result<(), RecordsError> {
    let copy = copy_of(client, &keys.secret().public()).await?;
    keys.take_up(generation, &copy)
}

/// The name that this node has in its cluster.
pub(crate) async fn name_of(client: &Client, keys: &ClusterKeys) -> Result<String, RecordsError> {
    let key = keys.secret().public();
    let sql = "SELECT name FROM nodes WHERE public_key = $1";
    let row = within(client.query_opt(sql, &[&key.as_bytes()])).await?;
    Ok(row.ok_or(RecordsError::NotAdded(key))?.get(0))
}

async fn copy_of(client: &impl GenericClient, key: &NodeKey) -> Result<Vec<u8>, RecordsError> {
    let sql = "SELECT keyset FROM nodes WHERE public_key = $1";
    let row = within(client.query_opt(sql, &[&key.as_bytes()])).await?;
    Ok(row.ok_or(RecordsError::NotAdded(*key))?.get(0))
}

struct Service {
    generation: i64,
    wrapped: Vec<u8>,
    proof: Vec<u8>,
    cluster: Option<String>,
}

async fn service(client: &impl GenericClient) -> Result<Option<Service>, RecordsError> {
    let sql = "SELECT generation, wrapped_key, proof, cluster FROM service";
    let row = within(client.query_opt(sql, &[])).await?;
    Ok(row.map(|row| Service {
        generation: row.get(0),
        wrapped: row.get(1),
        proof: row.get(2),
        cluster: row.get(3),
    }))
}

/// Makes a cluster of the database, with this node in it. What a relay that was
/// alone kept there is taken over, if this is its vault, and that relay ends.
pub(crate) fn init(
    url: &PostgresUrl,
    vault: &Vault,
    name: &NodeName,
) -> Result<ClusterId, RecordsError> {
    Handle::current().block_on(async {
        let mut client = postgres::client(url).await?;
        let tx = within(client.transaction()).await?;
        lock_service(&tx).await?;
        let keyset = match service(&tx).await? {
            Some(Service {
                cluster: Some(cluster),
                ..
            }) => return Err(RecordsError::InCluster(cluster)),
            Some(service) => {
                let alone = TenantKeys::from_vault(vault, TENANTS)?;
                alone
                    .open(SERVICE, &service.wrapped)
                    .map_err(|_| RecordsError::OtherVault)?;
                let keyset = Keyset::generate(Some(keys::audit_of(vault)))?;
                rewrap(&tx, alone.encryptor(), &keyset).await?;
                keyset
            }
            None => {
                let keyset = Keyset::generate(None)?;
                let wrapped = TenantKeys::new(keyset.encryptor()).generate(SERVICE)?;
                let proof = keys::proof_of(&keyset, &wrapped);
                within(tx.execute(
                    "INSERT INTO service (id, generation, wrapped_key, proof)
                     VALUES (true, 1, $1, $2)",
                    &[&wrapped, &proof.as_slice()],
                ))
                .await?;
                keyset
            }
        };
        let id = keyset.id();
        within(tx.execute("UPDATE service SET cluster = $1", &[&id.as_str()])).await?;
        insert(&tx, &keyset, name, &NodeSecret::of(vault).public()).await?;
        within(tx.commit()).await?;
        Ok(id)
    })
}

/// Seals the cluster's keys for another node.
pub(crate) fn add(
    url: &PostgresUrl,
    vault: &Vault,
    name: &NodeName,
    key: &NodeKey,
) -> Result<ClusterId, RecordsError> {
    Handle::current().block_on(async {
        let mut client = postgres::client(url).await?;
        let tx = within(client.transaction()).await?;
        lock_service(&tx).await?;
        let keyset = own(&tx, vault).await?;
        insert(&tx, &keyset, name, key).await?;
        within(tx.commit()).await?;
        Ok(keyset.id())
    })
}

/// Takes a node out and changes the key, so that what it has opens nothing of what
/// is wrapped from now on.
pub(crate) fn remove(
    url: &PostgresUrl,
    vault: &Vault,
    name: &NodeName,
) -> Result<(), RecordsError> {
    Handle::current().block_on(async {
        let mut client = postgres::client(url).await?;
        let tx = within(client.transaction()).await?;
        lock_service(&tx).await?;
        let own_key = NodeSecret::of(vault).public();
        let sql = "DELETE FROM nodes WHERE name = $1 RETURNING public_key";
        let row = within(tx.query_opt(sql, &[&name.as_str()])).await?;
        let removed: Vec<u8> = row.ok_or(RecordsError::NoSuchNode)?.get(0);
        if removed == own_key.as_bytes() {
            return Err(RecordsError::ThisNode);
        }
        change_key(&tx, vault).await?;
        within(tx.commit()).await
    })
}

/// Draws another key, wraps every account's key with it, and seals it for every node.
pub(crate) fn rotate(url: &PostgresUrl, vault: &Vault) -> Result<(), RecordsError> {
    Handle::current().block_on(async {
        let mut client = postgres::client(url).await?;
        let tx = within(client.transaction()).await?;
        lock_service(&tx).await?;
        change_key(&tx, vault).await?;
        within(tx.commit()).await
    })
}

/// The cluster and its nodes. Needs no key.
pub(crate) fn list(url: &PostgresUrl) -> Result<(String, Vec<NodeRow>), RecordsError> {
    Handle::current().block_on(async {
        let client = postgres::client(url).await?;
        let service = service(&client).await?;
        let cluster = service.and_then(|service| service.cluster);
        let cluster = cluster.ok_or(RecordsError::NoCluster)?;
        let sql = "SELECT name, public_key, address, expires > clock_timestamp(),
                (SELECT count(*) FROM tunnels WHERE node = name) FROM nodes ORDER BY name";
        let rows = within(client.query(sql, &[])).await?;
        let nodes = rows.iter().map(|row| {
            Ok(NodeRow {
                name: row.get(0),
                key: NodeKey::from_slice(row.get(1))?,
                address: row.get(2),
                alive: row.get(3),
                tunnels: row.get(4),
            })
        });
        Ok((cluster, nodes.collect::<Result<_, RecordsError>>()?))
    })
}

async fn insert(
    tx: &Transaction<'_>,
    keyset: &Keyset,
    name: &NodeName,
    key: &NodeKey,
) -> Result<(), RecordsError> {
    let copy = keyset.seal_for(key)?;
    let rows = within(tx.execute(
        "INSERT INTO nodes (name, public_key, keyset) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        &[&name.as_str(), &key.as_bytes(), &copy],
    ))
    .await?;
    if rows == 1 {
        Ok(())
    } else {
        Err(RecordsError::NodeExists)
    }
}

/// The keyset, out of this node's own copy.
async fn own(tx: &Transaction<'_>, vault: &Vault) -> Result<Keyset, RecordsError> {
    let service = service(tx).await?.ok_or(RecordsError::NoCluster)?;
    let cluster = service.cluster.ok_or(RecordsError::NoCluster)?;
    let secret = NodeSecret::of(vault);
    let keyset = Keyset::open(&secret, &copy_of(tx, &secret.public()).await?)?;
    if keyset.id().as_str() != cluster || service.proof != keys::proof_of(&keyset, &service.wrapped)
    {
        return Err(RecordsError::OtherCluster);
    }
    Ok(keyset)
}

async fn change_key(tx: &Transaction<'_>, vault: &Vault) -> Result<(), RecordsError> {
    let former = own(tx, vault).await?;
    let keyset = former.rotated()?;
    rewrap(tx, &former.encryptor(), &keyset).await?;
    for row in within(tx.query("SELECT name, public_key FROM nodes", &[])).await? {
        let (name, key): (String, Vec<u8>) = (row.get(0), row.get(1));
        let copy = keyset.seal_for(&NodeKey::from_slice(&key)?)?;
        let sql = "UPDATE nodes SET keyset = $2 WHERE name = $1";
        within(tx.execute(sql, &[&name, &copy])).await?;
    }
    within(tx.batch_execute(&format!("NOTIFY {WAKE}"))).await
}

/// Wraps the key of the service and of every account with that of `keyset`. Whoever
/// works with the former one has to look again.
async fn rewrap<E: KeyEncryptor>(
    tx: &Transaction<'_>,
    former: &E,
    keyset: &Keyset,
) -> Result<(), RecordsError> {
    let moving = TenantKeys::new(Moving {
        from: former,
        to: keyset.encryptor(),
    });
    let row = within(tx.query_one("SELECT wrapped_key FROM service", &[])).await?;
    let wrapped = moving.rewrap(SERVICE, row.get(0))?;
    within(tx.execute(
        "UPDATE service SET wrapped_key = $1, proof = $2, generation = generation + 1",
        &[&wrapped, &keys::proof_of(keyset, &wrapped).as_slice()],
    ))
    .await?;
    for row in within(tx.query("SELECT id, tenant_key FROM users", &[])).await? {
        let (user, wrapped): (String, Vec<u8>) = (row.get(0), row.get(1));
        let wrapped = moving.rewrap(&user, &wrapped)?;
        let sql = "UPDATE users SET tenant_key = $2 WHERE id = $1";
        within(tx.execute(sql, &[&user, &wrapped])).await?;
    }
    Ok(())
}

/// Unwraps with one key and wraps with another.
struct Moving<'a, E> {
    from: &'a E,
    to: LocalKeyEncryptor,
}

impl<E: KeyEncryptor> KeyEncryptor for Moving<'_, E> {
    type Error = ColumnError;

    fn wrap(&self, key: &DataKey, context: &Context) -> Result<Vec<u8>, ColumnError> {
        self.to.wrap(key, context).map_err(ColumnError::Crypto)
    }

    fn unwrap(&self, wrapped: &[u8], context: &Context) -> Result<DataKey, ColumnError> {
        let unwrapped = self.from.unwrap(wrapped, context);
        unwrapped.map_err(|error| ColumnError::Encryptor(Box::new(error)))
    }
}
