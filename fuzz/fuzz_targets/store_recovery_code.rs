//! A recovery code prints as itself, and with one character exchanged is none.
#![no_main]

use katachi_store::testing::laws;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| laws::recovery_code(text));
