//! What reads as an opened record, or as frames off a carrier, is written as the
//! same bytes; and frames do not depend on how the carrier splits them.
#![no_main]

use katachi_crypto::channel::Frames;
use katachi_crypto::channel::record::{MAX_CONTENT, Record};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = Record::parse(bytes) {
        assert_eq!(encoded(record), bytes);
    }
    let content = &bytes[..bytes.len().min(MAX_CONTENT)];
    let record = Record::Message {
        total: content.len(),
        content,
    };
    assert_eq!(Record::parse(&encoded(record)), Ok(record));

    for new in [Frames::of_handshake, Frames::of_records] {
        let whole = read(new(), bytes, bytes.len().max(1));
        let step = bytes.first().map_or(1, |byte| usize::from(*byte) + 1);
        assert_eq!(read(new(), bytes, step), whole);
        assert!(bytes.starts_with(&whole.0));
    }
});

fn encoded(record: Record<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    bytes
}

/// The frames in `bytes`, given in pieces, as they are written; and whether the
/// rest was refused.
fn read(mut frames: Frames, bytes: &[u8], step: usize) -> (Vec<u8>, bool) {
    let (mut written, mut refused) = (Vec::new(), false);
    for mut piece in bytes.chunks(step) {
        loop {
            match frames.next(&mut piece) {
                Ok(Some(frame)) => {
                    assert!(!refused, "a refusal is final");
                    let length = u16::try_from(frame.len()).expect("frames are short");
                    written.extend_from_slice(&length.to_be_bytes());
                    written.extend_from_slice(frame);
                }
                Ok(None) => break,
                Err(_) => {
                    refused = true;
                    break;
                }
            }
        }
    }
    (written, refused)
}
