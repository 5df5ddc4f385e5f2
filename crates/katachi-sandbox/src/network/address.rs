//! Addresses that a name must not lead to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is no ordinary one of the public network; `None` if it is.
///
/// Everything not known to be public is refused: a name that anybody can
/// register must not lead to the machine itself, its neighbours or the
/// service that hands out its credentials.
pub(crate) fn special(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

/// Networks of the IANA special-purpose registry (RFC 6890 and later), and
/// one address that a cloud uses for its own service.
const V4: &[(Ipv4Addr, u32, &str)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8, "this network"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "a private network"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "a provider's own network"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "the machine itself"),
    (
        Ipv4Addr::new(169, 254, 0, 0),
        16,
        "link-local, where clouds keep their metadata",
    ),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "a private network"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "reserved for protocols"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "for documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "a relay to IPv6"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "a private network"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "for measurements"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "for documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "for documentation"),
    (Ipv4Addr::new(168, 63, 129, 16), 32, "a cloud's metadata"),
    (Ipv4Addr::new(224, 0, 0, 0), 3, "multicast or reserved"),
];

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let bits = u32::from(address);
    V4.iter()
        .find(|(network, length, _)| (bits ^ u32::from(*network)) >> (32 - length) == 0)
        .map(|(_, _, what)| *what)
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    let [first, second, ..] = address.segments();
    if address == Ipv6Addr::LOCALHOST {
        return Some("the machine itself");
    }
    // 64:ff9b::/96 and 64:ff9b:1::/48 carry an IPv4 address (RFC 6052).
    if first == 0x64 && second == 0xff9b {
        return Some("a translation to IPv4");
    }
    match first {
        // 2000::/3 is all that was ever given out for the public network.
        first if first & 0xe000 != 0x2000 => Some("not public"),
        // 2001::/23 holds Teredo, benchmarking and ORCHID.
        0x2001 if second < 0x200 => Some("reserved for protocols"),
        0x2001 if second == 0xdb8 => Some("for documentation"),
        0x2002 => Some("a tunnel through IPv4"),
        0x3fff if second < 0x1000 => Some("for documentation"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_ordinary() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "223.255.255.254",
        ] {
            assert_eq!(special(text.parse().unwrap()), None, "{text}");
        }
        for text in ["2606:4700::1111", "2001:4860:4860::8888", "2a00::1"] {
            assert_eq!(special(text.parse().unwrap()), None, "{text}");
        }
        for text in [
            "0.0.0.0",
            "10.255.255.255",
            "100.64.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "168.63.129.16",
            "172.31.0.1",
            "192.168.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(special(text.parse().unwrap()).is_some(), "{text}");
        }
    }

    /// Where the standard library and we both have an opinion, it is one.
    #[test]
    fn agrees_with_the_standard_library_on_every_slash_16() {
        for upper in 0..=u16::MAX {
            for lower in [0_u16, 1, 0x0201, 0xfffe] {
                let address = Ipv4Addr::from(u32::from(upper) << 16 | u32::from(lower));
                let known = address.is_private()
                    || address.is_loopback()
                    || address.is_link_local()
                    || address.is_multicast()
                    || address.is_broadcast()
                    || address.is_documentation()
                    || address.is_unspecified();
                assert!(!known || special_v4(address).is_some(), "{address}");
            }
        }
    }
}
