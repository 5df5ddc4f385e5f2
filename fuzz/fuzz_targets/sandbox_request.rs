//! What the proxy sends on is read the same way again, however it came in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use network::http::{self, Reader, Request};
use network::socks;

#[allow(dead_code, unused_imports)]
#[path = "../../crates/katachi-sandbox/src/network/mod.rs"]
mod network;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some((request, length))) = http::parse(bytes, &Reader::Proxy) {
        assert!(length <= bytes.len() && length <= http::LONGEST);
        let again = http::parse(&bytes[..length], &Reader::Proxy);
        assert_eq!(again, Ok(Some((request.clone(), length))));
        // Of the head alone, whatever follows it.
        let credentials = http::proxy_authorization(&bytes[..length]);
        assert_eq!(credentials, http::proxy_authorization(bytes));
        if let Some(credentials) = credentials {
            let within = bytes[..length].as_ptr_range();
            assert!(credentials.is_empty() || within.contains(&credentials.as_ptr()));
        }
        if let Request::Forward {
            host,
            port,
            head,
            body,
        } = request
        {
            let origin = Reader::Origin(&host, port);
            let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
            assert_eq!(text.matches("\r\nhost: ").count(), 1);
            assert_eq!(http::proxy_authorization(&head), None);
            let framed = text.matches("\r\ncontent-length: ").count()
                + text.matches("\r\ntransfer-encoding: ").count();
            assert!(framed <= 1);
            // Shorter by what was dropped, longer by what is always written.
            if let Ok(read) = http::parse(&head, &origin) {
                let wanted = Request::Forward {
                    host: host.clone(),
                    port,
                    head: head.clone(),
                    body: body.clone(),
                };
                assert_eq!(read, Some((wanted, head.len())));
            } else {
                assert!(head.len() > http::LONGEST - 1024 || text.lines().count() > 90);
            }
            // A body ends at the same byte whole and in pieces.
            let rest = &bytes[length..];
            let (mut whole, mut pieces) = (body.clone(), body);
            let taken = whole.take(rest);
            let mut at = 0;
            let one_by_one = loop {
                match rest.get(at..=at) {
                    Some(byte) if !pieces.is_done() => match pieces.take(byte) {
                        Ok(count) => at += count,
                        Err(problem) => break Err(problem),
                    },
                    _ => break Ok(at),
                }
            };
            assert_eq!(taken, one_by_one);
        }
    }
    if let Ok(Some((length, host, port))) = socks::request(bytes) {
        assert!(port > 0 && length <= 262);
        assert_eq!(
            socks::request(&bytes[..length]),
            Ok(Some((length, host, port)))
        );
        for shorter in 0..length {
            assert_eq!(socks::request(&bytes[..shorter]), Ok(None));
        }
    }
    if let Ok(Some(said)) = socks::password(bytes) {
        assert_eq!(said.length, 3 + said.user.len() + said.password.len());
        assert!(said.length <= bytes.len() && said.length <= 513);
        for shorter in 0..said.length {
            assert!(matches!(socks::password(&bytes[..shorter]), Ok(None)));
        }
    }
    if let Some((length, _)) = socks::greeting(bytes) {
        assert!(length <= bytes.len() && socks::greeting(&bytes[..length - 1]).is_none());
    }
});
