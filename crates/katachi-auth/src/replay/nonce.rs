//! Nonces: the two forms, how clients make them, how servers read them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_crypto::random;

use super::Unavailable;

/// A value that names one request for ever.
///
/// On the wire both forms are 25 characters and valid RFC 9421 strings:
///
/// | form | text | memory a server needs |
/// |---|---|---|
/// | counter | `c1.` + base64url(session, 8 bytes; counter, 8 bytes big-endian) | one window for each session, whatever the rate |
/// | random | `r1.` + base64url(16 random bytes) | one entry for each request in the window |
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Nonce {
    /// The `counter`-th request of a `session` that the client chose at random.
    Counter {
        /// Chosen at random when the client starts; never used again.
        session: [u8; 8],
        /// Counts the requests of the session upward.
        counter: u64,
    },
    /// 16 random bytes.
    Random([u8; 16]),
}

/// The text is not a nonce: `c1.` or `r1.` and 22 characters of base64url were expected.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a nonce: `c1.` or `r1.` and 22 characters of unpadded base64url were expected")]
pub struct ParseNonceError;

impl Nonce {
    /// Length of every nonce as text, in bytes.
    pub const TEXT_LEN: usize = 25;

    /// Reads a nonce from untrusted text. Each nonce has exactly one text.
    ///
    /// # Errors
    ///
    /// Returns [`ParseNonceError`] if `text` has another length or prefix, a
    /// character outside base64url, padding, or stray bits in its last character.
    pub fn parse(text: &str) -> Result<Self, ParseNonceError> {
        if text.len() != Self::TEXT_LEN {
            return Err(ParseNonceError);
        }
        let (prefix, encoded) = text.as_bytes().split_at(3);
        let mut bytes = [0; 16];
        let written = URL_SAFE_NO_PAD
            .decode_slice(encoded, &mut bytes)
            .map_err(|_| ParseNonceError)?;
        if written != bytes.len() {
            return Err(ParseNonceError);
        }
        match prefix {
            b"c1." => {
                let word = u128::from_be_bytes(bytes);
                let session = u64::try_from(word >> 64).map_err(|_| ParseNonceError)?;
                Ok(Self::Counter {
                    session: session.to_be_bytes(),
                    counter: (word & u128::from(u64::MAX)) as u64,
                })
            }
            b"r1." => Ok(Self::Random(bytes)),
            _ => Err(ParseNonceError),
        }
    }

    /// A random nonce, for clients that keep no state.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the operating system gives no randomness.
    pub fn random() -> Result<Self, Unavailable> {
        random::bytes().map(Self::Random).map_err(Unavailable::new)
    }

    /// The text as it stands in the `nonce` parameter.
    ///
    /// # Panics
    ///
    /// Never: 16 bytes always fill the text.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::TEXT_LEN] {
        let (prefix, bytes) = match self {
            Self::Counter { session, counter } => {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(session);
                bytes[8..].copy_from_slice(&counter.to_be_bytes());
                (b"c1.", bytes)
            }
            Self::Random(bytes) => (b"r1.", *bytes),
        };
        let mut text = [0; Self::TEXT_LEN];
        text[..3].copy_from_slice(prefix);
        URL_SAFE_NO_PAD
            .encode_slice(bytes, &mut text[3..])
            .expect("16 bytes are 22 characters of base64url");
        text
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.encode()).unwrap_or_default())
    }
}

/// Makes the nonces of one running client: a random session and a counter.
///
/// # Security
///
/// A sequence lives in memory only. A client that restarts, forks or is restored
/// from a snapshot starts a new one; two processes never share one.
pub struct NonceSequence {
    session: [u8; 8],
    next: AtomicU64,
}

impl NonceSequence {
    /// Starts a session.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the operating system gives no randomness.
    pub fn start() -> Result<Self, Unavailable> {
        let session = random::bytes().map_err(Unavailable::new)?;
        Ok(Self {
            session,
            next: AtomicU64::new(0),
        })
    }

    /// The next nonce. Safe to call from many threads.
    #[must_use]
    pub fn draw(&self) -> Nonce {
        // 2^64 requests outlast any process.
        let counter = self.next.fetch_add(1, Ordering::Relaxed);
        Nonce::Counter {
            session: self.session,
            counter,
        }
    }
}

impl fmt::Debug for NonceSequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NonceSequence").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_nonce_has_one_text(bytes: [u8; 16], session: [u8; 8], counter: u64) {
            for nonce in [Nonce::Random(bytes), Nonce::Counter { session, counter }] {
                let text = nonce.to_string();
                prop_assert_eq!(text.len(), Nonce::TEXT_LEN);
                prop_assert_eq!(Nonce::parse(&text), Ok(nonce));
            }
        }

        #[test]
        fn what_is_read_prints_as_it_was(text in "[cr]1\\.[A-Za-z0-9_-]{22}|\\PC{0,40}") {
            if let Ok(nonce) = Nonce::parse(&text) {
                prop_assert_eq!(nonce.to_string(), text);
            }
        }
    }

    #[test]
    fn refuses_padding_stray_bits_and_other_lengths() {
        let good = Nonce::Random([0xff; 16]).to_string();
        assert!(Nonce::parse(&good).is_ok());
        for bad in [
            String::new(),
            good[..24].to_owned(),
            format!("{good}="),
            format!("{good}=="),
            good.replace("r1.", "r2."),
            // `w` leaves four zero bits behind the last byte, `x` does not.
            format!("{}x", &good[..24]),
            format!("{}+", &good[..24]),
            "r1.".to_owned() + &"A".repeat(80),
        ] {
            assert_eq!(Nonce::parse(&bad), Err(ParseNonceError), "{bad}");
        }
    }

    #[test]
    fn a_sequence_never_repeats() {
        let sequence = NonceSequence::start().unwrap();
        assert_ne!(sequence.draw(), sequence.draw());
        assert_ne!(sequence.draw(), NonceSequence::start().unwrap().draw());
    }
}
