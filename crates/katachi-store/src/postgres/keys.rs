//! The table of tenants' wrapped keys.

use std::time::Duration;

use katachi_crypto::envelope::DataKey;
use katachi_crypto::{KeyEncryptor, KeyId};
use tokio_postgres::{GenericClient, Row};

use super::PostgresError;
use super::connect::{execute, query, within};
use super::error::is_retired_key;
use crate::column::{ColumnCipher, ColumnError, TenantKeys};

/// At most one key of a tenant seals; a destroyed key is a row without `wrapped`.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS katachi_tenant_keys (
    tenant text NOT NULL,
    key_id bytea NOT NULL CHECK (octet_length(key_id) = 8),
    wrapped bytea,
    seals boolean NOT NULL,
    made timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, key_id),
    CHECK (wrapped IS NOT NULL OR NOT seals)
);
CREATE UNIQUE INDEX IF NOT EXISTS katachi_tenant_keys_seals ON katachi_tenant_keys (tenant) WHERE seals;
";

/// One statement, so that no moment is without a key that seals. The insert reads what
/// the update returned, so it comes second.
const ROTATE: &str = "
WITH former AS (
    UPDATE katachi_tenant_keys SET seals = false WHERE tenant = $1 AND seals RETURNING 1
)
INSERT INTO katachi_tenant_keys (tenant, key_id, wrapped, seals)
SELECT $1, $2, $3, true FROM (SELECT count(*) AS keys FROM former) AS f WHERE f.keys = 1";

/// A key of a tenant, without its bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct TenantKeyInfo {
    /// Its name, in bytes 8 to 16 of what it seals.
    pub id: KeyId,
    /// Whether new values are sealed with it.
    pub seals: bool,
    /// Whether it is gone for ever.
    pub is_destroyed: bool,
}

/// The table of tenants' wrapped keys. The methods take a client, a pooled one or a
/// transaction.
///
/// The [`KeyEncryptor`] is called on the task that asks; one that waits for a network
/// belongs on a thread that may block.
#[derive(Debug)]
pub struct KeyTable<E> {
    keys: TenantKeys<E>,
    deadline: Duration,
}

impl<E: KeyEncryptor> KeyTable<E> {
    /// A table whose keys `keys` wraps.
    #[must_use]
    pub const fn new(keys: TenantKeys<E>) -> Self {
        Self {
            keys,
            deadline: Duration::from_secs(10),
        }
    }

    /// Bounds each statement. Ten seconds unless set.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Makes the table, if it is not there.
    ///
    /// # Errors
    ///
    /// Returns [`PostgresError`] if the server refuses.
    pub async fn install(&self, client: &impl GenericClient) -> Result<(), PostgresError> {
        within(self.deadline, client.batch_execute(SCHEMA)).await
    }

    /// The cipher of `tenant`, with a first key if it has none yet.
    ///
    /// # Errors
    ///
    /// Returns [`PostgresError::Destroyed`] for a tenant whose keys were destroyed, and
    /// what [`cipher`](Self::cipher) returns.
    pub async fn create(
        &self,
        client: &impl GenericClient,
        tenant: &str,
    ) -> Result<ColumnCipher, PostgresError> {
        let (id, wrapped) = self.draw(tenant)?;
        // The partial index, too, may say that another was faster.

        execute(
            client,
            self.deadline,
            "INSERT INTO katachi_tenant_keys (tenant, key_id, wrapped, seals)
             SELECT $1, $2, $3, true
             WHERE NOT EXISTS (SELECT FROM katachi_tenant_keys WHERE tenant = $1)
             ON CONFLICT DO NOTHING",
            &[&tenant, &id, &wrapped],
        )
        .await?;
        self.cipher(client, tenant).await
    }

    /// The cipher of `tenant`: its newest key seals, every one of them opens.
    ///
    /// # Errors
    ///
    /// Returns [`PostgresError::NoTenant`], [`PostgresError::Destroyed`], or
    /// [`PostgresError::Column`] if a wrapped key is not this tenant's.
    pub async fn cipher(
        &self,
        client: &impl GenericClient,
        tenant: &str,
    ) -> Result<ColumnCipher, PostgresError> {
        let rows = query(
            client,
            self.deadline,
            "SELECT key_id, wrapped FROM katachi_tenant_keys
             WHERE tenant = $1 ORDER BY seals DESC, made DESC, key_id",
            &[&tenant],
        )
        .await?;
        if rows.is_empty() {
            return Err(PostgresError::NoTenant(tenant.to_owned()));
        }
        let mut named = Vec::with_capacity(rows.len());
        let mut wrapped = Vec::with_capacity(rows.len());
        for row in &rows {
            if let Some(bytes) = row.try_get::<_, Option<&[u8]>>(1)? {
                named.push(key_id(row)?);
                wrapped.push(bytes);
            }
        }
        if wrapped.is_empty() {
            return Err(PostgresError::Destroyed(tenant.to_owned()));
        }
        let cipher = self.keys.open_all(tenant, wrapped)?;
        // The name in the table is what the foreign key holds on to.
        if !cipher.key_ids().eq(named) {
            return Err(ColumnError::Refused.into());
        }
        Ok(cipher)
    }

    /// Gives `tenant` a new key, which seals from now on. What its former keys sealed
    /// stays readable; [`Rotation`](super::Rotation) seals it again.
    ///
    /// # Errors
    ///
    /// Returns [`PostgresError::NoTenant`] if the tenant has no key that seals.
    pub async fn rotate(
        &self,
        client: &impl GenericClient,
        tenant: &str,
    ) -> Result<KeyId, PostgresError> {
        let (id, wrapped) = self.draw(tenant)?;

        match execute(client, self.deadline, ROTATE, &[&tenant, &id, &wrapped]).await? {
            1 => id_from(&id),
            _ => Err(PostgresError::NoTenant(tenant.to_owned())),
        }
    }

    /// Forgets the former keys of `tenant` that no value needs, and says which. The
    /// database decides that: see [`SealedColumn`](super::SealedColumn).
    ///
    /// # Errors
    ///
    /// Returns [`PostgresError::StillNeeded`] for the first key that still seals
    /// something; those before it are gone.
    pub async fn retire(
        &self,
        client: &impl GenericClient,
        tenant: &str,
    ) -> Result<Vec<KeyId>, PostgresError> {
        let mut retired = Vec::new();
        for key in self.list(client, tenant).await? {
            if key.seals || key.is_destroyed {
                continue;
            }

            match execute(
                client,
                self.deadline,
                "DELETE FROM katachi_tenant_keys WHERE tenant = $1 AND key_id = $2 AND NOT seals",
                &[&tenant, &key.id.as_bytes().as_slice()],
            )
            .await
            {
                Ok(_) => retired.push(key.id),
                Err(PostgresError::Database(error)) if is_retired_key(&error) => {
                    return Err(PostgresError::StillNeeded(key.id));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(retired)
    }

    /// Destroys every key of `tenant`: nothing of it can be opened, sealed or given a
    /// key again. Its rows stay until somebody deletes them. Says how many keys went.
    ///
    /// # Errors
    ///
    /// Returns [`PostgresError`] if the server refuses.
    ///
    /// # Security
    ///
    /// PostgreSQL keeps the former row until `VACUUM`, and the log and backups longer.
    pub async fn destroy(
        &self,
        client: &impl GenericClient,
        tenant: &str,
    ) -> Result<u64, PostgresError> {
        execute(
            client,
            self.deadline,
            "UPDATE katachi_tenant_keys SET wrapped = NULL, seals = false
             WHERE tenant = $1 AND wrapped IS NOT NULL",
            &[&tenant],
        )
        .await
    }

    /// Wraps the keys of `tenant` with the newest master key. Values stay as they are.
    /// Says how many were wrapped; a key that changed meanwhile is left alone, so
    /// repeat this before the former master key goes.
    ///
    /// # Errors
    ///
    /// Returns [`PostgresError::Column`] if a key cannot be unwrapped or wrapped.
    pub async fn rewrap(
        &self,
        client: &impl GenericClient,
        tenant: &str,
    ) -> Result<u64, PostgresError> {
        let mut done = 0;
        for row in query(
            client,
            self.deadline,
            "SELECT key_id, wrapped FROM katachi_tenant_keys
             WHERE tenant = $1 AND wrapped IS NOT NULL",
            &[&tenant],
        )
        .await?
        {
            let (id, old): (&[u8], &[u8]) = (row.try_get(0)?, row.try_get(1)?);
            let new = self.keys.rewrap(tenant, old)?;

            done += execute(
                client,
                self.deadline,
                "UPDATE katachi_tenant_keys SET wrapped = $4
                 WHERE tenant = $1 AND key_id = $2 AND wrapped = $3",
                &[&tenant, &id, &old, &new],
            )
            .await?;
        }
        Ok(done)
    }

    /// The keys of `tenant`, newest first.
    ///
    /// # Errors
    ///
    /// Returns [`PostgresError`] if the server refuses.
    pub async fn list(
        &self,
        client: &impl GenericClient,
        tenant: &str,
    ) -> Result<Vec<TenantKeyInfo>, PostgresError> {
        query(
            client,
            self.deadline,
            "SELECT key_id, seals, wrapped IS NULL FROM katachi_tenant_keys
             WHERE tenant = $1 ORDER BY made DESC, key_id",
            &[&tenant],
        )
        .await?
        .iter()
        .map(|row| {
            Ok(TenantKeyInfo {
                id: key_id(row)?,
                seals: row.try_get(1)?,
                is_destroyed: row.try_get(2)?,
            })
        })
        .collect()
    }

    /// A new key's name, and the key wrapped.
    fn draw(&self, tenant: &str) -> Result<(Vec<u8>, Vec<u8>), PostgresError> {
        let key = DataKey::generate().map_err(ColumnError::Crypto)?;
        let wrapped = self.keys.wrap(tenant, &key)?;
        Ok((key.id().as_bytes().to_vec(), wrapped))
    }
}

fn key_id(row: &Row) -> Result<KeyId, PostgresError> {
    id_from(row.try_get(0)?)
}

fn id_from(bytes: &[u8]) -> Result<KeyId, PostgresError> {
    let bytes = bytes.try_into().map_err(|_| ColumnError::Refused)?;
    Ok(KeyId::from_bytes(bytes))
}
