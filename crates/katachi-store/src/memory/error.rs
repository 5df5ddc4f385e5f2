//! What can go wrong with the memory.

use crate::database::DatabaseError;

/// Why the memory refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// A namespace, key or tag is empty, too long or has a control character.
    #[error("a {what} has 1 to {limit} bytes and no control character")]
    Name {
        /// Which one.
        what: &'static str,
        /// The longest, in bytes.
        limit: usize,
    },
    /// The text is longer than an entry may be.
    #[error("an entry has at most {limit} bytes: shorten it or split it")]
    EntryTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The namespace has as many entries, or as much text, as it may have.
    #[error("the namespace is full ({limit} {unit}): remove something first")]
    NamespaceFull {
        /// The limit.
        limit: u64,
        /// Entries or bytes.
        unit: &'static str,
    },
    /// More tags than an entry may have.
    #[error("an entry has at most {limit} tags")]
    TooManyTags {
        /// The limit.
        limit: usize,
    },
    /// The database refused.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}
