//! A write-ahead log has no more pages than there are bytes for, and a shorter one no more than a longer.
#![no_main]

use katachi_store::testing::laws;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| laws::write_ahead_log(bytes));
