//! Addresses that mail can safely be sent to.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An e-mail address.
///
/// Narrower than RFC 5321: no quoted local parts, no address literals, ASCII only (an
/// international domain in its `xn--` form). So it holds no white space, no line break
/// and nothing that another program could read as a second recipient or as an option.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(String);

/// Not an address that mail is sent to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not an e-mail address: `name@domain` in ASCII was expected")]
pub struct ParseAddressError;

impl Address {
    /// Longest address, in bytes (RFC 5321 section 4.5.3.1.3, without the brackets).
    pub const MAX_LEN: usize = 254;

    /// Reads an address from untrusted text. The domain becomes lower case.
    ///
    /// ```
    /// use katachi_auth::mail::Address;
    ///
    /// assert_eq!(Address::parse("Ana.B+x@Example.COM")?.as_str(), "Ana.B+x@example.com");
    /// assert!(Address::parse("ana@example.com\r\nBcc: all@example.com").is_err());
    /// # Ok::<(), katachi_auth::mail::ParseAddressError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`ParseAddressError`] for anything else than a plain address.
    pub fn parse(text: &str) -> Result<Self, ParseAddressError> {
        let (local, domain) = text.split_once('@').ok_or(ParseAddressError)?;
        let local_fits = local.len() <= 64
            && !local.starts_with('-')
            && local
                .split('.')
                .all(|atom| !atom.is_empty() && atom.bytes().all(is_atom));
        let domain_fits = domain.contains('.')
            && domain.split('.').all(is_label)
            // An address literal without brackets.
            && !domain.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if !local_fits || !domain_fits || text.len() > Self::MAX_LEN {
            return Err(ParseAddressError);
        }
        Ok(Self(format!("{local}@{}", domain.to_ascii_lowercase())))
    }

    /// The address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same for all spellings that reach one person at every common provider: lower
    /// case throughout. Look accounts up by it.
    #[must_use]
    pub fn key(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

/// RFC 5322 section 3.2.3 `atext`.
fn is_atom(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Address {
    type Error = ParseAddressError;

    fn try_from(text: String) -> Result<Self, ParseAddressError> {
        Self::parse(&text)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_one_plain_address() {
        for bad in [
            "",
            "ana",
            "@example.com",
            "ana@",
            "ana@example",
            "ana@@example.com",
            "ana@example.com@evil.example",
            "ana@example.com,ben@example.com",
            "ana@example.com\r\nBcc: ben@example.com",
            "ana@example.com\n",
            "ana @example.com",
            "<ana@example.com>",
            "\"ana\"@example.com",
            "ana@[127.0.0.1]",
            "ana@127.0.0.1",
            "-oQ/tmp@example.com",
            ".ana@example.com",
            "ana..b@example.com",
            "ana@-example.com",
            "ana@exam_ple.com",
            "ana@example..com",
            "anä@example.com",
            "ana@examplé.com",
            "ana\0@example.com",
        ] {
            assert_eq!(Address::parse(bad), Err(ParseAddressError), "{bad:?}");
        }
        let long = format!("ana@{}.com", "a.".repeat(150));
        assert!(Address::parse(&long).is_err());
        assert_eq!(
            Address::parse("ANA@Example.com").unwrap().key(),
            "ana@example.com"
        );
    }
}
