//! What can go wrong on a channel, sorted by whose fault it is.

/// Why a handshake or a channel ended, or would not do what was asked.
///
/// Everything that [`Error::is_refusal`] names closed the channel for good.
/// Nothing is sent to the peer then: it learns from the carrier closing that
/// something was wrong, and never what. The distinctions are for an operator's
/// log.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A handshake message did not open: another key, secret or
    /// [`Binding`](super::Binding), or changed bytes. Noise cannot tell which.
    #[error("the handshake message does not fit the keys, the secret or the place")]
    Handshake,
    /// A frame declares a length that no frame has.
    #[error("a frame declares a length that does not exist")]
    Length,
    /// A record did not open: changed, replayed, reordered or one before it lost.
    #[error("a record was changed, replayed, reordered or lost")]
    Record,
    /// A record opened and breaks the rules: its sender is broken or another version.
    #[error("a record breaks the rules: {rule}")]
    Malformed {
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The peer revealed another number than the one it had committed to.
    #[error("the peer did not keep to its commitment")]
    Commitment,
    /// The carrier ended and the peer had not closed the channel.
    #[error("the carrier was cut before the peer closed the channel")]
    Cut,
    /// The channel failed before, or this side closed it.
    #[error("the channel is closed")]
    Closed,
    /// A message is longer than a channel carries.
    #[error("a message has at most {limit} bytes; send it in parts")]
    TooLong {
        /// The most bytes that a message can have.
        limit: usize,
    },
    /// All record numbers of this direction are used up.
    #[error("the channel is used up; open another one")]
    Exhausted,
    /// The operating system gave no randomness.
    #[error("the operating system's random number generator failed")]
    Randomness,
}

impl Error {
    /// Tells whether the peer, or someone on the way, is at fault.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Handshake
                | Self::Length
                | Self::Record
                | Self::Malformed { .. }
                | Self::Commitment
                | Self::Cut
        )
    }
}

impl From<crate::Error> for Error {
    /// The only thing that drawing keys can run into.
    fn from(_: crate::Error) -> Self {
        Self::Randomness
    }
}
