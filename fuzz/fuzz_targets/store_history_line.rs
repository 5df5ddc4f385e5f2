//! A line of an exported history that is understood is written back as one
//! line that means the same.
//!
//! The module is taken in by itself, so that no C library is built with the
//! sanitizers. The crate's own tests import the same corpus into a database.
#![no_main]
#![allow(dead_code, reason = "the module has more than the law needs")]

#[path = "../../crates/katachi-store/src/history/jsonl.rs"]
mod jsonl;

use jsonl::Record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| {
    if let Ok(record) = Record::parse(line) {
        let written = record.to_line();
        assert!(!written.contains(['\n', '\r']));
        assert_eq!(Record::parse(&written), Ok(record));
    }
});
