//! A record of running commands is read as it was written, and the first start
//! that nobody looked after is the one that the obvious search finds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use written::{Kind, Written};

#[allow(dead_code)]
#[path = "../../crates/katachi-sandbox/src/codec.rs"]
mod codec;
#[allow(dead_code)]
#[path = "../../crates/katachi-sandbox/src/linux/record/written.rs"]
mod written;

fuzz_target!(|bytes: &[u8]| {
    let Some(record) = Written::read(bytes) else {
        return;
    };
    // No more than there are bytes for.
    assert!(record.marks.len() <= bytes.len() / 32);
    let written = record.write();
    assert!(bytes.starts_with(&written));
    assert_eq!(Written::read(&written).as_ref(), Some(&record));

    for same_boot in [true, false] {
        let found = record.unfinished(same_boot).map(|mark| mark.wall);
        assert_eq!(found, first_unfinished(&record, same_boot));
    }
    // The rest of a mark that was cut off says nothing.
    for length in written.len().saturating_sub(31)..written.len() {
        let cut = Written::read(&written[..length]);
        let marks = record.marks.len().saturating_sub(1);
        let known = cut.map(|cut| cut.marks == record.marks[..marks]);
        assert_eq!(known, (!record.marks.is_empty()).then_some(true));
    }
});

/// The time of the earliest start that no later mark of its number ends.
fn first_unfinished(record: &Written, same_boot: bool) -> Option<u64> {
    let mut first = None;
    for (index, start) in record.marks.iter().enumerate() {
        let ended = record.marks[index..]
            .iter()
            .any(|later| later.kind != Kind::Started && later.number == start.number);
        if start.kind == Kind::Started && !ended && first.is_none_or(|wall| start.wall < wall) {
            first = Some(start.wall);
        }
    }
    match (first, record.marks.last(), same_boot) {
        (Some(wall), _, _) => Some(wall),
        (None, _, true) => None,
        (None, Some(last), false) => Some(last.wall),
        (None, None, false) => Some(record.planned.wall),
    }
}
