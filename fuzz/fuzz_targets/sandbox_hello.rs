//! The name we find in the first message of TLS is the one a server finds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use network::hello::{self, Hello};
use network::host::Host;

#[allow(dead_code, unused_imports)]
#[path = "../../crates/katachi-sandbox/src/network/mod.rs"]
mod network;

fuzz_target!(|bytes: &[u8]| {
    let ours = hello::parse(bytes);
    // What was decided stays decided, whatever follows.
    if let Ok(Some(found)) = &ours {
        let longer = [bytes, &[23, 3, 3, 0, 1, 0]].concat();
        assert_eq!(hello::parse(&longer).as_ref(), Ok(&Some(found.clone())));
    }
    // A server of another make.
    let mut acceptor = rustls::server::Acceptor::default();
    let mut input = bytes;
    while !input.is_empty() {
        match acceptor.read_tls(&mut input) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let theirs = accepted.client_hello().server_name().map(str::to_owned);
                match (ours, theirs) {
                    (Ok(Some(Hello::Name(name))), theirs) => {
                        let theirs = theirs.and_then(|text| Host::parse(&text).ok());
                        assert_eq!(Some(name), theirs);
                    }
                    (Ok(Some(Hello::Nameless)), theirs) => assert_eq!(theirs, None),
                    (Ok(None), _) => panic!("a server accepts what we take for a part"),
                    (Ok(Some(Hello::Encrypted)) | Err(_), _) => {}
                }
                return;
            }
            Err(_) => return,
        }
    }
});
