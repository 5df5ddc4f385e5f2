//! The keys that all nodes of a cluster share, and how each node gets them.
//!
//! ```text
//! vault of a node ──▶ its X25519 key ──▶ opens its copy of the keyset
//!                                         ├─ root:  derived keys
//!                                         ├─ audit: the chains of the accounts' logs
//!                                         └─ key:   wraps the accounts' keys, signs the
//!                                                   nodes' certificates; `key rotate`
//! ```
//!
//! A copy is sealed for one node as HPKE's base mode does it (RFC 9180): an
//! ephemeral X25519 key, HKDF-SHA256 over what it shares with the node's key, and
//! an envelope KTC1 under the result. Anybody can seal for a node, so a node
//! believes a keyset only if the cluster's name, which it was told when it was
//! started, is that of the root inside.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_crypto::envelope::{Context, DataKey, Kind, Sealed};
use katachi_crypto::kdf::{self, Label};
use katachi_crypto::{Error, KeyId, LocalKeyEncryptor, Secret, SecretBytes, random};
use katachi_store::Vault;
use x25519_dalek::{PublicKey, StaticSecret};

/// The public key of a node: whoever has the other half can be given the keyset.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NodeKey([u8; 32]);

/// The other half, out of the vault of the node.
pub(crate) struct NodeSecret(StaticSecret);

/// Names a cluster, by a digest of its root: 32 hexadecimal digits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClusterId(String);

/// Names a node in its cluster: 1 to 40 of `a` to `z`, `0` to `9` and `-`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeName(String);

/// What is given does not name what it should.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ParseNameError(&'static str);

/// The keys themselves.
pub(crate) struct Keyset {
    root: Secret<32>,
    audit: Secret<32>,
    key: DataKey,
}

const NODE_KEY: &str = "katachi-node-";
const PLAIN: usize = 32 + 32 + KeyId::LEN + 32;
const EXPECTED: Error = Error::Malformed {
    expected: "a keyset",
};

impl NodeSecret {
    pub(crate) fn of(vault: &Vault) -> Self {
        let secret: Secret<32> = vault.derive("katachi-relay/node");
        Self(StaticSecret::from(*secret.expose_secret()))
    }

    pub(crate) fn public(&self) -> NodeKey {
        NodeKey(PublicKey::from(&self.0).to_bytes())
    }
}

impl NodeKey {
    pub(crate) fn from_slice(bytes: &[u8]) -> Result<Self, Error> {
        Ok(Self(bytes.try_into().map_err(|_| EXPECTED)?))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl ClusterId {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl NodeName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Keyset {
    /// Draws the keys of a new cluster; `audit` is that of the logs that exist.
    pub(crate) fn generate(audit: Option<Secret<32>>) -> Result<Self, Error> {
        Ok(Self {
            root: Secret::random()?,
            audit: audit.map_or_else(Secret::random, Ok)?,
            key: DataKey::generate()?,
        })
    }

    /// The same with another wrapping key.
    pub(crate) fn rotated(&self) -> Result<Self, Error> {
        Ok(Self {
            root: Secret::new(*self.root.expose_secret()),
            audit: self.audit(),
            key: DataKey::generate()?,
        })
    }

    pub(crate) fn id(&self) -> ClusterId {
        let digest: Secret<16> = self.derived("katachi-relay/cluster");
        ClusterId(crate::records::audit::hex(digest.expose_secret()))
    }

    /// A secret of its own for `label`, the same on every node.
    pub(crate) fn derive(&self, label: &str) -> Secret<32> {
        self.derived(label)
    }

    fn derived<const N: usize>(&self, label: &str) -> Secret<N> {
        let label = Label::new("katachi-relay/v1/cluster").field(label.as_bytes());
        kdf::derive(&[self.root.expose_secret()], b"", &label)
    }

    pub(crate) fn audit(&self) -> Secret<32> {
        Secret::new(*self.audit.expose_secret())
    }

    pub(crate) fn key_id(&self) -> KeyId {
        self.key.id()
    }

    /// What wraps the accounts' keys.
    pub(crate) fn encryptor(&self) -> LocalKeyEncryptor {
        let secret = Secret::new(*self.key.expose_secret());
        LocalKeyEncryptor::new(DataKey::from_parts(self.key.id(), secret))
    }

    /// The seed of the authority over the nodes' certificates, another one after
    /// each rotation.
    pub(crate) fn authority_seed(&self) -> Secret<32> {
        let label = Label::new("katachi-relay/v1/authority");
        kdf::derive(&[self.key.expose_secret()], b"", &label)
    }

    /// A copy that `node` alone can open.
    pub(crate) fn seal_for(&self, node: &NodeKey) -> Result<Vec<u8>, Error> {
        let ephemeral = StaticSecret::from(random::bytes::<32>()?);
        let public = PublicKey::from(&ephemeral).to_bytes();
        let key = wrapping_key(&ephemeral, node, &public, node)?;
        let mut plain = Vec::with_capacity(PLAIN);
        plain.extend_from_slice(self.root.expose_secret());
        plain.extend_from_slice(self.audit.expose_secret());
        plain.extend_from_slice(self.key.id().as_bytes());
        plain.extend_from_slice(self.key.expose_secret());
        let plain = SecretBytes::new(plain);
        let sealed = key.seal(Kind::Keyset, &context(), plain.expose_secret())?;
        Ok([public.as_slice(), sealed.as_bytes()].concat())
    }

    /// Opens the copy that was sealed for this node.
    pub(crate) fn open(node: &NodeSecret, copy: &[u8]) -> Result<Self, Error> {
        let (ephemeral, sealed) = copy.split_first_chunk::<32>().ok_or(EXPECTED)?;
        let key = wrapping_key(&node.0, &NodeKey(*ephemeral), ephemeral, &node.public())?;
        let plain = key.open(&context(), &Sealed::parse(sealed)?)?;
        let (root, rest) = split(plain.expose_secret())?;
        let (audit, rest) = split(rest)?;
        let (id, key) = rest.split_first_chunk::<{ KeyId::LEN }>().ok_or(EXPECTED)?;
        let key = Secret::from_slice(key)?;
        Ok(Self {
            root,
            audit,
            key: DataKey::from_parts(KeyId::from_bytes(*id), key),
        })
    }
}

fn split(bytes: &[u8]) -> Result<(Secret<32>, &[u8]), Error> {
    let (secret, rest) = bytes.split_at_checked(32).ok_or(EXPECTED)?;
    Ok((Secret::from_slice(secret)?, rest))
}

fn context() -> Context {
    Context::new("katachi-relay/v1/keyset")
}

/// The key that both halves come to, bound to both public keys.
fn wrapping_key(
    ours: &StaticSecret,
    theirs: &NodeKey,
    ephemeral: &[u8; 32],
    node: &NodeKey,
) -> Result<DataKey, Error> {
    let shared = ours.diffie_hellman(&PublicKey::from(theirs.0));
    // A point of small order would make a key that everybody knows.
    if !shared.was_contributory() {
        return Err(EXPECTED);
    }
    let label = Label::new("katachi-relay/v1/keyset")
        .field(ephemeral)
        .field(&node.0);
    let key = kdf::derive(&[shared.as_bytes()], b"", &label);
    let (id, _) = ephemeral.split_first_chunk().ok_or(EXPECTED)?;
    Ok(DataKey::from_parts(KeyId::from_bytes(*id), key))
}

impl fmt::Debug for Keyset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyset")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for NodeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeSecret { .. }")
    }
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NODE_KEY}{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl FromStr for NodeKey {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        text.strip_prefix(NODE_KEY)
            .and_then(|key| URL_SAFE_NO_PAD.decode(key).ok())
            .and_then(|key| Self::from_slice(&key).ok())
            .ok_or(ParseNameError(
                "a node's key is what `katachi-relay key show` prints on it",
            ))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ClusterId {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let digit = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
        if text.len() == 32 && text.bytes().all(digit) {
            return Ok(Self(text.to_owned()));
        }
        Err(ParseNameError(
            "a cluster's name is the 32 digits that `katachi-relay key init` printed",
        ))
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let whole = !text.starts_with('-') && !text.ends_with('-');
        if (1..=40).contains(&text.len()) && text.bytes().all(allowed) && whole {
            return Ok(Self(text.to_owned()));
        }
        Err(ParseNameError(
            "a node's name has 1 to 40 of a to z, 0 to 9 and -, which is not at its ends",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(byte: u8) -> NodeSecret {
        NodeSecret(StaticSecret::from([byte; 32]))
    }

    #[test]
    fn a_copy_opens_for_its_node_and_for_no_other() {
        let (keyset, ours) = (Keyset::generate(None).unwrap(), node(1));
        let copy = keyset.seal_for(&ours.public()).unwrap();
        let opened = Keyset::open(&ours, &copy).unwrap();
        assert_eq!(opened.id(), keyset.id());
        assert_eq!(opened.key_id(), keyset.key_id());
        assert!(Keyset::open(&node(2), &copy).is_err());
        for at in 0..copy.len() {
            let mut changed = copy.clone();
            changed[at] ^= 1;
            assert!(Keyset::open(&ours, &changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_rotation_keeps_the_name_and_changes_the_key() {
        let keyset = Keyset::generate(None).unwrap();
        let rotated = keyset.rotated().unwrap();
        assert_eq!(rotated.id(), keyset.id());
        assert_ne!(rotated.key_id(), keyset.key_id());
        assert!(rotated.authority_seed() != keyset.authority_seed());
        assert!(rotated.derive("x") == keyset.derive("x"));
    }

    #[test]
    fn a_key_of_small_order_is_refused() {
        let keyset = Keyset::generate(None).unwrap();
        assert!(keyset.seal_for(&NodeKey([0; 32])).is_err());
    }

    #[test]
    fn names_are_what_they_print() {
        let key = node(3).public();
        assert_eq!(key.to_string().parse::<NodeKey>().unwrap(), key);
        let id = Keyset::generate(None).unwrap().id();
        assert_eq!(id.to_string().parse::<ClusterId>().unwrap(), id);
        for wrong in ["", "-a", "a-", "A", "a.b", "a b"] {
            assert!(wrong.parse::<NodeName>().is_err(), "{wrong}");
        }
        assert!("katachi-node-x".parse::<NodeKey>().is_err());
        assert!("4F".parse::<ClusterId>().is_err());
    }
}
