//! What is read as an envelope prints the same bytes and opens under no key
//! that did not seal it.
#![no_main]

use katachi_crypto::Secret;
use katachi_crypto::envelope::{Context, DataKey, Sealed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(sealed) = Sealed::parse(bytes) else {
        return;
    };
    assert_eq!(sealed.as_bytes(), bytes);
    assert_eq!(Sealed::from_text(&sealed.to_text()).as_ref(), Ok(&sealed));
    let key = DataKey::from_parts(sealed.key_id(), Secret::new([7; 32]));
    assert!(key.open(&Context::new("fuzz"), &sealed).is_err());
});
