//! What is read of SMBIOS tables prints to tables that say the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| katachi_fingerprint::testing::laws::smbios_tables(bytes));
