//! A set of keys that can be read survives being sealed and opened.
#![no_main]

use katachi_crypto::envelope::{Context, DataKey};
use katachi_crypto::keyset::Keyset;
use katachi_crypto::{KeyId, Secret};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(keys) = Keyset::decode(bytes) else {
        return;
    };
    let key = DataKey::from_parts(KeyId::from_bytes([0; 8]), Secret::new([7; 32]));
    let context = Context::new("fuzz");
    let sealed = keys
        .to_sealed(&key, &context)
        .expect("a set that was read is small");
    let again = Keyset::from_sealed(&key, &context, &sealed).expect("what was sealed opens");
    assert!(keys.keys().eq(again.keys()));
    let encoded = key.open(&context, &sealed).expect("what was sealed opens");
    assert_eq!(encoded.expose_secret(), bytes);
});
