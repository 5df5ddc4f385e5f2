//! User codes: what a person reads from one screen and types into another.

use std::fmt;

use katachi_crypto::random;

use crate::replay::Unavailable;

/// Twenty consonants (RFC 8628 section 6.1): no vowels, so no words; nothing that
/// looks like something else.
const ALPHABET: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";

/// A user code: eight of twenty letters, 34.5 bits, shown as `XXXX-XXXX`.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct UserCode([u8; 8]);

/// The text is not a user code.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a user code: eight letters like BCDF-GHJK were expected")]
pub struct ParseUserCodeError;

impl UserCode {
    /// A random code.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the operating system gives no randomness.
    pub fn generate() -> Result<Self, Unavailable> {
        let mut code = [0; 8];
        let mut filled = 0;
        while filled < code.len() {
            let bytes: [u8; 16] = random::bytes().map_err(Unavailable::new)?;
            // 240 = 12 * 20: bytes above would favour the first letters.
            for byte in bytes.into_iter().filter(|&byte| byte < 240) {
                if let Some(letter) = code.get_mut(filled) {
                    *letter = ALPHABET[usize::from(byte % 20)];
                    filled += 1;
                }
            }
        }
        Ok(Self(code))
    }

    /// Reads what a person typed: case, spaces and dashes do not matter.
    ///
    /// # Errors
    ///
    /// Returns [`ParseUserCodeError`] unless eight letters of the alphabet remain.
    pub fn parse(typed: &str) -> Result<Self, ParseUserCodeError> {
        // Nobody types more than this for eight letters.
        if typed.len() > 32 {
            return Err(ParseUserCodeError);
        }
        let mut code = [0; 8];
        let mut filled = 0;
        for byte in typed
            .bytes()
            .filter(|byte| !matches!(byte, b' ' | b'-' | b'\t'))
        {
            let letter = byte.to_ascii_uppercase();
            if !ALPHABET.contains(&letter) {
                return Err(ParseUserCodeError);
            }
            *code.get_mut(filled).ok_or(ParseUserCodeError)? = letter;
            filled += 1;
        }
        if filled == code.len() {
            Ok(Self(code))
        } else {
            Err(ParseUserCodeError)
        }
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for UserCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: String = self.0.iter().copied().map(char::from).collect();
        write!(f, "{}-{}", &text[..4], &text[4..])
    }
}

impl fmt::Debug for UserCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserCode { .. }")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_however_it_is_typed() {
        let code = UserCode::generate().unwrap();
        let shown = code.to_string();
        assert_eq!(shown.len(), 9);
        for typed in [
            shown.clone(),
            shown.to_lowercase(),
            shown.replace('-', " "),
            shown.replace('-', ""),
        ] {
            assert_eq!(UserCode::parse(&typed), Ok(code));
        }
        for wrong in [
            "",
            "BCDF-GHJ",
            "BCDF-GHJKL",
            "ACDF-GHJK",
            "BCDF_GHJK",
            &"-".repeat(99),
        ] {
            assert!(UserCode::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn letters_are_even() {
        let mut counts = [0_u32; 26];
        for _ in 0..2000 {
            for letter in UserCode::generate().unwrap().0 {
                counts[usize::from(letter - b'A')] += 1;
            }
        }
        // 800 expected of each; 28 is one standard deviation.
        for letter in ALPHABET {
            let count = counts[usize::from(letter - b'A')];
            assert!(
                (600..1000).contains(&count),
                "{} came {count} times",
                char::from(*letter)
            );
        }
    }
}
