//! A stream reads back as written; with one byte changed or the end cut off it
//! gives a prefix of what was written and then an error, never an end. From any
//! place it reads what was written there or nothing.
#![no_main]

use std::io::{Cursor, Read, Seek, SeekFrom, Write};

use katachi_crypto::envelope::{Context, DataKey};
use katachi_crypto::stream::{OpenAt, OpenReader, SealWriter};
use katachi_crypto::{KeyId, Secret};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, u16, u32, u8, u16)| {
    let (length, step, place, change, seek) = input;
    let key = DataKey::from_parts(KeyId::from_bytes([0; 8]), Secret::new([7; 32]));
    let context = Context::new("fuzz");
    let plain: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();

    let mut writer =
        SealWriter::new(Vec::new(), &key, &context).expect("a vector takes everything");
    for piece in plain.chunks(usize::from(step).max(1)) {
        writer.write_all(piece).expect("a vector takes everything");
    }
    let mut sealed = writer.finish().expect("a vector takes everything");
    assert_eq!(read(&sealed, &key, &context), (plain.clone(), true));
    assert!(reads_only_what_was_written(
        &sealed, &plain, seek, &key, &context
    ));

    let place = place as usize % sealed.len();
    if change == 0 {
        sealed.truncate(place);
    } else {
        sealed[place] ^= change;
    }
    let (got, ended) = read(&sealed, &key, &context);
    assert!(!ended && plain.starts_with(&got));
    reads_only_what_was_written(&sealed, &plain, seek, &key, &context);
});

fn read(sealed: &[u8], key: &DataKey, context: &Context) -> (Vec<u8>, bool) {
    let mut got = Vec::new();
    let outcome =
        OpenReader::new(sealed, key, context).and_then(|mut reader| reader.read_to_end(&mut got));
    (got, outcome.is_ok())
}

/// Reads from one place to the end, and says whether it came there.
fn reads_only_what_was_written(
    sealed: &[u8],
    plain: &[u8],
    place: u16,
    key: &DataKey,
    context: &Context,
) -> bool {
    let Ok(mut reader) = OpenAt::new(Cursor::new(sealed), key, context) else {
        return false;
    };
    assert_eq!(reader.len(), plain.len() as u64);
    reader
        .seek(SeekFrom::Start(place.into()))
        .expect("any place from the start is one");
    let mut got = Vec::new();
    let outcome = reader.read_to_end(&mut got);
    let rest = plain.get(usize::from(place)..).unwrap_or_default();
    assert!(rest.starts_with(&got));
    outcome.is_ok() && got == rest
}
