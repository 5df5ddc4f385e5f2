//! Finding equal values in a sealed column without opening it.

use crate::kdf::{self, Label};
use crate::mac::HmacKey;
use crate::{Error, Secret};

/// Gives equal values of one column equal, truncated tags.
///
/// # Security
///
/// Whoever sees the tags learns which rows hold equal values. Fewer bits make
/// unrelated values collide, which hides some of that and costs the reader the
/// opening of false hits: about `rows / 2^bits` for each search. A column with
/// few possible values should have no index at all.
///
/// ```
/// use katachi_crypto::{BlindIndex, Secret};
///
/// let index = BlindIndex::new(&Secret::random()?, "accounts", "email");
/// assert_eq!(index.tag(b"ada@example.org", 32)?, index.tag(b"ada@example.org", 32)?);
/// assert_ne!(index.tag(b"ada@example.org", 32)?, index.tag(b"bob@example.org", 32)?);
/// # Ok::<(), katachi_crypto::Error>(())
/// ```
#[derive(Debug)]
pub struct BlindIndex(HmacKey);

impl BlindIndex {
    /// Derives the index key of one column.
    #[must_use]
    pub fn new(key: &Secret<32>, table: &str, column: &str) -> Self {
        let label = Label::new("katachi/v1/blind-index")
            .field(table.as_bytes())
            .field(column.as_bytes());
        Self(HmacKey::new(&kdf::derive(
            &[key.expose_secret()],
            &[],
            &label,
        )))
    }

    /// The tag of `value`: its first `bits` bits, in whole bytes with the rest zero.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Limit`] unless `bits` lies between 8 and 128.
    pub fn tag(&self, value: &[u8], bits: u8) -> Result<Vec<u8>, Error> {
        if !(8..=128).contains(&bits) {
            return Err(Error::Limit {
                what: "the bits of a blind index",
                limit: 128,
            });
        }
        let mut tag = self.0.sign(value).as_bytes()[..usize::from(bits.div_ceil(8))].to_vec();
        if let (Some(last), spare @ 1..) = (tag.last_mut(), bits.div_ceil(8) * 8 - bits) {
            *last &= 0xff << spare;
        }
        Ok(tag)
    }
}

#[cfg(test)]
mod tests {
    use super::BlindIndex;
    use crate::Secret;

    #[test]
    fn columns_do_not_share_tags() {
        let key = Secret::new([1; 32]);
        let one = BlindIndex::new(&key, "t", "ab").tag(b"v", 64).unwrap();
        assert_ne!(one, BlindIndex::new(&key, "ta", "b").tag(b"v", 64).unwrap());
    }

    #[test]
    fn keeps_just_the_bits_that_were_asked_for() {
        let index = BlindIndex::new(&Secret::new([1; 32]), "t", "c");
        let full = index.tag(b"v", 16).unwrap();
        let part = index.tag(b"v", 12).unwrap();
        assert_eq!(part, [full[0], full[1] & 0xf0]);
        assert!(index.tag(b"v", 0).is_err() && index.tag(b"v", 129).is_err());
    }
}
