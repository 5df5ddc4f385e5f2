//! An answer of a TPM that is read is written back byte by byte.
#![no_main]

use katachi_store::testing::laws;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| laws::tpm_answer(bytes));
