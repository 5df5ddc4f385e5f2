//! What a stream promises: everything up to the true end, or an error.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::io::{self, Read, Write};

use katachi_crypto::envelope::{Context, DataKey, Kind};
use katachi_crypto::stream::{OpenReader, SealWriter};
use katachi_crypto::{Error, KeyId, Secret};
use proptest::prelude::*;

fn key() -> DataKey {
    DataKey::from_parts(KeyId::from_bytes([1; 8]), Secret::new([2; 32]))
}

fn context() -> Context {
    Context::new("stream")
}

fn seal(plaintext: &[u8], step: usize) -> Vec<u8> {
    let mut writer = SealWriter::new(Vec::new(), &key(), &context()).unwrap();
    for piece in plaintext.chunks(step.max(1)) {
        writer.write_all(piece).unwrap();
    }
    writer.finish().unwrap()
}

fn open(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut plaintext = Vec::new();
    OpenReader::new(bytes, &key(), &context())?.read_to_end(&mut plaintext)?;
    Ok(plaintext)
}

fn cause(error: &io::Error) -> &Error {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref())
        .expect("an error of ours")
}

#[test]
fn reads_back_what_was_written_at_every_edge_of_a_chunk() {
    for length in [0, 1, 16_383, 16_384, 16_385, 32_768, 100_000] {
        let plaintext: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
        assert_eq!(open(&seal(&plaintext, 1_000)).unwrap(), plaintext);
        assert_eq!(
            seal(&plaintext, 1_000).len(),
            72 + length + 16 * (length / 16_384 + 1)
        );
    }
}

#[test]
fn what_was_not_finished_does_not_open() {
    let mut sealed = Vec::new();
    let mut writer = SealWriter::new(&mut sealed, &key(), &context()).unwrap();
    writer.write_all(&vec![3; 40_000]).unwrap();
    drop(writer);
    let error = open(&sealed).unwrap_err();
    assert_eq!(cause(&error), &Error::Truncated);
}

#[test]
fn every_cut_is_an_error_and_never_an_end() {
    let sealed = seal(&vec![4; 33_000], 33_000);
    for length in (0..sealed.len())
        .step_by(97)
        .chain([72, 72 + 16_400, 72 + 2 * 16_400])
    {
        assert!(open(&sealed[..length]).is_err(), "cut to {length}");
    }
}

#[test]
fn a_failed_reader_stays_failed() {
    let mut sealed = seal(&vec![5; 20_000], 20_000);
    sealed[80] ^= 1;
    let mut reader = OpenReader::new(sealed.as_slice(), &key(), &context()).unwrap();
    let mut out = [0; 10];
    for _ in 0..3 {
        assert_eq!(cause(&reader.read(&mut out).unwrap_err()), &Error::Tampered);
        assert_eq!(out, [0; 10]);
    }
}

#[test]
fn refuses_an_envelope_of_another_kind() {
    let record = key().seal(Kind::Record, &context(), b"text").unwrap();
    assert!(open(record.as_bytes()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn pieces_of_any_size_give_the_same_content(plaintext in proptest::collection::vec(any::<u8>(), 0..70_000), step in 1usize..20_000) {
        prop_assert_eq!(open(&seal(&plaintext, step)).unwrap(), plaintext);
    }
}
