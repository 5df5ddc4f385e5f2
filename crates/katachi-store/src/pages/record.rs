//! What was in the file after the last clean checkpoint.
//!
//! ```text
//! offset  size
//! 0       4     "KTA" and the format version, 1
//! 4       8     generation, big-endian
//! 12      1     1: pages follow; 2: an earlier record was lost; both may be set
//! 13      4     page size in bytes, big-endian
//! 17      4     number of pages, big-endian
//! 21      8*n   for each page the first bytes of its authentication code
//! ```
//!
//! The whole is sealed by the vault. A page's authentication code is a MAC
//! under the database's key over the encrypted page and its number, with an IV
//! that is new with every write. So 64 bits of it tell any two versions of a
//! page apart, for someone who cannot make MACs of their own.

/// The first bytes of a page's authentication code.
pub(crate) type Tag = [u8; 8];

const MAGIC: &[u8; 4] = b"KTA\x01";
const HEAD: usize = 21;

/// Where pages, and the authentication codes in them, are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Layout {
    pub(crate) page_size: u32,
    /// Offset of the authentication code in a page.
    pub(crate) tag_at: u32,
}

/// What the pages of a file were.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Record {
    pub(crate) generation: u64,
    /// An earlier record was missing or no good, and nobody has accepted that.
    pub(crate) lost: bool,
    pub(crate) page_size: u32,
    /// Absent while the file is being replaced as a whole.
    pub(crate) pages: Option<Vec<Tag>>,
}

impl Record {
    /// Most pages that fit into a sealed file.
    pub(crate) const MAX_PAGES: usize =
        (crate::file::SealedFile::MAX_LEN - HEAD) / size_of::<Tag>();

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let pages = self.pages.as_deref().unwrap_or_default();
        let mut bytes = Vec::with_capacity(HEAD + size_of_val(pages));
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.generation.to_be_bytes());
        bytes.push(u8::from(self.pages.is_some()) | u8::from(self.lost) << 1);
        bytes.extend_from_slice(&self.page_size.to_be_bytes());
        // Fits: a page number of SQLite has 32 bits.
        bytes.extend_from_slice(&(pages.len() as u32).to_be_bytes());
        bytes.extend_from_slice(pages.as_flattened());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = crate::vault::Reader(bytes);
        if reader.take(MAGIC.len())? != MAGIC {
            return None;
        }
        let generation = u64::from_be_bytes(reader.array()?);
        let flags = reader.byte()?;
        let page_size = u32::from_be_bytes(reader.array()?);
        let count = u32::from_be_bytes(reader.array()?) as usize;
        let (tags, rest) = reader.0.as_chunks::<{ size_of::<Tag>() }>();
        let settled = flags & 1 == 1;
        let fits = flags < 4 && rest.is_empty() && tags.len() == count && (settled || count == 0);
        fits.then(|| Self {
            generation,
            lost: flags & 2 == 2,
            page_size,
            pages: settled.then(|| tags.to_vec()),
        })
    }
}

/// See [`testing::laws::anchor_record`](crate::testing::laws::anchor_record).
#[cfg(any(test, feature = "testing"))]
pub(crate) fn check_law(bytes: &[u8]) {
    if let Some(record) = Record::from_bytes(bytes) {
        assert_eq!(
            record.to_bytes(),
            bytes,
            "a record was read that is written differently"
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_what_it_writes_and_no_part_of_it(
            generation: u64, lost: bool, page_size: u32,
            pages in prop::option::of(prop::collection::vec(any::<Tag>(), 0..50)),
        ) {
            let record = Record { generation, lost, page_size, pages };
            let bytes = record.to_bytes();
            prop_assert_eq!(Record::from_bytes(&bytes), Some(record));
            for length in 0..bytes.len() {
                prop_assert_eq!(Record::from_bytes(&bytes[..length]), None);
            }
        }

        #[test]
        fn keeps_its_law_on_arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            check_law(&bytes);
            check_law(&[MAGIC.to_vec(), bytes].concat());
        }
    }
}
