//! What can go wrong, sorted by whose fault it is.

/// Why something was not sealed, opened, read or derived.
///
/// [`KeyMismatch`](Self::KeyMismatch), [`Tampered`](Self::Tampered) and
/// [`Truncated`](Self::Truncated) are for an operator's log. Towards a peer
/// that supplied the bytes, answer one thing for all of them:
/// [`Error::is_refusal`] gathers them.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The commitment does not fit: another key, another context, or a changed header.
    #[error("the key or the context is not the one this was sealed with")]
    KeyMismatch,
    /// The key and the context fit, and the content was changed.
    #[error("the sealed content was changed")]
    Tampered,
    /// The sealed content ends too early.
    #[error("the sealed content is cut off")]
    Truncated,
    /// A version, suite, kind or flag that this version does not know.
    #[error("unsupported {what}; a newer version may be needed")]
    Unsupported {
        /// The part of the format that is not known.
        what: &'static str,
    },
    /// A length or a count lies beyond what the format allows.
    #[error("{what} is beyond the limit of {limit}")]
    Limit {
        /// What was too large.
        what: &'static str,
        /// The largest that is allowed.
        limit: u64,
    },
    /// Bytes or text that do not have the expected shape.
    #[error("malformed: expected {expected}")]
    Malformed {
        /// The shape that was expected.
        expected: &'static str,
    },
    /// No key with this identifier or purpose, or it was destroyed.
    #[error("no usable key: {why}")]
    NoKey {
        /// What was looked for.
        why: &'static str,
    },
    /// The operating system gave no randomness.
    #[error("the operating system's random number generator failed")]
    Randomness,
}

impl Error {
    /// Tells whether sealed bytes were refused, as opposed to a misuse or a
    /// fault of the machine.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::KeyMismatch
                | Self::Tampered
                | Self::Truncated
                | Self::Unsupported { .. }
                | Self::Malformed { .. }
        )
    }
}
