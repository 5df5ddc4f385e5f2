//! How texts become the bytes that are signed.

/// Each field as a 32-bit big-endian length and its bytes, so that no two lists
/// of fields have the same bytes.
pub(crate) fn encode<'a>(fields: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        // What is longer than 4 GiB has not come through a channel.
        let length = u32::try_from(field.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(field.as_bytes());
    }
    bytes
}
