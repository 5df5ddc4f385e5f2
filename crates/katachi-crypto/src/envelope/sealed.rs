//! An envelope whose header was read and whose content was not opened yet.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::KeyId;
use super::chunked::plain_len;
use super::header::{HEADER, Header};
use super::seal::{MAX_PLAINTEXT, MIN_LEN, PREFIX};
use crate::Error;

/// What an envelope holds. Bound to its content: one kind never opens as another.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// A vault key, wrapped.
    Slot,
    /// A set of keys.
    Keyset,
    /// A value or a small file.
    Record,
    /// Content of any length, in chunks.
    Stream,
    /// A cell of a database table.
    Column,
}

impl Kind {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Slot => 1,
            Self::Keyset => 2,
            Self::Record => 3,
            Self::Stream => 4,
            Self::Column => 5,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [
            Self::Slot,
            Self::Keyset,
            Self::Record,
            Self::Stream,
            Self::Column,
        ]
        .into_iter()
        .find(|kind| kind.code() == code)
    }
}

/// A sealed value.
///
/// ```
/// use katachi_crypto::envelope::{Context, DataKey, Kind, Sealed};
///
/// let key = DataKey::generate()?;
/// let sealed = key.seal(Kind::Record, &Context::new("note"), b"text")?;
/// let again = Sealed::from_text(&sealed.to_text())?;
/// assert_eq!(again, sealed);
/// assert_eq!(again.key_id(), key.id());
/// # Ok::<(), katachi_crypto::Error>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sealed {
    pub(super) header: Header,
    pub(super) bytes: Vec<u8>,
}

impl Sealed {
    const TEXT_PREFIX: &str = "ktc1.";

    /// Reads an envelope's header and checks its length; opens nothing.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Malformed`] if it is no envelope, [`Error::Truncated`]
    /// if its length cannot be right, [`Error::Unsupported`] for an unknown
    /// version, suite, kind or flag, and [`Error::Limit`] if it is too long.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let header = Self::check(bytes)?;
        Ok(Self {
            header,
            bytes: bytes.to_vec(),
        })
    }

    pub(super) fn check(bytes: &[u8]) -> Result<Header, Error> {
        let fixed = bytes.first_chunk::<HEADER>().ok_or(Error::Truncated)?;
        let header = Header::parse(fixed)?;
        if bytes.len() < MIN_LEN {
            return Err(Error::Truncated);
        }
        if plain_len(bytes.len() - PREFIX)? > MAX_PLAINTEXT {
            return Err(Error::Limit {
                what: "the length of a value",
                limit: MAX_PLAINTEXT as u64,
            });
        }
        Ok(header)
    }

    /// The key that it was sealed with.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.header.key
    }

    /// What it holds.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.header.kind
    }

    /// The envelope's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The envelope's bytes, without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Text form: `ktc1.` and unpadded base64url (RFC 4648, section 5).
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = Self::TEXT_PREFIX.to_owned();
        URL_SAFE_NO_PAD.encode_string(&self.bytes, &mut text);
        text
    }

    /// Reads the text form.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Malformed`] for other text, and what [`Sealed::parse`]
    /// returns for other bytes.
    pub fn from_text(text: &str) -> Result<Self, Error> {
        const EXPECTED: Error = Error::Malformed {
            expected: "`ktc1.` and unpadded base64url",
        };
        let encoded = text.strip_prefix(Self::TEXT_PREFIX).ok_or(EXPECTED)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| EXPECTED)?;
        let header = Self::check(&bytes)?;
        Ok(Self { header, bytes })
    }
}
