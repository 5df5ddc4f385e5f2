//! Values that are sealed one by one, for columns of any database.
//!
//! Each tenant has random data keys of its own, wrapped by a master key: one of
//! the vault, or whatever else is a [`KeyEncryptor`]. The wrapped keys belong in
//! the database, beside the tenant; deleting them makes everything of that
//! tenant unreadable for ever.
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
//!
//! # Rotating a tenant's key
//!
//! Draw another key and open both with [`TenantKeys::open_all`]: the newest seals,
//! each opens what names it in bytes 8 to 16. [Seal](ColumnCipher::reseal) every value
//! again, then delete the former key. In one transaction that keeps writers of the
//! tenant out that is all; the feature `postgres` does it while others write.

use katachi_crypto::envelope::{Context, DataKey, Kind, Sealed};
use katachi_crypto::kdf::{self, Label};
use katachi_crypto::{BlindIndex, KeyEncryptor, KeyId, Secret, SecretBytes};

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
    /// It names a key that the cipher does not have: of another tenant, newer than
    /// the cipher, or destroyed. Whoever cached the cipher loads it again.
    #[error("the value names key {id}, which is not among the tenant's; load them again")]
    UnknownKey {
        /// The key that the value names. Nobody has checked that.
        id: KeyId,
    },
    /// The vault has no key to wrap with.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// What wraps the tenants' keys refused, or cannot be reached.
    #[error("a tenant's key could not be wrapped or unwrapped: {0}")]
    Encryptor(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The system has no randomness, or the value is too long.
    #[error("cryptography failed: {0}")]
    Crypto(katachi_crypto::Error),
}

/// Makes and opens the keys of tenants.
///
/// ```
/// use katachi_crypto::envelope::DataKey;
/// use katachi_crypto::LocalKeyEncryptor; // or one of a key management service
/// use katachi_store::column::TenantKeys;
///
/// let tenants = TenantKeys::new(LocalKeyEncryptor::new(DataKey::generate()?));
/// let wrapped = tenants.generate("acme")?;
/// assert!(tenants.open("acme", &wrapped).is_ok());
/// assert!(tenants.open("umbrella", &wrapped).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TenantKeys<E> {
    encryptor: E,
}

impl<'v> TenantKeys<VaultEncryptor<'v>> {
    /// Wraps tenants' keys with the vault's data key for `name`.
    ///
    /// # Errors
    ///
    /// Returns [`ColumnError::Vault`] if the vault's key cannot be had.
    pub fn from_vault(vault: &'v Vault, name: &str) -> Result<Self, ColumnError> {
        let purpose = format!("katachi.tenants.{name}");
        vault.data_key(&purpose)?;
        Ok(Self::new(VaultEncryptor { vault, purpose }))
    }

    /// The purpose under which the vault keeps the wrapping key.
    #[must_use]
    pub fn purpose(&self) -> &str {
        &self.encryptor.purpose
    }
}

impl<E: KeyEncryptor> TenantKeys<E> {
    /// Wraps tenants' keys with `encryptor`.
    #[must_use]
    pub const fn new(encryptor: E) -> Self {
        Self { encryptor }
    }

    /// What wraps the keys, for those who move them under another.
    #[must_use]
    pub const fn encryptor(&self) -> &E {
        &self.encryptor
    }

    /// Draws a key for `tenant`, wrapped, to be kept beside the tenant.
    ///
    /// # Errors
    ///
    /// Returns [`ColumnError`] if the system has no randomness or it cannot be wrapped.
    pub fn generate(&self, tenant: &str) -> Result<Vec<u8>, ColumnError> {
        let key = DataKey::generate().map_err(ColumnError::Crypto)?;
        self.wrap(tenant, &key)
    }

    /// Opens the key of `tenant`.
    ///
    /// # Errors
    ///
    /// Returns [`ColumnError::Refused`] or [`ColumnError::Encryptor`] if `wrapped` is
    /// not this tenant's key.
    pub fn open(&self, tenant: &str, wrapped: &[u8]) -> Result<ColumnCipher, ColumnError> {
        self.open_all(tenant, [wrapped])
    }

    /// Opens all keys of `tenant`. The first one seals; the others only open.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and [`ColumnError::Refused`] if there is no key at all.
    pub fn open_all<'w>(
        &self,
        tenant: &str,
        wrapped: impl IntoIterator<Item = &'w [u8]>,
    ) -> Result<ColumnCipher, ColumnError> {
        let keys = wrapped
            .into_iter()
            .map(|wrapped| self.unwrap(tenant, wrapped).map(TenantKey::new))
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(ColumnError::Refused);
        }
        Ok(ColumnCipher {
            tenant: tenant.to_owned(),
            keys,
        })
    }

    /// Wraps a tenant's key again with the newest master key. What it sealed needs
    /// no change. For after [`Vault::rotate`] of the purpose, or its like elsewhere.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn rewrap(&self, tenant: &str, wrapped: &[u8]) -> Result<Vec<u8>, ColumnError> {
        let key = self.unwrap(tenant, wrapped)?;
        self.wrap(tenant, &key)
    }

    pub(crate) fn wrap(&self, tenant: &str, key: &DataKey) -> Result<Vec<u8>, ColumnError> {
        self.encryptor
            .wrap(key, &wrapping(tenant))
            .map_err(encryptor_error)
    }

    fn unwrap(&self, tenant: &str, wrapped: &[u8]) -> Result<DataKey, ColumnError> {
        self.encryptor
            .unwrap(wrapped, &wrapping(tenant))
            .map_err(encryptor_error)
    }
}

/// Our own encryptor fails with our own error, which is passed on as it is.
fn encryptor_error(error: impl std::error::Error + Send + Sync + 'static) -> ColumnError {
    let error: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
    match error.downcast::<ColumnError>() {
        Ok(own) => *own,
        Err(foreign) => ColumnError::Encryptor(foreign),
    }
}

/// Wraps keys with a data key of a vault. Made by [`TenantKeys::from_vault`].
#[derive(Debug)]
pub struct VaultEncryptor<'v> {
    vault: &'v Vault,
    purpose: String,
}

impl KeyEncryptor for VaultEncryptor<'_> {
    type Error = ColumnError;

    fn wrap(&self, key: &DataKey, context: &Context) -> Result<Vec<u8>, ColumnError> {
        let mut plain = zeroize::Zeroizing::new([0_u8; 40]);
        plain[..8].copy_from_slice(key.id().as_bytes());
        plain[8..].copy_from_slice(key.expose_secret());
        let master = self.vault.data_key(&self.purpose)?;
        let sealed = master
            .seal(Kind::Keyset, context, &plain[..])
            .map_err(ColumnError::Crypto)?;
        Ok(sealed.into_bytes())
    }

    fn unwrap(&self, wrapped: &[u8], context: &Context) -> Result<DataKey, ColumnError> {
        let sealed = Sealed::parse(wrapped).map_err(|_| ColumnError::Refused)?;
        let master = self.vault.data_key_by_id(&self.purpose, sealed.key_id())?;
        let plain = master
            .open(context, &sealed)
            .map_err(|_| ColumnError::Refused)?;
        let (id, secret) = plain
            .expose_secret()
            .split_first_chunk::<8>()
            .ok_or(ColumnError::Refused)?;
        let secret = Secret::from_slice(secret).map_err(|_| ColumnError::Refused)?;
        Ok(DataKey::from_parts(KeyId::from_bytes(*id), secret))
    }
}

/// Seals and opens the values of one tenant.
#[derive(Debug)]
pub struct ColumnCipher {
    tenant: String,
    /// Never empty. The first one seals.
    keys: Vec<TenantKey>,
}

#[derive(Debug)]
struct TenantKey {
    key: DataKey,
    index_root: Secret<32>,
}

impl TenantKey {
    fn new(key: DataKey) -> Self {
        let index_root = kdf::derive(
            &[key.expose_secret()],
            key.id().as_bytes(),
            &Label::new("katachi/v1/blind-index"),
        );
        Self { key, index_root }
    }

    fn index(&self, table: &str, column: &str) -> BlindIndex {
        BlindIndex::new(&self.index_root, table, column)
    }
}

impl ColumnCipher {
    /// Whose values it seals.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The name of the key that seals, which is in bytes 8 to 16 of everything sealed.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.keys[0].key.id()
    }

    /// The names of all its keys; the first one seals.
    pub fn key_ids(&self) -> impl Iterator<Item = KeyId> {
        self.keys.iter().map(|key| key.key.id())
    }

    /// Seals `plaintext` for `cell`.
    ///
    /// # Errors
    ///
    /// Returns [`ColumnError::Crypto`] if it is too long or the system has no randomness.
    pub fn seal(&self, cell: &Cell<'_>, plaintext: &[u8]) -> Result<Vec<u8>, ColumnError> {
        let sealed = self.keys[0]
            .key
            .seal(Kind::Column, &self.context(cell), plaintext)
            .map_err(ColumnError::Crypto)?;
        Ok(sealed.into_bytes())
    }

    /// Opens what was sealed for `cell`.
    ///
    /// # Errors
    ///
    /// Returns [`ColumnError::UnknownKey`] if it names a key that is not here, and
    /// [`ColumnError::Refused`] for anything else.
    pub fn open(&self, cell: &Cell<'_>, sealed: &[u8]) -> Result<SecretBytes, ColumnError> {
        let sealed = Sealed::parse(sealed).map_err(|_| ColumnError::Refused)?;
        if sealed.kind() != Kind::Column {
            return Err(ColumnError::Refused);
        }
        let id = sealed.key_id();
        self.keys
            .iter()
            .find(|key| key.key.id() == id)
            .ok_or(ColumnError::UnknownKey { id })?
            .key
            .open(&self.context(cell), &sealed)
            .map_err(|_| ColumnError::Refused)
    }

    /// Seals again, under the key that seals now, what any of the keys sealed for
    /// `cell`. A tag of it has to be written again too.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open) and [`seal`](Self::seal); what does not open is to be
    /// kept as it is, and its key with it.
    pub fn reseal(&self, cell: &Cell<'_>, sealed: &[u8]) -> Result<Vec<u8>, ColumnError> {
        let plaintext = self.open(cell, sealed)?;
        self.seal(cell, plaintext.expose_secret())
    }

    /// An index by which equal values of a column can be found without opening
    /// them. It shows which rows are equal to whoever reads the database.
    ///
    /// It belongs to the key that seals now: rotating the tenant's key means
    /// writing the tags again, and until that is done a search needs
    /// [`tags`](Self::tags). A unique constraint on tags does not hold meanwhile.
    #[must_use]
    pub fn index(&self, table: &str, column: &str) -> BlindIndex {
        self.keys[0].index(table, column)
    }

    /// Every tag that `value` may have, one for each key: for `tag = ANY ($1)`.
    ///
    /// # Errors
    ///
    /// Returns [`ColumnError::Crypto`] unless `bits` lies between 8 and 128.
    pub fn tags(
        &self,
        table: &str,
        column: &str,
        value: &[u8],
        bits: u8,
    ) -> Result<Vec<Vec<u8>>, ColumnError> {
        self.keys
            .iter()
            .map(|key| key.index(table, column).tag(value, bits))
            .collect::<Result<_, _>>()
            .map_err(ColumnError::Crypto)
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
