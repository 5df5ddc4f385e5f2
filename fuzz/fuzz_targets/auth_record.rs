//! A password record that is read prints as it was; cookies and proofs never panic, and
//! no proof is believed that the fuzzer made up.
#![no_main]

use std::sync::LazyLock;

use katachi_auth::clock::Timestamp;
use katachi_auth::device::dpop;
use katachi_auth::password::Record;
use katachi_auth::replay::{Limits, MemoryReplay};
use katachi_auth::session::cookie;
use libfuzzer_sys::fuzz_target;

static STORE: LazyLock<MemoryReplay> =
    LazyLock::new(|| MemoryReplay::new(Limits::default()).expect("the system gives randomness"));

fuzz_target!(|text: &str| {
    if let Ok(record) = Record::parse(text) {
        assert_eq!(Record::parse(&record.to_string()), Ok(record));
    }
    if let Some(value) = cookie(text, "katachi") {
        assert!(text.contains(value));
    }
    let now = Timestamp::from_unix(1_800_000_000);
    assert!(dpop::verify(text, "POST", "https://relay.example/token", &*STORE, now).is_err());
    assert!(STORE.is_empty());
});
