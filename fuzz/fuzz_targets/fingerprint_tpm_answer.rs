//! A TPM's answer that is understood prints to one that says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| katachi_fingerprint::testing::laws::tpm_answer(bytes));
