//! Refresh tokens: each is good once, and a second use betrays a thief.
//!
//! A token and all its successors are a *family*. When one is used, the next takes its
//! place. If a used one turns up again, either the thief or the rightful client has it,
//! nobody can tell which, and the whole family is revoked (RFC 9700 section 4.14).
//!
//! ```text
//! rt1. base64url( family 16 | generation 4 | seal 16 | secret 32 )
//! ```
//!
//! The server stores a digest of the current token alone. The seal, a MAC over family
//! and generation, proves that a token of an earlier generation was really issued: so
//! every old token is recognised without being remembered, and whoever only knows a
//! family's name cannot revoke it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_crypto::mac::HmacKey;
use katachi_crypto::{Secret, SecretString, random};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::replay::Unavailable;
use crate::session::TokenDigest;

/// A refresh token. Hand it to its client and drop it.
#[derive(Debug)]
pub struct RefreshToken(SecretString);

impl RefreshToken {
    /// The token as text.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        self.0.expose_secret()
    }
}

/// A token and its successors, as the server keeps them.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Family {
    /// Its name, random.
    pub id: FamilyId,
    /// Whose tokens they are.
    pub subject: String,
    /// Thumbprint of the key that every use must prove, if any.
    pub thumbprint: Option<String>,
    /// Digest of the current token.
    pub current: TokenDigest,
    /// How many came before it.
    pub generation: u32,
    /// When the family ends, however often it is used.
    pub expires: Timestamp,
    /// Whether it was ended before its time.
    pub revoked: bool,
}

/// Names a family.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FamilyId([u8; 16]);

impl FamilyId {
    /// Its 16 bytes, for a store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for FamilyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// Keeps families.
///
/// # Security
///
/// [`Self::change`] must be atomic: two calls for one family never both see it before
/// the other's change. Otherwise one token is used twice unnoticed.
pub trait FamilyStore: Send + Sync {
    /// Stores a new family.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store cannot be asked.
    fn insert(&self, family: Family) -> Result<(), Unavailable>;

    /// Lets `change` see and modify one family, atomically. Returns whether it exists.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store cannot be asked or the change was not kept.
    fn change(
        &self,
        id: &FamilyId,
        change: &mut dyn FnMut(&mut Family),
    ) -> Result<bool, Unavailable>;
}

/// Why a token was refused. The client hears `invalid_grant` for all but the last.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshError {
    /// Never issued here, for another key, expired or revoked.
    #[error("not a live refresh token of this client")]
    Invalid,
    /// Used before: the family has just been revoked. Drop what its tokens opened, and
    /// tell its owner.
    #[error("a refresh token of {subject} was used twice; its family is revoked")]
    Reused {
        /// The family.
        family: FamilyId,
        /// Whose it was.
        subject: String,
    },
    /// The store or the system's randomness gave no answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// A refreshed grant.
#[derive(Debug)]
pub struct Refreshed {
    /// Whose tokens they are.
    pub subject: String,
    /// The family, to revoke it later.
    pub family: FamilyId,
    /// The next token.
    pub token: RefreshToken,
}

/// Issues and exchanges refresh tokens.
#[derive(Debug)]
pub struct RefreshTokens {
    seal: HmacKey,
    lifetime: Duration,
}

const PREFIX: &str = "rt1.";
const SEAL: usize = 16;
const LEN: usize = 16 + 4 + SEAL + 32;

impl RefreshTokens {
    /// Tokens sealed under `key`, whose families live for `lifetime`.
    #[must_use]
    pub fn new(key: &Secret<32>, lifetime: Duration) -> Self {
        Self {
            seal: HmacKey::new(key),
            lifetime,
        }
    }

    /// Issues the first token of a new family.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store or the system's randomness gives no answer.
    pub fn issue(
        &self,
        store: &(impl FamilyStore + ?Sized),
        subject: &str,
        thumbprint: Option<&str>,
        now: Timestamp,
    ) -> Result<Refreshed, Unavailable> {
        let id = FamilyId(random::bytes().map_err(Unavailable::new)?);
        let token = self.mint(&id, 0)?;
        store.insert(Family {
            id,
            subject: subject.to_owned(),
            thumbprint: thumbprint.map(str::to_owned),
            current: TokenDigest::of(token.expose_secret()),
            generation: 0,
            expires: now.after(self.lifetime),
            revoked: false,
        })?;
        Ok(Refreshed {
            subject: subject.to_owned(),
            family: id,
            token,
        })
    }

    /// Exchanges a token for the next. `thumbprint` is that of the key which the client
    /// proved.
    ///
    /// # Errors
    ///
    /// Returns [`RefreshError`] if the token is not the current one of a live family.
    pub fn exchange(
        &self,
        store: &(impl FamilyStore + ?Sized),
        token: &str,
        thumbprint: Option<&str>,
        now: Timestamp,
    ) -> Result<Refreshed, RefreshError> {
        let (id, generation) = self.open(token).ok_or(RefreshError::Invalid)?;
        let presented = TokenDigest::of(token);
        let next_generation = generation.checked_add(1).ok_or(RefreshError::Invalid)?;
        let next = self.mint(&id, next_generation)?;
        let mut outcome = Err(RefreshError::Invalid);
        store.change(&id, &mut |family| {
            if family.revoked || family.expires <= now {
                return;
            }
            // Whoever lacks the key learns and changes nothing, even with a real token.
            if family.thumbprint.is_some() && family.thumbprint.as_deref() != thumbprint {
                return;
            }
            if generation < family.generation {
                family.revoked = true;
                outcome = Err(RefreshError::Reused {
                    family: id,
                    subject: family.subject.clone(),
                });
            } else if presented == family.current {
                family.current = TokenDigest::of(next.expose_secret());
                family.generation = next_generation;
                outcome = Ok(family.subject.clone());
            }
        })?;
        Ok(Refreshed {
            subject: outcome?,
            family: id,
            token: next,
        })
    }

    /// Revokes a family, when its owner signs the client out.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store gives no answer.
    pub fn revoke(
        &self,
        store: &(impl FamilyStore + ?Sized),
        family: &FamilyId,
    ) -> Result<(), Unavailable> {
        store
            .change(family, &mut |family| family.revoked = true)
            .map(drop)
    }

    fn mint(&self, id: &FamilyId, generation: u32) -> Result<RefreshToken, Unavailable> {
        let secret = Secret::<32>::random().map_err(Unavailable::new)?;
        let mut bytes = Vec::with_capacity(LEN);
        bytes.extend_from_slice(&id.0);
        bytes.extend_from_slice(&generation.to_be_bytes());
        let seal = self.seal.sign(&bytes);
        bytes.extend_from_slice(&seal.as_bytes()[..SEAL]);
        bytes.extend_from_slice(secret.expose_secret());
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&bytes));
        // The text is the secret from here on; this buffer held a copy of it.
        drop(katachi_crypto::SecretBytes::new(bytes));
        Ok(RefreshToken(SecretString::new(text)))
    }

    /// The family and generation of a token that was issued here.
    fn open(&self, token: &str) -> Option<(FamilyId, u32)> {
        let encoded = token.strip_prefix(PREFIX)?;
        if encoded.len() != (LEN * 4).div_ceil(3) {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(encoded).ok()?;
        let (named, rest) = bytes.split_at_checked(20)?;
        let expected = self.seal.sign(named);
        // A seal is half a MAC, and only whole ones are compared in constant time: so
        // compare the MAC of what should stand there with that of what does.
        let (seal, _) = rest.split_at_checked(SEAL)?;
        let mine = self.seal.sign(&expected.as_bytes()[..SEAL]);
        self.seal.verify(seal, mine.as_bytes()).ok()?;
        let id = FamilyId(named[..16].try_into().ok()?);
        Some((id, u32::from_be_bytes(named[16..].try_into().ok()?)))
    }
}

/// Families in the memory of one process.
#[derive(Debug, Default)]
pub struct MemoryFamilies(Mutex<HashMap<FamilyId, Family>>);

impl MemoryFamilies {
    /// No families.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Drops the families that have ended by `now`.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if a thread panicked inside.
    pub fn purge(&self, now: Timestamp) -> Result<(), Unavailable> {
        let mut families = self.0.lock().map_err(|_| poisoned())?;
        families.retain(|_, family| family.expires > now);
        Ok(())
    }
}

impl FamilyStore for MemoryFamilies {
    fn insert(&self, family: Family) -> Result<(), Unavailable> {
        self.0
            .lock()
            .map_err(|_| poisoned())?
            .insert(family.id, family);
        Ok(())
    }

    fn change(
        &self,
        id: &FamilyId,
        change: &mut dyn FnMut(&mut Family),
    ) -> Result<bool, Unavailable> {
        let mut families = self.0.lock().map_err(|_| poisoned())?;
        Ok(families.get_mut(id).map(change).is_some())
    }
}

fn poisoned() -> Unavailable {
    Unavailable::new("a thread panicked inside the family store")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);
    const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

    fn tokens() -> RefreshTokens {
        RefreshTokens::new(&Secret::new([8; 32]), MONTH)
    }

    #[test]
    fn each_token_is_exchanged_once_for_the_next() {
        let (tokens, store) = (tokens(), MemoryFamilies::new());
        let mut token = tokens.issue(&store, "agent-1", None, NOW).unwrap().token;
        for _ in 0..5 {
            let refreshed = tokens
                .exchange(&store, token.expose_secret(), None, NOW)
                .unwrap();
            assert_eq!(refreshed.subject, "agent-1");
            token = refreshed.token;
        }
    }

    #[test]
    fn d19_any_token_used_twice_revokes_the_whole_family() {
        for age in 1..6 {
            let (tokens, store) = (tokens(), MemoryFamilies::new());
            let stolen = tokens.issue(&store, "agent-1", None, NOW).unwrap().token;
            let mut current = tokens
                .exchange(&store, stolen.expose_secret(), None, NOW)
                .unwrap()
                .token;
            for _ in 1..age {
                current = tokens
                    .exchange(&store, current.expose_secret(), None, NOW)
                    .unwrap()
                    .token;
            }
            let reused = tokens.exchange(&store, stolen.expose_secret(), None, NOW);
            let Err(RefreshError::Reused { subject, .. }) = reused else {
                panic!("{reused:?}");
            };
            assert_eq!(subject, "agent-1");
            let now_dead = tokens.exchange(&store, current.expose_secret(), None, NOW);
            assert!(matches!(now_dead, Err(RefreshError::Invalid)));
        }
    }

    #[test]
    fn of_many_uses_at_once_at_most_one_is_answered() {
        let (tokens, store) = (tokens(), MemoryFamilies::new());
        let token = tokens.issue(&store, "agent-1", None, NOW).unwrap().token;
        let granted = AtomicUsize::new(0);
        let start = Barrier::new(16);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    start.wait();
                    let outcome = tokens.exchange(&store, token.expose_secret(), None, NOW);
                    granted.fetch_add(usize::from(outcome.is_ok()), Ordering::SeqCst);
                });
            }
        });
        assert_eq!(granted.into_inner(), 1);
    }

    #[test]
    fn a_token_is_worth_nothing_without_its_key_or_after_its_time() {
        let (tokens, store) = (tokens(), MemoryFamilies::new());
        let token = tokens
            .issue(&store, "agent-1", Some("thumb"), NOW)
            .unwrap()
            .token;
        let exchange = |key, now| tokens.exchange(&store, token.expose_secret(), key, now);
        assert!(matches!(exchange(None, NOW), Err(RefreshError::Invalid)));
        assert!(matches!(
            exchange(Some("other"), NOW),
            Err(RefreshError::Invalid)
        ));
        assert!(matches!(
            exchange(Some("thumb"), NOW.after(MONTH)),
            Err(RefreshError::Invalid)
        ));
        assert!(exchange(Some("thumb"), NOW).is_ok());
    }

    #[test]
    fn a_forged_token_neither_works_nor_revokes() {
        let (tokens, store) = (tokens(), MemoryFamilies::new());
        let issued = tokens.issue(&store, "agent-1", None, NOW).unwrap();
        let token = issued.token.expose_secret().to_owned();
        let next = tokens.exchange(&store, &token, None, NOW).unwrap().token;
        let elsewhere = RefreshTokens::new(&Secret::new([9; 32]), MONTH);
        let forged = elsewhere.mint(&issued.family, 0).unwrap();
        let mut bad = vec![
            String::new(),
            "rt1.".into(),
            token.replace("rt1.", "rt2."),
            format!("{token}A"),
            forged.expose_secret().to_owned(),
        ];
        // Family, generation and seal: one character in each.
        for at in [5, 27, 40] {
            let mut letters: Vec<char> = token.chars().collect();
            letters[at] = if letters[at] == 'A' { 'B' } else { 'A' };
            bad.push(letters.into_iter().collect());
        }
        for bad in bad {
            let outcome = tokens.exchange(&store, &bad, None, NOW);
            assert!(
                matches!(outcome, Err(RefreshError::Invalid)),
                "{bad}: {outcome:?}"
            );
        }
        assert!(
            tokens
                .exchange(&store, next.expose_secret(), None, NOW)
                .is_ok()
        );
    }

    #[test]
    fn a_revoked_family_is_dead_and_the_store_holds_no_token() {
        let (tokens, store) = (tokens(), MemoryFamilies::new());
        let issued = tokens.issue(&store, "agent-1", None, NOW).unwrap();
        assert!(!format!("{store:?} {issued:?}").contains(issued.token.expose_secret()));
        tokens.revoke(&store, &issued.family).unwrap();
        let outcome = tokens.exchange(&store, issued.token.expose_secret(), None, NOW);
        assert!(matches!(outcome, Err(RefreshError::Invalid)));
        store.purge(NOW.after(MONTH)).unwrap();
        assert!(store.0.lock().unwrap().is_empty());
    }
}
