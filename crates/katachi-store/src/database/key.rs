//! The key of one database, and how SQLCipher wants it written.

use std::fmt;

use katachi_crypto::Secret;
use katachi_crypto::kdf::{self, Label};
use zeroize::Zeroizing;

use super::{DatabaseError, Profile};

/// Bytes of the salt that every SQLCipher file begins with.
pub(super) const SALT: usize = 16;

/// Opens one database.
///
/// Made from 32 random bytes that the caller keeps, best in a vault. The keys
/// of the file are derived from them, and so is the file's salt: its first 16
/// bytes tell whether a key belongs to a file before anything else is touched.
///
/// # Security
///
/// A key belongs to one database. Two files under one key would share their
/// encryption key and could have pages exchanged.
pub struct DatabaseKey(Material);

enum Material {
    /// Everything is derived from these bytes.
    Root(Secret<32>),
    /// A key that another SQLCipher tool chose.
    Foreign { key: Secret<32>, salt: [u8; SALT] },
}

impl fmt::Debug for DatabaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseKey { .. }")
    }
}

impl DatabaseKey {
    /// Takes 32 random bytes that belong to this database alone.
    #[must_use]
    pub fn from_secret(secret: Secret<32>) -> Self {
        Self(Material::Root(secret))
    }

    /// Makes a key for a new database. Keep it, or the content is lost.
    ///
    /// # Errors
    ///
    /// Returns [`DatabaseError::Crypto`] if the operating system gives no
    /// randomness.
    pub fn generate() -> Result<Self, DatabaseError> {
        Ok(Self(Material::Root(Secret::random()?)))
    }

    /// Takes the key called `name` from a vault, which makes a random one the
    /// first time. The database then opens wherever the vault opens, and
    /// nowhere else.
    ///
    /// # Errors
    ///
    /// Returns an error if the vault cannot store a new key.
    pub fn from_vault(vault: &crate::Vault, name: &str) -> Result<Self, crate::vault::VaultError> {
        let key = vault.data_key(&format!("database/{name}"))?;
        Ok(Self::from_secret(Secret::new(*key.expose_secret())))
    }

    /// Takes the raw key and salt of a file that another SQLCipher 4 tool made
    /// (96 hexadecimal digits, as in `PRAGMA key = "x'…'"`).
    ///
    /// Such a file opens with [`Profile::Compat`] only. A wrong key is found
    /// out by authenticating the first page.
    ///
    /// # Errors
    ///
    /// Returns [`DatabaseError::Argument`] if `text` is anything else. Shorter
    /// forms are refused because SQLCipher would silently take them for a
    /// passphrase.
    pub fn from_sqlcipher_hex(text: &str) -> Result<Self, DatabaseError> {
        const EXPECTED: DatabaseError = DatabaseError::Argument {
            what: "a raw SQLCipher key is 96 hexadecimal digits: 64 of key and 32 of salt",
        };
        // `from_str_radix` alone would let a sign pass.
        if text.len() != 96 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(EXPECTED);
        }
        let mut bytes = Zeroizing::new([0_u8; 48]);
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte =
                u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| EXPECTED)?;
        }
        let mut salt = [0; SALT];
        salt.copy_from_slice(&bytes[32..]);
        Ok(Self(Material::Foreign {
            key: Secret::from_slice(&bytes[..32])?,
            salt,
        }))
    }

    /// Writes the key as other SQLCipher 4 tools take it: 96 hexadecimal
    /// digits, for a file of [`Profile::Compat`].
    ///
    /// # Security
    ///
    /// Whoever has this text reads the database on any machine.
    #[must_use]
    pub fn expose_sqlcipher_hex(&self) -> Zeroizing<String> {
        let spec = self.spec(Profile::Compat);
        let digits = &spec.text[2..spec.text.len() - 1];
        Zeroizing::new(String::from_utf8_lossy(digits).into_owned())
    }

    /// What SQLCipher is given for `profile`.
    pub(super) fn spec(&self, profile: Profile) -> KeySpec {
        match &self.0 {
            Material::Foreign { key, salt } => KeySpec::new(&[key.expose_secret()], *salt),
            Material::Root(root) => {
                let derive = |part| label(part, profile);
                let root: &[&[u8]] = &[root.expose_secret()];
                let key: Secret<32> = kdf::derive(root, &[], &derive("encryption"));
                let salt: Secret<SALT> = kdf::derive(root, &[], &derive("salt"));
                match profile {
                    Profile::Compat => KeySpec::new(&[key.expose_secret()], *salt.expose_secret()),
                    Profile::Fast => {
                        let mac: Secret<32> = kdf::derive(root, &[], &derive("authentication"));
                        KeySpec::new(
                            &[key.expose_secret(), mac.expose_secret()],
                            *salt.expose_secret(),
                        )
                    }
                }
            }
        }
    }

    /// Tells whether the salt alone proves that a key belongs to a file.
    pub(super) fn salt_proves_key(&self) -> bool {
        matches!(self.0, Material::Root(_))
    }
}

fn label(part: &str, profile: Profile) -> Label {
    let profile: &[u8] = match profile {
        Profile::Compat => b"compat",
        Profile::Fast => b"fast",
    };
    Label::new("katachi/v1/database")
        .field(part.as_bytes())
        .field(profile)
}

/// `x'…'` with 96 or 160 digits, wiped on drop.
///
/// Any other length would be taken for a passphrase without a word.
pub(super) struct KeySpec {
    text: Zeroizing<Vec<u8>>,
    salt: [u8; SALT],
}

impl fmt::Debug for KeySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySpec { .. }")
    }
}

impl KeySpec {
    fn new(keys: &[&[u8; 32]], salt: [u8; SALT]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // Reserved at once: growing would leave a copy behind.
        let mut text = Zeroizing::new(Vec::with_capacity(3 + 2 * (keys.len() * 32 + SALT)));
        text.extend_from_slice(b"x'");
        let bytes = keys.iter().flat_map(|key| key.iter()).chain(&salt);
        for byte in bytes {
            text.push(DIGITS[usize::from(byte >> 4)]);
            text.push(DIGITS[usize::from(byte & 15)]);
        }
        text.push(b'\'');
        Self { text, salt }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// The first bytes of a file that this key opens.
    pub(super) fn salt(&self) -> &[u8; SALT] {
        &self.salt
    }
}
