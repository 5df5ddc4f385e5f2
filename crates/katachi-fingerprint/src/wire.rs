//! The bytes of an enrolment.
//!
//! ```text
//!   "KTF" 1                          magic and format version
//!   threshold of A                   1 byte
//!   threshold of B                   1 byte, zero if there is no board part
//!   number of parts                  1 byte
//!   salt                             32 bytes
//!   for each part, ascending tags:
//!     tag, weight, bits, wraps       1 byte each
//!     for each wrap:
//!       key salt, mask salt          16 bytes each
//!       kept key                     32 bytes
//!       shares of A                  weight times 32 bytes
//!       shares of B                  weight times 32 bytes, board parts only
//! ```
//!
//! There is exactly one encoding of each enrolment, and everything that
//! [`Enrollment::from_bytes`] accepts prints back to the same bytes. A later
//! version of this crate reads this version for ever.

use katachi_crypto::SecretBytes;

use crate::component::{Class, Component};
use crate::enrollment::{Enrollment, Part, Wrap};

const MAGIC: &[u8; 4] = b"KTF\x01";

/// The most shares one part may hold.
const MOST_WEIGHT: u8 = 8;

/// The longest encoding accepted, in bytes.
pub const MOST_BYTES: usize = 16 * 1024;

/// Why bytes are not an enrolment.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// They do not begin as an enrolment does.
    #[error("not an enrolment")]
    NotAnEnrollment,
    /// A later version of this crate wrote them.
    #[error("enrolment of format {0}, which needs a newer version")]
    Newer(u8),
    /// They end too early, go on too long or break a rule of the format.
    #[error("damaged enrolment: {0}")]
    Malformed(&'static str),
}

impl Enrollment {
    /// Prints the enrolment. Keep it sealed: it is what the estimate of
    /// [`strength`](Self::strength) assumes the attacker to have.
    #[must_use]
    pub fn to_bytes(&self) -> SecretBytes {
        let mut out = Vec::with_capacity(2048);
        out.extend_from_slice(MAGIC);
        out.push(self.all_threshold);
        out.push(self.board_threshold);
        out.push(count(self.parts.len()));
        out.extend_from_slice(&self.salt);
        for part in &self.parts {
            out.push(part.component.tag());
            out.push(part.weight);
            out.push(part.bits);
            out.push(count(part.wraps.len()));
            for wrap in &part.wraps {
                out.extend_from_slice(&wrap.key_salt);
                out.extend_from_slice(&wrap.mask_salt);
                out.extend_from_slice(&wrap.kept_key);
                for share in wrap.all.iter().chain(&wrap.board) {
                    out.extend_from_slice(share);
                }
            }
        }
        SecretBytes::new(out)
    }

    /// Reads an enrolment.
    ///
    /// # Errors
    ///
    /// Returns [`ParseError`] if the bytes are not exactly what
    /// [`to_bytes`](Self::to_bytes) gives for some enrolment.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() > MOST_BYTES {
            return Err(ParseError::Malformed("too long"));
        }
        let mut input = Input(bytes);
        match input.array::<4>() {
            Ok(magic) if magic == *MAGIC => {}
            Ok([b'K', b'T', b'F', version]) if version > MAGIC[3] => {
                return Err(ParseError::Newer(version));
            }
            _ => return Err(ParseError::NotAnEnrollment),
        }
        let [all_threshold, board_threshold, part_count] = input.array()?;
        let salt = input.array()?;
        let mut parts: Vec<Part> = Vec::new();
        for _ in 0..part_count {
            let part = input.part()?;
            if parts
                .last()
                .is_some_and(|last| last.component >= part.component)
            {
                return Err(ParseError::Malformed("parts out of order"));
            }
            parts.push(part);
        }
        if !input.0.is_empty() {
            return Err(ParseError::Malformed("bytes after the end"));
        }
        let weight = |class: Option<Class>| -> u32 {
            let counted = parts
                .iter()
                .filter(|part| class.is_none_or(|class| part.component.class() == class));
            counted.map(|part| u32::from(part.weight)).sum()
        };
        let (all, board) = (weight(None), weight(Some(Class::Board)));
        // At most nine parts of weight eight, so coordinates fit a byte.
        if !(1..=all).contains(&u32::from(all_threshold)) {
            return Err(ParseError::Malformed("threshold out of reach"));
        }
        if u32::from(board_threshold) > board || (board_threshold == 0) != (board == 0) {
            return Err(ParseError::Malformed("board threshold out of reach"));
        }
        Ok(Self {
            salt,
            all_threshold,
            board_threshold,
            parts,
        })
    }
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(ParseError::Malformed("too short"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn part(&mut self) -> Result<Part, ParseError> {
        let [tag, weight, bits, wrap_count] = self.array()?;
        let component = Component::from_tag(tag).ok_or(ParseError::Malformed("unknown part"))?;
        if !(1..=MOST_WEIGHT).contains(&weight) {
            return Err(ParseError::Malformed("weight out of range"));
        }
        if !(1..=component.most_values()).contains(&usize::from(wrap_count)) {
            return Err(ParseError::Malformed("number of values out of range"));
        }
        let mut wraps = Vec::new();
        for _ in 0..wrap_count {
            wraps.push(Wrap {
                key_salt: self.array()?,
                mask_salt: self.array()?,
                kept_key: self.array()?,
                all: self.shares(weight)?,
                board: match component.class() {
                    Class::Board => self.shares(weight)?,
                    Class::Image | Class::Drive => Vec::new(),
                },
            });
        }
        Ok(Part {
            component,
            weight,
            bits,
            wraps,
        })
    }

    fn shares(&mut self, weight: u8) -> Result<Vec<[u8; 32]>, ParseError> {
        (0..weight).map(|_| self.array()).collect()
    }
}

/// A length that the crate itself keeps below nine.
fn count(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}
