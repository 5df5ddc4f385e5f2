//! A host has one spelling, and an address is read as the obvious reader reads
//! it.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use network::host::Host;
use network::rule::{Rule, Rules};

#[path = "../../crates/katachi-sandbox/src/network/host/naive.rs"]
mod naive;
#[allow(dead_code, unused_imports)]
#[path = "../../crates/katachi-sandbox/src/network/mod.rs"]
mod network;

fuzz_target!(|text: &str| {
    let (text, rule) = text.split_once('\n').unwrap_or((text, ""));
    let parsed = Host::parse(text);
    if let Ok(host) = &parsed {
        let printed = host.to_string();
        assert_eq!(Host::parse(&printed).as_ref(), Ok(host));
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
        assert!(printed.bytes().all(letters));
        assert_eq!(printed, printed.to_ascii_lowercase());
    }
    // What a person writes in other letters gets one spelling, which resolvers
    // know; in ASCII, both readers agree.
    let read = Host::read(text);
    match &read {
        Ok(host) => assert_eq!(Host::parse(&host.to_string()).as_ref(), Ok(host), "{text}"),
        Err(_) => assert!(parsed.is_err(), "{text}"),
    }
    if text.is_ascii() {
        assert_eq!(read, parsed);
    }
    let ours = match &parsed {
        Ok(Host::Address(IpAddr::V4(address))) if !text.contains(':') => Some(address.octets()),
        _ => None,
    };
    // Labels of a host are short, even of an address.
    if !text.contains(':') && text.split('.').all(|label| label.len() <= 63) {
        assert_eq!(ours, naive::address(text), "{text}");
    }
    // A rule allows what it names, and a denial of it wins.
    if let (Ok(host), Ok(allow)) = (parsed, Rule::allow(rule)) {
        let port = allow.port().expect("an allowing rule has a port");
        let named = allow.host() == Some(&host);
        let mut rules = Rules {
            allow: vec![allow],
            deny: Vec::new(),
        };
        assert!(!named || rules.decide(&host, port).allowed());
        rules.deny.extend(Rule::deny(&host.to_string()));
        assert!(!rules.decide(&host, port).allowed());
        assert!(!rules.knows(&host));
    }
});
