//! The two ends of a channel without a carrier, and the cipher alone.

use std::time::Duration;

use katachi_crypto::channel::{Binding, Channel, Event, Initiator, Responder, StaticKey, Step};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustix::time::{ClockId, clock_gettime};

use super::{CONTENT, PIECE, SIZE};
use crate::server::Failure;

/// Of the channel and of the cipher alone, for [`SIZE`] MiB sealed and opened.
pub(super) fn measure() -> Result<(f64, f64), Failure> {
    let (mut device, mut agent) = channels()?;
    let piece = vec![7; PIECE];
    let pieces = (SIZE << 20) / PIECE;
    let mut carried = Vec::new();
    let before = now();
    for _ in 0..pieces {
        carried.clear();
        device.send(Duration::ZERO, &piece, &mut carried)?;
        let mut input = &carried[..];
        while let Some(event) = agent.receive(&mut input)? {
            if let Event::Message(message) = event {
                assert_eq!(message.len(), PIECE, "messages arrive whole");
            }
        }
    }
    let ours = now() - before;

    let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).map_err(|_| "a key has 32 bytes")?;
    let key = LessSafeKey::new(key);
    let mut record = vec![7; CONTENT];
    let before = now();
    for number in 0..pieces * (PIECE / CONTENT) {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&(number as u64).to_be_bytes());
        let nonce = || Nonce::assume_unique_for_key(nonce);
        record.truncate(CONTENT);
        key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut record)
            .map_err(|_| "a record can be sealed")?;
        key.open_in_place(nonce(), Aad::empty(), &mut record)
            .map_err(|_| "a sealed record opens")?;
    }
    Ok((ours, now() - before))
}

/// Processor time of this thread, in nanoseconds.
fn now() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

fn channels() -> Result<(Channel, Channel), Failure> {
    let (device, agent) = (StaticKey::generate()?, StaticKey::generate()?);
    let place = Binding {
        relay: "https://relay.example",
        account: "bench",
        agent: "agent",
        device: "device",
        stream: "1",
    };
    let (begun, first) = Initiator::resume(&device, &agent.public(), &place)?;
    // Each frame begins with its length, of two bytes.
    let incoming = Responder::resume(&agent, &place)?.read(&first[2..])?;
    let (unproved, answer) = incoming.answer(Duration::ZERO)?;
    let (mut on_device, mut sent) = begun.finish(&answer[2..], Duration::ZERO)?;
    on_device.send(Duration::ZERO, b"first", &mut sent)?;
    let mut input = &sent[..];
    let Step::Done(proved) = unproved.prove(&mut input)? else {
        return Err("the first record is not complete".into());
    };
    let mut on_agent = proved.into_channel();
    while on_agent.receive(&mut input)?.is_some() {}
    Ok((on_device, on_agent))
}
