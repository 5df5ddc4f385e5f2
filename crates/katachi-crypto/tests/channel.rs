//! Two ends and an enemy on the carrier between them.

#![cfg(all(feature = "channel", any(feature = "ring", feature = "rustcrypto")))]
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::time::Duration;

use katachi_crypto::Secret;
use katachi_crypto::channel::{
    Binding, Channel, CodeInitiator, CodeResponder, Error, Event, Frames, Incoming, Initiator,
    PublicKey, Responder, StaticKey, Step, Uncompared, Unproved,
};
use proptest::prelude::*;

const NOW: Duration = Duration::from_secs(5);

const BINDING: Binding<'static> = Binding {
    relay: "https://relay.example",
    account: "ada",
    agent: "laptop",
    device: "phone",
    stream: "1",
};

/// Keys of an agent and a device, and the secret of a link between them.
struct Keys {
    agent: StaticKey,
    device: StaticKey,
    link: Secret<32>,
}

fn keys() -> Keys {
    Keys {
        agent: StaticKey::generate().unwrap(),
        device: StaticKey::generate().unwrap(),
        link: Secret::random().unwrap(),
    }
}

/// The one handshake message in `sent`.
fn message(sent: &[u8]) -> Vec<u8> {
    let (mut frames, mut input) = (Frames::of_handshake(), sent);
    let message = frames.next(&mut input).unwrap().unwrap().to_vec();
    assert!(input.is_empty());
    message
}

fn prove(unproved: Unproved, sent: &[u8]) -> Result<Channel, Error> {
    match unproved.prove(&mut { sent })? {
        Step::Done(proved) => Ok(proved.into_channel()),
        Step::Waiting(_) => panic!("a whole record was given"),
    }
}

/// A channel between device and agent.
fn open() -> (Channel, Channel) {
    let keys = keys();
    let (begun, sent) = Initiator::resume(&keys.device, &keys.agent.public(), &BINDING).unwrap();
    let waiting = Responder::resume(&keys.agent, &BINDING).unwrap();
    let incoming = waiting.read(&message(&sent)).unwrap();
    assert_eq!(incoming.peer(), keys.device.public());
    let (unproved, sent) = incoming.answer(NOW).unwrap();
    let (on_device, sent) = begun.finish(&message(&sent), NOW).unwrap();
    let on_agent = prove(unproved, &sent).unwrap();
    assert_eq!(on_device.handshake_hash(), on_agent.handshake_hash());
    assert_eq!(on_device.peer(), keys.agent.public());
    assert_eq!(on_agent.peer(), keys.device.public());
    (on_device, on_agent)
}

/// The frames of three messages and a close, one by one.
fn sent(channel: &mut Channel) -> Vec<Vec<u8>> {
    let frames = [b"one", b"two", b"six"].map(|message| {
        let mut frame = Vec::new();
        channel.send(NOW, message, &mut frame).unwrap();
        frame
    });
    let mut frames = Vec::from(frames);
    let mut close = Vec::new();
    channel.close(&mut close).unwrap();
    frames.push(close);
    frames
}

/// What a receiver gets from `bytes`, and how it ends.
fn receive(channel: &mut Channel, bytes: &[u8]) -> (Vec<Event>, Result<(), Error>) {
    let (mut events, mut input) = (Vec::new(), bytes);
    loop {
        match channel.receive(&mut input) {
            Ok(Some(event)) => events.push(event),
            Ok(None) => return (events, Ok(())),
            Err(error) => return (events, Err(error)),
        }
    }
}

/// Expects `bytes` to be refused after `before` whole messages, with no more
/// output whatever else comes.
fn refuses(channel: &mut Channel, bytes: &[u8], before: usize) {
    let (events, outcome) = receive(channel, bytes);
    assert_eq!(events.len(), before);
    let error = outcome.unwrap_err();
    assert!(error.is_refusal(), "{error:?}");
    assert_eq!(receive(channel, bytes), (vec![], Err(Error::Closed)));
    assert_eq!(channel.send(NOW, b"", &mut Vec::new()), Err(Error::Closed));
    assert_eq!(channel.close(&mut Vec::new()), Err(Error::Closed));
    assert_eq!(channel.end(), Err(Error::Closed));
}

#[test]
fn messages_arrive_in_order_both_ways() {
    let (mut device, mut agent) = open();
    for (from, to) in [(0, 1), (1, 0)] {
        let mut ends = [Some(&mut device), Some(&mut agent)];
        let (from, to) = (ends[from].take().unwrap(), ends[to].take().unwrap());
        let (events, outcome) = receive(to, &sent(from).concat());
        assert_eq!(outcome, Ok(()));
        let texts = events.iter().map(|event| match event {
            Event::Message(message) => message.expose_secret(),
            _ => b"closed",
        });
        assert!(texts.eq([b"one".as_slice(), b"two", b"six", b"closed"]));
        assert_eq!(to.end(), Ok(()));
    }
}

#[test]
fn messages_of_every_size_up_to_the_limit_arrive() {
    let (mut device, mut agent) = open();
    for length in [0, 1, 248, 249, 16_376, 16_377, 32_752, 32_753, 16 << 20] {
        let message: Vec<u8> = (0..length).map(|at: usize| at.to_le_bytes()[0]).collect();
        let mut frames = Vec::new();
        device.send(NOW, &message, &mut frames).unwrap();
        let (events, outcome) = receive(&mut agent, &frames);
        assert_eq!((events.len(), outcome), (1, Ok(())));
        let Event::Message(got) = &events[0] else {
            panic!("no message");
        };
        assert!(got.expose_secret() == message, "{length}");
    }
    let limit = 16 << 20;
    let outcome = device.send(NOW, &vec![0; limit + 1], &mut Vec::new());
    assert_eq!(outcome, Err(Error::TooLong { limit }));
    // Which was the caller's mistake, and closed nothing.
    assert_eq!(device.send(NOW, b"", &mut Vec::new()), Ok(()));
}

#[test]
fn only_the_padding_classes_are_seen() {
    let (mut device, _) = open();
    let mut sizes = std::collections::BTreeSet::new();
    for length in (0..40_000).step_by(61) {
        let mut frames = Vec::new();
        device.send(NOW, &vec![0; length], &mut frames).unwrap();
        let (mut reader, mut input) = (Frames::of_records(), frames.as_slice());
        while let Some(frame) = reader.next(&mut input).unwrap() {
            sizes.insert(frame.len());
        }
    }
    let mut frames = Vec::new();
    device.close(&mut frames).unwrap();
    sizes.insert(frames.len() - 2);
    assert!(sizes.into_iter().eq([272, 1040, 4112, 16_400]));
}

#[test]
fn replayed_frames_close_the_channel() {
    let (mut device, mut agent) = open();
    let frames = sent(&mut device);
    let replayed = [&*frames[0], &frames[1], &frames[0]].concat();
    refuses(&mut agent, &replayed, 2);
}

#[test]
fn duplicated_frames_close_the_channel() {
    let (mut device, mut agent) = open();
    let frames = sent(&mut device);
    refuses(&mut agent, &[&*frames[0], &frames[0]].concat(), 1);
}

#[test]
fn reordered_frames_close_the_channel() {
    let (mut device, mut agent) = open();
    let frames = sent(&mut device);
    refuses(&mut agent, &[&*frames[1], &frames[0]].concat(), 0);
}

#[test]
fn dropped_frames_close_the_channel() {
    let (mut device, mut agent) = open();
    let frames = sent(&mut device);
    refuses(&mut agent, &[&*frames[0], &frames[2]].concat(), 1);
}

#[test]
fn frames_of_the_other_direction_or_another_channel_close_the_channel() {
    let (mut device, mut agent) = open();
    let (_, mut other) = open();
    let frames = sent(&mut device);
    refuses(&mut device, &frames[0], 0);
    refuses(&mut other, &frames[0], 0);
    assert_eq!(receive(&mut agent, &frames.concat()).0.len(), 4);
}

#[test]
fn truncated_frames_give_nothing_and_are_told_from_an_end() {
    for length in 0..274 {
        let (mut device, mut agent) = open();
        let whole = sent(&mut device).remove(0);
        assert_eq!(receive(&mut agent, &whole[..length]), (vec![], Ok(())));
        assert_eq!(agent.end(), Err(Error::Cut));
        assert_eq!(receive(&mut agent, &whole[length..]).1, Err(Error::Closed));
    }
}

#[test]
fn a_frame_cut_short_and_filled_up_by_the_next_closes_the_channel() {
    let (mut device, mut agent) = open();
    let frames = sent(&mut device);
    let cut = [&frames[0][..100], &*frames[1]].concat();
    refuses(&mut agent, &cut, 0);
}

#[test]
fn a_change_in_any_byte_of_a_frame_closes_the_channel() {
    for at in 0..274 {
        let (mut device, mut agent) = open();
        let mut frames = sent(&mut device);
        frames[0][at] ^= 1 << (at % 8);
        let bytes = frames.concat();
        let (events, outcome) = receive(&mut agent, &bytes);
        assert_eq!(events, [], "{at}");
        let expected = [Err(Error::Length), Err(Error::Record)];
        assert!(expected.contains(&outcome), "{at}: {outcome:?}");
        assert_eq!(receive(&mut agent, &bytes).1, Err(Error::Closed));
    }
}

#[test]
fn a_frame_of_a_length_that_does_not_exist_is_refused_by_its_two_bytes() {
    for length in [0, 16, 271, 273, 16_401, u16::MAX] {
        let (_, mut agent) = open();
        let outcome = receive(&mut agent, &length.to_be_bytes());
        assert_eq!(outcome, (vec![], Err(Error::Length)));
    }
}

#[test]
fn a_close_is_told_from_a_cut() {
    let (mut device, mut agent) = open();
    let frames = sent(&mut device);
    let (events, outcome) = receive(&mut agent, &frames[..3].concat());
    assert_eq!((events.len(), outcome), (3, Ok(())));
    assert_eq!(agent.end(), Err(Error::Cut));

    let (mut device, mut agent) = open();
    let frames = sent(&mut device);
    let (events, _) = receive(&mut agent, &frames.concat());
    assert_eq!(events.last(), Some(&Event::Closed));
    assert_eq!(agent.end(), Ok(()));
    // The other direction stays open.
    let mut answer = Vec::new();
    agent.send(NOW, b"last words", &mut answer).unwrap();
    assert_eq!(receive(&mut device, &answer).0.len(), 1);
}

#[test]
fn nothing_may_follow_a_close() {
    let (mut device, mut agent) = open();
    let mut bytes = sent(&mut device).concat();
    bytes.push(0);
    refuses(&mut agent, &bytes, 4);
}

/// Pairs by link with what each end believes.
fn pair(
    keys: &Keys,
    agent: &PublicKey,
    link: &Secret<32>,
    binding: &Binding<'_>,
) -> Result<(Channel, Channel), Error> {
    let (begun, sent) = Initiator::pair(&keys.device, agent, link, binding)?;
    let waiting = Responder::pair(&keys.agent, &keys.link, &BINDING)?;
    let (unproved, sent) = waiting.read(&message(&sent))?.answer(NOW)?;
    let (on_device, sent) = begun.finish(&message(&sent), NOW)?;
    Ok((on_device, prove(unproved, &sent)?))
}

#[test]
fn pairing_by_link_opens_a_channel() {
    let keys = keys();
    let (mut device, mut agent) = pair(&keys, &keys.agent.public(), &keys.link, &BINDING).unwrap();
    assert_eq!(agent.peer(), keys.device.public());
    let frames = sent(&mut device).concat();
    assert_eq!(receive(&mut agent, &frames).0.len(), 4);
}

#[test]
fn a_wrong_secret_is_refused() {
    let keys = keys();
    let wrong = Secret::random().unwrap();
    let outcome = pair(&keys, &keys.agent.public(), &wrong, &BINDING);
    assert_eq!(outcome.unwrap_err(), Error::Handshake);
}

#[test]
fn a_wrong_key_of_the_agent_is_refused() {
    let keys = keys();
    let wrong = StaticKey::generate().unwrap().public();
    let outcome = pair(&keys, &wrong, &keys.link, &BINDING);
    assert_eq!(outcome.unwrap_err(), Error::Handshake);
    let zero = PublicKey::from_bytes([0; 32]);
    let outcome = Initiator::resume(&keys.device, &zero, &BINDING);
    assert_eq!(outcome.unwrap_err(), Error::Handshake);
}

#[test]
fn any_difference_in_the_place_is_refused() {
    let other = "2";
    for binding in [
        Binding {
            relay: other,
            ..BINDING
        },
        Binding {
            account: other,
            ..BINDING
        },
        Binding {
            agent: other,
            ..BINDING
        },
        Binding {
            device: other,
            ..BINDING
        },
        Binding {
            stream: other,
            ..BINDING
        },
    ] {
        let keys = keys();
        let outcome = pair(&keys, &keys.agent.public(), &keys.link, &binding);
        assert_eq!(outcome.unwrap_err(), Error::Handshake);
    }
}

#[test]
fn pairing_is_not_proved_by_the_first_message() {
    // A thief of the agent's public key, without the link's secret: the agent
    // reads the first message and answers, and then nothing opens.
    let keys = keys();
    let wrong = Secret::random().unwrap();
    let agent = keys.agent.public();
    let (begun, first) = Initiator::pair(&keys.device, &agent, &wrong, &BINDING).unwrap();
    let waiting = Responder::pair(&keys.agent, &keys.link, &BINDING).unwrap();
    let incoming: Incoming = waiting.read(&message(&first)).unwrap();
    let (unproved, sent) = incoming.answer(NOW).unwrap();
    assert!(begun.finish(&message(&sent), NOW).is_err());
    let mut forged = [0; 274];
    forged[..2].copy_from_slice(&[1, 16]);
    assert_eq!(prove(unproved, &forged).unwrap_err(), Error::Record);
}

#[test]
fn a_replayed_first_message_opens_nothing() {
    let keys = keys();
    let agent = keys.agent.public();
    let (begun, first) = Initiator::resume(&keys.device, &agent, &BINDING).unwrap();
    let answer = |first: &[u8]| {
        let waiting = Responder::resume(&keys.agent, &BINDING).unwrap();
        waiting.read(&message(first)).unwrap().answer(NOW).unwrap()
    };
    let (unproved, sent) = answer(&first);
    let (mut device, mut old) = begun.finish(&message(&sent), NOW).unwrap();
    device.send(NOW, b"run it", &mut old).unwrap();
    assert!(prove(unproved, &old).is_ok());
    // Everything of that channel again.
    let (unproved, _) = answer(&first);
    assert_eq!(prove(unproved, &old).unwrap_err(), Error::Record);
}

#[test]
fn a_change_in_any_byte_of_a_handshake_is_refused() {
    let keys = keys();
    let agent = keys.agent.public();
    for at in 0..96 {
        let (_, sent) = Initiator::resume(&keys.device, &agent, &BINDING).unwrap();
        let mut first = message(&sent);
        first[at] ^= 1 << (at % 7);
        let waiting = Responder::resume(&keys.agent, &BINDING).unwrap();
        assert_eq!(waiting.read(&first).unwrap_err(), Error::Handshake, "{at}");
    }
    for at in 0..48 {
        let (begun, sent) = Initiator::resume(&keys.device, &agent, &BINDING).unwrap();
        let waiting = Responder::resume(&keys.agent, &BINDING).unwrap();
        let (_, sent) = waiting.read(&message(&sent)).unwrap().answer(NOW).unwrap();
        let mut second = message(&sent);
        second[at] ^= 1 << (at % 7);
        assert!(begun.finish(&second, NOW).is_err(), "{at}");
    }
}

#[test]
fn a_handshake_message_of_another_length_is_refused() {
    let keys = keys();
    for length in [0, 32, 95, 97, 128] {
        let waiting = Responder::resume(&keys.agent, &BINDING).unwrap();
        assert_eq!(
            waiting.read(&vec![9; length]).unwrap_err(),
            Error::Handshake
        );
        let waiting = CodeResponder::wait(&keys.agent, &BINDING).unwrap();
        let is_right = length == 32;
        assert_eq!(waiting.answer(&vec![9; length]).is_ok(), is_right);
    }
}

/// Runs a handshake by code between the keys of two ends.
fn compare(device: &StaticKey, agent: &StaticKey) -> (Uncompared, Uncompared) {
    let (begun, sent) = CodeInitiator::begin(device, &BINDING).unwrap();
    let waiting = CodeResponder::wait(agent, &BINDING).unwrap();
    let (committed, sent) = waiting.answer(&message(&sent)).unwrap();
    let (unrevealed, sent) = begun.answer(&message(&sent), NOW).unwrap();
    let (on_agent, sent) = committed.finish(&message(&sent), NOW).unwrap();
    let (first, rest) = sent.split_at(99);
    let Ok(Step::Waiting(unrevealed)) = unrevealed.reveal(&mut { first }) else {
        panic!("a part of a record was given");
    };
    let Ok(Step::Done(on_device)) = unrevealed.reveal(&mut { rest }) else {
        panic!("a whole record was given");
    };
    (on_device, on_agent)
}

#[test]
fn pairing_by_code_shows_the_same_code_and_opens_a_channel() {
    let keys = keys();
    let (on_device, on_agent) = compare(&keys.device, &keys.agent);
    assert_eq!(on_device.code(), on_agent.code());
    let text = on_device.code().to_string();
    assert_eq!(text.split(' ').filter(|part| part.len() == 4).count(), 3);
    let (mut device, mut agent) = (on_device.codes_are_equal(), on_agent.codes_are_equal());
    assert_eq!(device.peer(), keys.agent.public());
    assert_eq!(agent.peer(), keys.device.public());
    let frames = sent(&mut device).concat();
    assert_eq!(receive(&mut agent, &frames).0.len(), 4);
}

#[test]
fn codes_differ_under_someone_in_the_middle() {
    for _ in 0..20 {
        let (keys, enemy) = (keys(), keys());
        let (on_device, _) = compare(&keys.device, &enemy.agent);
        let (_, on_agent) = compare(&enemy.device, &keys.agent);
        assert_ne!(on_device.code(), on_agent.code());
    }
}

#[test]
fn nothing_secret_is_printed() {
    let key = StaticKey::from_secret(Secret::new([0x5a; 32]));
    let (mut device, mut agent) = open();
    let mut frames = Vec::new();
    device.send(NOW, b"hunter2", &mut frames).unwrap();
    let (events, _) = receive(&mut agent, &frames);
    let printed = format!("{key:?} {device:?} {agent:?} {events:?}");
    assert!(!printed.contains("5a5a") && !printed.contains("90, 90"));
    assert!(!printed.contains("hunter2") && !printed.contains("104, 117"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However the carrier splits the bytes, the same messages come out.
    #[test]
    fn any_split_into_reads_gives_the_same_events(
        lengths in prop::collection::vec(prop_oneof![0usize..600, 16_000usize..60_000], 1..6),
        cuts in prop::collection::vec(1usize..5000, 1..40),
    ) {
        let (mut device, mut agent) = open();
        let messages: Vec<Vec<u8>> = lengths.iter().map(|length| vec![7; *length]).collect();
        let mut bytes = Vec::new();
        for message in &messages {
            device.send(NOW, message, &mut bytes).unwrap();
        }
        device.close(&mut bytes).unwrap();

        let (mut got, mut rest) = (Vec::new(), bytes.as_slice());
        for cut in cuts.iter().cycle() {
            let (piece, later) = rest.split_at((*cut).min(rest.len()));
            let (events, outcome) = receive(&mut agent, piece);
            prop_assert_eq!(outcome, Ok(()));
            got.extend(events);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(got.pop(), Some(Event::Closed));
        prop_assert_eq!(got.len(), messages.len());
        for (event, message) in got.iter().zip(&messages) {
            let is_same = matches!(event, Event::Message(got) if got.expose_secret() == message);
            prop_assert!(is_same);
        }
    }

    /// Against a reader that has all bytes at once and copies.
    #[test]
    fn frames_are_those_of_a_naive_reader(
        lengths in prop::collection::vec(prop::sample::select(vec![272usize, 1040, 4112, 16_400, 9]), 0..6),
        cut in 1usize..3000,
        lost in 0usize..40,
    ) {
        let mut bytes = Vec::new();
        for length in lengths {
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
            bytes.extend((0..length).map(|at| at.to_le_bytes()[0]));
        }
        bytes.truncate(bytes.len().saturating_sub(lost));

        let mut naive = Vec::new();
        let mut rest = bytes.clone();
        let refused = loop {
            if rest.len() < 2 {
                break false;
            }
            let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
            if ![272, 1040, 4112, 16_400].contains(&length) {
                break true;
            }
            if rest.len() < 2 + length {
                break false;
            }
            naive.push(rest[2..2 + length].to_vec());
            rest = rest[2 + length..].to_vec();
        };

        let (mut frames, mut got, mut failed) = (Frames::of_records(), Vec::new(), false);
        for mut piece in bytes.chunks(cut) {
            loop {
                match frames.next(&mut piece) {
                    Ok(Some(frame)) => got.push(frame.to_vec()),
                    Ok(None) => break,
                    Err(error) => {
                        prop_assert_eq!(error, Error::Length);
                        failed = true;
                        break;
                    }
                }
            }
        }
        prop_assert_eq!((got, failed), (naive, refused));
    }
}
