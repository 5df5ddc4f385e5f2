//! A form that is read and written is read the same again, and each name has one value.
#![no_main]

use katachi_auth::device::form::Form;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    if let Ok(form) = Form::parse(body) {
        let written = form.encode();
        // Escapes are longer than what they stand for; only size may stop it now.
        if written.len() <= Form::MAX_LEN {
            assert_eq!(Form::parse(written.as_bytes()), Ok(form));
        }
    }
});
