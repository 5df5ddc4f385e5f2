//! Where the body of a request ends (RFC 9112, section 6).

use super::http::is;

/// A body, and how much of it is still to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// This many bytes.
    Length(u64),
    /// Pieces that each say how long they are.
    Chunked(Chunk),
}

/// Where one is within pieces: each is its length in hexadecimal digits, a
/// line end, the bytes, a line end; the last one is empty. Extensions and
/// trailing fields are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Chunk {
    #[default]
    Start,
    Digits(u64),
    LengthEnd(u64),
    Bytes(u64),
    Return,
    LineEnd,
    LastReturn,
    LastLineEnd,
    Done,
}

impl Body {
    /// The body that the fields of a request announce.
    pub(super) fn of(version: u8, fields: &[httparse::Header<'_>]) -> Result<Self, &'static str> {
        let values = |name: &'static str| {
            let mut values = fields.iter().filter(move |field| is(field, name));
            (
                values.next().map(|field| field.value),
                values.next().is_some(),
            )
        };
        let (length, two_lengths) = values("content-length");
        let (coding, two_codings) = values("transfer-encoding");
        if two_lengths || two_codings || (length.is_some() && coding.is_some()) {
            return Err("it says twice how long its body is");
        }
        if let Some(coding) = coding {
            if version == 0 || !coding.eq_ignore_ascii_case(b"chunked") {
                return Err("of transfer encodings, only chunked is offered");
            }
            return Ok(Self::Chunked(Chunk::Start));
        }
        let Some(length) = length else {
            return Ok(Self::Length(0));
        };
        let digits = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
        std::str::from_utf8(length)
            .ok()
            .filter(|_| digits)
            .and_then(|text| text.parse().ok())
            .map(Self::Length)
            .ok_or("its Content-Length is no number")
    }

    /// The field that announces it.
    pub(super) fn field(&self) -> String {
        match self {
            Self::Length(0) => String::new(),
            Self::Length(length) => format!("Content-Length: {length}\r\n"),
            Self::Chunked(_) => "Transfer-Encoding: chunked\r\n".to_owned(),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunk::Done))
    }

    /// How many of `bytes` belong to the body.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        match self {
            Self::Length(left) => {
                let taken =
                    usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= taken as u64;
                Ok(taken)
            }
            Self::Chunked(chunk) => {
                let mut at = 0;
                while at < bytes.len() && *chunk != Chunk::Done {
                    at += chunk.step(&bytes[at..]).ok_or("its pieces are malformed")?;
                }
                Ok(at)
            }
        }
    }
}

impl Chunk {
    /// Takes at least one of `bytes`, which are not empty.
    fn step(&mut self, bytes: &[u8]) -> Option<usize> {
        let (byte, mut taken) = (*bytes.first()?, 1);
        let digit = char::from(byte).to_digit(16).map(u64::from);
        *self = match (*self, byte, digit) {
            (Self::Start, _, Some(digit)) => Self::Digits(digit),
            // Sixteen times more would not fit.
            (Self::Digits(length), _, Some(digit)) if length < 1 << 56 => {
                Self::Digits(length << 4 | digit)
            }
            (Self::Digits(length), b'\r', _) => Self::LengthEnd(length),
            (Self::LengthEnd(0), b'\n', _) => Self::LastReturn,
            (Self::LengthEnd(length), b'\n', _) => Self::Bytes(length),
            (Self::Bytes(left), ..) => {
                taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                match left - taken as u64 {
                    0 => Self::Return,
                    left => Self::Bytes(left),
                }
            }
            (Self::Return, b'\r', _) => Self::LineEnd,
            (Self::LineEnd, b'\n', _) => Self::Start,
            (Self::LastReturn, b'\r', _) => Self::LastLineEnd,
            (Self::LastLineEnd, b'\n', _) => Self::Done,
            _ => return None,
        };
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The obvious way: find each line end in the whole text.
    fn naive(mut text: &[u8]) -> Option<usize> {
        let whole = text.len();
        loop {
            let end = text.windows(2).position(|pair| pair == b"\r\n")?;
            let digits = std::str::from_utf8(&text[..end]).ok()?;
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return None;
            }
            let length = usize::try_from(u64::from_str_radix(digits, 16).ok()?).ok()?;
            text = text[end + 2..].get(length..)?.strip_prefix(b"\r\n")?;
            if length == 0 {
                return Some(whole - text.len());
            }
        }
    }

    fn ours(text: &[u8], step: usize) -> Option<usize> {
        let mut body = Body::Chunked(Chunk::Start);
        let mut at = 0;
        while !body.is_done() {
            let part = text.get(at..)?;
            let part = &part[..step.min(part.len())];
            if part.is_empty() {
                return None;
            }
            at += body.take(part).ok()?;
        }
        Some(at)
    }

    proptest! {
        #[test]
        fn pieces_end_where_the_naive_twin_ends_them(
            text in "((0{0,2}[1-3a]|1[0-2])\r\n[x0\r\n]{0,4}\r\n){0,3}(0\r\n\r\n)?[0-9\r\n]{0,3}",
            step in 1_usize..9
        ) {
            prop_assert_eq!(ours(text.as_bytes(), step), naive(text.as_bytes()));
        }
    }

    #[test]
    fn what_follows_the_body_is_not_of_it() {
        let text = b"3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n";
        assert_eq!(ours(text, 4), Some(13));
        let mut body = Body::Length(3);
        assert_eq!(body.take(b"abcGET"), Ok(3));
        assert!(body.is_done());
        for text in [
            &b"3;x=1\r\n"[..],
            b"0\r\nA: b\r\n\r\n",
            b"\r\n",
            b"-1\r\n",
            b"fffffffffffffffff\r\n",
        ] {
            assert!(Body::Chunked(Chunk::Start).take(text).is_err());
        }
    }
}
