//! Where one message of the carrier ends and the next begins.
//!
//! A frame is a 16-bit big-endian length and that many bytes, one Noise message
//! (section 13 recommends this form). Only a handful of lengths exist, so a
//! length is refused as soon as its two bytes are there, before anything is
//! set aside for it.

use super::Error;

/// Bytes of the length before each frame.
pub(super) const PREFIX: usize = 2;

/// Lengths of the handshake messages: IK and IKpsk2 have 96 and 48 bytes, XX
/// with its payloads has 32, 128 and 96.
const HANDSHAKE: &[usize] = &[32, 48, 96, 128];

/// Lengths of the records: a size class and a tag of 16 bytes.
const RECORDS: &[usize] = &[272, 1040, 4112, 16_400];

/// Takes frames out of bytes that arrive in pieces of any size.
///
/// It holds at most one frame. Only a piece that ends inside of a frame is
/// copied.
///
/// ```
/// use katachi_crypto::channel::Frames;
///
/// let mut frames = Frames::of_handshake();
/// let mut input: &[u8] = &[[0, 32].as_slice(), &[7; 32], &[0]].concat();
/// assert_eq!(frames.next(&mut input)?, Some([7; 32].as_slice()));
/// assert_eq!(frames.next(&mut input)?, None);
/// // No frame is 255 bytes long, whatever comes.
/// assert!(frames.next(&mut [255].as_slice()).is_err());
/// # Ok::<(), katachi_crypto::channel::Error>(())
/// ```
#[derive(Debug)]
pub struct Frames {
    /// What has arrived of a frame, with its prefix. A prefix that was refused
    /// stays here and is refused again.
    buffer: Vec<u8>,
    /// The frame in `buffer` was given out.
    given: bool,
    lengths: &'static [usize],
}

impl Frames {
    /// Frames of a handshake: 32, 48, 96 or 128 bytes.
    #[must_use]
    pub fn of_handshake() -> Self {
        Self::new(HANDSHAKE)
    }

    /// Frames of a channel: 272, 1,040, 4,112 or 16,400 bytes.
    #[must_use]
    pub fn of_records() -> Self {
        Self::new(RECORDS)
    }

    fn new(lengths: &'static [usize]) -> Self {
        Self {
            buffer: Vec::new(),
            given: false,
            lengths,
        }
    }

    /// Takes the next frame from the front of `input` and gives its content;
    /// `None` if all of `input` was taken and the frame is not complete yet.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Length`] if a frame declares a length that none has,
    /// now and on every later call.
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<&'s [u8]>, Error> {
        if self.given {
            self.buffer.clear();
            self.given = false;
        }
        if let ([], [high, low, rest @ ..]) = (self.buffer.as_slice(), *input)
            && let Some(length) = self.length([*high, *low])
            && let Some((frame, rest)) = rest.split_at_checked(length)
        {
            *input = rest;
            return Ok(Some(frame));
        }
        self.take(PREFIX, input);
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let whole = PREFIX + self.length(*prefix).ok_or(Error::Length)?;
        self.take(whole, input);
        if self.buffer.len() < whole {
            return Ok(None);
        }
        self.given = true;
        Ok(Some(&self.buffer[PREFIX..]))
    }

    /// Whether the bytes so far end inside of a frame.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        !self.given && !self.buffer.is_empty()
    }

    /// The declared length, if it is one that exists.
    fn length(&self, prefix: [u8; PREFIX]) -> Option<usize> {
        let length = usize::from(u16::from_be_bytes(prefix));
        self.lengths.contains(&length).then_some(length)
    }

    /// Fills the buffer from `input` up to `length` bytes.
    fn take(&mut self, length: usize, input: &mut &[u8]) {
        let missing = length.saturating_sub(self.buffer.len());
        let (taken, rest) = input.split_at(missing.min(input.len()));
        self.buffer.reserve_exact(missing);
        self.buffer.extend_from_slice(taken);
        *input = rest;
    }
}

/// Writes the prefix of a frame with `length` bytes.
pub(super) fn prefix(length: usize) -> [u8; PREFIX] {
    u16::try_from(length)
        .expect("no frame is longer than 16,400 bytes")
        .to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::{Frames, HANDSHAKE, RECORDS};
    use crate::channel::Error;

    #[test]
    fn only_lengths_that_exist_are_taken_and_nothing_is_set_aside_for_others() {
        for (mut frames, lengths) in [
            (Frames::of_handshake(), HANDSHAKE),
            (Frames::of_records(), RECORDS),
        ] {
            for length in 0..=u16::MAX {
                let known = lengths.contains(&usize::from(length));
                let prefix = length.to_be_bytes();
                let got = frames.next(&mut prefix.as_slice());
                assert_eq!(got, if known { Ok(None) } else { Err(Error::Length) });
                if !known {
                    assert!(frames.buffer.capacity() <= 8, "{length}");
                }
                frames.buffer = Vec::new();
            }
        }
    }

    #[test]
    fn a_refused_length_stays_refused() {
        let mut frames = Frames::of_records();
        assert_eq!(frames.next(&mut [255; 40].as_slice()), Err(Error::Length));
        let mut good: &[u8] = &[[1, 16].as_slice(), &[0; 272]].concat();
        assert_eq!(frames.next(&mut good), Err(Error::Length));
    }
}
