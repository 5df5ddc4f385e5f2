//! ID tokens (OpenID Connect Core section 2), verified through ring.
//!
//! RS256, ES256 and EdDSA with Ed25519, and nothing else. The algorithm belongs to the
//! key: a token that names another than its key was published for is refused, so the
//! public key of one algorithm is never the secret of another (RFC 8725 section 3.1). A
//! token names its key by `kid` and brings none along: `jwk`, `jku` and `x5u` mean
//! nothing here.
//!
//! [`super::Provider`] does all this by itself; this door is for programs that get ID
//! tokens some other way.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::Number;

use crate::clock::Timestamp;
use crate::json;

/// Longest token, in bytes.
pub const MAX_LEN: usize = 16 * 1024;
/// How far a provider's clock may be from ours, in seconds.
pub const SKEW: u64 = 60;
/// Most keys of a set that are looked at.
const MAX_KEYS: usize = 32;

/// A signature algorithm that is accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Algorithm {
    /// RSA PKCS#1 v1.5 with SHA-256, 2048 bits and more (RFC 7518 section 3.3).
    Rs256,
    /// ECDSA on P-256 with SHA-256 (RFC 7518 section 3.4).
    Es256,
    /// Ed25519 (RFC 8037; `Ed25519` of RFC 9864).
    EdDsa,
}

impl Algorithm {
    /// Reads the `alg` of a header.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// Why an ID token was not believed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IdTokenError {
    /// Not a signed JWT in compact form, too long, or with `crit` in its header.
    #[error("not an ID token")]
    Malformed,
    /// Signed by `none`, by a MAC, or by anything else that is not accepted.
    #[error("the ID token is not signed by an accepted algorithm")]
    Algorithm,
    /// No key of the provider has its `kid` and algorithm. The keys may have changed.
    #[error("the provider has no such key")]
    UnknownKey,
    /// The signature is not that of the key.
    #[error("the ID token's signature is wrong")]
    Signature,
    /// `iss` is another provider.
    #[error("the ID token was issued by another provider")]
    Issuer,
    /// `aud` or `azp` is another client, or somebody unknown besides us.
    #[error("the ID token was issued for another client")]
    Audience,
    /// `exp` has passed.
    #[error("the ID token has expired")]
    Expired,
    /// `iat` or `nbf` lies ahead: the clocks differ.
    #[error("the ID token is from the future")]
    Future,
    /// `nonce` is not that of this sign-in.
    #[error("the ID token belongs to another sign-in")]
    Nonce,
    /// `sub` is empty or longer than 255 characters.
    #[error("the ID token names nobody")]
    Subject,
}

/// What a token must say.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The provider.
    pub issuer: &'a str,
    /// Our client id there.
    pub client_id: &'a str,
    /// The nonce of this sign-in.
    pub nonce: &'a str,
}

/// What a believed token says.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Claims {
    /// The person, at the issuer.
    pub subject: String,
    /// Their address.
    pub email: Option<String>,
    /// Whether the provider has seen them read its mail.
    pub email_verified: bool,
    /// What to call them.
    pub name: Option<String>,
}

/// The public keys of a provider (RFC 7517).
pub struct KeySet(Vec<Key>);

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    material: Material,
}

enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// An uncompressed point.
    P256([u8; 65]),
    Ed25519([u8; 32]),
}

/// Not a JSON Web Key Set.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a JSON Web Key Set: an object with `keys` was expected")]
pub struct KeySetError;

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a set. Keys for encryption, of other algorithms and too weak ones are
    /// passed over, as are all beyond the 32nd.
    ///
    /// # Errors
    ///
    /// Returns [`KeySetError`] if `json` is no key set.
    pub fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        Self::from_json(serde_json::from_slice(json).map_err(|_| KeySetError)?)
    }

    pub(super) fn from_json(json: serde_json::Value) -> Result<Self, KeySetError> {
        // serde would also take arrays of the members for either.
        if !json.is_object() {
            return Err(KeySetError);
        }
        let raw: RawSet = serde_json::from_value(json).map_err(|_| KeySetError)?;
        let keys = raw
            .keys
            .into_iter()
            .filter(serde_json::Value::is_object)
            .filter_map(|key| Key::read(&serde_json::from_value(key).ok()?))
            .take(MAX_KEYS)
            .collect();
        Ok(Self(keys))
    }

    /// How many keys can be used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys that may have signed a token with this header. Without `kid` a key is only
    /// meant if it is the only one (OpenID Connect Core section 10.1).
    fn matching<'a>(&'a self, algorithm: Algorithm, id: Option<&'a str>) -> Vec<&'a Key> {
        let of_kind = self.0.iter().filter(|key| key.algorithm == algorithm);
        match id {
            Some(id) => of_kind
                .filter(|key| key.id.as_deref() == Some(id))
                .collect(),
            None => {
                let keys: Vec<_> = of_kind.collect();
                if keys.len() == 1 { keys } else { Vec::new() }
            }
        }
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.0.iter().map(|key| (&key.id, key.algorithm));
        f.debug_list().entries(ids).finish()
    }
}

impl Key {
    fn read(raw: &RawKey) -> Option<Self> {
        if raw.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let (algorithm, material) = match (raw.kty.as_str(), raw.crv.as_deref()) {
            ("RSA", _) => (Algorithm::Rs256, rsa(raw)?),
            ("EC", Some("P-256")) => {
                let mut point = [4; 65];
                point[1..33].copy_from_slice(&bytes::<32>(raw.x.as_deref()?)?);
                point[33..].copy_from_slice(&bytes::<32>(raw.y.as_deref()?)?);
                (Algorithm::Es256, Material::P256(point))
            }
            ("OKP", Some("Ed25519")) => {
                let public = bytes(raw.x.as_deref()?)?;
                (Algorithm::EdDsa, Material::Ed25519(public))
            }
            _ => return None,
        };
        // A key that was published for PS256 is not one for RS256.
        if let Some(alg) = &raw.alg
            && Algorithm::parse(alg) != Some(algorithm)
        {
            return None;
        }
        Some(Self {
            id: raw.kid.clone(),
            algorithm,
            material,
        })
    }

    fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Rsa { modulus, exponent } => RsaPublicKeyComponents {
                n: modulus,
                e: exponent,
            }
            .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature),
            Material::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            Material::Ed25519(public) => {
                UnparsedPublicKey::new(&ED25519, public).verify(message, signature)
            }
        }
        .is_ok()
    }
}

fn rsa(raw: &RawKey) -> Option<Material> {
    let number = |text: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        // Some providers write a leading zero, which RFC 7518 section 6.3.1.1 forbids.
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        Some(bytes[zeros..].to_vec())
    };
    let modulus = number(raw.n.as_deref()?)?;
    let exponent = number(raw.e.as_deref()?)?;
    // What ring accepts, so that a weak key is absent instead of failing later.
    let usable = (256..=1024).contains(&modulus.len()) && (1..=5).contains(&exponent.len());
    usable.then_some(Material::Rsa { modulus, exponent })
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct RawClaims {
    iss: String,
    sub: String,
    aud: Audience,
    azp: Option<String>,
    exp: Number,
    iat: Number,
    nbf: Option<Number>,
    nonce: Option<String>,
    email: Option<String>,
    #[serde(default)]
    email_verified: Verified,
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Some providers write the boolean as text.
#[derive(Default, Deserialize)]
#[serde(untagged)]
pub(super) enum Verified {
    Flag(bool),
    Text(String),
    #[default]
    Absent,
}

impl Verified {
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Flag(flag) => *flag,
            Self::Text(text) => text == "true",
            Self::Absent => false,
        }
    }
}

/// A token in its parts, not yet believed.
struct Parts<'a> {
    header: Header,
    claims: Vec<u8>,
    signed: &'a str,
    signature: Vec<u8>,
}

fn split(token: &str) -> Result<Parts<'_>, IdTokenError> {
    if token.len() > MAX_LEN {
        return Err(IdTokenError::Malformed);
    }
    // Strict: no padding, no stray bits, no white space; each token has one spelling.
    let decode = |part: &str| {
        URL_SAFE_NO_PAD
            .decode(part)
            .map_err(|_| IdTokenError::Malformed)
    };
    let (signed, signature) = token.rsplit_once('.').ok_or(IdTokenError::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(IdTokenError::Malformed)?;
    let header = json::object(&decode(header)?).ok_or(IdTokenError::Malformed)?;
    Ok(Parts {
        header,
        claims: decode(claims)?,
        signed,
        signature: decode(signature)?,
    })
}

/// Believes a token, or says why not.
///
/// # Errors
///
/// Returns [`IdTokenError`] unless a key of the set signed the token, for us, for this
/// sign-in, and `now` lies within its time.
pub fn verify(
    token: &str,
    keys: &KeySet,
    expected: &Expected<'_>,
    now: Timestamp,
) -> Result<Claims, IdTokenError> {
    let parts = split(token)?;
    let algorithm = Algorithm::parse(&parts.header.alg).ok_or(IdTokenError::Algorithm)?;
    // An extension that must be understood is not (RFC 7515 section 4.1.11); and a token
    // made for something else says so in `typ` (RFC 8725 section 3.11).
    let other_kind = |kind: &String| !kind.eq_ignore_ascii_case("jwt");
    if parts.header.crit.is_some() || parts.header.typ.as_ref().is_some_and(other_kind) {
        return Err(IdTokenError::Malformed);
    }
    let candidates = keys.matching(algorithm, parts.header.kid.as_deref());
    if candidates.is_empty() {
        return Err(IdTokenError::UnknownKey);
    }
    let message = parts.signed.as_bytes();
    if !candidates
        .iter()
        .any(|key| key.signed(message, &parts.signature))
    {
        return Err(IdTokenError::Signature);
    }
    let claims = json::object(&parts.claims).ok_or(IdTokenError::Malformed)?;
    judge(claims, expected, now)
}

/// OpenID Connect Core section 3.1.3.7, in its order.
fn judge(
    claims: RawClaims,
    expected: &Expected<'_>,
    now: Timestamp,
) -> Result<Claims, IdTokenError> {
    if claims.iss != expected.issuer {
        return Err(IdTokenError::Issuer);
    }
    // No audience besides us is trusted.
    let for_us = match &claims.aud {
        Audience::One(one) => one == expected.client_id,
        Audience::Many(many) => {
            !many.is_empty() && many.iter().all(|each| each == expected.client_id)
        }
    };
    let party = claims.azp.as_deref();
    if !for_us || party.is_some_and(|party| party != expected.client_id) {
        return Err(IdTokenError::Audience);
    }
    let seconds = |number: &Number| number.as_f64().filter(|seconds| *seconds >= 0.0);
    // Exact for the next 285 million years.
    let now = now.as_unix() as f64;
    let skew = SKEW as f64;
    let expires = seconds(&claims.exp).ok_or(IdTokenError::Malformed)?;
    if expires + skew <= now {
        return Err(IdTokenError::Expired);
    }
    for start in [Some(&claims.iat), claims.nbf.as_ref()]
        .into_iter()
        .flatten()
    {
        if seconds(start).ok_or(IdTokenError::Malformed)? > now + skew {
            return Err(IdTokenError::Future);
        }
    }
    if claims.nonce.as_deref() != Some(expected.nonce) {
        return Err(IdTokenError::Nonce);
    }
    if claims.sub.is_empty() || claims.sub.len() > 255 {
        return Err(IdTokenError::Subject);
    }
    Ok(Claims {
        subject: claims.sub,
        email: claims.email,
        email_verified: claims.email_verified.is_true(),
        name: claims.name,
    })
}
