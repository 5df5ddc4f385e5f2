//! Content of any length, sealed and opened piece by piece in constant memory.
//!
//! A stream is an envelope of kind [`Kind::Stream`](crate::envelope::Kind)
//! without the length limit of a single value: up to 32 GiB. What a writer that
//! was not finished leaves behind never opens; a reader that meets the end of
//! its source before the last chunk reports it as an error and not as an end.

mod open;
mod seal;

pub use open::OpenReader;
pub use seal::SealWriter;

use crate::Error;
use crate::envelope::CHUNK;

/// Plaintext of one stream, in bytes, at most.
pub const MAX_PLAINTEXT: u64 = 32 * 1024 * 1024 * 1024;

/// Chunks before the last one, at most.
const MAX_FULL_CHUNKS: u64 = MAX_PLAINTEXT / CHUNK as u64;

/// Carries our error through `std::io`.
fn io_error(error: Error) -> std::io::Error {
    let kind = match error {
        Error::Truncated => std::io::ErrorKind::UnexpectedEof,
        Error::Randomness => std::io::ErrorKind::Other,
        _ => std::io::ErrorKind::InvalidData,
    };
    std::io::Error::new(kind, error)
}
