//! The first message of TLS, for the name in it (RFC 8446, section 4.1.2, and
//! RFC 6066, section 3).
//!
//! Only as much is read as it takes to find the name and to be sure that there
//! is no other. What is longer than [`LONGEST`] or not formed as the standards
//! say is refused.

use super::host::Host;

/// Longest first message, with the headers of its records.
pub(crate) const LONGEST: usize = 32 * 1024;

/// What a client shows before anything is encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// The name it wants to reach.
    Name(Host),
    /// No name.
    Nameless,
    /// The true name is encrypted (RFC 9849).
    Encrypted,
}

/// Whether these first bytes can be the start of TLS.
pub(crate) fn is_tls(bytes: &[u8]) -> bool {
    bytes.starts_with(&[22, 3]) || bytes == [22]
}

/// Reads the first message. `None` until all of it is there; the reason if it
/// is none.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Hello>, &'static str> {
    let Some(message) = message(bytes)? else {
        return if bytes.len() >= LONGEST {
            Err("the first message of TLS is too long")
        } else {
            Ok(None)
        };
    };
    client_hello(&message)
        .map(Some)
        .ok_or("the first message of TLS is malformed")
}

/// Joins what the records carry, up to the end of the first message.
fn message(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    let mut message = Vec::new();
    loop {
        if let [kind, high, middle, low, ..] = *message.as_slice() {
            let length = 4 + usize::from_be_bytes([0, 0, 0, 0, 0, high, middle, low]);
            if kind != 1 || length > LONGEST {
                return Err("TLS does not start with a client's hello");
            }
            if message.len() >= length {
                message.truncate(length);
                message.drain(..4);
                return Ok(Some(message));
            }
        }
        let header: Vec<u8> = bytes.iter().copied().take(5).collect();
        if !is_tls(&header) && !header.is_empty() {
            return Err("it is no TLS");
        }
        let &[_, _, _, high, low] = header.as_slice() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > 1 << 14 {
            return Err("a record of TLS has 1 to 16384 bytes");
        }
        let body = &bytes[5..];
        message.extend(&body[..length.min(body.len())]);
        match body.get(length..) {
            Some(rest) => bytes = rest,
            // The message may still end within what came of the last record.
            None => bytes = &[],
        }
    }
}

/// Takes bytes from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, width: usize) -> Option<usize> {
        let bytes = self.take(width)?;
        Some(
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
        )
    }

    /// A vector whose length has `width` bytes.
    fn vector(&mut self, width: usize) -> Option<Self> {
        let length = self.number(width)?;
        self.take(length).map(Self)
    }
}

fn client_hello(message: &[u8]) -> Option<Hello> {
    const SERVER_NAME: usize = 0;
    const ENCRYPTED: [usize; 2] = [0xfe0d, 0xffce];
    let mut hello = Bytes(message);
    hello.take(2 + 32)?;
    let session = hello.vector(1)?;
    let suites = hello.vector(2)?;
    let compressions = hello.vector(1)?;
    let shaped = session.0.len() <= 32
        && suites.0.len() >= 2
        && suites.0.len().is_multiple_of(2)
        && !compressions.0.is_empty();
    if !shaped {
        return None;
    }
    if hello.0.is_empty() {
        return Some(Hello::Nameless);
    }
    let mut extensions = hello.vector(2)?;
    if !hello.0.is_empty() {
        return None;
    }
    let (mut name, mut encrypted) = (None, false);
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let body = extensions.vector(2)?;
        if kind == SERVER_NAME {
            let first = name.replace(server_name(body)?);
            // Two of them, and client and server could each mean another.
            if first.is_some() {
                return None;
            }
        }
        encrypted |= ENCRYPTED.contains(&kind);
    }
    Some(match name {
        _ if encrypted => Hello::Encrypted,
        Some(name) => Hello::Name(name),
        None => Hello::Nameless,
    })
}

/// The one name of the list.
fn server_name(mut body: Bytes<'_>) -> Option<Host> {
    let mut list = body.vector(2)?;
    let kind = list.number(1)?;
    let name = list.vector(2)?;
    if kind != 0 || !list.0.is_empty() || !body.0.is_empty() {
        return None;
    }
    let text = std::str::from_utf8(name.0).ok()?;
    match Host::parse(text).ok()? {
        // Addresses are not permitted there.
        host @ Host::Name(_) if !text.ends_with('.') => Some(host),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vector(width: usize, body: &[u8]) -> Vec<u8> {
        let length = body.len().to_be_bytes();
        [&length[8 - width..], body].concat()
    }

    fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector(2, body)].concat()
    }

    fn name(text: &str) -> Vec<u8> {
        let entry = [&[0][..], &vector(2, text.as_bytes())].concat();
        extension(0, &vector(2, &entry))
    }

    fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend(vector(1, &[9; 32]));
        body.extend(vector(2, &[0x13, 1, 0x13, 2]));
        body.extend(vector(1, &[0]));
        body.extend(vector(2, &extensions.concat()));
        [&[1][..], &vector(3, &body)].concat()
    }

    /// The message in records of at most `size` bytes.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message
            .chunks(size)
            .flat_map(|part| [&[22, 3, 1][..], &vector(2, part)].concat())
            .collect()
    }

    fn named(text: &str) -> Hello {
        Hello::Name(Host::parse(text).unwrap())
    }

    #[test]
    fn finds_the_name_however_it_is_cut() {
        let message = hello(&[
            extension(43, &[2, 3, 4]),
            name("API.example.com"),
            extension(21, &[0; 99]),
        ]);
        for size in [1, 5, 64, 16384] {
            let whole = records(&message, size);
            assert_eq!(parse(&whole), Ok(Some(named("api.example.com"))));
            for length in 0..whole.len() {
                assert_eq!(parse(&whole[..length]), Ok(None), "{length} of {size}");
            }
        }
    }

    #[test]
    fn says_when_there_is_no_name_or_an_encrypted_one() {
        let plain = |extensions: &[Vec<u8>]| parse(&records(&hello(extensions), 16384));
        assert_eq!(plain(&[]), Ok(Some(Hello::Nameless)));
        assert_eq!(
            plain(&[name("front.test"), extension(0xfe0d, &[0; 9])]),
            Ok(Some(Hello::Encrypted))
        );
    }

    #[test]
    fn refuses_two_names_addresses_and_bytes_that_are_none() {
        let two = [&[0][..], &vector(2, b"a.test"), &[0], &vector(2, b"b.test")].concat();
        for extensions in [
            vec![name("a.test"), name("b.test")],
            vec![extension(0, &vector(2, &two))],
            vec![name("127.0.0.1")],
            vec![name("a.test.")],
            vec![name("evil\0.a.test")],
            vec![name("")],
            vec![extension(0, &[])],
        ] {
            assert!(
                parse(&records(&hello(&extensions), 16384)).is_err(),
                "{extensions:?}"
            );
        }
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            &[22, 3, 1, 0, 0],
            &[22, 3, 1, 255, 255],
            &[22, 3, 1, 0, 4, 2, 0, 0, 0],
        ] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_hello_without_end_is_refused() {
        let mut endless = records(
            &[&[1, 0, 0x7f, 0xff][..], &vec![0; 1 << 16]].concat(),
            16384,
        );
        endless.truncate(LONGEST);
        assert!(parse(&endless).is_err());
    }

    proptest! {
        #[test]
        fn a_cut_changes_no_verdict(
            mut message in Just(hello(&[name("a.test"), extension(10, &[1, 2])])),
            at in 0_usize..80, byte: u8, size in 1_usize..90
        ) {
            let at = at.min(message.len() - 1);
            message[at] = byte;
            let whole = parse(&records(&message, 16384));
            prop_assert_eq!(parse(&records(&message, size)), whole);
        }
    }
}
