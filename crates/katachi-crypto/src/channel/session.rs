//! Messages in order over a finished handshake.

use std::fmt;
use std::time::Duration;

use snow::TransportState;
use zeroize::{Zeroize, Zeroizing};

use super::frame::{self, PREFIX};
use super::noise::Finished;
use super::record::{CLASSES, MAX_CONTENT, MAX_MESSAGE, Record};
use super::{Error, Frames, PublicKey};
use crate::SecretBytes;

/// Most records under one key, the last of which changes the key or closes.
pub const RECORDS_PER_KEY: u64 = 1 << 20;

/// Longest time that one key is used to send.
pub const KEY_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Most records in one direction of a channel, far below the 2^64 - 1 at which
/// Noise (section 5.1) ends it.
pub const MAX_RECORDS: u64 = 1 << 48;

/// Bytes of an authentication tag.
const TAG: usize = 16;

/// What a channel received.
#[derive(Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A whole message.
    Message(SecretBytes),
    /// The peer's next records are under a new key.
    Rekeyed,
    /// The peer sends nothing more, and nothing it sent was lost.
    Closed,
}

/// An open channel: whole messages in order, to and from a peer whose key is
/// known and proved.
///
/// It does no input or output: what [`send`](Self::send) and
/// [`close`](Self::close) append is for the carrier, what the carrier brings is
/// given to [`receive`](Self::receive) in pieces of any size, and
/// [`end`](Self::end) says that the carrier ended. Time is any monotonic clock
/// of the caller's, the same in all calls.
///
/// After an error that [is a refusal](Error::is_refusal) the keys are wiped and
/// every call returns [`Error::Closed`]: a new channel is the only way on.
pub struct Channel {
    /// `None` once the channel failed.
    noise: Option<TransportState>,
    sending: Sending,
    receiving: Receiving,
    /// A message of which not all records have arrived.
    partial: Option<Partial>,
    peer: PublicKey,
    hash: [u8; 32],
}

struct Sending {
    /// Records under the current key.
    in_key: u64,
    /// Records left in the whole channel.
    left: u64,
    /// When the current key was set.
    since: Duration,
    closed: bool,
    /// The record being made, before it is sealed.
    plain: Zeroizing<Vec<u8>>,
}

struct Receiving {
    frames: Frames,
    in_key: u64,
    left: u64,
    closed: bool,
    /// The record that was opened last.
    plain: Zeroizing<Vec<u8>>,
}

struct Partial {
    total: usize,
    /// Holds `total` bytes without moving.
    content: Zeroizing<Vec<u8>>,
}

impl Channel {
    pub(super) fn new(finished: Finished, now: Duration) -> Self {
        Self {
            noise: Some(finished.state),
            sending: Sending {
                in_key: 0,
                left: MAX_RECORDS,
                since: now,
                closed: false,
                plain: Zeroizing::new(Vec::with_capacity(CLASSES[3])),
            },
            receiving: Receiving {
                frames: Frames::of_records(),
                in_key: 0,
                left: MAX_RECORDS,
                closed: false,
                plain: Zeroizing::new(vec![0; CLASSES[3]]),
            },
            partial: None,
            peer: finished.peer,
            hash: finished.hash,
        }
    }

    /// The peer's long-lived key.
    #[must_use]
    pub fn peer(&self) -> PublicKey {
        self.peer
    }

    /// The handshake hash, equal at both ends and different for every channel:
    /// other protocols bind themselves to this channel by it (Noise, section 11.2).
    #[must_use]
    pub fn handshake_hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Appends the frames of `message` to `out`, and before one of them a change
    /// of keys where it is due.
    ///
    /// # Errors
    ///
    /// Returns [`Error::TooLong`] for more than 16 MiB, [`Error::Closed`] after
    /// [`close`](Self::close) or a failure, and [`Error::Exhausted`] if the
    /// channel has no record numbers left for it. Nothing is appended then.
    pub fn send(&mut self, now: Duration, message: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let limit = MAX_MESSAGE;
        if message.len() > limit {
            return Err(Error::TooLong { limit });
        }
        let noise = self.noise.as_mut().ok_or(Error::Closed)?;
        if self.sending.closed {
            return Err(Error::Closed);
        }
        let (first, rest) = message.split_at(message.len().min(MAX_CONTENT));
        let records = 1 + rest.len().div_ceil(MAX_CONTENT) as u64;
        // One change of keys in between at most, one before, and the close.
        if self.sending.left < records + 3 {
            return Err(Error::Exhausted);
        }
        let total = message.len();
        let content = first;
        let first = Record::Message { total, content };
        self.sending.put(noise, now, &first, out)?;
        for content in rest.chunks(MAX_CONTENT) {
            self.sending
                .put(noise, now, &Record::More { content }, out)?;
        }
        Ok(())
    }

    /// Appends the frame that tells the peer that this was all, to `out`. What
    /// the peer still sends can be received.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Closed`] if the channel was closed or failed before.
    pub fn close(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let noise = self.noise.as_mut().ok_or(Error::Closed)?;
        if self.sending.closed {
            return Err(Error::Closed);
        }
        self.sending.seal(noise, &Record::Close, out)?;
        self.sending.closed = true;
        Ok(())
    }

    /// Takes bytes from the front of `input` up to the next event; `None` if all
    /// were taken and there was none.
    ///
    /// # Errors
    ///
    /// Returns a refusal for bytes that the peer did not send in this place, and
    /// closes the channel; [`Error::Closed`] if it had failed before.
    pub fn receive(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Error> {
        let outcome = self.next_event(input);
        if outcome.is_err() {
            self.fail();
        }
        outcome
    }

    /// Says that the carrier has ended.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Cut`] if the peer had not closed the channel: someone
    /// else may have, and messages may be missing. [`Error::Closed`] if the
    /// channel had failed before.
    pub fn end(&mut self) -> Result<(), Error> {
        if self.noise.is_none() {
            return Err(Error::Closed);
        }
        if !self.receiving.closed {
            self.fail();
            return Err(Error::Cut);
        }
        Ok(())
    }

    fn next_event(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Error> {
        let noise = self.noise.as_mut().ok_or(Error::Closed)?;
        loop {
            let Some(record) = self.receiving.next(noise, input)? else {
                return Ok(None);
            };
            let part = match (record, &mut self.partial) {
                (Record::Rekey, _) => {
                    noise.rekey_incoming();
                    self.receiving.in_key = 0;
                    return Ok(Some(Event::Rekeyed));
                }
                (Record::Close, None) => {
                    self.receiving.closed = true;
                    return Ok(Some(Event::Closed));
                }
                (Record::Message { total, content }, partial @ None) => {
                    let part = partial.insert(Partial {
                        total,
                        content: Zeroizing::new(Vec::with_capacity(total)),
                    });
                    part.content.extend_from_slice(content);
                    part
                }
                (Record::More { content }, Some(part)) => {
                    let missing = part.total - part.content.len();
                    if content.len() != missing.min(MAX_CONTENT) {
                        let rule = "parts of a message are full, and together as long as declared";
                        return Err(Error::Malformed { rule });
                    }
                    part.content.extend_from_slice(content);
                    part
                }
                _ => {
                    let rule = "a record stands where its kind belongs";
                    return Err(Error::Malformed { rule });
                }
            };
            if part.content.len() == part.total {
                let content = std::mem::take(&mut *part.content);
                self.partial = None;
                return Ok(Some(Event::Message(SecretBytes::new(content))));
            }
        }
    }

    /// Sends the first record of a handshake's last word.
    pub(super) fn send_first(&mut self, record: &Record<'_>) -> Result<Vec<u8>, Error> {
        let noise = self.noise.as_mut().ok_or(Error::Closed)?;
        let mut out = Vec::new();
        self.sending.seal(noise, record, &mut out)?;
        Ok(out)
    }

    /// Receives the record that ends a handshake; `None` if more bytes are needed.
    pub(super) fn receive_first(&mut self, input: &mut &[u8]) -> Result<Option<Record<'_>>, Error> {
        let noise = self.noise.as_mut().ok_or(Error::Closed)?;
        self.receiving.next(noise, input)
    }

    fn fail(&mut self) {
        self.noise = None;
        self.partial = None;
        self.receiving.plain.zeroize();
        self.sending.plain.zeroize();
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Channel")
            .field("peer", &self.peer)
            .field("failed", &self.noise.is_none())
            .finish_non_exhaustive()
    }
}

impl Sending {
    /// Appends `record`, under a new key where the old one is due.
    fn put(
        &mut self,
        noise: &mut TransportState,
        now: Duration,
        record: &Record<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let is_old = now.saturating_sub(self.since) >= KEY_LIFETIME;
        if is_old || self.in_key + 1 >= RECORDS_PER_KEY {
            self.seal(noise, &Record::Rekey, out)?;
            noise.rekey_outgoing();
            self.in_key = 0;
            self.since = now;
        }
        self.seal(noise, record, out)
    }

    fn seal(
        &mut self,
        noise: &mut TransportState,
        record: &Record<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        self.left = self.left.checked_sub(1).ok_or(Error::Exhausted)?;
        self.in_key += 1;
        self.plain.clear();
        record.encode(&mut self.plain);
        let length = self.plain.len() + TAG;
        let start = out.len();
        out.reserve(PREFIX + length);
        out.extend_from_slice(&frame::prefix(length));
        out.resize(start + PREFIX + length, 0);
        noise
            .write_message(&self.plain, &mut out[start + PREFIX..])
            .map_err(|_| Error::Exhausted)?;
        Ok(())
    }
}

impl Receiving {
    /// Opens the next record; `None` if more bytes are needed.
    fn next<'s>(
        &'s mut self,
        noise: &mut TransportState,
        input: &mut &[u8],
    ) -> Result<Option<Record<'s>>, Error> {
        if self.closed && !input.is_empty() {
            let rule = "nothing follows the close";
            return Err(Error::Malformed { rule });
        }
        let Some(frame) = self.frames.next(input)? else {
            return Ok(None);
        };
        self.left = self.left.checked_sub(1).ok_or(Error::Exhausted)?;
        let length = noise
            .read_message(frame, &mut self.plain)
            .map_err(|_| Error::Record)?;
        let record = Record::parse(&self.plain[..length])?;
        self.in_key += 1;
        let is_last = self.in_key >= RECORDS_PER_KEY;
        if is_last && !matches!(record, Record::Rekey | Record::Close) {
            let rule = "a key is changed after a million records";
            return Err(Error::Malformed { rule });
        }
        Ok(Some(record))
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
