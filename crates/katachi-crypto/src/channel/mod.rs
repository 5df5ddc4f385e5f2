//! A channel between two ends that trust nobody on the way, over any carrier
//! that brings bytes in order.
//!
//! A device (a browser, say) and an agent meet through a relay that carries
//! their bytes. This module gives them messages that the relay can neither read,
//! change, repeat, reorder nor drop unnoticed: the Noise Protocol Framework
//! (revision 34) with the suite `25519_AESGCM_SHA256`, every part of which is in
//! WebCrypto. It is state machines only: bytes in, bytes out, time as an
//! argument.
//!
//! It does **not** hide that two ends talk, when, and roughly how much; it does
//! not keep a list of paired devices or the age of a pairing link; and it does
//! not reconnect.
//!
//! # Pairing by link, then a channel
//!
//! The agent shows a link with its public key and a secret of 32 bytes, which
//! the relay never sees.
//!
//! ```
//! use std::time::Duration;
//!
//! use katachi_crypto::Secret;
//! use katachi_crypto::channel::{
//!     Binding, Event, Frames, Initiator, Responder, StaticKey, Step,
//! };
//!
//! let (agent, device) = (StaticKey::generate()?, StaticKey::generate()?);
//! let link = Secret::<32>::random()?;
//! let binding = Binding {
//!     relay: "https://relay.example",
//!     account: "ada",
//!     agent: "laptop",
//!     device: "phone",
//!     stream: "1",
//! };
//! let now = Duration::ZERO; // of any clock that does not run backwards
//!
//! // The device begins, the agent answers. Frames come off the carrier.
//! let (begun, sent) = Initiator::pair(&device, &agent.public(), &link, &binding)?;
//! let mut frames = Frames::of_handshake();
//! let message = frames.next(&mut sent.as_slice())?.ok_or("no frame")?.to_vec();
//! let incoming = Responder::pair(&agent, &link, &binding)?.read(&message)?;
//! let (unproved, sent) = incoming.answer(now)?;
//!
//! let mut frames = Frames::of_handshake();
//! let message = frames.next(&mut sent.as_slice())?.ok_or("no frame")?.to_vec();
//! let (mut on_device, mut sent) = begun.finish(&message, now)?;
//! on_device.send(now, b"hello", &mut sent)?;
//!
//! // Only the first record shows that the device holds the secret.
//! let mut input = sent.as_slice();
//! let Step::Done(proved) = unproved.prove(&mut input)? else {
//!     return Err("the first record is not complete".into());
//! };
//! assert_eq!(proved.peer(), device.public()); // enrol it now
//! let mut on_agent = proved.into_channel();
//! let Some(Event::Message(message)) = on_agent.receive(&mut input)? else {
//!     return Err("no message".into());
//! };
//! assert_eq!(message.expose_secret(), b"hello");
//!
//! // The end of the carrier without a close record is an attack or a fault.
//! let mut sent = Vec::new();
//! on_device.close(&mut sent)?;
//! assert_eq!(on_agent.receive(&mut sent.as_slice())?, Some(Event::Closed));
//! on_agent.end()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! From then on both use `resume` in place of `pair`, and the agent looks
//! [`Incoming::peer`] up among its paired devices before it answers.
//!
//! # Pairing by code
//!
//! Where no link can be carried over, [`CodeInitiator`] and [`CodeResponder`]
//! agree on a [`ShortCode`] that people compare.
//!
//! # The bytes
//!
//! | Noise | messages, in bytes | first record |
//! |---|---|---|
//! | `IKpsk2` pairing by link | 96 by the device, 48 by the agent | confirm, by the device |
//! | `IK` later channels | 96, 48 | confirm, by the device |
//! | `XX` pairing by code | 32, 128, 96 | reveal, by the agent |
//!
//! - Each Noise message is a [frame](Frames): its length as 16-bit big-endian,
//!   then the message. The prologue is a [`Binding`].
//! - After the handshake each message is one opened [record]:
//!   256, 1,024, 4,096 or 16,384 bytes and a tag of 16. These are the only sizes
//!   to be seen.
//! - Counters are implicit and never transmitted. A record that does not open
//!   closes the channel.
//! - Either end changes its sending key (section 4.2, "rekey"; the counter goes
//!   on) by a rekey record: after an hour, and as the 2^20th record under one key
//!   at the latest, which the other end enforces.
//!
//! # Security
//!
//! The first message of an `IK` handshake can be replayed, so it carries
//! nothing. [`Unproved`] and [`Uncompared`] neither send nor give out messages.
//! Public keys that force a shared secret of zeros are refused. Keys are wiped
//! when a state is dropped or fails.

mod binding;
mod cipher;
mod code;
mod error;
mod frame;
mod keys;
mod link;
mod noise;
pub mod record;
mod session;

pub use binding::Binding;
pub use code::{CodeInitiator, CodeResponder, Committed, ShortCode, Uncompared, Unrevealed};
pub use error::Error;
pub use frame::Frames;
pub use keys::{PublicKey, StaticKey};
pub use link::{Incoming, Initiator, Proved, Responder, Unproved};
pub use session::{Channel, Event, KEY_LIFETIME, MAX_RECORDS, RECORDS_PER_KEY};

/// What became of a state that was given bytes.
#[derive(Debug)]
pub enum Step<W, D> {
    /// More bytes are needed.
    Waiting(W),
    /// The next state. Bytes that were not taken are for it.
    Done(D),
}
