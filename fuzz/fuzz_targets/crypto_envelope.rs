//! What is read as an envelope prints the same bytes, in both forms, and opens
//! in no way under a key that did not seal it; what is sealed reads back in
//! every way.
#![no_main]

use katachi_crypto::envelope::{Context, DataKey, Kind, Sealed};
use katachi_crypto::{Secret, SecretBytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    seal(bytes);
});

fn read(bytes: &[u8]) {
    let Ok(sealed) = Sealed::parse(bytes) else {
        return;
    };
    assert_eq!(sealed.as_bytes(), bytes);
    assert_eq!(Sealed::from_text(&sealed.to_text()).as_ref(), Ok(&sealed));
    let key = DataKey::from_parts(sealed.key_id(), Secret::new([7; 32]));
    let context = Context::new("fuzz");
    let refused = key
        .open(&context, &sealed)
        .expect_err("nothing in the corpus was sealed for this context");
    let mut out = SecretBytes::new(vec![1]);
    assert_eq!(
        key.open_into(&context, bytes, &mut out),
        Err(refused.clone())
    );
    assert!(out.is_empty());
    assert_eq!(key.open_in_place(&context, sealed), Err(refused));
}

fn seal(bytes: &[u8]) {
    let key = DataKey::from_parts(
        katachi_crypto::KeyId::from_bytes([1; 8]),
        Secret::new([8; 32]),
    );
    let context = Context::new("fuzz").row(bytes);
    let sealed = key
        .seal(Kind::Column, &context, bytes)
        .expect("an input is short");
    let again = Sealed::parse(sealed.as_bytes()).expect("it was just sealed");
    assert_eq!(again, sealed);
    let opened = key.open(&context, &again).expect("it was just sealed");
    assert_eq!(opened.expose_secret(), bytes);
    let sealed = key
        .seal_in_place(Kind::Column, &context, opened)
        .expect("an input is short");
    let opened = key
        .open_in_place(&context, sealed)
        .expect("it was just sealed");
    assert_eq!(opened.expose_secret(), bytes);
}
