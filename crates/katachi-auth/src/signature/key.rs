//! Keys, their names, and where a verifier finds them.

use std::fmt;
use std::sync::Arc;

use katachi_crypto::Secret;
use katachi_crypto::kdf::{self, Label};
use katachi_crypto::mac::HmacKey;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use super::Profile;

/// Names the key that made a signature.
///
/// # Security
///
/// Choose it at random. An identifier computed from the secret tells something about it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct KeyId(Box<str>);

/// The text is not a key identifier.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "not a key identifier: 1 to 64 printable ASCII characters without space, `\"` or `\\` were expected"
)]
pub struct ParseKeyIdError;

impl KeyId {
    /// Longest identifier accepted, in bytes.
    pub const MAX_LEN: usize = 64;

    /// Reads an identifier from untrusted text.
    ///
    /// # Errors
    ///
    /// Returns [`ParseKeyIdError`] if `text` is empty, longer than
    /// [`KeyId::MAX_LEN`], or has a space, a quote, a backslash or a byte outside
    /// printable ASCII.
    pub fn parse(text: &str) -> Result<Self, ParseKeyIdError> {
        if !Self::accepts(text.as_bytes()) {
            return Err(ParseKeyIdError);
        }
        Ok(Self(text.into()))
    }

    pub(crate) fn accepts(text: &[u8]) -> bool {
        (1..=Self::MAX_LEN).contains(&text.len())
            && text
                .iter()
                .all(|&byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
    }

    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for KeyId {
    type Err = ParseKeyIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Derives the HMAC key of one purpose from the secret that client and server share.
///
/// `owner` is whom the secret belongs to (for an agent, its id). A key derived for
/// one profile's purpose says nothing about the key of another.
#[must_use]
pub fn derive_key(secret: &Secret<32>, owner: &str, profile: &Profile) -> HmacKey {
    let label = Label::new("katachi/v1/http-signature").field(profile.purpose().as_bytes());
    let key: Secret<32> = kdf::derive(&[secret.expose_secret()], owner.as_bytes(), &label);
    HmacKey::new(&key)
}

/// A key that signs.
#[non_exhaustive]
pub enum SigningKey {
    /// HMAC-SHA256: both ends hold the key.
    Hmac(Box<HmacKey>),
    /// Ed25519: the verifier holds nothing that could sign.
    Ed25519(Box<Ed25519KeyPair>),
}

impl SigningKey {
    /// An Ed25519 key from its 32-byte seed.
    ///
    /// # Panics
    ///
    /// Never: every seed is a key.
    #[must_use]
    pub fn ed25519(seed: &Secret<32>) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose_secret())
            .expect("every 32-byte seed is an Ed25519 key");
        Self::Ed25519(Box::new(pair))
    }

    /// The public half as a verifying key; none for HMAC.
    #[must_use]
    pub fn public_key(&self) -> Option<VerifyingKey> {
        match self {
            Self::Hmac(_) => None,
            Self::Ed25519(pair) => {
                let bytes = pair.public_key().as_ref().try_into().ok()?;
                Some(VerifyingKey::Ed25519(bytes))
            }
        }
    }
}

impl From<HmacKey> for SigningKey {
    fn from(key: HmacKey) -> Self {
        Self::Hmac(Box::new(key))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hmac(_) => "SigningKey::Hmac { .. }",
            Self::Ed25519(_) => "SigningKey::Ed25519 { .. }",
        })
    }
}

/// A key that verifies. Its algorithm is fixed here and never taken from a message.
#[non_exhaustive]
pub enum VerifyingKey {
    /// HMAC-SHA256.
    Hmac(Box<HmacKey>),
    /// Ed25519, the 32-byte public key.
    Ed25519([u8; 32]),
}

impl From<HmacKey> for VerifyingKey {
    fn from(key: HmacKey) -> Self {
        Self::Hmac(Box::new(key))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hmac(_) => "VerifyingKey::Hmac { .. }",
            Self::Ed25519(_) => "VerifyingKey::Ed25519 { .. }",
        })
    }
}

impl VerifyingKey {
    pub(crate) fn verify_ed25519(public: &[u8; 32], base: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, public)
            .verify(base, signature)
            .is_ok()
    }
}

/// A key as a server knows it.
#[derive(Debug)]
pub struct KnownKey {
    /// Its name on the wire.
    pub id: KeyId,
    /// Whose key it is, in the caller's own terms (an agent id).
    pub owner: String,
    /// The key itself.
    pub key: VerifyingKey,
    /// A revoked key still verifies, so that its holder, and nobody else, can be told.
    pub revoked: bool,
}

impl KnownKey {
    /// A live key.
    pub fn new(id: KeyId, owner: impl Into<String>, key: impl Into<VerifyingKey>) -> Self {
        Self {
            id,
            owner: owner.into(),
            key: key.into(),
            revoked: false,
        }
    }
}

/// Where a verifier finds keys. During a rotation two identifiers of one owner are live.
///
/// # Security
///
/// Identifiers are compared byte for byte. Answer from memory where you can: the
/// time a lookup takes is visible to strangers. An unknown identifier costs as much as
/// one with an HMAC key; where Ed25519 keys live beside those, time shows which
/// identifiers have one.
pub trait Keys: Send + Sync {
    /// The key named `id`, or none.
    fn find(&self, id: &str) -> Option<Arc<KnownKey>>;
}

impl Keys for std::collections::HashMap<String, Arc<KnownKey>> {
    fn find(&self, id: &str) -> Option<Arc<KnownKey>> {
        self.get(id).cloned()
    }
}

impl Keys for Arc<KnownKey> {
    fn find(&self, id: &str) -> Option<Arc<KnownKey>> {
        (self.id.as_str() == id).then(|| Self::clone(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_short_printable_and_needs_no_escaping() {
        assert!(KeyId::parse("agent-1:2026").is_ok());
        for bad in ["", " ", "a b", "a\"b", "a\\b", "ü", "a\n", &"x".repeat(65)] {
            assert_eq!(KeyId::parse(bad), Err(ParseKeyIdError), "{bad:?}");
        }
    }

    #[test]
    fn keys_of_different_purposes_and_owners_differ() {
        let secret = Secret::new([7; 32]);
        let tag = |owner, profile| *derive_key(&secret, owner, &profile).sign(b"x").as_bytes();
        let api = tag("a", Profile::AGENT_REQUEST);
        assert_eq!(api, tag("a", Profile::AGENT_REQUEST));
        assert_ne!(api, tag("b", Profile::AGENT_REQUEST));
        assert_ne!(api, tag("a", Profile::TUNNEL_REQUEST));
        assert_ne!(api, tag("a", Profile::RELAY_RESPONSE));
    }

    #[test]
    fn no_key_shows_itself() {
        let secret = Secret::new([0x41; 32]);
        let shown = format!(
            "{:?} {:?} {:?}",
            SigningKey::ed25519(&secret),
            SigningKey::from(HmacKey::new(&secret)),
            VerifyingKey::from(HmacKey::new(&secret)),
        );
        assert!(!shown.contains("41") && !shown.contains("65") && !shown.contains("AAAA"));
    }
}
