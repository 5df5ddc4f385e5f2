//! The bytes between a program and a TPM 2.0, as far as a slot needs them.
//!
//! ```text
//! command: tag (2)  length (4)  command code (4)   handles (4 each)  [authorisation: length (4), ...]  parameters
//! answer:  tag (2)  length (4)  response code (4)  [handle (4)]  [parameters: length (4)]  parameters  [authorisation]
//! ```
//!
//! Numbers are big-endian; a TPM2B is a length of two bytes and that many
//! bytes. Numbers in brackets behind a name are sections of the TPM 2.0
//! Library Specification, revision 1.59: Part 2 (structures), Part 3 (commands).
//! Answers come from a bus that others may write to: lengths are checked
//! against what is there, and nothing is allocated by them.

use katachi_crypto::Secret;
use zeroize::Zeroizing;

use super::TpmError;
use crate::vault::Reader;

/// Length of what every command and every answer begins with.
pub(super) const HEADER: usize = 10;
/// Longest answer, as of the PC Client profile's buffers.
pub(super) const MAX_ANSWER: usize = 4096;

const TAG_PLAIN: u16 = 0x8001;
const TAG_SESSIONS: u16 = 0x8002;

/// Commands (Part 2, 6.5.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(super) enum Code {
    CreatePrimary = 0x131,
    Create = 0x153,
    Load = 0x157,
    Unseal = 0x15e,
    FlushContext = 0x165,
    StartAuthSession = 0x176,
}

impl Code {
    /// Whether a successful answer begins with a handle.
    const fn makes_handle(self) -> bool {
        matches!(
            self,
            Self::CreatePrimary | Self::Load | Self::StartAuthSession
        )
    }
}

/// Puts bytes together that may be secret.
#[derive(Default)]
pub(super) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    pub(super) fn new() -> Self {
        // Long enough that nothing is moved, and so left behind, while growing.
        Self(Zeroizing::new(Vec::with_capacity(1024)))
    }

    pub(super) fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A TPM2B: a length of two bytes, and the bytes.
    pub(super) fn sized(self, bytes: &[u8]) -> Self {
        self.u16(bytes.len() as u16).bytes(bytes)
    }

    pub(super) fn finish(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

/// A command with its handles, its authorisation area and its parameters.
pub(super) fn command(
    code: Code,
    handles: &[u32],
    authorisation: Option<&[u8]>,
    parameters: &[u8],
) -> Zeroizing<Vec<u8>> {
    let area = authorisation.map_or(0, |area| 4 + area.len());
    let length = HEADER + 4 * handles.len() + area + parameters.len();
    let tag = if authorisation.is_some() {
        TAG_SESSIONS
    } else {
        TAG_PLAIN
    };
    let mut writer = Writer::new().u16(tag).u32(length as u32).u32(code as u32);
    for handle in handles {
        writer = writer.u32(*handle);
    }
    if let Some(area) = authorisation {
        writer = writer.u32(area.len() as u32).bytes(area);
    }
    writer.bytes(parameters).finish()
}

/// The authorisation of somebody without a password (Part 1, 19.4).
pub(super) fn no_password() -> Zeroizing<Vec<u8>> {
    const TPM_RS_PW: u32 = 0x4000_0009;
    Writer::new()
        .u32(TPM_RS_PW)
        .sized(&[])
        .bytes(&[0])
        .sized(&[])
        .finish()
}

/// An answer of success, taken apart; nothing in it is believed yet.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) handle: u32,
    pub(super) parameters: &'a [u8],
    pub(super) authorisation: Option<Authorisation<'a>>,
}

/// What authenticates an answer (Part 2, 10.13.3).
#[derive(Debug)]
pub(super) struct Authorisation<'a> {
    pub(super) nonce: &'a [u8],
    pub(super) attributes: u8,
    pub(super) hmac: &'a [u8],
}

/// What came back: an answer, or the code of a refusal.
pub(super) fn answer(code: Code, bytes: &[u8]) -> Result<Answer<'_>, Refusal> {
    let mut reader = Reader(bytes);
    let tag = u16::from_be_bytes(reader.array().ok_or(Refusal::Garbled)?);
    let length = u32::from_be_bytes(reader.array().ok_or(Refusal::Garbled)?);
    let response = u32::from_be_bytes(reader.array().ok_or(Refusal::Garbled)?);
    if length as usize != bytes.len() || bytes.len() > MAX_ANSWER {
        return Err(Refusal::Garbled);
    }
    if response != 0 {
        return Err(if reader.0.is_empty() {
            Refusal::Code(response)
        } else {
            Refusal::Garbled
        });
    }
    let handle = if code.makes_handle() {
        u32::from_be_bytes(reader.array().ok_or(Refusal::Garbled)?)
    } else {
        0
    };
    match tag {
        TAG_PLAIN => Ok(Answer {
            handle,
            parameters: reader.0,
            authorisation: None,
        }),
        TAG_SESSIONS => {
            let parameters = reader.counted(4, MAX_ANSWER).ok_or(Refusal::Garbled)?;
            let nonce = reader.counted(2, 64).ok_or(Refusal::Garbled)?;
            let attributes = reader.byte().ok_or(Refusal::Garbled)?;
            let hmac = reader.counted(2, 64).ok_or(Refusal::Garbled)?;
            if !reader.0.is_empty() {
                return Err(Refusal::Garbled);
            }
            Ok(Answer {
                handle,
                parameters,
                authorisation: Some(Authorisation {
                    nonce,
                    attributes,
                    hmac,
                }),
            })
        }
        _ => Err(Refusal::Garbled),
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    /// The TPM said no, with this code.
    Code(u32),
    /// Those are not the bytes of an answer.
    Garbled,
}

impl Refusal {
    /// Whether the TPM asks to be asked again (Part 2, 6.6.3: YIELDED, TESTING, RETRY).
    pub(super) fn is_for_now(self) -> bool {
        matches!(self, Self::Code(0x908 | 0x90a | 0x922))
    }
}

impl From<Refusal> for TpmError {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::Code(code) => code,
            Refusal::Garbled => {
                return Self::Failed {
                    why: "its answer is none that a TPM 2.0 gives".to_owned(),
                };
            }
        };
        // Codes of format one carry the number of a parameter or session above
        // the error itself (Part 2, 6.6.2).
        let error = if code & 0x80 != 0 { code & 0xbf } else { code };
        match error {
            // INTEGRITY: this storage key did not seal it.
            0x9f => Self::Other,
            // AUTH_FAIL, BAD_AUTH.
            0x8e | 0xa2 => Self::Denied,
            0x100 => Self::Failed {
                why: "it was not started up (0x100)".to_owned(),
            },
            0x902 | 0x903 => Self::Failed {
                why: format!(
                    "it has no room left ({code:#x}); use its resource manager, /dev/tpmrm0"
                ),
            },
            _ => Self::Failed {
                why: format!("it answered with code {code:#x}"),
            },
        }
    }
}

/// A public area and what the chip calls it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct StorageKey {
    pub(super) x: [u8; 32],
    pub(super) y: [u8; 32],
    pub(super) name: Name,
}

/// The name of an object: the algorithm and the digest of its public area
/// (Part 1, 16).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Name(pub(super) [u8; Self::LEN]);

impl Name {
    pub(super) const LEN: usize = 34;

    pub(super) fn of(public: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, public);
        let mut name = [0; Self::LEN];
        name[..2].copy_from_slice(&ALG_SHA256.to_be_bytes());
        name[2..].copy_from_slice(digest.as_ref());
        Self(name)
    }
}

pub(super) const ALG_AES: u16 = 0x0006;
const ALG_KEYEDHASH: u16 = 0x0008;
pub(super) const ALG_SHA256: u16 = 0x000b;
const ALG_NULL: u16 = 0x0010;
const ALG_ECC: u16 = 0x0023;
pub(super) const ALG_CFB: u16 = 0x0043;
const CURVE_P256: u16 = 0x0003;

/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, decrypt.
const STORAGE_ATTRIBUTES: u32 = 0x0003_0472;
/// fixedTPM, fixedParent, userWithAuth, noDA.
const SEALED_ATTRIBUTES: u32 = 0x0000_0452;

/// Everything of a storage key's public area before its point: the elliptic
/// storage root key of the TCG's provisioning guidance (7.5.1).
fn storage_head() -> Writer {
    Writer::new()
        .u16(ALG_ECC)
        .u16(ALG_SHA256)
        .u32(STORAGE_ATTRIBUTES)
        .sized(&[])
        .u16(ALG_AES)
        .u16(128)
        .u16(ALG_CFB)
        .u16(ALG_NULL)
        .u16(CURVE_P256)
        .u16(ALG_NULL)
}

/// Parameters of the command that derives the storage key from the chip's seed.
pub(super) fn storage_key_parameters() -> Zeroizing<Vec<u8>> {
    let public = storage_head().sized(&[0; 32]).sized(&[0; 32]).finish();
    Writer::new()
        // No password, no data.
        .sized(&[0; 4])
        .sized(&public)
        // No outside information, no PCR.
        .sized(&[])
        .u32(0)
        .finish()
}

/// Reads the storage key from the parameters of an answer.
pub(super) fn storage_key(parameters: &[u8]) -> Option<StorageKey> {
    let public = Reader(parameters).counted(2, MAX_ANSWER)?;
    let mut point = Reader(public.strip_prefix(storage_head().finish().as_slice())?);
    let (x, y) = (coordinate(&mut point)?, coordinate(&mut point)?);
    point.0.is_empty().then(|| StorageKey {
        x,
        y,
        name: Name::of(public),
    })
}

/// A chip may leave leading zeros out.
fn coordinate(reader: &mut Reader<'_>) -> Option<[u8; 32]> {
    let bytes = reader.counted(2, 32)?;
    let mut padded = [0; 32];
    padded[32 - bytes.len()..].copy_from_slice(bytes);
    Some(padded)
}

/// Parameters of the command that seals `secret` under a storage key. What has
/// to be encrypted on the way is their first TPM2B.
pub(super) fn sealing_parameters(secret: &Secret<32>) -> Zeroizing<Vec<u8>> {
    let sensitive = Writer::new()
        .sized(&[])
        .sized(secret.expose_secret())
        .finish();
    let public = Writer::new()
        .u16(ALG_KEYEDHASH)
        .u16(ALG_SHA256)
        .u32(SEALED_ATTRIBUTES)
        .sized(&[])
        .u16(ALG_NULL)
        .sized(&[])
        .finish();
    Writer::new()
        .sized(&sensitive)
        .sized(&public)
        .sized(&[])
        .u32(0)
        .finish()
}

/// See [`testing::laws::tpm_answer`](crate::testing::laws::tpm_answer).
#[cfg(any(test, feature = "testing"))]
pub(crate) fn check_law(bytes: &[u8]) {
    for code in [
        Code::CreatePrimary,
        Code::Create,
        Code::Load,
        Code::Unseal,
        Code::FlushContext,
        Code::StartAuthSession,
    ] {
        let Ok(answer) = answer(code, bytes) else {
            continue;
        };
        let mut writer = Writer::new()
            .bytes(&bytes[..2])
            .u32(bytes.len() as u32)
            .u32(0);
        if code.makes_handle() {
            writer = writer.u32(answer.handle);
        }
        match answer.authorisation {
            None => writer = writer.bytes(answer.parameters),
            Some(authorisation) => {
                writer = writer
                    .u32(answer.parameters.len() as u32)
                    .bytes(answer.parameters)
                    .sized(authorisation.nonce)
                    .bytes(&[authorisation.attributes])
                    .sized(authorisation.hmac);
            }
        }
        assert_eq!(
            writer.finish().as_slice(),
            bytes,
            "read otherwise than written"
        );
        let _ = storage_key(answer.parameters);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keeps_its_law_on_arbitrary_answers(body in prop::collection::vec(any::<u8>(), 0..200), plain: bool) {
            let tag = if plain { TAG_PLAIN } else { TAG_SESSIONS };
            let bytes = Writer::new()
                .u16(tag)
                .u32((HEADER + body.len()) as u32)
                .u32(0)
                .bytes(&body)
                .finish();
            check_law(&bytes);
            check_law(&body);
        }

        #[test]
        fn keeps_its_law_on_sealed_secrets(name: [u8; 34], public in prop::collection::vec(any::<u8>(), 0..300), private in prop::collection::vec(any::<u8>(), 0..300)) {
            let bytes = Writer::new()
                .bytes(b"KTT\x01")
                .bytes(&name)
                .sized(&public)
                .sized(&private)
                .finish();
            crate::tpm::check_sealed_law(&bytes);
            crate::tpm::check_sealed_law(&bytes[..bytes.len() / 2]);
        }
    }

    #[test]
    fn sorts_the_refusals_of_a_chip() {
        // INTEGRITY of the first parameter, BAD_AUTH of the first session, HANDLE.
        assert_eq!(TpmError::from(Refusal::Code(0x1df)), TpmError::Other);
        assert_eq!(TpmError::from(Refusal::Code(0x9a2)), TpmError::Denied);
        assert_eq!(TpmError::from(Refusal::Code(0x98e)), TpmError::Denied);
        let error = TpmError::from(Refusal::Code(0x18b));
        assert!(matches!(error, TpmError::Failed { .. }), "{error}");
        assert!(Refusal::Code(0x922).is_for_now());
        assert!(!Refusal::Code(0x902).is_for_now());
    }
}
