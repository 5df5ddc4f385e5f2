//! The client's side: from a request to the headers that sign it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::base::{Covered, Sink, one};
use super::digest::content_digest;
use super::input::write_request_params;
use super::message::Request;
use super::refusal::Reason;
use super::verify::{CONTENT_DIGEST, SIGNATURE, SIGNATURE_INPUT};
use super::{KeyId, Profile, RequestBinding, SigningKey};
use crate::clock::Timestamp;
use crate::replay::{Epoch, Nonce};

/// Signs requests of one profile with one key.
#[derive(Debug)]
pub struct Signer {
    profile: Profile,
    key_id: KeyId,
    key: SigningKey,
}

/// What makes a signature fresh.
#[derive(Clone, Copy, Debug)]
pub struct Freshness<'a> {
    /// The server's time as far as the client knows: its own clock, plus the offset
    /// learnt from signed responses ([`super::ClockOffset`]).
    pub now: Timestamp,
    /// A nonce that was never used before, from [`crate::replay::NonceSequence`].
    pub nonce: Nonce,
    /// The epoch that the server handed out.
    pub epoch: Epoch,
    /// What the TLS connection exports under `EXPORTER-Channel-Binding`, for profiles
    /// that bind to it.
    pub channel: Option<&'a [u8; 32]>,
}

impl Freshness<'_> {
    /// Freshness without a channel binding.
    #[must_use]
    pub const fn new(now: Timestamp, nonce: Nonce, epoch: Epoch) -> Self {
        Self {
            now,
            nonce,
            epoch,
            channel: None,
        }
    }
}

/// A request that cannot be signed. The fault is the caller's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The request breaks a rule that the verifier would refuse it for.
    #[error("this request would be refused: {0}")]
    Unfit(String),
    /// The request already has a header that the signer adds.
    #[error("the request already has the header {0}, which the signer adds: remove it")]
    AlreadyPresent(&'static str),
    /// The profile binds to the TLS connection.
    #[error("the profile binds to the TLS connection: give Freshness::channel its exporter value")]
    NoChannel,
}

impl Signer {
    /// A signer for `profile` whose signatures name `key_id`.
    pub fn new(profile: Profile, key_id: KeyId, key: impl Into<SigningKey>) -> Self {
        Self {
            profile,
            key_id,
            key: key.into(),
        }
    }

    /// The key's name.
    #[must_use]
    pub const fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// Signs a request. Add the headers to it and change nothing afterwards.
    ///
    /// # Errors
    ///
    /// Returns [`SignError`] if no verifier of the profile would accept the request.
    pub fn sign<R: Request + ?Sized>(
        &self,
        request: &R,
        freshness: &Freshness<'_>,
    ) -> Result<SignedRequest, SignError> {
        let profile = &self.profile;
        let added = [
            CONTENT_DIGEST,
            profile.epoch_header,
            SIGNATURE_INPUT,
            SIGNATURE,
        ];
        for name in added.into_iter().chain(profile.channel_header) {
            match one(request, name) {
                Err(Reason::Absent(_)) => {}
                _ => return Err(SignError::AlreadyPresent(name)),
            }
        }
        let channel = match (profile.channel_header, freshness.channel) {
            (Some(_), None) => return Err(SignError::NoChannel),
            (Some(_), Some(channel)) => Some(encode_channel(channel)),
            (None, _) => None,
        };
        let digest = content_digest(request.body());
        let epoch = freshness.epoch.encode();
        let mut covered = Covered::collect(profile, request)
            .map_err(|reason| SignError::Unfit(reason.to_string()))?;
        covered.digest = &digest;
        covered.epoch = &epoch;
        covered.channel = channel.as_ref().map_or(b"", |text| text);

        let created = freshness.now.as_unix();
        let mut params = Vec::with_capacity(320);
        write_request_params(
            &mut params,
            profile,
            covered.present,
            created,
            created + u64::from(profile.window),
            &freshness.nonce,
            self.key_id.as_str(),
        );
        let signature = self
            .key
            .sign_base(|mut out| covered.write(profile, &params, &mut out));
        let binding = RequestBinding {
            method: covered.method.into(),
            path: covered.path.into(),
            query: covered.query.into(),
            signature: signature.clone().into(),
        };
        let mut headers = vec![
            (CONTENT_DIGEST, ascii(&digest)),
            (profile.epoch_header, ascii(&epoch)),
        ];
        if let (Some(name), Some(value)) = (profile.channel_header, &channel) {
            headers.push((name, ascii(value)));
        }
        headers.push((
            SIGNATURE_INPUT,
            format!("{}={}", profile.label, ascii(&params)),
        ));
        headers.push((SIGNATURE, format!("{}={signature}", profile.label)));
        Ok(SignedRequest { headers, binding })
    }
}

/// The headers that sign a request, and what the answer must be bound to.
#[derive(Clone, Debug)]
pub struct SignedRequest {
    headers: Vec<(&'static str, String)>,
    binding: RequestBinding,
}

impl SignedRequest {
    /// The headers to add, names in lower case.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
    }

    /// What the answer must be bound to; give it to [`super::verify_response`].
    #[must_use]
    pub const fn binding(&self) -> &RequestBinding {
        &self.binding
    }
}

/// Where a key wants its base: streamed, or whole.
pub(crate) enum Base<'a> {
    Mac(&'a mut katachi_crypto::mac::HmacStream),
    Text(&'a mut Vec<u8>),
}

impl SigningKey {
    /// Signs what `write` writes, and gives the signature as `:base64:`.
    pub(crate) fn sign_base(&self, write: impl FnOnce(Base<'_>)) -> String {
        match self {
            Self::Hmac(key) => {
                let mut mac = key.start();
                write(Base::Mac(&mut mac));
                encode_signature(mac.finish().as_bytes())
            }
            Self::Ed25519(pair) => {
                let mut base = Vec::with_capacity(1024);
                write(Base::Text(&mut base));
                encode_signature(pair.sign(&base).as_ref())
            }
        }
    }
}

impl Sink for Base<'_> {
    fn put(&mut self, bytes: &[u8]) {
        match self {
            Self::Mac(mac) => mac.put(bytes),
            Self::Text(text) => text.put(bytes),
        }
    }
}

/// A byte sequence of RFC 8941.
pub(crate) fn encode_signature(signature: &[u8]) -> String {
    format!(":{}:", STANDARD.encode(signature))
}

/// 32 bytes as 43 characters of base64url.
pub(crate) fn encode_channel(channel: &[u8; 32]) -> [u8; 43] {
    let mut text = [0; 43];
    URL_SAFE_NO_PAD
        .encode_slice(channel, &mut text)
        .expect("32 bytes are 43 characters of base64url");
    text
}

pub(crate) fn ascii(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

impl fmt::Display for SignedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.headers() {
            writeln!(f, "{name}: {value}")?;
        }
        Ok(())
    }
}
