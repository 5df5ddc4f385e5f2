//! What is inside of a frame of a channel, once opened.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | kind: 1 message, 2 more, 3 rekey, 4 close, 5 confirm, 6 reveal |
//! | 1 | 1 | zero |
//! | 2 | 2 | length of the content, big-endian |
//! | 4 | 4 | kind 1: length of the whole message, big-endian; else zero |
//! | 8 | | content, then zeros up to the size class |
//!
//! A record is 256, 1,024, 4,096 or 16,384 bytes long, the smallest of these
//! that holds it. A message of up to 16,376 bytes is one record of kind 1. A
//! longer one is a full record of kind 1, full records of kind 2 and a last one
//! of kind 2 with what remains, which is never nothing. Rekey, close and confirm
//! have no content, reveal has 32 bytes.
//!
//! Each record has one encoding: [`Record::parse`] refuses every other.

use super::Error;

/// Sizes that a record can have, in bytes.
pub const CLASSES: [usize; 4] = [256, 1024, 4096, 16_384];

/// Bytes before the content.
pub(super) const HEADER: usize = 8;

/// Most content that a record holds, in bytes.
pub const MAX_CONTENT: usize = CLASSES[3] - HEADER;

/// Most bytes that a message has.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// An opened record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Record<'a> {
    /// The first, often only, part of a message.
    Message {
        /// Length of the whole message, in bytes.
        total: usize,
        /// The message, or as much of it as one record holds.
        content: &'a [u8],
    },
    /// The next part of a message.
    More {
        /// As much of the rest as one record holds.
        content: &'a [u8],
    },
    /// The sender's next record is under a new key (Noise, sections 4.2 and 11.3).
    Rekey,
    /// The sender sends nothing more.
    Close,
    /// The first record of who began a handshake by link or key: shows that it
    /// holds the keys.
    Confirm,
    /// The first record of who answered a handshake by code: the number that it
    /// had committed to.
    Reveal {
        /// The number.
        nonce: &'a [u8; 32],
    },
}

impl<'a> Record<'a> {
    /// Reads an opened record.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Malformed`] unless `bytes` are what [`Record::encode`]
    /// makes of the result.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let Some((header, body)) = bytes.split_first_chunk::<HEADER>() else {
            return malformed("a record has one of four sizes");
        };
        let [kind, zero, high, low, total @ ..] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let total = u32::from_be_bytes(total) as usize;
        let Some((content, padding)) = body.split_at_checked(length) else {
            return malformed("the content lies within its record");
        };
        if class(length) != Some(bytes.len()) {
            return malformed("a record has the smallest size that holds it");
        }
        if zero != 0 || padding.iter().any(|byte| *byte != 0) {
            return malformed("padding is zero");
        }
        if total > MAX_MESSAGE {
            return malformed("a message has at most 16 MiB");
        }
        match (kind, total, content) {
            (1, _, _) if length == total.min(MAX_CONTENT) => Ok(Self::Message { total, content }),
            (2, 0, [_, ..]) => Ok(Self::More { content }),
            (3, 0, []) => Ok(Self::Rekey),
            (4, 0, []) => Ok(Self::Close),
            (5, 0, []) => Ok(Self::Confirm),
            (6, 0, content) => match content.try_into() {
                Ok(nonce) => Ok(Self::Reveal { nonce }),
                Err(_) => malformed("a revealed number has 32 bytes"),
            },
            _ => malformed("a record is of a known kind and full unless it is a last one"),
        }
    }

    /// Appends the record, padded to its size class, to `out`.
    ///
    /// # Panics
    ///
    /// Panics if the content is longer than [`MAX_CONTENT`] or the total longer
    /// than [`MAX_MESSAGE`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, total, content): (u8, usize, &[u8]) = match *self {
            Self::Message { total, content } => (1, total, content),
            Self::More { content } => (2, 0, content),
            Self::Rekey => (3, 0, &[]),
            Self::Close => (4, 0, &[]),
            Self::Confirm => (5, 0, &[]),
            Self::Reveal { nonce } => (6, 0, nonce),
        };
        assert!(total <= MAX_MESSAGE, "a message has at most 16 MiB");
        let size = class(content.len()).expect("content fits into the largest class");
        let end = out.len() + size;
        let length = u16::try_from(content.len()).expect("at most 16,376");
        let total = u32::try_from(total).expect("at most 16 MiB");
        out.reserve(size);
        out.extend_from_slice(&[kind, 0]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&total.to_be_bytes());
        out.extend_from_slice(content);
        out.resize(end, 0);
    }
}

/// The smallest size that holds `length` bytes of content.
fn class(length: usize) -> Option<usize> {
    CLASSES.into_iter().find(|size| HEADER + length <= *size)
}

fn malformed<T>(rule: &'static str) -> Result<T, Error> {
    Err(Error::Malformed { rule })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{MAX_CONTENT, MAX_MESSAGE, Record};
    use crate::channel::Error;

    fn encoded(record: Record<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        bytes
    }

    #[test]
    fn every_kind_reads_back_as_written() {
        let content = vec![7; MAX_CONTENT];
        for record in [
            Record::Message {
                total: 0,
                content: &[],
            },
            Record::Message {
                total: MAX_MESSAGE,
                content: &content,
            },
            Record::More {
                content: &content[..1],
            },
            Record::Rekey,
            Record::Close,
            Record::Confirm,
            Record::Reveal { nonce: &[9; 32] },
        ] {
            assert_eq!(Record::parse(&encoded(record)), Ok(record));
        }
    }

    #[test]
    fn a_declared_length_beyond_the_limit_is_refused() {
        let mut bytes = encoded(Record::Message {
            total: MAX_MESSAGE,
            content: &[1; MAX_CONTENT],
        });
        for total in [u32::MAX, MAX_MESSAGE as u32 + 1] {
            bytes[4..8].copy_from_slice(&total.to_be_bytes());
            let rule = "a message has at most 16 MiB";
            assert_eq!(Record::parse(&bytes), Err(Error::Malformed { rule }));
        }
    }

    #[test]
    fn content_takes_the_smallest_size_that_holds_it() {
        for (length, size) in [
            (0, 256),
            (248, 256),
            (249, 1024),
            (1016, 1024),
            (1017, 4096),
            (4088, 4096),
            (4089, 16_384),
            (MAX_CONTENT, 16_384),
        ] {
            let content = vec![1; length];
            let record = Record::Message {
                total: length,
                content: &content,
            };
            assert_eq!(encoded(record).len(), size);
        }
    }

    #[test]
    fn a_larger_size_than_needed_is_refused() {
        let mut bytes = encoded(Record::Message {
            total: 5,
            content: b"hello",
        });
        for size in [255, 257, 1024, 4096, 16_384, 20_000] {
            bytes.resize(size, 0);
            let rule = "a record has the smallest size that holds it";
            assert_eq!(Record::parse(&bytes), Err(Error::Malformed { rule }));
        }
    }

    proptest! {
        /// Few bytes changed in a good record: still the only encoding of
        /// whatever it says, or refused.
        #[test]
        fn what_parses_encodes_to_the_same_bytes(
            length in 0usize..600,
            places in prop::collection::vec((0usize..12, any::<u8>()), 0..3),
        ) {
            let mut bytes = encoded(Record::Message { total: length, content: &vec![3; length] });
            for (at, byte) in places {
                bytes[at] = byte;
            }
            if let Ok(record) = Record::parse(&bytes) {
                prop_assert_eq!(encoded(record), bytes);
            }
        }
    }
}
