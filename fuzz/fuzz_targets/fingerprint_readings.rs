//! Normalising twice is the same as once, in any order.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| katachi_fingerprint::testing::laws::readings(bytes));
