//! The first 16 bytes of an envelope: format, suite, kind, flags, key id.

use super::{KeyId, Kind};
use crate::Error;

/// Length of the fixed header, in bytes.
pub(crate) const HEADER: usize = 16;

const MAGIC: &[u8; 3] = b"KTC";
const VERSION: u8 = 1;
/// C2SP chunked encryption, Cobblestone-256.
const SUITE: u8 = 1;

/// A header that this version can read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) key: KeyId,
}

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..3].copy_from_slice(MAGIC);
        bytes[3] = VERSION;
        bytes[4] = SUITE;
        bytes[5] = self.kind.code();
        bytes[8..].copy_from_slice(self.key.as_bytes());
        bytes
    }

    pub(crate) fn parse(bytes: &[u8; HEADER]) -> Result<Self, Error> {
        let [k, t, c, version, suite, kind, flag_high, flag_low, key @ ..] = *bytes;
        if [k, t, c] != *MAGIC {
            return Err(Error::Malformed {
                expected: "an envelope that starts with `KTC`",
            });
        }
        if version != VERSION {
            return Err(Error::Unsupported {
                what: "envelope version",
            });
        }
        if suite != SUITE {
            return Err(Error::Unsupported {
                what: "envelope suite",
            });
        }
        if [flag_high, flag_low] != [0, 0] {
            return Err(Error::Unsupported {
                what: "envelope flags",
            });
        }
        let kind = Kind::from_code(kind).ok_or(Error::Unsupported {
            what: "envelope kind",
        })?;
        Ok(Self {
            kind,
            key: KeyId::from_bytes(key),
        })
    }
}
