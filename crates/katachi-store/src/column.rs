//! Values that are sealed one by one, for columns of any database.
//!
//! Each tenant has a random data key of its own, wrapped by a master key from
//! the vault. The wrapped keys belong in the database, beside the tenant;
//! deleting one makes everything of that tenant unreadable for ever.
//!
//! A value is bound to its [`Cell`]: tenant, table, column, row and schema
//! version. Copied to another place, it does not open.
//!
//! ```
//! # use katachi_store::{binding::Unbound, column::{Cell, TenantKeys}, Vault};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let home = tempfile::tempdir()?;
//! # let vault = Vault::builder(home.path().join("v")).binding(Unbound).file_slot(home.path().join("s")).create()?;
//! let tenants = TenantKeys::from_vault(&vault, "accounts")?;
//! let wrapped = tenants.generate("acme")?; // a column of the table of tenants
//! let cipher = tenants.open("acme", &wrapped)?;
//!
//! let cell = Cell { table: "users", column: "email", row: b"42", version: 1 };
//! let sealed = cipher.seal(&cell, b"ann@example.com")?; // BYTEA or BLOB
//! assert_eq!(cipher.open(&cell, &sealed)?.expose_secret(), b"ann@example.com");
//! # Ok(())
//! # }
//! ```
//!
//! Equality can be searched with [`ColumnCipher::index`]. No database driver is
//! involved, and none is needed. Sealing adds 88 bytes and does not hide lengths.

use katachi_crypto::envelope::{Context, DataKey, Kind, Sealed};
use katachi_crypto::kdf::{self, Label};
use katachi_crypto::{BlindIndex, KeyId, Secret, SecretBytes};

use crate::vault::{Vault, VaultError};

const WRAPPING: &str = "katachi/v1/tenant-key";

/// Where a value belongs. The tenant comes from the cipher.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Cell<'a> {
    /// The table.
    pub table: &'a str,
    /// The column.
    pub column: &'a str,
    /// The primary key of the row.
    pub row: &'a [u8],
    /// The version of the schema or of the value's meaning.
    pub version: u64,
}

/// Why a value or key could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ColumnError {
    /// It was not sealed here: another cell, tenant or key, or it was changed.
    #[error("the value was not sealed for this place with this key")]
    Refused,
    /// The vault has no key to wrap with.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The system has no randomness, or the value is too long.
    #[error("cryptography failed: {0}")]
    Crypto(katachi_crypto::Error),
}

/// Makes and opens the keys of tenants.
#[derive(Debug)]
pub struct TenantKeys<'v> {
    vault: &'v Vault,
    purpose: String,
}

impl<'v> TenantKeys<'v> {
    /// Wraps tenants' keys with the vault's data key for `name`.
    ///
    /// # Errors
    ///
    /// Returns [`ColumnError::Vault`] if the vault's key cannot be had.
    pub fn from_vault(vault: &'v Vault, name: &str) -> Result<Self, ColumnError> {
        let purpose = format!("katachi.tenants.{name}");
        vault.data_key(&purpose)?;
        Ok(Self { vault, purpose })
    }

    /// Draws a key for `tenant`, wrapped, to be kept beside the tenant.
    ///
    /// # Errors
    ///
    /// Returns [`ColumnError`] if the system has no randomness.
    pub fn generate(&self, tenant: &str) -> Result<Vec<u8>, ColumnError> {
        let id = KeyId::random().map_err(ColumnError::Crypto)?;
        let secret = Secret::<32>::random().map_err(ColumnError::Crypto)?;
        self.wrap(tenant, id, &secret)
    }

    /// Opens the key of `tenant`.
    ///
    /// # Errors
    ///
    /// Returns [`ColumnError::Refused`] if `wrapped` is not this tenant's key.
    pub fn open(&self, tenant: &str, wrapped: &[u8]) -> Result<ColumnCipher, ColumnError> {
        let (id, secret) = self.unwrap(tenant, wrapped)?;
        let index_root = kdf::derive(
            &[secret.expose_secret()],
            id.as_bytes(),
            &Label::new("katachi/v1/blind-index"),
        );
        Ok(ColumnCipher {
            tenant: tenant.to_owned(),
            key: DataKey::from_parts(id, secret),
            index_root,
        })
    }

    /// Wraps a tenant's key again with the vault's newest key. What it sealed
    /// needs no change. For after [`Vault::rotate`] of this purpose.
    ///
    /// # Errors
    ///
    /// Returns [`ColumnError::Refused`] if `wrapped` is not this tenant's key.
    pub fn rewrap(&self, tenant: &str, wrapped: &[u8]) -> Result<Vec<u8>, ColumnError> {
        let (id, secret) = self.unwrap(tenant, wrapped)?;
        self.wrap(tenant, id, &secret)
    }

    /// The purpose under which the vault keeps the wrapping key.
    #[must_use]
    pub fn purpose(&self) -> &str {
        &self.purpose
    }

    fn wrap(&self, tenant: &str, id: KeyId, secret: &Secret<32>) -> Result<Vec<u8>, ColumnError> {
        let mut plain = zeroize::Zeroizing::new([0_u8; 40]);
        plain[..8].copy_from_slice(id.as_bytes());
        plain[8..].copy_from_slice(secret.expose_secret());
        let master = self.vault.data_key(&self.purpose)?;
        let sealed = master
            .seal(Kind::Keyset, &wrapping(tenant), &plain[..])
            .map_err(ColumnError::Crypto)?;
        Ok(sealed.into_bytes())
    }

    fn unwrap(&self, tenant: &str, wrapped: &[u8]) -> Result<(KeyId, Secret<32>), ColumnError> {
        let sealed = Sealed::parse(wrapped).map_err(|_| ColumnError::Refused)?;
        let master = self.vault.data_key_by_id(&self.purpose, sealed.key_id())?;
        let plain = master
            .open(&wrapping(tenant), &sealed)
            .map_err(|_| ColumnError::Refused)?;
        let (id, secret) = plain
            .expose_secret()
            .split_first_chunk::<8>()
            .ok_or(ColumnError::Refused)?;
        let secret = Secret::from_slice(secret).map_err(|_| ColumnError::Refused)?;
        Ok((KeyId::from_bytes(*id), secret))
    }
}

/// Seals and opens the values of one tenant.
#[derive(Debug)]
pub struct ColumnCipher {
    tenant: String,
    key: DataKey,
    index_root: Secret<32>,
}

impl ColumnCipher {
    /// Whose values it seals.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The name of its key, which is in bytes 8 to 16 of everything it seals.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.key.id()
    }

    /// Seals `plaintext` for `cell`.
    ///
    /// # Errors
    ///
    /// Returns [`ColumnError::Crypto`] if it is too long or the system has no randomness.
    pub fn seal(&self, cell: &Cell<'_>, plaintext: &[u8]) -> Result<Vec<u8>, ColumnError> {
        let sealed = self
            .key
            .seal(Kind::Column, &self.context(cell), plaintext)
            .map_err(ColumnError::Crypto)?;
        Ok(sealed.into_bytes())
    }

    /// Opens what was sealed for `cell`.
    ///
    /// # Errors
    ///
    /// Returns [`ColumnError::Refused`] for anything else.
    pub fn open(&self, cell: &Cell<'_>, sealed: &[u8]) -> Result<SecretBytes, ColumnError> {
        let sealed = Sealed::parse(sealed).map_err(|_| ColumnError::Refused)?;
        if sealed.kind() != Kind::Column {
            return Err(ColumnError::Refused);
        }
        self.key
            .open(&self.context(cell), &sealed)
            .map_err(|_| ColumnError::Refused)
    }

    /// An index by which equal values of a column can be found without opening
    /// them. It shows which rows are equal to whoever reads the database.
    #[must_use]
    pub fn index(&self, table: &str, column: &str) -> BlindIndex {
        BlindIndex::new(&self.index_root, table, column)
    }

    fn context(&self, cell: &Cell<'_>) -> Context {
        Context::new("katachi/v1/column")
            .tenant(&self.tenant)
            .table(cell.table)
            .column(cell.column)
            .row(cell.row)
            .version(cell.version)
    }
}

fn wrapping(tenant: &str) -> Context {
    Context::new(WRAPPING).tenant(tenant)
}
