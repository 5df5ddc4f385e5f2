//! What takes a peer that breaks the rules, or counters near their ends.

use std::time::Duration;

use super::{Channel, Event, KEY_LIFETIME, RECORDS_PER_KEY};
use crate::channel::frame::{self, PREFIX};
use crate::channel::record::{MAX_CONTENT, Record};
use crate::channel::{Binding, Error, Initiator, Responder, StaticKey, Step};

const START: Duration = Duration::from_secs(1000);

fn pair() -> (Channel, Channel) {
    let binding = Binding {
        relay: "https://relay.example",
        account: "ada",
        agent: "laptop",
        device: "phone",
        stream: "1",
    };
    let (agent, device) = (StaticKey::generate(), StaticKey::generate());
    let (agent, device) = (agent.unwrap(), device.unwrap());
    let (begun, sent) = Initiator::resume(&device, &agent.public(), &binding).unwrap();
    let waiting = Responder::resume(&agent, &binding).unwrap();
    let incoming = waiting.read(&sent[PREFIX..]).unwrap();
    let (unproved, sent) = incoming.answer(START).unwrap();
    let (on_device, sent) = begun.finish(&sent[PREFIX..], START).unwrap();
    let Step::Done(proved) = unproved.prove(&mut sent.as_slice()).unwrap() else {
        panic!("a whole record was given");
    };
    (on_device, proved.into_channel())
}

/// Seals what no sound peer would.
fn forge(channel: &mut Channel, plain: &[u8]) -> Vec<u8> {
    let mut out = frame::prefix(plain.len() + 16).to_vec();
    out.resize(PREFIX + plain.len() + 16, 0);
    let noise = channel.noise.as_mut().unwrap();
    noise.write_message(plain, &mut out[PREFIX..]).unwrap();
    out
}

fn encoded(record: &Record<'_>) -> Vec<u8> {
    let mut plain = Vec::new();
    record.encode(&mut plain);
    plain
}

/// Gives `sent`, expects it to be refused as malformed and the channel to be
/// dead and empty afterwards.
fn refuses(channel: &mut Channel, sent: &[u8]) {
    let mut input = sent;
    let error = loop {
        match channel.receive(&mut input) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("taken"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Malformed { .. }), "{error:?}");
    assert!(channel.noise.is_none() && channel.partial.is_none());
    assert_eq!(channel.receive(&mut [].as_slice()), Err(Error::Closed));
    assert_eq!(
        channel.send(START, b"", &mut Vec::new()),
        Err(Error::Closed)
    );
}

#[test]
fn a_declared_length_of_four_gigabytes_is_refused_before_anything_is_set_aside() {
    for total in [u32::MAX, 16 * 1024 * 1024 + 1] {
        let (mut one, mut two) = pair();
        let mut plain = encoded(&Record::Message {
            total: 20_000,
            content: &[1; MAX_CONTENT],
        });
        plain[4..8].copy_from_slice(&total.to_be_bytes());
        let sent = forge(&mut one, &plain);
        refuses(&mut two, &sent);
    }
}

#[test]
fn records_out_of_their_place_are_refused() {
    let long = Record::Message {
        total: 40_000,
        content: &[1; MAX_CONTENT],
    };
    let short = Record::Message {
        total: 2,
        content: &[1; 2],
    };
    let reveal = Record::Reveal { nonce: &[1; 32] };
    let too_much = Record::More {
        content: &[1; MAX_CONTENT],
    };
    let not_full = Record::More { content: &[1; 9] };
    for records in [
        &[Record::Confirm][..],
        &[reveal],
        &[not_full],
        &[long, short],
        &[long, not_full],
        &[long, too_much, too_much],
        &[long, Record::Close],
        &[Record::Close, short],
    ] {
        let (mut one, mut two) = pair();
        let sent = records
            .iter()
            .map(|record| forge(&mut one, &encoded(record)));
        refuses(&mut two, &sent.collect::<Vec<_>>().concat());
    }
}

#[test]
fn every_byte_of_a_header_and_padding_counts() {
    let plain = encoded(&Record::Message {
        total: 5,
        content: b"hello",
    });
    for at in (0..8).chain(13..256) {
        let (mut one, mut two) = pair();
        let mut plain = plain.clone();
        plain[at] ^= 1 << (at % 8);
        let sent = forge(&mut one, &plain);
        refuses(&mut two, &sent);
    }
}

#[test]
fn both_ends_change_keys_at_the_limit_of_records() {
    let (mut one, mut two) = pair();
    for (from, to) in [(0, 1), (1, 0)] {
        let channels = [&mut one, &mut two];
        let [from, to] = {
            let mut channels = channels.map(Some);
            [channels[from].take().unwrap(), channels[to].take().unwrap()]
        };
        from.sending.in_key = RECORDS_PER_KEY - 3;
        to.receiving.in_key = RECORDS_PER_KEY - 3;
        let mut sent = Vec::new();
        for message in [b"one", b"two", b"six", b"ten"] {
            from.send(START, message, &mut sent).unwrap();
        }
        let mut input = sent.as_slice();
        let mut seen = Vec::new();
        while let Some(event) = to.receive(&mut input).unwrap() {
            seen.push(match event {
                Event::Message(message) => message.expose_secret().to_vec(),
                other => format!("{other:?}").into_bytes(),
            });
        }
        assert_eq!(
            seen,
            [b"one".as_slice(), b"two", b"Rekeyed", b"six", b"ten"]
        );
        assert_eq!((from.sending.in_key, to.receiving.in_key), (2, 2));
    }
}

#[test]
fn a_peer_that_does_not_change_its_key_in_time_is_refused() {
    let (mut one, mut two) = pair();
    two.receiving.in_key = RECORDS_PER_KEY - 1;
    let mut sent = Vec::new();
    one.send(START, b"late", &mut sent).unwrap();
    refuses(&mut two, &sent);
}

#[test]
fn a_close_can_be_the_last_record_under_a_key() {
    let (mut one, mut two) = pair();
    one.sending.in_key = RECORDS_PER_KEY - 1;
    two.receiving.in_key = RECORDS_PER_KEY - 1;
    let mut sent = Vec::new();
    one.close(&mut sent).unwrap();
    assert_eq!(two.receive(&mut sent.as_slice()), Ok(Some(Event::Closed)));
    assert_eq!(two.end(), Ok(()));
}

#[test]
fn a_key_is_changed_in_the_middle_of_a_long_message() {
    let (mut one, mut two) = pair();
    one.sending.in_key = RECORDS_PER_KEY - 3;
    two.receiving.in_key = RECORDS_PER_KEY - 3;
    let message = vec![5; 100_000];
    let mut sent = Vec::new();
    one.send(START, &message, &mut sent).unwrap();
    let mut input = sent.as_slice();
    assert_eq!(two.receive(&mut input), Ok(Some(Event::Rekeyed)));
    let Ok(Some(Event::Message(got))) = two.receive(&mut input) else {
        panic!("no message");
    };
    assert_eq!(got.expose_secret(), message);
}

#[test]
fn a_key_is_changed_after_an_hour_and_not_before() {
    let (mut one, mut two) = pair();
    let mut expect = |now: Duration, rekeys: bool| {
        let mut sent = Vec::new();
        one.send(now, b"x", &mut sent).unwrap();
        let mut input = sent.as_slice();
        let event = two.receive(&mut input).unwrap().unwrap();
        assert_eq!(event == Event::Rekeyed, rekeys, "{now:?}");
    };
    let second = Duration::from_secs(1);
    expect(START + KEY_LIFETIME - second, false);
    expect(START + KEY_LIFETIME, true);
}

#[test]
fn a_channel_near_the_end_of_its_counters_closes_and_never_wraps() {
    let (mut one, mut two) = pair();
    one.sending.left = 3;
    let mut sent = Vec::new();
    assert_eq!(one.send(START, b"x", &mut sent), Err(Error::Exhausted));
    assert!(sent.is_empty());
    // There is always room for the close.
    one.close(&mut sent).unwrap();
    assert_eq!(two.receive(&mut sent.as_slice()), Ok(Some(Event::Closed)));

    let (mut one, mut two) = pair();
    two.receiving.left = 0;
    one.send(START, b"x", &mut sent).unwrap();
    assert!(two.receive(&mut sent.as_slice()).is_err());

    // And below ours stands Noise's own.
    let (mut one, mut two) = pair();
    two.noise.as_mut().unwrap().set_receiving_nonce(u64::MAX);
    let mut sent = Vec::new();
    one.send(START, b"x", &mut sent).unwrap();
    assert_eq!(two.receive(&mut sent.as_slice()), Err(Error::Record));
}
