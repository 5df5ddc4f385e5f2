//! What a stream promises: everything up to the true end, or an error.

#![cfg(any(feature = "ring", feature = "rustcrypto"))]
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::num::NonZeroUsize;

use katachi_crypto::envelope::{Context, DataKey, Kind};
use katachi_crypto::stream::{OpenAt, OpenReader, SealWriter};
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

fn threads(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

fn seal_on(count: usize, plaintext: &[u8], step: usize) -> Vec<u8> {
    let key = key();
    let parallel = key.parallel(threads(count));
    let mut writer = parallel.seal_writer(Vec::new(), &context()).unwrap();
    for piece in plaintext.chunks(step.max(1)) {
        writer.write_all(piece).unwrap();
    }
    writer.finish().unwrap()
}

/// Reads to the end or to the first error, which has to last; gives what was
/// released before it.
fn released(mut reader: impl Read) -> (Vec<u8>, Option<String>) {
    let (mut plaintext, mut buffer) = (Vec::new(), [0; 9_999]);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return (plaintext, None),
            Ok(count) => plaintext.extend_from_slice(&buffer[..count]),
            Err(error) => {
                assert!(reader.read(&mut buffer).is_err(), "a failure lasts");
                return (plaintext, Some(error.to_string()));
            }
        }
    }
}

/// What one thread and several release of the same source, which has to agree.
fn released_alike<R: Read>(source: impl Fn() -> R, counts: &[usize]) -> (Vec<u8>, Option<String>) {
    let key = key();
    let alone = released(OpenReader::new(source(), &key, &context()).unwrap());
    for &count in counts {
        let parallel = key.parallel(threads(count));
        let several = released(parallel.open_reader(source(), &context()).unwrap());
        assert!(alone == several, "{count} threads differ: {:?}", several.1);
    }
    alone
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

fn at(sealed: &[u8]) -> io::Result<OpenAt<Cursor<&[u8]>>> {
    OpenAt::new(Cursor::new(sealed), &key(), &context())
}

#[test]
fn every_cut_and_every_addition_is_refused_before_a_seek() {
    let sealed = seal(&vec![6; 33_000], 33_000);
    assert_eq!(at(&sealed).unwrap().len(), 33_000);
    for length in (0..sealed.len()).step_by(97).chain([
        72,
        72 + 16,
        72 + 16_400,
        72 + 2 * 16_400,
        72 + 2 * 16_400 + 16,
    ]) {
        assert!(at(&sealed[..length]).is_err(), "cut to {length}");
    }
    for extra in [1, 16, 16_400] {
        let mut longer = sealed.clone();
        longer.resize(sealed.len() + extra, 0);
        assert!(at(&longer).is_err(), "{extra} more");
    }
}

#[test]
fn a_changed_chunk_fails_where_it_is_touched_and_only_there() {
    let mut sealed = seal(&vec![7; 50_000], 50_000);
    sealed[72 + 16_400 + 5] ^= 1;
    let mut reader = at(&sealed).unwrap();
    let mut out = [0; 16_384];
    reader.read_exact(&mut out).unwrap();
    for _ in 0..2 {
        out = [0; 16_384];
        let error = reader.read(&mut out).unwrap_err();
        assert_eq!(cause(&error), &Error::Tampered);
        assert_eq!(out, [0; 16_384]);
    }
    reader.seek(SeekFrom::Start(2 * 16_384)).unwrap();
    reader.read_exact(&mut out).unwrap();
    assert_eq!(out, [7; 16_384]);
}

#[test]
fn a_stream_may_stand_behind_other_content() {
    let file = [b"other content".to_vec(), seal(b"the stream", 3)].concat();
    let mut source = Cursor::new(file.as_slice());
    source.seek(SeekFrom::Start(13)).unwrap();
    let mut text = String::new();
    OpenAt::new(source, &key(), &context())
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "the stream");
}

/// A sink with room for so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        match taken {
            0 => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(taken),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn several_threads_read_what_they_wrote_at_every_edge_of_a_piece() {
    const PIECE: usize = 16 * 16_384;
    for length in [
        0,
        1,
        16_384,
        PIECE - 1,
        PIECE,
        PIECE + 1,
        5 * PIECE,
        1_500_000,
    ] {
        let plaintext: Vec<u8> = (0..length).map(|at| (at / 7) as u8).collect();
        for count in [1, 2, 3, 7] {
            let sealed = seal_on(count, &plaintext, 100_000);
            assert_eq!(sealed.len(), 72 + length + 16 * (length / 16_384 + 1));
            let (got, error) = released_alike(|| sealed.as_slice(), &[count]);
            assert!(
                error.is_none() && got == plaintext,
                "{length} on {count}: {error:?}"
            );
        }
    }
}

#[test]
fn what_several_threads_did_not_finish_does_not_open() {
    let key = key();
    for length in [0, 40_000, 3_000_000] {
        let mut sealed = Vec::new();
        let mut writer = key
            .parallel(threads(2))
            .seal_writer(&mut sealed, &context())
            .unwrap();
        writer.write_all(&vec![3; length]).unwrap();
        writer.flush().unwrap();
        drop(writer);
        assert_eq!(cause(&open(&sealed).unwrap_err()), &Error::Truncated);
        let (got, error) = released_alike(|| sealed.as_slice(), &[1, 2, 3]);
        assert!(error.is_some() && got == vec![3; got.len()]);
    }
}

#[test]
fn several_threads_release_the_same_before_the_same_error() {
    let plaintext: Vec<u8> = (0..1_200_000).map(|at| (at / 7) as u8).collect();
    let sealed = seal(&plaintext, 100_000);
    // One changed byte, in the first and the last chunk of a piece and between.
    for chunk in [0, 7, 15, 16, 31, 32, 70] {
        let mut changed = sealed.clone();
        changed[72 + chunk * 16_400 + 99] ^= 1;
        let (got, error) = released_alike(|| changed.as_slice(), &[1, 2, 3]);
        assert_eq!((got.len(), error.is_some()), (chunk * 16_384, true));
        assert!(plaintext.starts_with(&got));
    }
    for length in [
        72,
        72 + 16,
        72 + 16 * 16_400,
        72 + 32 * 16_400 + 8,
        1_000_000,
    ] {
        let (got, error) = released_alike(|| &sealed[..length], &[1, 2, 3]);
        assert!(
            error.is_some() && plaintext.starts_with(&got),
            "cut to {length}"
        );
    }
}

#[test]
fn a_source_that_fails_is_reported_where_it_failed() {
    struct Failing<'a>(&'a [u8]);
    impl Read for Failing<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            match self.0.is_empty() {
                true => Err(io::Error::other("the disk went away")),
                false => self.0.read(out),
            }
        }
    }
    let plaintext = vec![9; 900_000];
    let sealed = seal(&plaintext, 100_000);
    for (length, whole) in [
        (72, 0),
        (72 + 16_400, 1),
        (72 + 5, 0),
        (72 + 20 * 16_400 + 5, 20),
    ] {
        let (got, error) = released_alike(|| Failing(&sealed[..length]), &[1, 2, 3]);
        assert_eq!(error.as_deref(), Some("the disk went away"), "{length}");
        assert_eq!(got.len(), whole * 16_384);
    }
}

#[test]
fn several_threads_whose_sink_failed_never_finish() {
    let key = key();
    for room in [72, 72 + 100, 72 + 16_400 + 3, 1_000_000] {
        let parallel = key.parallel(threads(2));
        let mut writer = parallel.seal_writer(Full(room), &context()).unwrap();
        let mut failed = false;
        for _ in 0..100 {
            failed |= writer.write_all(&[8; 16_384]).is_err();
        }
        assert!(
            writer.finish().is_err(),
            "room for {room}, failed: {failed}"
        );
    }
}

#[test]
fn a_writer_whose_sink_failed_never_finishes() {
    for room in [72, 72 + 100, 72 + 16_400 + 3] {
        let mut writer = SealWriter::new(Full(room), &key(), &context()).unwrap();
        let mut failed = false;
        for _ in 0..4 {
            failed |= writer.write_all(&[8; 16_384]).is_err();
        }
        assert!(failed && writer.finish().is_err(), "room for {room}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn pieces_of_any_size_give_the_same_content(plaintext in proptest::collection::vec(any::<u8>(), 0..70_000), step in 1usize..20_000) {
        prop_assert_eq!(open(&seal(&plaintext, step)).unwrap(), plaintext);
    }

    #[test]
    fn any_number_of_threads_gives_the_same_content(
        length in 0usize..900_000,
        (writing, reading) in (1usize..5, 1usize..5),
        step in 1usize..300_000,
        change: Option<u32>,
    ) {
        let plaintext: Vec<u8> = (0..length).map(|at| (at / 11) as u8).collect();
        let mut sealed = seal_on(writing, &plaintext, step);
        if let Some(place) = change {
            let place = 72 + place as usize % (sealed.len() - 72);
            sealed[place] ^= 1;
        }
        let (got, error) = released_alike(|| sealed.as_slice(), &[reading]);
        prop_assert_eq!(error.is_none(), change.is_none());
        prop_assert!(plaintext.starts_with(&got));
        prop_assert!(error.is_some() || got == plaintext);
    }

    #[test]
    fn any_place_reads_as_it_was_written(
        length in 0usize..60_000,
        places in proptest::collection::vec((any::<u32>(), 0usize..20_000), 1..12),
    ) {
        let plaintext: Vec<u8> = (0..length).map(|at| (at / 3) as u8).collect();
        let sealed = seal(&plaintext, 9_999);
        let (mut ours, mut plain) = (at(&sealed).unwrap(), Cursor::new(plaintext));
        for (place, count) in places {
            let to = match place % 3 {
                0 => SeekFrom::Start(u64::from(place) % 70_000),
                1 => SeekFrom::End(i64::from(place) % 70_000 - 60_000),
                _ => SeekFrom::Current(i64::from(place) % 30_000 - 15_000),
            };
            prop_assert_eq!(ours.seek(to).ok(), plain.seek(to).ok());
            let (mut one, mut two) = (vec![0; count], vec![0; count]);
            prop_assert_eq!(read_up_to(&mut ours, &mut one), read_up_to(&mut plain, &mut two));
            prop_assert_eq!(one, two);
        }
    }
}

/// Reads until `out` is full or nothing is left.
fn read_up_to(source: &mut impl Read, out: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < out.len() {
        match source.read(&mut out[filled..]).unwrap() {
            0 => break,
            count => filled += count,
        }
    }
    filled
}
