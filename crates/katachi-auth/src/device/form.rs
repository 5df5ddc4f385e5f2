//! `application/x-www-form-urlencoded` bodies of the OAuth endpoints.
//!
//! Strict where it matters: bounded, UTF-8, and no parameter twice (RFC 6749
//! section 3.1), since two readers of a repeated parameter may believe different ones.

use std::borrow::Cow;

/// A form, in the order it was sent.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Form<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// The body is not a form of ours: answer [`Self::status`] with `invalid_request`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FormError {
    /// Longer than [`Form::MAX_LEN`], or more than [`Form::MAX_FIELDS`] parameters.
    #[error("the form is larger than any valid one")]
    TooLarge,
    /// A parameter without `=`, a broken `%` escape, or not UTF-8.
    #[error("not a form: `name=value` pairs in percent-encoded UTF-8 were expected")]
    Malformed,
    /// A parameter stands there twice.
    #[error("a parameter stands there twice")]
    Repeated,
}

impl FormError {
    /// The status code of the answer.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::TooLarge => 413,
            Self::Malformed | Self::Repeated => 400,
        }
    }
}

impl<'a> Form<'a> {
    /// Longest body, in bytes.
    pub const MAX_LEN: usize = 8192;
    /// Most parameters.
    pub const MAX_FIELDS: usize = 32;

    /// Reads an untrusted body.
    ///
    /// # Errors
    ///
    /// Returns [`FormError`] if the body is too large, malformed, or repeats a parameter.
    pub fn parse(body: &'a [u8]) -> Result<Self, FormError> {
        if body.len() > Self::MAX_LEN {
            return Err(FormError::TooLarge);
        }
        let mut fields: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::new();
        for pair in body
            .split(|&byte| byte == b'&')
            .filter(|pair| !pair.is_empty())
        {
            if fields.len() == Self::MAX_FIELDS {
                return Err(FormError::TooLarge);
            }
            let equals = pair
                .iter()
                .position(|&byte| byte == b'=')
                .ok_or(FormError::Malformed)?;
            let name = decode(&pair[..equals])?;
            let value = decode(&pair[equals + 1..])?;
            if fields.iter().any(|(seen, _)| *seen == name) {
                return Err(FormError::Repeated);
            }
            fields.push((name, value));
        }
        Ok(Self(fields))
    }

    /// The value of a parameter. An empty value counts as absent (RFC 6749 section 3.1).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(candidate, value)| candidate == name && !value.is_empty())
            .map(|(_, value)| value.as_ref())
    }

    /// Adds a parameter, for writing a form.
    #[must_use]
    pub fn with(mut self, name: &'a str, value: &'a str) -> Self {
        self.0.push((name.into(), value.into()));
        self
    }

    /// Writes the form so that [`Self::parse`] reads the same.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::new();
        for (name, value) in &self.0 {
            if !out.is_empty() {
                out.push('&');
            }
            encode_into(name, &mut out);
            out.push('=');
            encode_into(value, &mut out);
        }
        out
    }
}

fn decode(text: &[u8]) -> Result<Cow<'_, str>, FormError> {
    if !text.iter().any(|&byte| byte == b'%' || byte == b'+') {
        return std::str::from_utf8(text)
            .map(Cow::Borrowed)
            .map_err(|_| FormError::Malformed);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let [high, low, after @ ..] = rest else {
                    return Err(FormError::Malformed);
                };
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let (Some(high), Some(low)) = (digit(high), digit(low)) else {
                    return Err(FormError::Malformed);
                };
                // Two hexadecimal digits are one byte.
                out.push((high * 16 + low) as u8);
                rest = after;
            }
            byte => out.push(*byte),
        }
    }
    String::from_utf8(out)
        .map(Cow::Owned)
        .map_err(|_| FormError::Malformed)
}

fn encode_into(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_read_is_written_to_the_same_form(body in "[a-c%+=&0-9]{0,40}") {
            if let Ok(form) = Form::parse(body.as_bytes()) {
                let encoded = form.encode();
                prop_assert_eq!(Form::parse(encoded.as_bytes()), Ok(form.clone()));
            }
        }

        #[test]
        fn any_value_survives(value in "\\PC{0,60}") {
            let form = Form::default().with("device_code", &value);
            let encoded = form.encode();
            let read = Form::parse(encoded.as_bytes()).unwrap();
            prop_assert_eq!(read.get("device_code").unwrap_or_default(), value);
        }
    }

    #[test]
    fn refuses_what_two_readers_could_read_differently() {
        assert_eq!(Form::parse(b"a=1&a=2"), Err(FormError::Repeated));
        assert_eq!(Form::parse(b"a=1&%61=2"), Err(FormError::Repeated));
        assert_eq!(Form::parse(b"a"), Err(FormError::Malformed));
        assert_eq!(Form::parse(b"a=%4"), Err(FormError::Malformed));
        assert_eq!(Form::parse(b"a=%ff"), Err(FormError::Malformed));
        assert_eq!(Form::parse(&[b'a'; 9000]), Err(FormError::TooLarge));
        let many = (0..33).map(|n| format!("k{n}=v&")).collect::<String>();
        assert_eq!(Form::parse(many.as_bytes()), Err(FormError::TooLarge));
    }
}
