//! An address that is accepted is one plain mailbox to the mailer as well, holds nothing
//! that starts another header or option, and is read again as it was written.
#![no_main]

use katachi_auth::mail::Address;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(address) = Address::parse(text) else {
        return;
    };
    let written = address.as_str();
    assert_eq!(Address::parse(written).as_ref(), Ok(&address));
    assert!(written.eq_ignore_ascii_case(text));
    assert!(written.len() <= Address::MAX_LEN && !written.starts_with('-'));
    let breaks_out = |byte: u8| !byte.is_ascii_graphic() || b"\",;:<>()[]\\".contains(&byte);
    assert!(!written.bytes().any(breaks_out), "{written:?}");
    assert_eq!(written.matches('@').count(), 1);
    // Every spelling of one mailbox has one key.
    let shouted = Address::parse(&text.to_ascii_uppercase()).expect("letters stay letters");
    assert_eq!(shouted.key(), address.key());
    let mailbox: lettre::Address = written.parse().expect("the mailer takes it");
    assert_eq!(mailbox.to_string(), written);
});
