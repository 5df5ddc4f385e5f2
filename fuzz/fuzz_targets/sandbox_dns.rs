//! Every answer repeats its question, fits one message and is no question.
#![no_main]

use std::net::Ipv4Addr;

use libfuzzer_sys::fuzz_target;
use network::dns::{self, Reply};
use network::host::Host;

#[allow(dead_code, unused_imports)]
#[path = "../../crates/katachi-sandbox/src/network/mod.rs"]
mod network;

/// The obvious way to read a name: label after label.
fn naive(message: &[u8]) -> Option<String> {
    let mut labels = Vec::new();
    let mut rest = message.get(12..)?;
    while rest.first().is_some_and(|length| *length > 0) {
        let length = usize::from(rest[0]);
        labels.push(std::str::from_utf8(rest.get(1..=length)?).ok()?.to_owned());
        rest = &rest[length + 1..];
    }
    if labels.iter().any(|label| label.contains('.')) {
        return None;
    }
    Some(labels.join(".").to_ascii_lowercase())
}

fuzz_target!(|message: &[u8]| {
    let Some(question) = dns::parse(message) else {
        return;
    };
    if let Some(name) = &question.name {
        assert!(matches!(name, Host::Name(_)));
        assert_eq!(Some(name.to_string()), naive(message));
    }
    for reply in [
        Reply::Address(Ipv4Addr::new(198, 18, 1, 2)),
        Reply::Nothing,
        Reply::NoSuchName,
        Reply::Failure,
    ] {
        let answer = question.answer(reply);
        assert!(answer.len() <= dns::LONGEST);
        assert_eq!(answer[..2], message[..2]);
        assert_eq!(dns::parse(&answer), None);
        // Turned back into a question it asks the same.
        let mut back = answer;
        (back[2], back[7]) = (message[2] & 1, 0);
        assert_eq!(dns::parse(&back), Some(question.clone()));
    }
});
