//! A drive's descriptor that shows a serial number prints to one that shows the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| katachi_fingerprint::testing::laws::drive_descriptor(bytes));
