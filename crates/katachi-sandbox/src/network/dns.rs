//! The questions of a resolver, and answers to them (RFC 1035).
//!
//! One question, one answer, no compression, at most 512 bytes. A question is
//! answered from the policy alone; it never goes anywhere.

use std::net::Ipv4Addr;

use super::host::Host;

/// Longest message.
pub(crate) const LONGEST: usize = 512;
/// Seconds an answer may be remembered.
const LIFETIME: u32 = 60;

const A: u16 = 1;
const AAAA: u16 = 28;
const INTERNET: u16 = 1;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question<'a> {
    id: [u8; 2],
    /// Whether the asker wants recursion, which is said back.
    recursion: bool,
    /// Name, kind and class as they came.
    echo: &'a [u8],
    /// The name, where it is one of a host.
    pub(crate) name: Option<Host>,
    pub(crate) kind: Kind,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An IPv4 address.
    V4,
    /// An IPv6 address.
    V6,
    Other,
}

/// What is said back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Address(Ipv4Addr),
    /// The name exists and has nothing of this kind.
    Nothing,
    /// The name does not exist.
    NoSuchName,
    /// No answer can be given now.
    Failure,
}

/// Reads a message that asks exactly one question; what follows it (EDNS) is
/// not looked at. `None` if it is anything else.
pub(crate) fn parse(message: &[u8]) -> Option<Question<'_>> {
    if message.len() > LONGEST {
        return None;
    }
    let (header, rest) = message.split_first_chunk::<12>()?;
    let [id_0, id_1, flags, _, count_0, count_1, ..] = *header;
    // An answer, or an operation other than a question.
    if flags & 0xf8 != 0 || [count_0, count_1] != [0, 1] {
        return None;
    }
    let mut name = String::new();
    let mut readable = true;
    let mut at = 0;
    loop {
        let length = usize::from(*rest.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        // Longer ones are pointers, which a question has no use for.
        if length > 63 || at + length > 255 {
            return None;
        }
        let label = rest.get(at..at + length)?;
        at += length;
        // A dot within a label would shift the border between two.
        match std::str::from_utf8(label) {
            Ok(text) if !text.contains('.') => {
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(text);
            }
            _ => readable = false,
        }
    }
    let tail = rest.get(at..at + 4)?;
    let kind = u16::from_be_bytes([tail[0], tail[1]]);
    let class = u16::from_be_bytes([tail[2], tail[3]]);
    let name = match Host::parse(&name) {
        Ok(host @ Host::Name(_)) if readable && !name.contains(':') => Some(host),
        _ => None,
    };
    Some(Question {
        id: [id_0, id_1],
        recursion: flags & 1 != 0,
        echo: &rest[..at + 4],
        name,
        kind: match (kind, class) {
            (A, INTERNET) => Kind::V4,
            (AAAA, INTERNET) => Kind::V6,
            _ => Kind::Other,
        },
    })
}

impl Question<'_> {
    /// The message that answers the question.
    pub(crate) fn answer(&self, reply: Reply) -> Vec<u8> {
        let code = match reply {
            Reply::Address(_) | Reply::Nothing => 0,
            Reply::Failure => 2,
            Reply::NoSuchName => 3,
        };
        let answers = u8::from(matches!(reply, Reply::Address(_)));
        let mut message = Vec::with_capacity(12 + self.echo.len() + 16);
        message.extend(self.id);
        // A response with authority, recursion available.
        message.extend([0x84 | u8::from(self.recursion), 0x80 | code]);
        message.extend([0, 1, 0, answers, 0, 0, 0, 0]);
        message.extend(self.echo);
        if let Reply::Address(address) = reply {
            // A pointer to the name in the question.
            message.extend([0xc0, 12]);
            message.extend(A.to_be_bytes());
            message.extend(INTERNET.to_be_bytes());
            message.extend(LIFETIME.to_be_bytes());
            message.extend([0, 4]);
            message.extend(address.octets());
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(name: &[&[u8]], kind: u16) -> Vec<u8> {
        let mut message = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        for label in name {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend(*label);
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        // EDNS, as every resolver adds it.
        message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        message
    }

    #[test]
    fn reads_a_question_and_answers_it() {
        let message = question(&[b"API", b"example", b"com"], A);
        let asked = parse(&message).unwrap();
        assert_eq!(asked.name, Some(Host::Name("api.example.com".into())));
        assert_eq!(asked.kind, Kind::V4);
        let answer = asked.answer(Reply::Address(Ipv4Addr::new(198, 18, 0, 2)));
        assert_eq!(&answer[..4], &[7, 9, 0x85, 0x80]);
        assert_eq!(&answer[answer.len() - 4..], &[198, 18, 0, 2]);
        assert!(answer.windows(4).any(|bytes| bytes == b"\x03API"));
        assert!(answer.len() < LONGEST);
        assert_eq!(asked.answer(Reply::NoSuchName)[3], 0x83);
    }

    #[test]
    fn no_label_hides_a_border() {
        for name in [
            &[b"evil.allowed".as_slice(), b"com"][..],
            &[b"a\0b", b"com"],
            &[b"\xff", b"com"],
        ] {
            let message = question(name, A);
            assert_eq!(parse(&message).unwrap().name, None, "{name:?}");
        }
    }

    #[test]
    fn pointers_answers_and_ends_are_no_questions() {
        let whole = question(&[b"a", b"test"], A);
        for length in 0..whole.len() - 11 {
            assert_eq!(parse(&whole[..length]), None);
        }
        let mut pointer = whole.clone();
        pointer[12] = 0xc0;
        assert_eq!(parse(&pointer), None);
        let mut answer = whole.clone();
        answer[2] |= 0x80;
        assert_eq!(parse(&answer), None);
        let mut many = whole;
        many[5] = 2;
        assert_eq!(parse(&many), None);
    }
}
