//! What a TPM slot keeps in the vault file.
//!
//! ```text
//! offset  size
//! 0       4    "KTT" and the format version, 1
//! 4       34   name of the storage key that sealed it
//! 38      2+n  public part of the sealed object
//! ..      2+n  its private part, encrypted by the chip
//! ```
//!
//! The name is what notices another chip, and somebody on the bus who puts a
//! key of their own in the place of the chip's.

use super::TpmError;
use super::wire::Name;
use crate::vault::Reader;

const MAGIC: &[u8; 4] = b"KTT\x01";
const MAX_PART: usize = 256;

/// A secret that the chip encrypted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct SealedSecret {
    pub(super) parent: Name,
    pub(super) public: Vec<u8>,
    pub(super) private: Vec<u8>,
}

impl SealedSecret {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.parent.0);
        for part in [&self.public, &self.private] {
            bytes.extend_from_slice(&(part.len() as u16).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, TpmError> {
        let read = || {
            let mut reader = Reader(bytes.strip_prefix(MAGIC)?);
            let parent = Name(reader.array()?);
            let public = reader.counted(2, MAX_PART)?.to_vec();
            let private = reader.counted(2, MAX_PART)?.to_vec();
            reader.0.is_empty().then_some(Self {
                parent,
                public,
                private,
            })
        };
        read().ok_or(TpmError::Damaged)
    }

    /// Takes the two parts from the parameters of the answer that sealed.
    pub(super) fn from_answer(parent: Name, parameters: &[u8]) -> Option<Self> {
        let mut reader = Reader(parameters);
        let private = reader.counted(2, MAX_PART)?.to_vec();
        let public = reader.counted(2, MAX_PART)?.to_vec();
        Some(Self {
            parent,
            public,
            private,
        })
    }
}

/// See [`testing::laws::tpm_sealed`](crate::testing::laws::tpm_sealed).
#[cfg(any(test, feature = "testing"))]
pub(crate) fn check_law(bytes: &[u8]) {
    if let Ok(sealed) = SealedSecret::parse(bytes) {
        assert_eq!(sealed.to_bytes(), bytes, "read otherwise than written");
    }
}
