//! The requests of SOCKS 5 (RFC 1928) for connections alone, without
//! authentication or by user and password (RFC 1929).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::host::Host;

/// First byte of everything a client says.
pub(crate) const VERSION: u8 = 5;
/// The greeting is answered with this: no authentication.
pub(crate) const NO_AUTHENTICATION: [u8; 2] = [VERSION, 0];
/// With this: user and password.
pub(crate) const WITH_PASSWORD: [u8; 2] = [VERSION, 2];
/// And with this where a client cannot do what is wanted.
pub(crate) const NO_METHOD: [u8; 2] = [VERSION, 0xff];

/// Answers to user and password.
pub(crate) const RIGHT_PASSWORD: [u8; 2] = [1, 0];
pub(crate) const WRONG_PASSWORD: [u8; 2] = [1, 1];

/// Ways in which a client can say who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Methods {
    /// Not at all.
    pub(crate) nothing: bool,
    pub(crate) password: bool,
}

/// User and password, as a client said them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Password<'a> {
    /// Of the message.
    pub(crate) length: usize,
    pub(crate) user: &'a [u8],
    pub(crate) password: &'a [u8],
}

/// What the proxy says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Succeeded = 0,
    NotAllowed = 2,
    HostUnreachable = 4,
    CommandNotSupported = 7,
    AddressNotSupported = 8,
}

impl Reply {
    /// The message, with no address in it.
    pub(crate) fn message(self) -> [u8; 10] {
        [VERSION, self as u8, 0, 1, 0, 0, 0, 0, 0, 0]
    }
}

/// Something that is no request for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) reply: Reply,
    pub(crate) problem: &'static str,
}

/// Reads the greeting: its length, and what the client can do. `None` until all
/// of it is there.
pub(crate) fn greeting(bytes: &[u8]) -> Option<(usize, Methods)> {
    let count = usize::from(*bytes.get(1)?);
    let methods = bytes.get(2..2 + count)?;
    let can = Methods {
        nothing: methods.contains(&0),
        password: methods.contains(&2),
    };
    Some((2 + count, can))
}

/// Reads user and password. `None` until all of it is there; at most 513 bytes.
pub(crate) fn password(bytes: &[u8]) -> Result<Option<Password<'_>>, &'static str> {
    let [version, rest @ ..] = bytes else {
        return Ok(None);
    };
    if *version != 1 {
        return Err("it is no user and password");
    }
    let Some((user, rest)) = counted(rest) else {
        return Ok(None);
    };
    Ok(counted(rest).map(|(password, _)| Password {
        length: 3 + user.len() + password.len(),
        user,
        password,
    }))
}

/// As many bytes as the first says, and the rest.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (count, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*count))
}

/// Reads the request: its length, host and port. `None` until all of it is
/// there; at most 262 bytes.
pub(crate) fn request(bytes: &[u8]) -> Result<Option<(usize, Host, u16)>, Bad> {
    let Some([version, command, reserved, kind, rest @ ..]) = bytes.get(..) else {
        return Ok(None);
    };
    let bad = |reply, problem| Err(Bad { reply, problem });
    if (*version, *reserved) != (VERSION, 0) {
        return bad(Reply::NotAllowed, "it is no SOCKS 5 request");
    }
    if *command != 1 {
        return bad(
            Reply::CommandNotSupported,
            "of SOCKS, only connections are offered, no BIND and no UDP",
        );
    }
    let length = match kind {
        1 => 4,
        4 => 16,
        3 => match rest.first() {
            Some(length) => 1 + usize::from(*length),
            None => return Ok(None),
        },
        _ => {
            return bad(
                Reply::AddressNotSupported,
                "its address is of no known kind",
            );
        }
    };
    let Some(host) = rest.get(..length) else {
        return Ok(None);
    };
    let Some([high, low, ..]) = rest.get(length..) else {
        return Ok(None);
    };
    let host = match kind {
        1 => <[u8; 4]>::try_from(host)
            .map(|bytes| Host::Address(Ipv4Addr::from(bytes).into()))
            .ok(),
        4 => <[u8; 16]>::try_from(host)
            .map(|bytes| Host::Address(Ipv6Addr::from(bytes).to_canonical()))
            .ok(),
        _ => std::str::from_utf8(&host[1..])
            .ok()
            .and_then(|text| Host::read(text).ok()),
    };
    let port = u16::from_be_bytes([*high, *low]);
    match host {
        Some(host) if port > 0 => Ok(Some((4 + length + 2, host, port))),
        _ => bad(Reply::NotAllowed, "its host or port is none"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(host: &[u8]) -> Vec<u8> {
        let mut bytes = vec![5, 1, 0, 3, u8::try_from(host.len()).unwrap()];
        bytes.extend(host);
        bytes.extend([1, 187]);
        bytes
    }

    #[test]
    fn reads_names_and_addresses() {
        let whole = named(b"API.example.com");
        let wanted = Host::Name("api.example.com".into());
        assert_eq!(request(&whole), Ok(Some((whole.len(), wanted, 443))));
        for length in 0..whole.len() {
            assert_eq!(request(&whole[..length]), Ok(None));
        }
        let v4 = [5, 1, 0, 1, 127, 0, 0, 1, 0, 80];
        assert_eq!(
            request(&v4),
            Ok(Some((10, Host::Address([127, 0, 0, 1].into()), 80)))
        );
    }

    #[test]
    fn reads_who_a_client_is() {
        let can = |nothing, password| Methods { nothing, password };
        assert_eq!(greeting(&[5, 2, 0, 2]), Some((4, can(true, true))));
        assert_eq!(greeting(&[5, 1, 2]), Some((3, can(false, true))));
        assert_eq!(greeting(&[5, 0]), Some((2, can(false, false))));
        assert_eq!(greeting(&[5, 2, 0]), None);
        let whole = b"\x01\x02me\x03abcrest";
        let said = password(whole).ok().flatten().unwrap();
        assert_eq!((said.length, said.user), (8, &b"me"[..]));
        assert_eq!(said.password, b"abc");
        for length in 0..8 {
            assert!(matches!(password(&whole[..length]), Ok(None)));
        }
        assert!(password(&[5, 1, 0]).is_err());
    }

    #[test]
    fn refuses_what_only_looks_like_a_name() {
        for host in [&b"evil\0.allowed.com"[..], b"", b"a@b", b"\xff", b"a b"] {
            assert_eq!(request(&named(host)).unwrap_err().reply, Reply::NotAllowed);
        }
        let bind = [5, 2, 0, 1, 1, 1, 1, 1, 0, 80];
        let udp = [5, 3, 0, 1, 1, 1, 1, 1, 0, 80];
        for bytes in [bind, udp] {
            assert_eq!(
                request(&bytes).unwrap_err().reply,
                Reply::CommandNotSupported
            );
        }
        assert!(request(&[5, 1, 0, 1, 1, 1, 1, 1, 0, 0]).is_err());
        assert!(request(&[5, 1, 0, 9, 1, 1, 1, 1, 0, 1]).is_err());
    }
}
