//! The keys around the records: of the vault where one relay has them, of the
//! keyset that the nodes share in a cluster.

use std::sync::{Arc, PoisonError, RwLock};

use katachi_crypto::envelope::Sealed;
use katachi_crypto::mac::HmacKey;
use katachi_crypto::{KeyId, LocalKeyEncryptor, Secret};
use katachi_store::Vault;
use katachi_store::column::{ColumnCipher, TenantKeys};

use super::{RecordsError, TENANTS};
use crate::cluster::keyset::{ClusterId, Keyset, NodeSecret};

/// Where keys come from. Clones are handles to the same.
#[derive(Clone, Debug)]
pub(crate) enum Keys {
    Vault(Arc<Vault>),
    Cluster(Arc<ClusterKeys>),
}

/// What a node knows of its cluster's keys.
#[derive(Debug)]
pub(crate) struct ClusterKeys {
    secret: NodeSecret,
    cluster: ClusterId,
    known: RwLock<Known>,
}

#[derive(Debug)]
struct Known {
    /// Of the table `service`; each rotation has the next.
    generation: i64,
    current: Arc<Keyset>,
    /// The current key first. The former ones open what a transaction reads that
    /// began before the rotation.
    tenants: Vec<(KeyId, Arc<Tenants>)>,
}

type Tenants = TenantKeys<LocalKeyEncryptor>;

impl Keys {
    /// A secret of its own for `label`.
    pub(crate) fn derive(&self, label: &str) -> Secret<32> {
        match self {
            Self::Vault(vault) => vault.derive(label),
            Self::Cluster(cluster) => cluster.current().derive(label),
        }
    }

    /// The key under which audit entries are chained.
    pub(super) fn audit(&self) -> Secret<32> {
        match self {
            Self::Vault(vault) => vault.derive(AUDIT),
            Self::Cluster(cluster) => cluster.current().audit(),
        }
    }

    /// Makes the wrapped key of a new tenant.
    pub(super) fn generate(&self, tenant: &str) -> Result<Vec<u8>, RecordsError> {
        Ok(match self {
            Self::Vault(vault) => TenantKeys::from_vault(vault, TENANTS)?.generate(tenant)?,
            Self::Cluster(cluster) => cluster.primary().generate(tenant)?,
        })
    }

    /// Opens the key of a tenant.
    pub(super) fn open(&self, tenant: &str, wrapped: &[u8]) -> Result<ColumnCipher, RecordsError> {
        Ok(match self {
            Self::Vault(vault) => TenantKeys::from_vault(vault, TENANTS)?.open(tenant, wrapped)?,
            Self::Cluster(cluster) => cluster.named_in(wrapped)?.open(tenant, wrapped)?,
        })
    }

    /// Opens two keys of a tenant: what `fresh` seals, and what either of them sealed.
    pub(super) fn open_both(
        &self,
        tenant: &str,
        fresh: &[u8],
        former: &[u8],
    ) -> Result<ColumnCipher, RecordsError> {
        let both = [fresh, former];
        Ok(match self {
            Self::Vault(vault) => TenantKeys::from_vault(vault, TENANTS)?.open_all(tenant, both)?,
            Self::Cluster(cluster) => cluster.named_in(fresh)?.open_all(tenant, both)?,
        })
    }

    /// Shows that whoever has these keys made this wrapped one.
    pub(super) fn proof(&self, wrapped: &[u8]) -> [u8; 32] {
        proof(&self.derive(PROOF), wrapped)
    }
}

const AUDIT: &str = "katachi-relay/audit";
const PROOF: &str = "katachi-relay/database";

/// The audit key of a relay that is alone.
pub(super) fn audit_of(vault: &Vault) -> Secret<32> {
    vault.derive(AUDIT)
}

/// [`Keys::proof`] of a keyset.
pub(super) fn proof_of(keyset: &Keyset, wrapped: &[u8]) -> [u8; 32] {
    proof(&keyset.derive(PROOF), wrapped)
}

fn proof(key: &Secret<32>, wrapped: &[u8]) -> [u8; 32] {
    *HmacKey::new(key).sign(wrapped).as_bytes()
}

impl ClusterKeys {
    /// Opens this node's copy of the keyset, if it is of the cluster it should be.
    pub(super) fn open(
        secret: NodeSecret,
        cluster: ClusterId,
        generation: i64,
        copy: &[u8],
    ) -> Result<Self, RecordsError> {
        let keyset = believe(&secret, &cluster, copy)?;
        Ok(Self {
            secret,
            cluster,
            known: RwLock::new(Known {
                generation,
                tenants: vec![tenants(&keyset)],
                current: Arc::new(keyset),
            }),
        })
    }

    /// Takes up the copy that a rotation made.
    pub(super) fn take_up(&self, generation: i64, copy: &[u8]) -> Result<(), RecordsError> {
        let keyset = believe(&self.secret, &self.cluster, copy)?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if generation > known.generation {
            known.generation = generation;
            known.tenants.insert(0, tenants(&keyset));
            known.current = Arc::new(keyset);
        }
        Ok(())
    }

    pub(crate) fn generation(&self) -> i64 {
        self.read().generation
    }

    pub(crate) fn current(&self) -> Arc<Keyset> {
        Arc::clone(&self.read().current)
    }

    pub(super) fn secret(&self) -> &NodeSecret {
        &self.secret
    }

    fn primary(&self) -> Arc<Tenants> {
        Arc::clone(&self.read().tenants[0].1)
    }

    fn named_in(&self, wrapped: &[u8]) -> Result<Arc<Tenants>, RecordsError> {
        let id = Sealed::parse(wrapped)?.key_id();
        let known = self.read();
        let found = known.tenants.iter().find(|(known, _)| *known == id);
        found
            .map(|(_, tenants)| Arc::clone(tenants))
            .ok_or(RecordsError::NoTenantKey)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tenants(keyset: &Keyset) -> (KeyId, Arc<Tenants>) {
    let tenants = TenantKeys::new(keyset.encryptor());
    (keyset.key_id(), Arc::new(tenants))
}

/// Anybody can seal for a node: what it opens has to be of its own cluster.
pub(super) fn believe(
    secret: &NodeSecret,
    cluster: &ClusterId,
    copy: &[u8],
) -> Result<Keyset, RecordsError> {
    let keyset = Keyset::open(secret, copy)?;
    match keyset.id() == *cluster {
        true => Ok(keyset),
        false => Err(RecordsError::OtherCluster),
    }
}
