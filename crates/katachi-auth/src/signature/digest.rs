//! `Content-Digest` (RFC 9530): always `sha-256`, also for the empty body.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};

/// Length of a value, in bytes: `sha-256=:`, 44 characters, `:`.
pub(crate) const LEN: usize = 54;

const PREFIX: &[u8] = b"sha-256=:";

/// The value of `Content-Digest` for `body`.
pub(crate) fn content_digest(body: &[u8]) -> [u8; LEN] {
    let mut value = [b':'; LEN];
    value[..PREFIX.len()].copy_from_slice(PREFIX);
    STANDARD
        .encode_slice(digest(&SHA256, body), &mut value[PREFIX.len()..LEN - 1])
        .expect("32 bytes are 44 characters of base64");
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_values_of_rfc_9421_and_9530() {
        let text = |body| String::from_utf8(content_digest(body).to_vec()).unwrap();
        assert_eq!(
            text(b"{\"hello\": \"world\"}"),
            "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"
        );
        assert_eq!(
            text(b""),
            "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"
        );
    }
}
