//! Reads which pages are in a write-ahead log.
//!
//! Only numbers, sizes and authentication codes: the log's checksums are not
//! keyed, so nothing in it is believed. It excuses a page of the file that a
//! checkpoint, perhaps one that was cut off, copied from it.
//!
//! Format: <https://www.sqlite.org/fileformat2.html#walformat>, big-endian.

use std::collections::HashMap;
use std::io;

use super::record::{Layout, Tag};

const HEAD: u64 = 32;
const FRAME_HEAD: u64 = 24;
/// The lowest bit says how checksums are computed.
const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;

/// Tells from its first bytes whether a log is in a format of another version.
pub(crate) fn is_foreign(head: &[u8; 8]) -> bool {
    number(&head[..4]) & !1 == MAGIC && number(&head[4..]) != VERSION
}

/// The committed content of a log.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Log {
    /// The codes that each page had, oldest first.
    pub(crate) pages: HashMap<u32, Vec<Tag>>,
    /// Pages of the database after the last transaction in the log.
    pub(crate) size: Option<u32>,
}

/// Reads the bytes at an offset; `false` if there are not that many.
pub(crate) type ReadAt<'r> = dyn FnMut(u64, &mut [u8]) -> io::Result<bool> + 'r;

impl Log {
    /// Reads at most `frames` frames, as far as they belong to one cycle of
    /// the log, and those after the last commit left out.
    pub(crate) fn read(read_at: &mut ReadAt<'_>, layout: Layout, frames: u64) -> io::Result<Self> {
        let mut log = Self::default();
        let mut head = [0; HEAD as usize];
        if !read_at(0, &mut head)?
            || number(&head[0..4]) & !1 != MAGIC
            || number(&head[8..12]) != layout.page_size
        {
            return Ok(log);
        }
        let salt = &head[16..24];
        let step = FRAME_HEAD + u64::from(layout.page_size);
        let mut open = Vec::new();
        for frame in 0..frames {
            let at = HEAD + frame * step;
            let (mut frame_head, mut tag) = ([0; FRAME_HEAD as usize], Tag::default());
            if !read_at(at, &mut frame_head)?
                || &frame_head[8..16] != salt
                || !read_at(at + FRAME_HEAD + u64::from(layout.tag_at), &mut tag)?
            {
                break;
            }
            open.push((number(&frame_head[0..4]), tag));
            let size = number(&frame_head[4..8]);
            if size != 0 {
                log.size = Some(size);
                for (page, tag) in open.drain(..) {
                    log.pages.entry(page).or_default().push(tag);
                }
            }
        }
        Ok(log)
    }

    /// Whether the log ever had this version of a page.
    pub(crate) fn had(&self, page: u32, tag: Tag) -> bool {
        self.pages
            .get(&page)
            .is_some_and(|tags| tags.contains(&tag))
    }

    /// The newest version of a page in the log.
    pub(crate) fn newest(&self, page: u32) -> Option<Tag> {
        self.pages.get(&page)?.last().copied()
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |number, &byte| number << 8 | u32::from(byte))
}

/// Reads from bytes in memory.
#[cfg(any(test, feature = "testing"))]
fn from_slice(bytes: &[u8]) -> impl FnMut(u64, &mut [u8]) -> io::Result<bool> + '_ {
    move |at, part| {
        let found = usize::try_from(at)
            .ok()
            .and_then(|at| bytes.get(at..)?.get(..part.len()));
        if let Some(found) = found {
            part.copy_from_slice(found);
        }
        Ok(found.is_some())
    }
}

/// See [`testing::laws::write_ahead_log`](crate::testing::laws::write_ahead_log).
#[cfg(any(test, feature = "testing"))]
pub(crate) fn check_law(bytes: &[u8]) {
    let layout = Layout {
        page_size: 32,
        tag_at: 16,
    };
    let read = |bytes: &[u8], frames| {
        Log::read(&mut from_slice(bytes), layout, frames).unwrap_or_default()
    };
    let log = read(bytes, u64::MAX);
    let frames: usize = log.pages.values().map(Vec::len).sum();
    let fits = bytes.len() / (FRAME_HEAD as usize + 32);
    assert!(frames <= fits, "more frames than bytes for them");
    assert_eq!(log.size.is_some(), frames > 0, "a commit has a size");
    assert_eq!(read(bytes, fits as u64), log, "the limit changes nothing");
    let torn = read(&bytes[..bytes.len().saturating_sub(1)], u64::MAX);
    let torn: usize = torn.pages.values().map(Vec::len).sum();
    assert!(torn <= frames, "a shorter log has more in it");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LAYOUT: Layout = Layout {
        page_size: 32,
        tag_at: 16,
    };

    fn head(salt: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [MAGIC, VERSION, 32, 1] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&salt.to_be_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes
    }

    fn frame(page: u32, size: u32, salt: u64, tag: u8) -> Vec<u8> {
        let mut bytes = [page.to_be_bytes(), size.to_be_bytes()].concat();
        bytes.extend_from_slice(&salt.to_be_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&[tag; 32]);
        bytes
    }

    #[test]
    fn reads_commits_of_one_cycle_and_nothing_after_them() {
        let bytes = [
            head(7),
            frame(2, 0, 7, 1),
            frame(2, 5, 7, 2),
            frame(3, 6, 7, 3),
            frame(4, 0, 7, 4), // never committed
            frame(9, 9, 6, 9), // left over from the cycle before
        ]
        .concat();
        let log = Log::read(&mut from_slice(&bytes), LAYOUT, u64::MAX).unwrap();
        assert_eq!(log.size, Some(6));
        assert!(log.had(2, [1; 8]) && log.had(2, [2; 8]));
        assert_eq!(log.newest(2), Some([2; 8]));
        assert_eq!(log.newest(3), Some([3; 8]));
        assert_eq!((log.newest(4), log.newest(9)), (None, None));
        let first = Log::read(&mut from_slice(&bytes), LAYOUT, 2).unwrap();
        assert_eq!((first.size, first.newest(3)), (Some(5), None));
        check_law(&bytes);
    }

    #[test]
    fn a_log_of_another_version_is_foreign_and_anything_else_is_not() {
        let mut bytes: [u8; 8] = head(7)[..8].try_into().unwrap();
        assert!(!is_foreign(&bytes) && !is_foreign(&[0; 8]));
        bytes[7] ^= 1;
        assert!(is_foreign(&bytes));
    }

    #[test]
    fn an_empty_or_foreign_log_has_nothing() {
        for bytes in [&[][..], &[0; 31], &[0; 500]] {
            let log = Log::read(&mut from_slice(bytes), LAYOUT, u64::MAX).unwrap();
            assert_eq!(log, Log::default());
        }
    }

    proptest! {
        #[test]
        fn keeps_its_law_on_arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            check_law(&bytes);
            check_law(&[head(0), bytes].concat());
        }
    }
}
