//! Every nonce, epoch and user code that is read prints as the text it was read from.
#![no_main]

use katachi_auth::device::UserCode;
use katachi_auth::replay::{Epoch, Nonce};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(nonce) = Nonce::parse(text) {
        assert_eq!(nonce.to_string(), text);
    }
    if let Ok(epoch) = Epoch::parse(text) {
        assert_eq!(epoch.to_string(), text);
    }
    if let Ok(code) = UserCode::parse(text) {
        // People may type it in many ways, and all mean the one that is shown.
        assert_eq!(UserCode::parse(&code.to_string()), Ok(code));
    }
});
