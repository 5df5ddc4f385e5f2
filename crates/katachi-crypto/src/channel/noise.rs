//! The handshake itself: snow's state machine over this crate's primitives.
//!
//! snow keeps its chaining key and the pairing secret in the state as plain
//! arrays. The state therefore stays in memory that is wiped as a whole, and
//! what its steps leave on the stack is scrubbed.

use std::cell::RefCell;
use std::fmt;

use sha2::{Digest, Sha256};
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState, TransportState};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use super::cipher::AesGcm;
use super::frame::{self, PREFIX};
use super::keys::public_of;
use super::{Binding, Error, PublicKey, StaticKey};
use crate::Secret;
use crate::wipe::{Wiped, scrub_stack};

/// The longest handshake message, in bytes.
const LONGEST: usize = 128;

/// Who speaks first, and what both know before.
pub(super) struct Setup<'a> {
    pub(super) pattern: &'static str,
    pub(super) initiates: bool,
    pub(super) key: &'a StaticKey,
    pub(super) remote: Option<&'a PublicKey>,
    pub(super) secret: Option<&'a Secret<32>>,
    pub(super) binding: &'a Binding<'a>,
}

/// A handshake under way.
pub(super) struct Handshake(Wiped<RefCell<Option<HandshakeState>>>);

/// What a finished handshake leaves.
pub(super) struct Finished {
    pub(super) state: TransportState,
    pub(super) peer: PublicKey,
    pub(super) hash: [u8; 32],
}

impl Handshake {
    pub(super) fn new(setup: &Setup<'_>) -> Result<Self, Error> {
        let handshake = Self::build(setup);
        scrub_stack();
        handshake
    }

    #[inline(never)]
    fn build(setup: &Setup<'_>) -> Result<Self, Error> {
        let prologue = setup.binding.prologue();
        let builder = || -> Result<HandshakeState, snow::Error> {
            let mut builder = Builder::with_resolver(params(setup.pattern)?, Box::new(Primitives))
                .prologue(&prologue)?
                .local_private_key(setup.key.expose_secret())?;
            if let Some(remote) = setup.remote {
                builder = builder.remote_public_key(remote.as_bytes())?;
            }
            if let Some(secret) = setup.secret {
                builder = builder.psk(2, secret.expose_secret())?;
            }
            if setup.initiates {
                builder.build_initiator()
            } else {
                builder.build_responder()
            }
        };
        let state = builder().map_err(fault)?;
        Ok(Self(Wiped::new(RefCell::new(Some(state)))))
    }

    /// Writes the next message, as a frame.
    pub(super) fn write(&self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = vec![0; PREFIX + LONGEST];
        let written = self.with(|state| state.write_message(payload, &mut out[PREFIX..]))?;
        out.truncate(PREFIX + written);
        out[..PREFIX].copy_from_slice(&frame::prefix(written));
        Ok(out)
    }

    /// Reads the next message, which is `length` bytes long and carries `N`.
    pub(super) fn read<const N: usize>(
        &self,
        message: &[u8],
        length: usize,
    ) -> Result<Zeroizing<[u8; N]>, Error> {
        // snow wants room for a tag even where there is none.
        let mut payload = Zeroizing::new([0; LONGEST]);
        if message.len() != length {
            return Err(Error::Handshake);
        }
        let read = self.with(|state| state.read_message(message, payload.as_mut_slice()))?;
        let mut content = Zeroizing::new([0; N]);
        if read != N {
            return Err(Error::Handshake);
        }
        content.copy_from_slice(&payload[..N]);
        Ok(content)
    }

    /// The other end's key, where the messages so far have told it.
    pub(super) fn peer(&self) -> Result<PublicKey, Error> {
        let state = self.0.get().borrow();
        let key = state.as_ref().and_then(HandshakeState::get_remote_static);
        let key = key.and_then(|key| key.try_into().ok());
        key.map(PublicKey::from_bytes).ok_or(Error::Handshake)
    }

    /// Ends the handshake after its last message.
    pub(super) fn finish(self) -> Result<Finished, Error> {
        let peer = self.peer()?;
        let finished = self.split(peer);
        scrub_stack();
        finished
    }

    #[inline(never)]
    fn split(self, peer: PublicKey) -> Result<Finished, Error> {
        let state = self.0.get().take().ok_or(Error::Handshake)?;
        let hash = state.get_handshake_hash();
        let hash = hash.try_into().map_err(|_| Error::Handshake)?;
        let state = state.into_transport_mode().map_err(fault)?;
        Ok(Finished { state, peer, hash })
    }

    fn with(
        &self,
        step: impl FnOnce(&mut HandshakeState) -> Result<usize, snow::Error>,
    ) -> Result<usize, Error> {
        let mut state = self.0.get().borrow_mut();
        let state = state.as_mut().ok_or(Error::Handshake)?;
        let outcome = step(state);
        scrub_stack();
        outcome.map_err(fault)
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Handshake")
    }
}

/// Our own faults are randomness only: all else comes from keys and bytes that
/// were given to us.
fn fault(error: snow::Error) -> Error {
    match error {
        snow::Error::Rng => Error::Randomness,
        _ => Error::Handshake,
    }
}

/// The protocol of a pattern: `Noise_IK_25519_AESGCM_SHA256` of `IK`.
fn params(pattern: &str) -> Result<NoiseParams, snow::Error> {
    format!("Noise_{pattern}_25519_AESGCM_SHA256").parse()
}

/// The suite `25519_AESGCM_SHA256`, and no other.
struct Primitives;

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(System))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(X25519::default()) as _)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::SHA256).then(|| Box::new(Sha(Sha256::new())) as _)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::AESGCM).then(|| Box::new(AesGcm::default()) as _)
    }
}

struct System;

impl Random for System {
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), snow::Error> {
        crate::random::fill(bytes).map_err(|_| snow::Error::Rng)
    }
}

struct X25519 {
    secret: Secret<32>,
    public: [u8; 32],
}

impl Default for X25519 {
    fn default() -> Self {
        Self {
            secret: Secret::new([0; 32]),
            public: [0; 32],
        }
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, key: &[u8]) {
        self.secret = Secret::fill_with(|secret| secret.copy_from_slice(key));
        self.public = public_of(&self.secret);
    }

    fn generate(&mut self, _: &mut dyn Random) -> Result<(), snow::Error> {
        self.secret = Secret::random().map_err(|_| snow::Error::Rng)?;
        self.public = public_of(&self.secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.secret.expose_secret()
    }

    /// RFC 7748, section 6.1: a result of zeros, which the peer's key forces
    /// whatever ours is, is refused. Noise (section 12.1) leaves that open.
    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let public = public.first_chunk::<32>().ok_or(snow::Error::Dh)?;
        let secret = StaticSecret::from(*self.secret.expose_secret());
        let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(*public));
        if !shared.was_contributory() {
            return Err(snow::Error::Dh);
        }
        out[..32].copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

struct Sha(Sha256);

impl Hash for Sha {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        Digest::reset(&mut self.0);
    }

    fn input(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(&self.0.finalize_reset());
    }
}

#[cfg(test)]
#[path = "noise_vectors.rs"]
mod tests;
