//! A host in one spelling.
//!
//! Every part of the proxy that meets a host turns it into a [`Host`] first
//! and compares nothing else, so that two spellings of one place are never
//! judged differently. What no resolver should be asked, control bytes, `%`,
//! `@`, empty or overlong labels, is no host at all.

#[cfg(test)]
mod naive;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A name in lower case without its last dot, or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Host {
    Name(String),
    Address(IpAddr),
}

/// Longest name, without the last dot (RFC 1035, section 2.3.4).
const LONGEST: usize = 253;
/// Longest label of a name.
const LONGEST_LABEL: usize = 63;

impl Host {
    /// Reads what a person wrote: as [`Host::parse`], and names in letters
    /// beyond ASCII too, which get the one spelling that resolvers know
    /// (UTS #46, strict, non-transitional: `faß.de` is not `fass.de`).
    pub(crate) fn read(text: &str) -> Result<Self, &'static str> {
        if text.is_ascii() {
            return Self::parse(text);
        }
        Self::parse(&ascii(text)?)
    }

    /// Reads a name, or an address in any spelling that a resolver would take
    /// for one: `[::1]`, `127.1`, `0x7f000001`, `017700000001`.
    ///
    /// Gives the reason where the text is no host.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let bare = match text.strip_prefix('[') {
            Some(rest) => rest
                .strip_suffix(']')
                .filter(|inner| inner.contains(':'))
                .ok_or("its bracket holds no IPv6 address")?,
            None => text,
        };
        if bare.contains(':') {
            return bare
                .parse::<Ipv6Addr>()
                .map(|address| Self::Address(address.to_canonical()))
                .map_err(|_| "it is no IPv6 address");
        }
        let name = bare.strip_suffix('.').unwrap_or(bare);
        if name.is_empty() || name.len() > LONGEST {
            return Err("a host has 1 to 253 characters");
        }
        for label in name.split('.') {
            let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            if label.is_empty() || label.len() > LONGEST_LABEL {
                return Err("a label of a host has 1 to 63 characters");
            }
            if !label.bytes().all(letters) {
                return Err("a host has letters, digits, `-` and `_` only");
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err("no label of a host starts or ends with `-`");
            }
        }
        if ends_in_number(name) {
            return loose_v4(name)
                .map(|address| Self::Address(address.into()))
                .ok_or("it ends in a number and is no IPv4 address");
        }
        Ok(Self::Name(name.to_ascii_lowercase()))
    }
}

#[cfg(feature = "idna")]
fn ascii(text: &str) -> Result<String, &'static str> {
    use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
    Uts46::new()
        .to_ascii(
            text.as_bytes(),
            AsciiDenyList::STD3,
            Hyphens::Check,
            DnsLength::VerifyAllowRootDot,
        )
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| "it is no international name (UTS #46)")
}

#[cfg(not(feature = "idna"))]
fn ascii(_text: &str) -> Result<String, &'static str> {
    Err(
        "a name in letters beyond ASCII is written in its `xn--` form, unless the feature `idna` is on",
    )
}

/// As it is written before `:port`.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// Reads `host:port`; the last colon outside brackets separates them.
pub(crate) fn authority(text: &str) -> Result<(Host, u16), &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("it names no port")?;
    if host.contains(':') && !host.starts_with('[') {
        return Err("an IPv6 address before a port stands in brackets");
    }
    Ok((Host::read(host)?, self::port(port)?))
}

/// Reads a port; leading zeroes and signs are refused.
pub(crate) fn port(text: &str) -> Result<u16, &'static str> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port > 0 && !text.starts_with('0') => Ok(port),
        _ => Err("a port is a number from 1 to 65535"),
    }
}

/// Whether resolvers read the name as an address (WHATWG URL, section 3.5).
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hexadecimal = last
        .strip_prefix("0x")
        .or_else(|| last.strip_prefix("0X"))
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hexadecimal || last.bytes().all(|byte| byte.is_ascii_digit())
}

/// An IPv4 address as `inet_aton` reads it: one to four numbers, octal after
/// `0`, hexadecimal after `0x`, the last one filling what is left.
fn loose_v4(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    let (last, leading) = parts.split_last()?;
    let free = 4_usize
        .checked_sub(leading.len())
        .filter(|free| *free > 0)?;
    let largest = u32::try_from((1_u64 << (8 * free)) - 1).ok()?;
    if *last > largest || leading.iter().any(|part| *part > 255) {
        return None;
    }
    let upper = leading
        .iter()
        .zip([24, 16, 8])
        .fold(0, |sum, (part, shift)| sum | part << shift);
    Some(Ipv4Addr::from(upper | last))
}

fn number(text: &str) -> Option<u32> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match hexadecimal {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Option<String> {
        Host::parse(text).ok().map(|host| host.to_string())
    }

    #[test]
    fn one_place_has_one_spelling() {
        for (text, wanted) in [
            ("API.Example.COM.", "api.example.com"),
            ("127.0.0.1", "127.0.0.1"),
            ("127.1", "127.0.0.1"),
            ("0x7f.1", "127.0.0.1"),
            ("0177.0.0.01", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("0x7F000001.", "127.0.0.1"),
            ("[::ffff:127.0.0.1]", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("0:0::1", "[::1]"),
            ("64:ff9b::7f00:1", "[64:ff9b::7f00:1]"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("_service.example", "_service.example"),
        ] {
            assert_eq!(parsed(text).as_deref(), Some(wanted), "{text}");
        }
    }

    #[test]
    fn what_no_resolver_should_see_is_no_host() {
        for text in [
            "",
            ".",
            "a..b",
            "a.",
            "a b",
            "a\0b",
            "a%00.example",
            "user@example",
            "exa\nmple",
            "b\u{fc}cher.example",
            "-a.example",
            "a-.example",
            "1.2.3.4.5",
            "256.1.1.1",
            "1.2.3.256",
            "08.1.1.1",
            "4294967296",
            "example.0x7f",
            "0x",
            "[127.0.0.1]",
            "[::1",
            "fe80::1%eth0",
            "[::1]x",
            &"a".repeat(64),
            &["a"; 128].join("."),
        ] {
            if text == "a." {
                continue;
            }
            assert_eq!(parsed(text), None, "{text:?}");
        }
    }

    #[cfg(feature = "idna")]
    #[test]
    fn a_name_in_other_letters_has_the_spelling_of_resolvers() {
        let read = |text: &str| Host::read(text).map(|host| host.to_string());
        for (text, wanted) in [
            ("b\u{fc}cher.example", "xn--bcher-kva.example"),
            ("BU\u{308}CHER.Example.", "xn--bcher-kva.example"),
            // Another dot, full width letters and a full width address.
            ("b\u{fc}cher\u{3002}example", "xn--bcher-kva.example"),
            ("\u{ff45}xample.com", "example.com"),
            ("\u{ff11}27.0.0.1", "127.0.0.1"),
            ("127\u{3002}1", "127.0.0.1"),
            ("e\u{ad}xample.com", "example.com"),
            // Deviation characters stay what they are.
            ("fa\u{df}.de", "xn--fa-hia.de"),
            (
                "\u{3b2}\u{3cc}\u{3bb}\u{3bf}\u{3c2}.com",
                "xn--nxasmm1c.com",
            ),
            // A Cyrillic letter makes another name.
            ("\u{430}pple.com", "xn--pple-43d.com"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(wanted), "{text}");
        }
        for text in [
            "a\u{ff0f}b.com",
            "a\u{2100}.com",
            "a\u{ff20}b.com",
            "a\u{ff1a}80",
            "\u{ff05}00.com",
            "-\u{fc}.com",
            "\u{308}a.com",
            "a\u{200d}b.com",
            "a\u{202e}b.com",
            "\u{5d0}a1\u{5d0}.com",
            "xn--a-\u{fc}.com",
            "\u{fc}.xn--a.com",
            "\u{ad}",
            "\u{fc}..com",
        ] {
            assert!(read(text).is_err(), "{text:?}: {:?}", read(text));
        }
    }

    #[test]
    fn a_port_has_one_spelling_too() {
        assert_eq!(authority("[::1]:80"), Ok((Host::parse("::1").unwrap(), 80)));
        for text in [
            "a", "a:", "a:0", "a:080", "a:+80", "a:65536", "::1:80", "a:80 ",
        ] {
            assert!(authority(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn canonical_hosts_stay_as_they_are(text in "[a-zA-Z0-9._x:\\[\\]-]{0,24}") {
            if let Ok(host) = Host::parse(&text) {
                prop_assert_eq!(Host::parse(&host.to_string()), Ok(host));
            }
        }

        #[test]
        fn what_a_person_wrote_becomes_canonical(text in "[a\u{fc}\u{df}\u{3002}\u{ff11}\u{200d}\u{301}\u{430}.-]{0,12}") {
            if let Ok(host) = Host::read(&text) {
                prop_assert_eq!(Host::parse(&host.to_string()), Ok(host));
            }
        }

        #[test]
        fn addresses_are_read_as_the_naive_twin_reads_them(text in "(0x|0)?[0-9a-f]{0,11}(\\.(0x|0)?[0-9a-f]{0,4}){0,4}") {
            let ours = match Host::parse(&text) {
                Ok(Host::Address(IpAddr::V4(address))) => Some(address.octets()),
                _ => None,
            };
            prop_assert_eq!(ours, naive::address(&text), "{}", text);
        }
    }
}
