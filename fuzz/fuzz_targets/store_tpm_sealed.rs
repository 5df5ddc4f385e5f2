//! What a TPM slot holds is, once read, written back byte by byte.
#![no_main]

use katachi_store::testing::laws;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| laws::tpm_sealed(bytes));
