//! The code that a person writes down.
//!
//! 128 random bits as 26 letters and digits, then six more as a checksum:
//! eight groups of four. The checksum is the BCH code of Bech32m (BIP 350), so
//! up to four mistyped characters, and any two neighbours swapped, are always
//! noticed. That tells "you mistyped it" from "it is the code of another vault".

use std::fmt;

use katachi_crypto::{Secret, SecretString};
use zeroize::Zeroizing;

/// Opens a vault on any machine.
pub struct RecoveryCode(Secret<16>);

/// Why a text is no recovery code.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseRecoveryCodeError {
    /// It has too few or too many characters.
    #[error("a recovery code has 32 letters and digits, this has {found}")]
    Length {
        /// Letters and digits found.
        found: usize,
    },
    /// A character that is in no recovery code.
    #[error(
        "character {position} of the recovery code is neither a digit nor one of its letters (U is not used)"
    )]
    Character {
        /// Its place, counted from one, separators left out.
        position: usize,
    },
    /// The checksum does not fit: something was mistyped.
    #[error("the recovery code was mistyped; compare it with what you wrote down")]
    Mistyped,
}

/// Crockford's alphabet: no I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const DATA_SYMBOLS: usize = 26;
const CHECK_SYMBOLS: usize = 6;
const SYMBOLS: usize = DATA_SYMBOLS + CHECK_SYMBOLS;
const GROUP: usize = 4;

impl RecoveryCode {
    /// Draws a new code.
    ///
    /// # Errors
    ///
    /// Returns the error of the system's random number generator.
    pub fn generate() -> Result<Self, katachi_crypto::Error> {
        Ok(Self(Secret::random()?))
    }

    /// Reads a code as a person types it: any case, spaces and hyphens
    /// anywhere, O for 0, I and L for 1.
    ///
    /// # Errors
    ///
    /// Returns [`ParseRecoveryCodeError`], which never contains the text.
    pub fn parse(text: &str) -> Result<Self, ParseRecoveryCodeError> {
        let mut symbols = Zeroizing::new([0_u8; SYMBOLS]);
        let mut found = 0;
        for character in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
            let symbol = symbol(character).ok_or(ParseRecoveryCodeError::Character {
                position: found + 1,
            })?;
            if let Some(place) = symbols.get_mut(found) {
                *place = symbol;
            }
            found += 1;
        }
        if found != SYMBOLS {
            return Err(ParseRecoveryCodeError::Length { found });
        }
        if polymod(&symbols[..]) != BECH32M {
            return Err(ParseRecoveryCodeError::Mistyped);
        }
        let mut bytes = Zeroizing::new([0_u8; 16]);
        let mut accumulator = Zeroizing::new(0_u32);
        let (mut bits, mut written) = (0, 0);
        for &symbol in &symbols[..DATA_SYMBOLS] {
            *accumulator = (*accumulator << 5) | u32::from(symbol);
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                bytes[written] = (*accumulator >> bits) as u8;
                written += 1;
                *accumulator &= (1 << bits) - 1;
            }
        }
        // Two bits are left over and zero in every code we print.
        if *accumulator != 0 {
            return Err(ParseRecoveryCodeError::Mistyped);
        }
        Ok(Self(Secret::new(*bytes)))
    }

    /// The code to show to the owner, once: `XXXX-XXXX-…`, 39 characters.
    #[must_use]
    pub fn to_text(&self) -> SecretString {
        let mut symbols = Zeroizing::new([0_u8; SYMBOLS]);
        let mut accumulator = Zeroizing::new(0_u32);
        let (mut bits, mut written) = (0, 0);
        for &byte in self.0.expose_secret() {
            *accumulator = (*accumulator << 8) | u32::from(byte);
            bits += 8;
            while bits >= 5 {
                bits -= 5;
                symbols[written] = ((*accumulator >> bits) & 31) as u8;
                written += 1;
                *accumulator &= (1 << bits) - 1;
            }
        }
        symbols[written] = ((*accumulator << (5 - bits)) & 31) as u8;
        let check = polymod(&symbols[..]) ^ BECH32M;
        for (index, symbol) in symbols[DATA_SYMBOLS..].iter_mut().enumerate() {
            *symbol = ((check >> (5 * (CHECK_SYMBOLS - 1 - index))) & 31) as u8;
        }
        let mut text = String::with_capacity(SYMBOLS + SYMBOLS / GROUP);
        for (index, &symbol) in symbols.iter().enumerate() {
            if index > 0 && index % GROUP == 0 {
                text.push('-');
            }
            text.push(char::from(ALPHABET[usize::from(symbol)]));
        }
        SecretString::new(text)
    }

    pub(crate) fn expose_secret(&self) -> &[u8; 16] {
        self.0.expose_secret()
    }
}

impl fmt::Debug for RecoveryCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RecoveryCode { .. }")
    }
}

fn symbol(character: char) -> Option<u8> {
    let upper = match character.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    ALPHABET
        .iter()
        .position(|&letter| char::from(letter) == upper)
        .map(|index| index as u8)
}

/// The constant of BIP 350.
const BECH32M: u32 = 0x2bc8_30a3;

/// The remainder of BIP 173 over `symbols`, begun with a prefix of our own so
/// that no Bech32m address is a recovery code.
fn polymod(symbols: &[u8]) -> u32 {
    const GENERATOR: [u32; 5] = [
        0x3b6a_57b2,
        0x2650_8e6d,
        0x1ea1_19fa,
        0x3d42_33dd,
        0x2a14_62b3,
    ];
    let prefix = b"katachi".iter().map(|byte| byte & 31);
    prefix
        .chain(symbols.iter().copied())
        .fold(1, |remainder, symbol| {
            let top = remainder >> 25;
            let shifted = ((remainder & 0x01ff_ffff) << 5) ^ u32::from(symbol);
            GENERATOR
                .iter()
                .enumerate()
                .filter(|(bit, _)| (top >> bit) & 1 == 1)
                .fold(shifted, |remainder, (_, value)| remainder ^ value)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> RecoveryCode {
        RecoveryCode(Secret::new(*b"sixteen byte key"))
    }

    #[test]
    fn prints_and_reads_the_same_code() {
        for _ in 0..200 {
            let code = RecoveryCode::generate().unwrap();
            let text = code.to_text();
            let again = RecoveryCode::parse(text.expose_secret()).unwrap();
            assert_eq!(code.expose_secret(), again.expose_secret());
            assert_eq!(text.expose_secret().len(), 39);
        }
    }

    /// Fixes the code for ever: a person may hold it for years.
    #[test]
    fn prints_the_known_code_of_known_bytes() {
        let text = code().to_text();
        assert_eq!(text.expose_secret(), KNOWN);
        assert_eq!(
            RecoveryCode::parse(KNOWN).unwrap().expose_secret(),
            b"sixteen byte key"
        );
    }

    const KNOWN: &str = "EDMQ-GX35-CNQ2-0RKS-EHJJ-0TV5-F4PW-JDXD";

    #[test]
    fn notices_every_single_wrong_character() {
        let text = code().to_text();
        let plain: Vec<char> = text.expose_secret().chars().filter(|c| *c != '-').collect();
        for position in 0..plain.len() {
            for &letter in ALPHABET {
                if char::from(letter) == plain[position] {
                    continue;
                }
                let mut wrong = plain.clone();
                wrong[position] = char::from(letter);
                let wrong: String = wrong.into_iter().collect();
                assert_eq!(
                    RecoveryCode::parse(&wrong).unwrap_err(),
                    ParseRecoveryCodeError::Mistyped
                );
            }
        }
    }

    #[test]
    fn notices_every_pair_of_swapped_characters() {
        let text = code().to_text();
        let plain: Vec<char> = text.expose_secret().chars().filter(|c| *c != '-').collect();
        for first in 0..plain.len() {
            for second in first + 1..plain.len() {
                let mut wrong = plain.clone();
                wrong.swap(first, second);
                if wrong != plain {
                    let wrong: String = wrong.into_iter().collect();
                    assert_eq!(
                        RecoveryCode::parse(&wrong).unwrap_err(),
                        ParseRecoveryCodeError::Mistyped
                    );
                }
            }
        }
    }

    #[test]
    fn forgives_case_spaces_and_look_alikes() {
        let typed = KNOWN.to_lowercase().replace('-', " ").replace('0', "o");
        assert_eq!(
            RecoveryCode::parse(&typed).unwrap().expose_secret(),
            b"sixteen byte key"
        );
    }

    #[test]
    fn says_what_is_wrong_with_a_text_of_another_shape() {
        assert_eq!(
            RecoveryCode::parse("").unwrap_err(),
            ParseRecoveryCodeError::Length { found: 0 }
        );
        let long = KNOWN.repeat(3);
        assert_eq!(
            RecoveryCode::parse(&long).unwrap_err(),
            ParseRecoveryCodeError::Length { found: 96 }
        );
        let odd = KNOWN.replacen('D', "U", 1);
        assert_eq!(
            RecoveryCode::parse(&odd).unwrap_err(),
            ParseRecoveryCodeError::Character { position: 2 }
        );
    }

    #[test]
    fn shows_nothing_in_debug_output() {
        assert_eq!(format!("{:?}", code()), "RecoveryCode { .. }");
    }
}
