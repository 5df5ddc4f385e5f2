//! SHA-256 as hexadecimal text.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// The digest of `bytes`, 64 lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
