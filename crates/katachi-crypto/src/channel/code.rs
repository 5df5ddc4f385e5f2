//! Pairing by a typed code (XX): neither end knows the other's key, so people
//! compare a short code that both ends show.
//!
//! The code comes from the handshake hash and a number of each end. The agent
//! commits to its number before it sees the device's, so someone in the middle,
//! who runs two handshakes, cannot try keys until two codes meet: one attempt
//! succeeds with probability 2^-39 and is seen if it fails.
//!
//! | message | payload |
//! |---|---|
//! | 1, device | none |
//! | 2, agent | SHA-256 of `katachi-channel/1 commitment` and number a |
//! | 3, device | number b |
//! | first record, agent | reveal: number a |
//!
//! Numbers have 32 bytes. The code is HKDF-SHA256 with the handshake hash as
//! salt, `length ‖ a ‖ length ‖ b` as input and `length ‖ text` as info, where
//! the text is `katachi-channel/1 code` and lengths are 64-bit big-endian. Its
//! five bytes become three numbers from 1000 to 9191, as in the `decimal` method
//! of the Matrix specification (short authentication string).

use std::fmt;
use std::time::Duration;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::noise::{Handshake, Setup};
use super::record::Record;
use super::{Binding, Channel, Error, StaticKey, Step};
use crate::Secret;
use crate::kdf::{self, Label};

const PATTERN: &str = "XX";

/// Lengths of the three messages, in bytes (Noise, section 7.5): key; key,
/// encrypted key, encrypted commitment; encrypted key, encrypted number.
const FIRST: usize = 32;
const SECOND: usize = 32 + 48 + 48;
const THIRD: usize = 48 + 48;

/// What both ends show to people: three numbers of four digits, 39 bits.
///
/// ```
/// # use katachi_crypto::channel::ShortCode;
/// # fn show(code: &ShortCode) {
/// println!("Does the other screen show {code}?"); // 4175 9021 1203
/// # }
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ShortCode([u16; 3]);

impl ShortCode {
    /// The three numbers, from 1000 to 9191.
    #[must_use]
    pub fn numbers(&self) -> [u16; 3] {
        self.0
    }

    fn derive(hash: &[u8; 32], a: &[u8; 32], b: &[u8; 32]) -> Self {
        let label = Label::new("katachi-channel/1 code");
        let bytes: Secret<5> = kdf::derive(&[a, b], hash, &label);
        let bits = bytes
            .expose_secret()
            .iter()
            .fold(0u64, |bits, byte| (bits << 8) | u64::from(*byte));
        // 13 bits each; the last of the 40 is not used.
        Self([27, 14, 1].map(|shift| 1000 + ((bits >> shift) & 0x1fff) as u16))
    }
}

impl fmt::Display for ShortCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [one, two, three] = self.0;
        write!(formatter, "{one} {two} {three}")
    }
}

/// A device that has sent its first message.
#[derive(Debug)]
pub struct CodeInitiator(Handshake);

impl CodeInitiator {
    /// Begins; returns the frame to send.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Randomness`] if the system gives none.
    pub fn begin(key: &StaticKey, binding: &Binding<'_>) -> Result<(Self, Vec<u8>), Error> {
        let handshake = start(true, key, binding)?;
        let frame = handshake.write(&[])?;
        Ok((Self(handshake), frame))
    }

    /// Reads the agent's message, taken out of its frame; returns the frame to send.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Handshake`] if the message does not fit.
    pub fn answer(self, message: &[u8], now: Duration) -> Result<(Unrevealed, Vec<u8>), Error> {
        let commitment = *self.0.read::<32>(message, SECOND)?;
        let nonce = Secret::random()?;
        let frame = self.0.write(nonce.expose_secret())?;
        let waiting = Unrevealed {
            channel: Channel::new(self.0.finish()?, now),
            commitment,
            nonce,
        };
        Ok((waiting, frame))
    }
}

/// A device that waits for the number to which the agent committed.
#[derive(Debug)]
pub struct Unrevealed {
    channel: Channel,
    commitment: [u8; 32],
    nonce: Secret<32>,
}

impl Unrevealed {
    /// Takes bytes from the front of `input`, up to the end of the first record.
    /// What remains is for [`Channel::receive`].
    ///
    /// # Errors
    ///
    /// Returns [`Error::Commitment`] if the agent reveals another number than
    /// it had committed to, or another refusal; the channel is gone.
    pub fn reveal(mut self, input: &mut &[u8]) -> Result<Step<Self, Uncompared>, Error> {
        let nonce = match self.channel.receive_first(input)? {
            None => return Ok(Step::Waiting(self)),
            Some(Record::Reveal { nonce }) => Secret::new(*nonce),
            Some(_) => {
                let rule = "the first record reveals";
                return Err(Error::Malformed { rule });
            }
        };
        if !bool::from(commit(&nonce).ct_eq(&self.commitment)) {
            return Err(Error::Commitment);
        }
        Ok(Step::Done(Uncompared::new(
            self.channel,
            &nonce,
            self.nonce.expose_secret(),
        )))
    }
}

/// An agent that waits for a device's first message.
#[derive(Debug)]
pub struct CodeResponder(Handshake);

impl CodeResponder {
    /// Waits.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Handshake`] only if the binding or keys cannot be used.
    pub fn wait(key: &StaticKey, binding: &Binding<'_>) -> Result<Self, Error> {
        Ok(Self(start(false, key, binding)?))
    }

    /// Reads the device's first message, taken out of its frame; returns the
    /// frame to send.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Handshake`] if the message does not fit,
    /// [`Error::Randomness`] if the system gives none.
    pub fn answer(self, message: &[u8]) -> Result<(Committed, Vec<u8>), Error> {
        self.0.read::<0>(message, FIRST)?;
        let nonce = Secret::random()?;
        let frame = self.0.write(&commit(&nonce))?;
        let handshake = self.0;
        Ok((Committed { handshake, nonce }, frame))
    }
}

/// An agent that has committed to its number.
#[derive(Debug)]
pub struct Committed {
    handshake: Handshake,
    nonce: Secret<32>,
}

impl Committed {
    /// Reads the device's last message, taken out of its frame; returns the
    /// frame that reveals the number.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Handshake`] if the message does not fit.
    pub fn finish(self, message: &[u8], now: Duration) -> Result<(Uncompared, Vec<u8>), Error> {
        let theirs = self.handshake.read::<32>(message, THIRD)?;
        let mut channel = Channel::new(self.handshake.finish()?, now);
        let nonce = self.nonce.expose_secret();
        let frame = channel.send_first(&Record::Reveal { nonce })?;
        Ok((Uncompared::new(channel, &self.nonce, &theirs), frame))
    }
}

/// A channel whose other end is not known to be the right one until people have
/// compared the codes. It can neither send nor give out messages.
#[derive(Debug)]
pub struct Uncompared {
    channel: Channel,
    code: ShortCode,
}

impl Uncompared {
    fn new(channel: Channel, a: &Secret<32>, b: &[u8; 32]) -> Self {
        let code = ShortCode::derive(channel.handshake_hash(), a.expose_secret(), b);
        Self { channel, code }
    }

    /// The code to show.
    #[must_use]
    pub fn code(&self) -> ShortCode {
        self.code
    }

    /// Opens the channel: a person has seen the same code at the other end.
    ///
    /// # Security
    ///
    /// Called without that, it pairs with whoever sits in the middle.
    #[must_use]
    pub fn codes_are_equal(self) -> Channel {
        self.channel
    }
}

fn start(initiates: bool, key: &StaticKey, binding: &Binding<'_>) -> Result<Handshake, Error> {
    Handshake::new(&Setup {
        pattern: PATTERN,
        initiates,
        key,
        remote: None,
        secret: None,
        binding,
    })
}

fn commit(nonce: &Secret<32>) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"katachi-channel/1 commitment");
    hash.update(nonce.expose_secret());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{CodeInitiator, CodeResponder, Committed, Secret, ShortCode};
    use crate::channel::frame::PREFIX;
    use crate::channel::{Binding, Error, StaticKey};

    #[test]
    fn an_agent_that_reveals_another_number_is_refused() {
        let binding = Binding {
            relay: "r",
            account: "c",
            agent: "a",
            device: "d",
            stream: "s",
        };
        let (agent, device) = (StaticKey::generate(), StaticKey::generate());
        let now = Duration::ZERO;
        let (begun, sent) = CodeInitiator::begin(&device.unwrap(), &binding).unwrap();
        let waiting = CodeResponder::wait(&agent.unwrap(), &binding).unwrap();
        let (committed, sent) = waiting.answer(&sent[PREFIX..]).unwrap();
        let (unrevealed, sent) = begun.answer(&sent[PREFIX..], now).unwrap();
        let cheating = Committed {
            nonce: Secret::new([1; 32]),
            ..committed
        };
        let (_, sent) = cheating.finish(&sent[PREFIX..], now).unwrap();
        let outcome = unrevealed.reveal(&mut sent.as_slice());
        assert!(matches!(outcome, Err(Error::Commitment)), "{outcome:?}");
    }

    #[test]
    fn codes_use_all_bits_and_stay_within_four_digits() {
        let mut seen = [[false; 8192]; 3];
        for one in 0..=255 {
            for two in 0..=255 {
                let mut hash = [0; 32];
                (hash[0], hash[1]) = (one, two);
                let code = ShortCode::derive(&hash, &[1; 32], &[2; 32]);
                for (seen, number) in seen.iter_mut().zip(code.numbers()) {
                    assert!((1000..=9191).contains(&number));
                    seen[usize::from(number) - 1000] = true;
                }
            }
        }
        // Eight draws a value: e^-8 of them, some three, are missed.
        for seen in seen {
            assert!(seen.iter().filter(|seen| !**seen).count() < 20);
        }
    }
}
