//! A credential name has one spelling and leaves no directory.
#![no_main]

use katachi_store::testing::laws;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| laws::credential_name(text));
