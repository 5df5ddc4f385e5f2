//! An enrolment that parses prints the same bytes, and failing on it is bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| katachi_fingerprint::testing::laws::enrollment(bytes));
