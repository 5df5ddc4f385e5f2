//! A session with a TPM that keeps what is said from whoever listens to the bus.
//!
//! Both ends agree on a key by elliptic-curve Diffie-Hellman with the chip's
//! own storage key. With it every command and answer is authenticated, and the
//! first parameter of those that carry the secret is encrypted (TPM 2.0
//! Library Specification, Part 1, sections 19.6 and 21; C.6.1 for the salt).

use aes::Aes128;
use cfb_mode::cipher::KeyIvInit as _;
use katachi_crypto::mac::{HmacKey, HmacStream};
use katachi_crypto::{Secret, random};
use ring::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use ring::digest::{Context, SHA256, digest};
use ring::rand::SystemRandom;
use zeroize::Zeroizing;

use super::TpmError;
use super::wire::{
    ALG_AES, ALG_CFB, ALG_SHA256, Answer, Code, Name, Refusal, StorageKey, Writer, command,
};

const NONCE: usize = 32;
/// Of the session: it goes on after this command.
const CONTINUE: u8 = 0x01;

/// Which way the first parameter is encrypted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum Veil {
    None = CONTINUE,
    Command = CONTINUE | 0x20,
    Answer = CONTINUE | 0x40,
}

/// The first half of the handshake, until the TPM has answered.
pub(super) struct Opening {
    nonce: [u8; NONCE],
    salt: Zeroizing<[u8; 32]>,
    encrypted_salt: Vec<u8>,
}

/// An agreed session.
pub(super) struct Session {
    handle: u32,
    key: HmacKey,
    caller: [u8; NONCE],
    tpm: Vec<u8>,
}

/// A command on its way, and what its answer has to match.
pub(super) struct Sent {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    code: Code,
    veil: Veil,
}

impl Opening {
    pub(super) fn new(key: &StorageKey) -> Result<Self, TpmError> {
        let refuse = |_| TpmError::Failed {
            why: "its storage key is no point of the curve".to_owned(),
        };
        let ours = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new())
            .map_err(|_| no_randomness())?;
        let public = ours.compute_public_key().map_err(|_| no_randomness())?;
        // Uncompressed: a four, x and y.
        let (our_x, our_y) = public
            .as_ref()
            .get(1..65)
            .map(|point| point.split_at(32))
            .ok_or_else(no_randomness)?;
        let theirs = [&[4][..], &key.x, &key.y].concat();
        let theirs = UnparsedPublicKey::new(&ECDH_P256, theirs);
        // KDFe (Part 1, 11.4.10.3) in one block.
        let salt = agree_ephemeral(ours, &theirs, |shared| {
            let mut hash = Context::new(&SHA256);
            for piece in [&1_u32.to_be_bytes()[..], shared, b"SECRET\0", our_x, &key.x] {
                hash.update(piece);
            }
            let mut salt = Zeroizing::new([0; 32]);
            salt.copy_from_slice(hash.finish().as_ref());
            salt
        })
        .map_err(refuse)?;
        Ok(Self {
            nonce: random::bytes().map_err(|_| no_randomness())?,
            salt,
            encrypted_salt: Writer::new().sized(our_x).sized(our_y).finish().to_vec(),
        })
    }

    /// The command that begins the session, salted by the storage key at `parent`.
    pub(super) fn command(&self, parent: u32) -> Zeroizing<Vec<u8>> {
        const RH_NULL: u32 = 0x4000_0007;
        const SE_HMAC: u8 = 0;
        let parameters = Writer::new()
            .sized(&self.nonce)
            .sized(&self.encrypted_salt)
            .bytes(&[SE_HMAC])
            .u16(ALG_AES)
            .u16(128)
            .u16(ALG_CFB)
            .u16(ALG_SHA256)
            .finish();
        command(
            Code::StartAuthSession,
            &[parent, RH_NULL],
            None,
            &parameters,
        )
    }

    pub(super) fn finish(self, answer: &Answer<'_>) -> Result<Session, TpmError> {
        let tpm = match answer.parameters.split_at_checked(2) {
            Some((_, nonce)) if nonce.len() == NONCE => nonce.to_vec(),
            _ => return Err(Refusal::Garbled.into()),
        };
        let salt = HmacKey::from_slice(&self.salt[..]);
        Ok(Session {
            handle: answer.handle,
            key: HmacKey::new(&kdf(&salt, b"ATH", &tpm, &self.nonce)),
            caller: self.nonce,
            tpm,
        })
    }
}

impl Session {
    /// Makes a command in this session. `handles` are those it acts on, by the
    /// names of their objects, the first of which the session answers for.
    pub(super) fn command(
        &mut self,
        code: Code,
        handles: &[(u32, Name)],
        parameters: Zeroizing<Vec<u8>>,
        veil: Veil,
    ) -> Result<Sent, TpmError> {
        self.caller = random::bytes().map_err(|_| no_randomness())?;
        let mut parameters = parameters;
        if veil == Veil::Command {
            let first = first_sized(&mut parameters).ok_or_else(no_randomness)?;
            let (key, iv) = self.cipher_key(&self.caller, &self.tpm);
            cfb_mode::Encryptor::<Aes128>::new(&(*key).into(), &(*iv).into()).encrypt(first);
        }
        let names: Vec<u8> = handles.iter().flat_map(|(_, name)| name.0).collect();
        let code_bytes = (code as u32).to_be_bytes();
        let hash = digest(&SHA256, &[&code_bytes[..], &names, &parameters].concat());
        let mut mac = self.mac(hash.as_ref(), &self.caller, &self.tpm);
        mac.update(&[veil as u8]);
        let area = Writer::new()
            .u32(self.handle)
            .sized(&self.caller)
            .bytes(&[veil as u8])
            .sized(mac.finish().as_bytes())
            .finish();
        let handles: Vec<u32> = handles.iter().map(|(handle, _)| *handle).collect();
        Ok(Sent {
            bytes: command(code, &handles, Some(&area), &parameters),
            code,
            veil,
        })
    }

    /// Checks an answer and gives its parameters, as they were before encryption.
    pub(super) fn open(
        &mut self,
        sent: &Sent,
        answer: &Answer<'_>,
    ) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        // An answer without authorisation is one that somebody else made up.
        let authorisation = answer.authorisation.as_ref().ok_or(TpmError::Tampered)?;
        let success = 0_u32.to_be_bytes();
        let code = (sent.code as u32).to_be_bytes();
        let hash = digest(&SHA256, &[&success[..], &code, answer.parameters].concat());
        let mut mac = self.mac(hash.as_ref(), authorisation.nonce, &self.caller);
        mac.update(&[authorisation.attributes]);
        mac.verify(authorisation.hmac)
            .map_err(|_| TpmError::Tampered)?;
        self.tpm = authorisation.nonce.to_vec();
        let mut parameters = Zeroizing::new(answer.parameters.to_vec());
        if sent.veil == Veil::Answer {
            let first = first_sized(&mut parameters).ok_or(Refusal::Garbled)?;
            let (key, iv) = self.cipher_key(&self.tpm, &self.caller);
            cfb_mode::Decryptor::<Aes128>::new(&(*key).into(), &(*iv).into()).decrypt(first);
        }
        Ok(parameters)
    }

    /// The key and initial block for one direction (Part 1, 21.3).
    fn cipher_key(&self, newer: &[u8], older: &[u8]) -> (Half, Half) {
        let both = kdf(&self.key, b"CFB", newer, older);
        let half = |from: usize| {
            let mut half = Zeroizing::new([0; 16]);
            half.copy_from_slice(&both.expose_secret()[from..from + 16]);
            half
        };
        (half(0), half(16))
    }

    /// The beginning of what authenticates a command or an answer (Part 1,
    /// 19.6.5). No object here has a password, so the session's key is all.
    fn mac(&self, hash: &[u8], newer: &[u8], older: &[u8]) -> HmacStream {
        let mut mac = self.key.start();
        mac.update(hash).update(newer).update(older);
        mac
    }
}

type Half = Zeroizing<[u8; 16]>;

/// KDFa (Part 1, 11.4.10.2) for 256 bits, which is one block.
fn kdf(key: &HmacKey, label: &[u8], newer: &[u8], older: &[u8]) -> Secret<32> {
    let mut mac = key.start();
    for piece in [&1_u32.to_be_bytes()[..], label, &[0], newer, older] {
        mac.update(piece);
    }
    mac.update(&256_u32.to_be_bytes());
    Secret::new(*mac.finish().as_bytes())
}

/// The bytes of the TPM2B at the beginning.
fn first_sized(parameters: &mut [u8]) -> Option<&mut [u8]> {
    let length = usize::from(u16::from_be_bytes(*parameters.first_chunk()?));
    parameters.get_mut(2..2 + length)
}

fn no_randomness() -> TpmError {
    TpmError::Failed {
        why: "the system has no randomness for it".to_owned(),
    }
}
