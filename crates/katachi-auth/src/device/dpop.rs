//! Demonstrating proof of possession (RFC 9449), with Ed25519 keys.
//!
//! A client that registered a key sends a `DPoP` header with every poll: a small JWT
//! signed by that key over the method, the URL, the time, a unique id and the nonce
//! that the server handed out. Whoever reads the device code over somebody's shoulder
//! has no such key.
//!
//! The server's nonce is the [`Epoch`] of its replay store, and the unique id is spent
//! there, so a proof is good once and dies with the store's memory.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_crypto::Secret;
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::json;
use crate::replay::{AsyncReplayStore, Epoch, Nonce, ReplayStore, Spend, Spending, Unavailable};
use crate::signature::KeyId;

/// Longest proof, in bytes.
const MAX_LEN: usize = 2048;
/// How long a proof lives, and how far a client's clock may be ahead, in seconds.
const WINDOW: u64 = 60;
const SKEW: u64 = 5;

/// A key that proves possession.
pub struct ProofKey {
    pair: Ed25519KeyPair,
}

impl ProofKey {
    /// The key with this 32-byte seed.
    ///
    /// # Panics
    ///
    /// Never: every seed is a key.
    #[must_use]
    pub fn from_seed(seed: &Secret<32>) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose_secret())
            .expect("every 32-byte seed is an Ed25519 key");
        Self { pair }
    }

    /// The thumbprint of its public half (RFC 7638), 43 characters.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        thumbprint(&URL_SAFE_NO_PAD.encode(self.pair.public_key()))
    }

    /// Makes the value of a `DPoP` header for a request to `uri` (without query and
    /// fragment). `nonce` must be random or counted, never used before.
    ///
    /// # Panics
    ///
    /// Never: these claims can always be written as JSON.
    #[must_use]
    pub fn prove(
        &self,
        method: &str,
        uri: &str,
        now: Timestamp,
        nonce: &Nonce,
        epoch: Option<&Epoch>,
    ) -> String {
        let epoch = epoch.map(Epoch::to_string);
        self.prove_with(method, uri, now, nonce, epoch.as_deref())
    }

    /// The same for any server: `server_nonce` is what it sent as `DPoP-Nonce`, if it did.
    ///
    /// # Panics
    ///
    /// Never: these claims can always be written as JSON.
    #[must_use]
    pub fn prove_with(
        &self,
        method: &str,
        uri: &str,
        now: Timestamp,
        id: &Nonce,
        server_nonce: Option<&str>,
    ) -> String {
        let header = Header {
            typ: "dpop+jwt".into(),
            alg: "EdDSA".into(),
            jwk: Jwk {
                kty: "OKP".into(),
                crv: "Ed25519".into(),
                x: URL_SAFE_NO_PAD.encode(self.pair.public_key()),
            },
        };
        let claims = Claims {
            jti: id.to_string(),
            htm: method.to_owned(),
            htu: uri.to_owned(),
            iat: now.as_unix(),
            nonce: server_nonce.map(str::to_owned),
            ath: None,
        };
        let part = |json: Result<Vec<u8>, _>| {
            URL_SAFE_NO_PAD.encode(json.expect("strings and numbers are JSON"))
        };
        let signed = format!(
            "{}.{}",
            part(serde_json::to_vec(&header)),
            part(serde_json::to_vec(&claims))
        );
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

impl fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProofKey { .. }")
    }
}

/// Refuses unknown members: a private key sent along (`d`) among them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    typ: String,
    alg: String,
    jwk: Jwk,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    jti: String,
    htm: String,
    htu: String,
    iat: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nonce: Option<String>,
    /// Of the access token that it goes with (section 4.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ath: Option<String>,
}

/// A proof that must not be believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// It is not such a proof, is for another request, or was signed by another key.
    /// Answer `invalid_dpop_proof`.
    #[error("not a valid proof for this request")]
    Invalid,
    /// It is outside the window.
    #[error("the proof was made outside the window")]
    Skew,
    /// It lacks the current nonce. Answer `use_dpop_nonce` with the header `DPoP-Nonce`.
    #[error("the proof lacks the current nonce")]
    UseNonce,
    /// It was used before.
    #[error("the proof was used before")]
    Replayed,
    /// Too many proofs by this key.
    #[error("no room to remember the proof")]
    Full,
    /// The replay store gave no answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl ProofError {
    /// The `error` member of the answer (RFC 9449 sections 5 and 8).
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UseNonce => "use_dpop_nonce",
            Self::Full | Self::Unavailable(_) => "temporarily_unavailable",
            _ => "invalid_dpop_proof",
        }
    }

    /// The status code of a token endpoint's answer (RFC 9449 section 5). With 429 and
    /// 503 send `Retry-After`. A resource behind a token answers 401 in place of 400,
    /// with `WWW-Authenticate: DPoP error="…"` (section 7.1).
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Full => 429,
            Self::Unavailable(_) => 503,
            _ => 400,
        }
    }
}

/// Verifies the value of a `DPoP` header for a request with `method` to `uri`, spends
/// it, and returns the thumbprint of the key that made it.
///
/// # Errors
///
/// Returns [`ProofError`] if the proof is for something else, old, or used before.
pub fn verify(
    proof: &str,
    method: &str,
    uri: &str,
    store: &(impl ReplayStore + ?Sized),
    now: Timestamp,
) -> Result<String, ProofError> {
    let unspent = check(proof, method, uri, now)?;
    let spent = store.spend(&unspent.spending(now))?;
    unspent.settle(spent)
}

/// As [`verify`], with a store that answers later.
///
/// # Errors
///
/// As [`verify`].
pub async fn verify_async(
    proof: &str,
    method: &str,
    uri: &str,
    store: &impl AsyncReplayStore,
    now: Timestamp,
) -> Result<String, ProofError> {
    let unspent = check(proof, method, uri, now)?;
    unspent.spend_async(store, now).await
}

/// A proof that is good, if it was never used: [`Self::spend_async`] it.
///
/// A server that anybody may ask finds out first whether the request means anything
/// (a device code that waits, an access token that holds): proofs that are spent take
/// room, and whoever makes keys can make as many as they like.
#[derive(Debug)]
#[must_use = "a proof may be a copy of one that was used: spend it"]
pub struct Unspent {
    key_id: KeyId,
    nonce: Nonce,
    created: u64,
    epoch: Epoch,
    ath: Option<String>,
}

impl Unspent {
    /// The thumbprint of the key that made it.
    #[must_use]
    pub fn thumbprint(&self) -> &str {
        self.key_id.as_str()
    }

    /// Makes sure that the proof goes with `access_token` (RFC 9449 section 4.3, 11).
    ///
    /// # Errors
    ///
    /// Returns [`ProofError::Invalid`] if it names another one, or none.
    pub fn for_token(&self, access_token: &str) -> Result<(), ProofError> {
        let hash = URL_SAFE_NO_PAD.encode(digest(&SHA256, access_token.as_bytes()));
        if self.ath.as_deref() == Some(hash.as_str()) {
            Ok(())
        } else {
            Err(ProofError::Invalid)
        }
    }

    /// Spends it, and returns the thumbprint of the key that made it.
    ///
    /// # Errors
    ///
    /// Returns [`ProofError`] if it was used before, lacks the current nonce, or the
    /// store has no room or gives no answer.
    pub async fn spend_async(
        self,
        store: &impl AsyncReplayStore,
        now: Timestamp,
    ) -> Result<String, ProofError> {
        let spent = store.spend(&self.spending(now)).await?;
        self.settle(spent)
    }

    fn spending(&self, now: Timestamp) -> Spending<'_> {
        Spending {
            key_id: &self.key_id,
            nonce: &self.nonce,
            created: self.created,
            expires: self.created + WINDOW,
            epoch: &self.epoch,
            now,
        }
    }

    fn settle(self, spent: Spend) -> Result<String, ProofError> {
        match spent {
            Spend::Fresh => Ok(self.key_id.to_string()),
            Spend::Replayed => Err(ProofError::Replayed),
            Spend::Full => Err(ProofError::Full),
            Spend::StaleEpoch => Err(ProofError::UseNonce),
        }
    }
}

/// Verifies the value of a `DPoP` header for a request with `method` to `uri`, all but
/// whether it was used before.
///
/// # Errors
///
/// Returns [`ProofError`] if the proof is for something else, or old.
pub fn check(proof: &str, method: &str, uri: &str, now: Timestamp) -> Result<Unspent, ProofError> {
    let (thumbprint, claims) = authenticate(proof)?;
    if claims.htm != method || claims.htu != uri {
        return Err(ProofError::Invalid);
    }
    let seconds = now.as_unix();
    if claims.iat > seconds + SKEW || claims.iat.saturating_add(WINDOW) < seconds {
        return Err(ProofError::Skew);
    }
    let epoch = claims
        .nonce
        .as_deref()
        .and_then(|nonce| Epoch::parse(nonce).ok());
    Ok(Unspent {
        key_id: KeyId::parse(&thumbprint).map_err(|_| ProofError::Invalid)?,
        nonce: unique(&claims.jti),
        created: claims.iat,
        epoch: epoch.ok_or(ProofError::UseNonce)?,
        ath: claims.ath,
    })
}

/// Whether the proof's key really signed it; and what it claims.
fn authenticate(proof: &str) -> Result<(String, Claims), ProofError> {
    if proof.len() > MAX_LEN {
        return Err(ProofError::Invalid);
    }
    let (signed, signature) = proof.rsplit_once('.').ok_or(ProofError::Invalid)?;
    let (header, claims) = signed.split_once('.').ok_or(ProofError::Invalid)?;
    let decode = |part: &str| {
        URL_SAFE_NO_PAD
            .decode(part)
            .map_err(|_| ProofError::Invalid)
    };
    let header: Header = json::object(&decode(header)?).ok_or(ProofError::Invalid)?;
    let asked_for = header.typ == "dpop+jwt"
        && matches!(header.alg.as_str(), "EdDSA" | "Ed25519")
        && header.jwk.kty == "OKP"
        && header.jwk.crv == "Ed25519";
    if !asked_for {
        return Err(ProofError::Invalid);
    }
    let public = decode(&header.jwk.x)?;
    UnparsedPublicKey::new(&ED25519, &public)
        .verify(signed.as_bytes(), &decode(signature)?)
        .map_err(|_| ProofError::Invalid)?;
    let claims = json::object(&decode(claims)?).ok_or(ProofError::Invalid)?;
    Ok((thumbprint(&header.jwk.x), claims))
}

/// RFC 7638: members in alphabetical order, without spaces.
fn thumbprint(x: &str) -> String {
    let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes()))
}

/// Our own nonces as they are; ids of other clients by their digest.
fn unique(jti: &str) -> Nonce {
    Nonce::parse(jti).unwrap_or_else(|_| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest(&SHA256, jti.as_bytes()).as_ref()[..16]);
        Nonce::Random(bytes)
    })
}
