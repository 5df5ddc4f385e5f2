//! Frames as they pass on a carrier: a length of two bytes, and so many bytes.

/// Frames, each with its length.
pub(crate) type Frames = Vec<Vec<u8>>;

/// Takes the whole frames from the front of `bytes`.
pub(crate) fn cut(bytes: &mut Vec<u8>) -> Frames {
    let mut frames = Vec::new();
    while let Some(length) = bytes.first_chunk::<2>() {
        let end = 2 + usize::from(u16::from_be_bytes(*length));
        if bytes.len() < end {
            break;
        }
        frames.push(bytes.drain(..end).collect());
    }
    frames
}
