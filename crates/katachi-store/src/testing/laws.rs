//! What has to hold of every input, for property tests and fuzzing.
//!
//! Each function takes any bytes at all and panics if its law is broken.

use crate::credentials::{self, Name};
use crate::vault::{self, ParseRecoveryCodeError, RecoveryCode};

/// A vault file that is read is written back byte by byte.
///
/// # Panics
///
/// Panics if it is not.
pub fn vault_file(bytes: &[u8]) {
    vault::check_file_law(bytes);
}

/// The opened content of a key ring that is read is written back byte by byte.
///
/// # Panics
///
/// Panics if it is not.
pub fn key_ring(bytes: &[u8]) {
    vault::check_ring_law(bytes);
}

/// The opened content of credentials that is read is written back byte by byte.
///
/// # Panics
///
/// Panics if it is not.
pub fn credentials(bytes: &[u8]) {
    credentials::check_law(bytes);
}

/// An answer of a TPM that is read is written back byte by byte.
///
/// # Panics
///
/// Panics if it is not.
#[cfg(all(feature = "tpm", target_os = "linux"))]
pub fn tpm_answer(bytes: &[u8]) {
    crate::tpm::check_answer_law(bytes);
}

/// What a TPM slot holds is, once read, written back byte by byte.
///
/// # Panics
///
/// Panics if it is not.
#[cfg(all(feature = "tpm", target_os = "linux"))]
pub fn tpm_sealed(bytes: &[u8]) {
    crate::tpm::check_sealed_law(bytes);
}

/// A tunnel credential that is read is read again, the same, from both of the
/// forms that it is written in.
///
/// # Panics
///
/// Panics if it is not.
#[cfg(feature = "cloudflare")]
pub fn tunnel_credential(bytes: &[u8]) {
    crate::file::cloudflare::check_law(bytes);
}

/// A text that is a credential name is its only spelling, and no path that
/// leaves its directory.
///
/// # Panics
///
/// Panics if it is not.
pub fn credential_name(text: &str) {
    if let Ok(name) = Name::parse(text) {
        assert_eq!(name.as_str(), text);
        assert_eq!(Name::parse(&name.to_string()).as_ref(), Ok(&name));
        assert!(
            !text.starts_with('/') && !text.split('/').any(|part| part.is_empty() || part == "..")
        );
    }
}

/// A text that is a recovery code prints as a code of the same bytes, which
/// differs from the text in nothing but what a person may vary; and the
/// printed code with one character exchanged is none.
///
/// # Panics
///
/// Panics if it does not.
pub fn recovery_code(text: &str) {
    let Ok(code) = RecoveryCode::parse(text) else {
        return;
    };
    let printed = code.to_text();
    let printed = printed.expose_secret();
    let again = RecoveryCode::parse(printed).expect("a printed code is read");
    assert_eq!(again.to_text().expose_secret(), printed);
    let plain = |text: &str| -> String {
        let kept = text.chars().filter(|c| !c.is_whitespace() && *c != '-');
        let upper = kept.map(|c| c.to_ascii_uppercase());
        upper
            .map(|c| match c {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            })
            .collect()
    };
    assert_eq!(plain(text), plain(printed));
    let mut wrong = plain(printed);
    let last = if wrong.pop() == Some('0') { '1' } else { '0' };
    wrong.push(last);
    let refused = RecoveryCode::parse(&wrong).err();
    assert_eq!(refused, Some(ParseRecoveryCodeError::Mistyped));
}

/// A record of a database's pages that is read is written back byte by byte.
///
/// # Panics
///
/// Panics if it is not.
pub fn anchor_record(bytes: &[u8]) {
    crate::pages::record::check_law(bytes);
}

/// A write-ahead log has no more pages than there are bytes for, and a
/// shorter one has no more than a longer.
///
/// # Panics
///
/// Panics if it does.
pub fn write_ahead_log(bytes: &[u8]) {
    crate::pages::log::check_law(bytes);
}
