//! A record of a database's pages that is read is written back byte by byte.
#![no_main]

use katachi_store::testing::laws;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| laws::anchor_record(bytes));
