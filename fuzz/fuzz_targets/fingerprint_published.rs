//! A published file prints as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| katachi_fingerprint::testing::laws::published(bytes));
