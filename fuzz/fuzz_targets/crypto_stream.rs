//! A stream reads back as written; with one byte changed or the end cut off it
//! gives a prefix of what was written and then an error, never an end.
#![no_main]

use std::io::{Read, Write};

use katachi_crypto::envelope::{Context, DataKey};
use katachi_crypto::stream::{OpenReader, SealWriter};
use katachi_crypto::{KeyId, Secret};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, u16, u32, u8)| {
    let (length, step, place, change) = input;
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

    let place = place as usize % sealed.len();
    if change == 0 {
        sealed.truncate(place);
    } else {
        sealed[place] ^= change;
    }
    let (got, ended) = read(&sealed, &key, &context);
    assert!(!ended && plain.starts_with(&got));
});

fn read(sealed: &[u8], key: &DataKey, context: &Context) -> (Vec<u8>, bool) {
    let mut got = Vec::new();
    let outcome =
        OpenReader::new(sealed, key, context).and_then(|mut reader| reader.read_to_end(&mut got));
    (got, outcome.is_ok())
}
