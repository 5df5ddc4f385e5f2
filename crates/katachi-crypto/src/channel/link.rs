//! Handshakes of two messages: pairing by a link (IKpsk2), and every channel
//! after it (IK).
//!
//! The device begins and knows the agent's key. The agent learns the device's
//! key from the first message, but that message can be a copy of an old one, and
//! in pairing it shows nothing about the secret: only the first record does.

use std::time::Duration;

use super::noise::{Handshake, Setup};
use super::record::Record;
use super::{Binding, Channel, Error, PublicKey, StaticKey, Step};
use crate::Secret;

const PAIRING: &str = "IKpsk2";
const RESUMING: &str = "IK";

/// Lengths of the two messages, in bytes (Noise, section 7.5): key, encrypted
/// key, tag of an empty payload; key, tag.
const FIRST: usize = 32 + 48 + 16;
const SECOND: usize = 32 + 16;

/// A device that has sent its first message.
#[derive(Debug)]
pub struct Initiator(Handshake);

impl Initiator {
    /// Begins pairing with the `agent` and the `secret` of a link; returns the
    /// frame to send.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Handshake`] if `agent` is no key that can be agreed
    /// with, [`Error::Randomness`] if the system gives none.
    pub fn pair(
        key: &StaticKey,
        agent: &PublicKey,
        secret: &Secret<32>,
        binding: &Binding<'_>,
    ) -> Result<(Self, Vec<u8>), Error> {
        Self::begin(PAIRING, key, agent, Some(secret), binding)
    }

    /// Begins a channel with an `agent` that this device is paired with; returns
    /// the frame to send.
    ///
    /// # Errors
    ///
    /// Those of [`pair`](Self::pair).
    pub fn resume(
        key: &StaticKey,
        agent: &PublicKey,
        binding: &Binding<'_>,
    ) -> Result<(Self, Vec<u8>), Error> {
        Self::begin(RESUMING, key, agent, None, binding)
    }

    fn begin(
        pattern: &'static str,
        key: &StaticKey,
        agent: &PublicKey,
        secret: Option<&Secret<32>>,
        binding: &Binding<'_>,
    ) -> Result<(Self, Vec<u8>), Error> {
        let handshake = Handshake::new(&Setup {
            pattern,
            initiates: true,
            key,
            remote: Some(agent),
            secret,
            binding,
        })?;
        let frame = handshake.write(&[])?;
        Ok((Self(handshake), frame))
    }

    /// Reads the agent's answer, taken out of its frame; returns the channel and
    /// a frame that has to be sent before any other: it proves this device to
    /// the agent.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Handshake`] if the answer does not fit.
    pub fn finish(self, message: &[u8], now: Duration) -> Result<(Channel, Vec<u8>), Error> {
        self.0.read::<0>(message, SECOND)?;
        let mut channel = Channel::new(self.0.finish()?, now);
        let frame = channel.send_first(&Record::Confirm)?;
        Ok((channel, frame))
    }
}

/// An agent that waits for a device's first message.
#[derive(Debug)]
pub struct Responder(Handshake);

impl Responder {
    /// Waits for a device that holds the link with `secret`.
    ///
    /// # Security
    ///
    /// The caller uses a secret for one pairing and forgets it after minutes.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Handshake`] only if the binding or keys cannot be used.
    pub fn pair(
        key: &StaticKey,
        secret: &Secret<32>,
        binding: &Binding<'_>,
    ) -> Result<Self, Error> {
        Self::wait(PAIRING, key, Some(secret), binding)
    }

    /// Waits for a device that is paired.
    ///
    /// # Errors
    ///
    /// Those of [`pair`](Self::pair).
    pub fn resume(key: &StaticKey, binding: &Binding<'_>) -> Result<Self, Error> {
        Self::wait(RESUMING, key, None, binding)
    }

    fn wait(
        pattern: &'static str,
        key: &StaticKey,
        secret: Option<&Secret<32>>,
        binding: &Binding<'_>,
    ) -> Result<Self, Error> {
        let handshake = Handshake::new(&Setup {
            pattern,
            initiates: false,
            key,
            remote: None,
            secret,
            binding,
        })?;
        Ok(Self(handshake))
    }

    /// Reads the device's first message, taken out of its frame.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Handshake`] if it does not fit.
    pub fn read(self, message: &[u8]) -> Result<Incoming, Error> {
        self.0.read::<0>(message, FIRST)?;
        let peer = self.0.peer()?;
        Ok(Incoming {
            handshake: self.0,
            peer,
        })
    }
}

/// A device's first message, read and not answered yet.
#[derive(Debug)]
pub struct Incoming {
    handshake: Handshake,
    peer: PublicKey,
}

impl Incoming {
    /// The key that the device states. When resuming, look it up among the
    /// devices that are paired, and drop this if it is not there.
    #[must_use]
    pub fn peer(&self) -> PublicKey {
        self.peer
    }

    /// Answers; returns the frame to send.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Handshake`] if the device's keys cannot be agreed with,
    /// [`Error::Randomness`] if the system gives none.
    pub fn answer(self, now: Duration) -> Result<(Unproved, Vec<u8>), Error> {
        let frame = self.handshake.write(&[])?;
        let channel = Channel::new(self.handshake.finish()?, now);
        Ok((Unproved(channel), frame))
    }
}

/// A channel whose device has not shown yet that it is there, and in pairing
/// that it holds the secret. It can neither send nor give out messages.
#[derive(Debug)]
pub struct Unproved(Channel);

impl Unproved {
    /// Takes bytes from the front of `input`, up to the end of the first record.
    /// What remains is for [`Channel::receive`].
    ///
    /// # Errors
    ///
    /// Returns a refusal if the device is not who it said; the channel is gone.
    pub fn prove(mut self, input: &mut &[u8]) -> Result<Step<Self, Proved>, Error> {
        match self.0.receive_first(input)? {
            None => Ok(Step::Waiting(self)),
            Some(Record::Confirm) => Ok(Step::Done(Proved(self.0))),
            Some(_) => {
                let rule = "the first record confirms";
                Err(Error::Malformed { rule })
            }
        }
    }
}

/// Proof that a device holds its private key and, in pairing, the secret of the
/// link: what enrols a device asks for this.
#[derive(Debug)]
pub struct Proved(Channel);

impl Proved {
    /// The device's key, to be kept among the paired ones.
    #[must_use]
    pub fn peer(&self) -> PublicKey {
        self.0.peer()
    }

    /// Opens the channel.
    #[must_use]
    pub fn into_channel(self) -> Channel {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Initiator, Responder, SECOND};
    use crate::channel::frame::PREFIX;
    use crate::channel::{Binding, Channel, Error, StaticKey};

    #[test]
    fn a_device_whose_first_record_does_not_confirm_is_refused() {
        let binding = Binding {
            relay: "r",
            account: "c",
            agent: "a",
            device: "d",
            stream: "s",
        };
        let (agent, device) = (StaticKey::generate(), StaticKey::generate());
        let (agent, device) = (agent.unwrap(), device.unwrap());
        let now = Duration::ZERO;
        let (begun, sent) = Initiator::resume(&device, &agent.public(), &binding).unwrap();
        let waiting = Responder::resume(&agent, &binding).unwrap();
        let incoming = waiting.read(&sent[PREFIX..]).unwrap();
        let (unproved, sent) = incoming.answer(now).unwrap();
        begun.0.read::<0>(&sent[PREFIX..], SECOND).unwrap();
        let mut channel = Channel::new(begun.0.finish().unwrap(), now);
        let mut sent = Vec::new();
        channel.send(now, b"hello", &mut sent).unwrap();
        let outcome = unproved.prove(&mut sent.as_slice());
        assert!(matches!(outcome, Err(Error::Malformed { .. })));
    }
}
