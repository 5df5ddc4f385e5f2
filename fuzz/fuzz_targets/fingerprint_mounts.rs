//! A mount is found again as the kernel prints it, whatever else is in the table.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| katachi_fingerprint::testing::laws::mounts(bytes));
