//! The server's side: from a received request to `Verified`.
//!
//! ```text
//! bounds -> parse -> key -> MAC -> window -> channel -> epoch -> digest    check()  -> Authentic
//!                                                     record the nonce     spend()  -> Verified
//! ```
//!
//! Up to and including the MAC every fault gets one answer; an unknown key costs as
//! much work as a wrong signature. All but the digest needs the head alone, so a server
//! can refuse a stranger before it reads any of the body.

use std::fmt;
use std::sync::Arc;

use katachi_crypto::mac::HmacKey;

use super::base::{Covered, MAX_VALUE, one};
use super::digest::{self, content_digest};
use super::input::{MAX_INPUT, parse_signature};
use super::message::{Field, Request, field};
use super::refusal::{Proof, Reason, Refusal};
use super::sign::encode_channel;
use super::{Keys, KnownKey, Profile, RequestInput, VerifyingKey};
use crate::clock::Timestamp;
use crate::replay::{AsyncReplayStore, Epoch, Nonce, ReplayStore, Spend, Spending, Unavailable};

/// Checks requests of one profile, addressed to this server's names.
#[derive(Debug)]
pub struct Verifier {
    profile: Profile,
    authorities: Vec<String>,
    /// Used in place of a key that does not exist, so that both cases take the same time.
    decoy: HmacKey,
}

/// What is true on the server while it checks a request.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The server's time.
    pub now: Timestamp,
    /// The epoch of the replay store.
    pub epoch: Epoch,
    /// What the TLS connection exports under `EXPORTER-Channel-Binding`, for profiles
    /// that bind to it.
    pub channel: Option<&'a [u8; 32]>,
}

impl Context<'_> {
    /// A context without a channel binding.
    #[must_use]
    pub const fn new(now: Timestamp, epoch: Epoch) -> Self {
        Self {
            now,
            epoch,
            channel: None,
        }
    }
}

impl Verifier {
    /// A verifier for requests addressed to one of `authorities` (host and, unless it
    /// is the scheme's default, port, exactly as clients send it).
    pub fn new<A: Into<String>>(
        profile: Profile,
        authorities: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            profile,
            authorities: authorities.into_iter().map(Into::into).collect(),
            decoy: HmacKey::from_slice(b"no such key; the outcome is never used"),
        }
    }

    /// The profile that requests must follow.
    #[must_use]
    pub const fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Reads which key a request claims, to fetch it before [`Self::check`]. Nothing
    /// is verified.
    pub fn claimed_key_id<'a, R: Request + ?Sized>(&self, request: &'a R) -> Option<&'a str> {
        let value = one(request, SIGNATURE_INPUT).ok()?;
        RequestInput::parse(&self.profile, value)
            .ok()
            .map(|input| input.key_id())
    }

    /// Checks everything about a request but whether it was seen before.
    ///
    /// # Errors
    ///
    /// Returns the [`Refusal`] of the first rule that is broken.
    pub fn check<R: Request>(
        &self,
        request: R,
        keys: &dyn Keys,
        context: &Context<'_>,
    ) -> Result<Authentic<R>, Refusal> {
        self.authenticate(&request, keys, context.now, context.channel)?
            .for_epoch(&request, context.epoch)?
            .with_body(request, &self.profile, context.now)
    }

    /// All that can be said without the epoch and the body.
    pub(crate) fn authenticate<R: Request>(
        &self,
        head: &R,
        keys: &dyn Keys,
        now: Timestamp,
        channel: Option<&[u8; 32]>,
    ) -> Result<Genuine, Refusal> {
        let claim = self.read(head, channel).map_err(Refusal::stranger)?;
        let found = keys.find(claim.input.key_id());
        let genuine = match found.as_deref().map(|known| &known.key) {
            Some(VerifyingKey::Hmac(key)) => claim.is_by_hmac(&self.profile, key),
            Some(VerifyingKey::Ed25519(public)) => {
                let mut base = Vec::with_capacity(1024);
                claim
                    .covered
                    .write(&self.profile, claim.input.params, &mut base);
                VerifyingKey::verify_ed25519(public, &base, claim.signature())
            }
            None => {
                claim.is_by_hmac(&self.profile, &self.decoy);
                false
            }
        };
        let Some(key) = found else {
            return Err(Refusal::stranger(Reason::UnknownKey));
        };
        if !genuine {
            return Err(Refusal::stranger(Reason::Signature));
        }
        let epoch = Epoch::parse_bytes(claim.covered.epoch);
        let checked = Checked {
            created: claim.input.created(),
            expires: claim.input.expires(),
            nonce: *claim.input.nonce(),
            epoch: epoch.unwrap_or(NO_EPOCH),
            signature: claim.signature,
            signature_len: claim.signature_len,
            key,
        };
        if checked.key.revoked {
            return Err(checked.refuse(head, Reason::Revoked));
        }
        if let Err(reason) = checked.check_window(&self.profile, now) {
            return Err(checked.refuse(head, reason));
        }
        if let Some(channel) = channel
            && self.profile.channel_header.is_some()
            && claim.covered.channel != encode_channel(channel)
        {
            return Err(checked.refuse(head, Reason::Channel));
        }
        if epoch.is_err() {
            return Err(checked.refuse(head, Reason::StaleEpoch));
        }
        // A digest of another length is not of the body either.
        let digest = claim.covered.digest.try_into().unwrap_or([0; DIGEST_LEN]);
        Ok(Genuine { checked, digest })
    }

    /// Bounds and parsing: what needs no key.
    fn read<'a, R: Request>(
        &self,
        request: &'a R,
        channel: Option<&[u8; 32]>,
    ) -> Result<Claim<'a>, Reason> {
        let input = bounded(request, SIGNATURE_INPUT, MAX_INPUT)?;
        let signature = bounded(request, SIGNATURE, MAX_SIGNATURE)?;
        let input = RequestInput::parse(&self.profile, input).map_err(Reason::Input)?;
        let mut bytes = [0; 64];
        let signature_len = parse_signature(&self.profile, signature, &mut bytes)
            .ok_or(Reason::Malformed(SIGNATURE))?;

        let mut covered = Covered::collect(&self.profile, request)?;
        if !self
            .authorities
            .iter()
            .any(|name| name == covered.authority)
        {
            return Err(Reason::Authority);
        }
        covered.digest = one(request, CONTENT_DIGEST)?;
        covered.epoch = one(request, self.profile.epoch_header)?;
        if let Some(header) = self.profile.channel_header {
            if channel.is_none() {
                return Err(Reason::NoChannel);
            }
            covered.channel = one(request, header)?;
        }
        if input.optional != covered.present {
            return Err(Reason::Uncovered);
        }
        Ok(Claim {
            input,
            covered,
            signature: bytes,
            signature_len,
        })
    }
}

pub(crate) const SIGNATURE_INPUT: &str = "signature-input";
pub(crate) const SIGNATURE: &str = "signature";
pub(crate) const CONTENT_DIGEST: &str = "content-digest";

const DIGEST_LEN: usize = digest::LEN;

/// Stands where a request named none.
const NO_EPOCH: Epoch = Epoch::from_bytes([0; 16]);

/// Longest `Signature`: a label, an Ed25519 signature and punctuation.
const MAX_SIGNATURE: usize = 256;

fn bounded<'a, R: Request>(
    request: &'a R,
    name: &'static str,
    limit: usize,
) -> Result<&'a [u8], Reason> {
    match field(|visit| request.each_header(name, visit)) {
        Field::Absent => Err(Reason::Absent(name)),
        Field::Repeated => Err(Reason::Repeated(name)),
        Field::Once(value) if value.len() > limit.min(MAX_VALUE) => Err(Reason::Oversized(name)),
        Field::Once(value) => Ok(value),
    }
}

/// A request that was read and not yet believed.
struct Claim<'a> {
    input: RequestInput<'a>,
    covered: Covered<'a>,
    signature: [u8; 64],
    signature_len: usize,
}

impl Claim<'_> {
    fn signature(&self) -> &[u8] {
        &self.signature[..self.signature_len]
    }

    fn is_by_hmac(&self, profile: &Profile, key: &HmacKey) -> bool {
        let mut mac = key.start();
        self.covered.write(profile, self.input.params, &mut mac);
        mac.verify(self.signature()).is_ok()
    }
}

/// A request by the holder of a key, made in time. Its body is not known yet.
pub(crate) struct Genuine {
    checked: Checked,
    digest: [u8; DIGEST_LEN],
}

impl Genuine {
    /// Makes sure that the request was made for `epoch`.
    pub(crate) fn for_epoch<R: Request>(self, head: &R, epoch: Epoch) -> Result<Self, Refusal> {
        if self.checked.epoch == epoch {
            Ok(self)
        } else {
            Err(self.checked.refuse(head, Reason::StaleEpoch))
        }
    }

    /// Makes sure that the body is the one that was signed, and that it came in time.
    /// `request` must be the one that was authenticated.
    pub(crate) fn with_body<R: Request>(
        self,
        request: R,
        profile: &Profile,
        now: Timestamp,
    ) -> Result<Authentic<R>, Refusal> {
        let checked = self.checked;
        if let Err(reason) = checked.check_window(profile, now) {
            return Err(checked.refuse(&request, reason));
        }
        if self.digest != content_digest(request.body()) {
            return Err(checked.refuse(&request, Reason::Digest));
        }
        Ok(Authentic { request, checked })
    }

    /// A refusal to the holder of the key.
    #[cfg(feature = "http")]
    pub(crate) fn refuse<R: Request>(self, head: &R, reason: Reason) -> Refusal {
        self.checked.refuse(head, reason)
    }
}

/// Names one signed request, so that an answer can be bound to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequestBinding {
    pub(crate) method: Box<str>,
    pub(crate) path: Box<str>,
    /// Without the `?`; empty if there was none.
    pub(crate) query: Box<str>,
    /// `:base64:`
    pub(crate) signature: Box<str>,
}

/// What a check found out about a request.
#[derive(Debug)]
struct Checked {
    key: Arc<KnownKey>,
    created: u64,
    expires: u64,
    nonce: Nonce,
    epoch: Epoch,
    signature: [u8; 64],
    signature_len: usize,
}

impl Checked {
    fn check_window(&self, profile: &Profile, now: Timestamp) -> Result<(), Reason> {
        let (created, expires, now) = (self.created, self.expires, now.as_unix());
        let (window, skew) = (u64::from(profile.window), u64::from(profile.skew));
        if expires <= created || expires - created > window {
            return Err(Reason::Lifetime);
        }
        if created > now + skew || created + window < now || expires < now {
            // Both lie below 10^15, or are the clock's: no wrap.
            return Err(Reason::Skew {
                age: now as i64 - created as i64,
            });
        }
        Ok(())
    }

    /// A refusal to the holder of the key.
    fn refuse<R: Request>(self, request: &R, reason: Reason) -> Refusal {
        let binding = self.binding(request);
        Refusal::known(
            reason,
            Proof {
                key: self.key,
                binding,
            },
        )
    }

    fn spending(&self, now: Timestamp) -> Spending<'_> {
        Spending {
            key_id: &self.key.id,
            nonce: &self.nonce,
            created: self.created,
            expires: self.expires,
            epoch: &self.epoch,
            now,
        }
    }

    fn binding<R: Request>(&self, request: &R) -> RequestBinding {
        RequestBinding {
            method: request.method().into(),
            path: request.path().into(),
            query: request.query().unwrap_or_default().into(),
            signature: super::sign::encode_signature(&self.signature[..self.signature_len]).into(),
        }
    }
}

/// A request that is genuine, and may be a copy of one that was accepted before.
///
/// It cannot be opened: [`Self::spend`] it.
#[must_use = "a genuine request may still be a replay: spend it"]
pub struct Authentic<R> {
    request: R,
    checked: Checked,
}

impl<R: Request> Authentic<R> {
    /// The key that made the request; for quotas before the nonce is spent.
    #[must_use]
    pub fn key(&self) -> &Arc<KnownKey> {
        &self.checked.key
    }

    /// What a store is asked.
    #[cfg(feature = "tower")]
    pub(crate) fn spending(&self, now: Timestamp) -> Spending<'_> {
        self.checked.spending(now)
    }

    /// Spends the nonce. The only way to a [`Verified`].
    ///
    /// # Errors
    ///
    /// Returns a [`Refusal`] if the nonce was spent before, the store is full, has
    /// taken a new epoch meanwhile, or cannot be asked.
    pub fn spend(
        self,
        store: &(impl ReplayStore + ?Sized),
        now: Timestamp,
    ) -> Result<Verified<R>, Refusal> {
        let spent = store.spend(&self.checked.spending(now));
        self.settle(spent)
    }

    /// As [`Self::spend`], with a store that answers later.
    ///
    /// # Errors
    ///
    /// As [`Self::spend`].
    pub async fn spend_async(
        self,
        store: &impl AsyncReplayStore,
        now: Timestamp,
    ) -> Result<Verified<R>, Refusal> {
        let spent = store.spend(&self.checked.spending(now)).await;
        self.settle(spent)
    }

    pub(crate) fn settle(self, spent: Result<Spend, Unavailable>) -> Result<Verified<R>, Refusal> {
        let reason = match spent {
            Ok(Spend::Fresh) => {
                return Ok(Verified {
                    request: self.request,
                    checked: self.checked,
                });
            }
            Ok(Spend::Replayed) => Reason::Replayed,
            Ok(Spend::Full) => Reason::Full,
            Ok(Spend::StaleEpoch) => Reason::StaleEpoch,
            Err(error) => Reason::Store(error),
        };
        Err(self.checked.refuse(&self.request, reason))
    }
}

impl<R> fmt::Debug for Authentic<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authentic")
            .field("key", &self.checked.key.id)
            .finish_non_exhaustive()
    }
}

/// A request that is genuine, in time, unaltered, and accepted for the first time.
///
/// A handler that asks for one cannot be reached by a request that is not.
pub struct Verified<R> {
    request: R,
    checked: Checked,
}

impl<R: Request> Verified<R> {
    /// The request.
    pub const fn request(&self) -> &R {
        &self.request
    }

    /// Gives the request out.
    pub fn into_request(self) -> R {
        self.request
    }

    /// The key that made it.
    #[must_use]
    pub fn key(&self) -> &Arc<KnownKey> {
        &self.checked.key
    }

    /// Whose key that is.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.checked.key.owner
    }

    /// When the client says it made it, in seconds since 1970.
    #[must_use]
    pub const fn created(&self) -> u64 {
        self.checked.created
    }

    /// What a signed answer is bound to.
    #[must_use]
    pub fn binding(&self) -> RequestBinding {
        self.checked.binding(&self.request)
    }
}

impl<R> fmt::Debug for Verified<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified")
            .field("key", &self.checked.key.id)
            .finish_non_exhaustive()
    }
}
