//! The bytes of an enrolment: printed, parsed, frozen.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use katachi_fingerprint::{Component, Enrollment, MOST_BYTES, Observation, ParseError};
use proptest::prelude::*;

/// The machine on which the frozen samples were enrolled.
fn machine() -> Observation {
    Observation::from_pairs([
        (Component::MachineId, "4b1f7a0c92de4e5f8a3c6d7b0e9f1a24"),
        (Component::Volume, "0b9d1d0e-6f1c-4d3c-9a55-1d0c5f7a2e90"),
        (Component::DiskSerial, "PHYF0123004A960CGN"),
        (Component::Nic, "3c:ec:ef:5a:1c:20"),
        (Component::Nic, "b4:96:91:c7:30:d8"),
        (Component::Board, "H12SSL-i"),
        (Component::Cpu, "AMD EPYC 7443P 24-Core Processor"),
    ])
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks_exact(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    let lines: Vec<String> = bytes
        .chunks(32)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    lines.join("\n") + "\n"
}

#[test]
fn an_enrolment_of_version_1_opens_for_ever() {
    let bytes = unhex(include_str!("../testdata/enrollment-v1.hex"));
    let secret = unhex(include_str!("../testdata/enrollment-v1.secret.hex"));
    let enrollment = Enrollment::from_bytes(&bytes).unwrap();
    let recovery = enrollment
        .recover(&machine(), |guess| guess.expose_secret()[..] == secret)
        .unwrap();
    assert!(recovery.drift.is_empty());
    assert_eq!(enrollment.to_bytes().expose_secret(), bytes);
}

/// Shows, with `--nocapture`, what to freeze for a new version of the format.
#[test]
fn a_sample_can_be_made_anew() {
    let (secret, enrollment) = Enrollment::enroll(&machine()).unwrap();
    let sample = hex(enrollment.to_bytes().expose_secret());
    println!("{sample}\n{}", hex(secret.expose_secret()));
    assert_eq!(unhex(&sample), enrollment.to_bytes().expose_secret());
}

#[test]
fn prints_and_parses_to_the_same_bytes() {
    let (secret, enrollment) = Enrollment::enroll(&machine()).unwrap();
    let bytes = enrollment.to_bytes();
    let parsed = Enrollment::from_bytes(bytes.expose_secret()).unwrap();
    assert_eq!(parsed.to_bytes(), bytes);
    assert_eq!(parsed.strength(), enrollment.strength());
    parsed
        .recover(&machine(), |guess| *guess == secret)
        .unwrap();
}

#[test]
fn refuses_every_shorter_and_every_longer_text() {
    let (_, enrollment) = Enrollment::enroll(&machine()).unwrap();
    let bytes = enrollment.to_bytes();
    let bytes = bytes.expose_secret();
    for end in 0..bytes.len() {
        assert!(Enrollment::from_bytes(&bytes[..end]).is_err(), "{end}");
    }
    let longer = [bytes, &[0]].concat();
    assert_eq!(
        Enrollment::from_bytes(&longer).unwrap_err(),
        ParseError::Malformed("bytes after the end")
    );
    let endless = [bytes, &vec![0; MOST_BYTES]].concat();
    assert_eq!(
        Enrollment::from_bytes(&endless).unwrap_err(),
        ParseError::Malformed("too long")
    );
}

#[test]
fn names_a_newer_format() {
    let error = Enrollment::from_bytes(b"KTF\x02anything").unwrap_err();
    assert_eq!(error, ParseError::Newer(2));
    assert_eq!(
        Enrollment::from_bytes(b"KTC\x01").unwrap_err(),
        ParseError::NotAnEnrollment
    );
    assert_eq!(
        Enrollment::from_bytes(b"KTF\x00").unwrap_err(),
        ParseError::NotAnEnrollment
    );
    assert_eq!(
        Enrollment::from_bytes(b"").unwrap_err(),
        ParseError::NotAnEnrollment
    );
    assert_eq!(
        Enrollment::from_bytes(b"KTF\x01").unwrap_err(),
        ParseError::Malformed("too short")
    );
}

#[test]
fn a_changed_byte_never_opens_as_something_else() {
    let (secret, enrollment) = Enrollment::enroll(&machine()).unwrap();
    let bytes = enrollment.to_bytes();
    let mut harmless = 0;
    for place in 0..bytes.expose_secret().len() {
        let mut damaged = bytes.expose_secret().to_vec();
        damaged[place] ^= 0x20;
        let Ok(parsed) = Enrollment::from_bytes(&damaged) else {
            continue;
        };
        // What still parses prints as it was, and gives the secret or nothing.
        assert_eq!(parsed.to_bytes().expose_secret(), damaged);
        if let Ok(recovery) = parsed.recover(&machine(), |guess| *guess == secret) {
            assert_eq!(recovery.secret, secret);
            harmless += 1;
        }
    }
    assert!(harmless > 0, "a damaged share of one part is survivable");
}

#[test]
fn debug_shows_parts_and_no_bytes() {
    let (_, enrollment) = Enrollment::enroll(&machine()).unwrap();
    let text = format!("{enrollment:?}");
    assert!(text.contains("Nic") && text.len() < 200, "{text}");
}

proptest! {
    #[test]
    fn random_bytes_parse_to_themselves_or_to_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        if let Some(head) = bytes.first_chunk_mut::<4>() {
            *head = *b"KTF\x01";
        }
        if let Ok(enrollment) = Enrollment::from_bytes(&bytes) {
            let printed = enrollment.to_bytes();
            prop_assert_eq!(printed.expose_secret(), &bytes[..]);
        }
    }
}
