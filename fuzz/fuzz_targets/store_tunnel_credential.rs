//! A tunnel credential is read again, the same, from both of its forms.
#![no_main]

use katachi_store::testing::laws;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| laws::tunnel_credential(bytes));
