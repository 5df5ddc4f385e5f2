//! Epochs: which life of which store a request was made for.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_crypto::random;

use super::Unavailable;

/// Names one life of one replay store: 16 random bytes.
///
/// The server hands it out, clients put it into every request under their
/// signature. A store that lost its memory takes a new epoch, and every signature
/// made for the old one is dead.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Epoch([u8; 16]);

/// The text is not an epoch: 22 characters of unpadded base64url were expected.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not an epoch: 22 characters of unpadded base64url were expected")]
pub struct ParseEpochError;

impl Epoch {
    /// Length as text, in bytes.
    pub const TEXT_LEN: usize = 22;

    /// A new epoch, different from all others.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the operating system gives no randomness.
    pub fn generate() -> Result<Self, Unavailable> {
        random::bytes().map(Self).map_err(Unavailable::new)
    }

    /// The epoch with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads an epoch from untrusted text. Each epoch has exactly one text.
    ///
    /// # Errors
    ///
    /// Returns [`ParseEpochError`] for anything but 22 characters of canonical base64url.
    pub fn parse(text: &str) -> Result<Self, ParseEpochError> {
        Self::parse_bytes(text.as_bytes())
    }

    pub(crate) fn parse_bytes(text: &[u8]) -> Result<Self, ParseEpochError> {
        if text.len() != Self::TEXT_LEN {
            return Err(ParseEpochError);
        }
        let mut bytes = [0; 16];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(16) => Ok(Self(bytes)),
            _ => Err(ParseEpochError),
        }
    }

    /// The text as it stands in the epoch header.
    ///
    /// # Panics
    ///
    /// Never: 16 bytes always fill the text.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::TEXT_LEN] {
        let mut text = [0; Self::TEXT_LEN];
        URL_SAFE_NO_PAD
            .encode_slice(self.0, &mut text)
            .expect("16 bytes are 22 characters of base64url");
        text
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.encode()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_reads_back_from_its_text() {
        let epoch = Epoch::generate().unwrap();
        assert_eq!(Epoch::parse(&epoch.to_string()), Ok(epoch));
        assert_ne!(epoch, Epoch::generate().unwrap());
        assert!(Epoch::parse("").is_err());
        assert!(Epoch::parse(&format!("{epoch}=")).is_err());
    }
}
