//! Content of any length, sealed and opened piece by piece in constant memory.
//!
//! A stream is an envelope of kind [`Kind::Stream`](crate::envelope::Kind)
//! without the length limit of a single value: up to 32 GiB. What a writer that
//! was not finished leaves behind never opens; a reader that meets the end of
//! its source before the last chunk reports it as an error and not as an end.
//!
//! One chunk is held at a time. [`Parallel`](crate::envelope::Parallel) makes
//! writers and readers that keep several threads busy, in less than 1 MiB of
//! memory for each; the feature `tokio` adds an asynchronous pair.

mod at;
mod crew;
mod filling;
mod open;
mod opening;
#[cfg(feature = "tokio")]
mod poll;
mod seal;

pub use at::OpenAt;
pub use open::OpenReader;
#[cfg(feature = "tokio")]
pub use poll::{AsyncOpenReader, AsyncSealWriter};
pub use seal::SealWriter;

use std::io::{self, Read};

use crate::Error;
use crate::backend::Default as Backend;
use crate::envelope::{
    self, CHUNK, COMMITMENT, Context, DataKey, HEADER, Header, Kind, Message, SALT,
};

/// Plaintext of one stream, in bytes, at most.
pub const MAX_PLAINTEXT: u64 = 32 * 1024 * 1024 * 1024;

/// The keys of a stream, with the backend that is the default.
type Lane = Message<Backend>;

/// Chunks before the last one, at most.
const MAX_FULL_CHUNKS: u64 = MAX_PLAINTEXT / CHUNK as u64;

/// Carries our error through `std::io`.
fn io_error(error: Error) -> io::Error {
    let kind = match error {
        Error::Truncated => io::ErrorKind::UnexpectedEof,
        Error::Randomness => io::ErrorKind::Other,
        _ => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

fn too_long() -> Error {
    Error::Limit {
        what: "the length of a stream",
        limit: MAX_PLAINTEXT,
    }
}

/// Bytes before the first chunk.
const PREFIX: usize = HEADER + SALT + COMMITMENT;

/// Reads what comes before the chunks and checks that it fits key and context.
fn begin(source: &mut impl Read, key: &DataKey, context: &Context) -> io::Result<Lane> {
    let mut prefix = [0; PREFIX];
    if read_full(source, &mut prefix)? < PREFIX {
        return Err(io_error(Error::Truncated));
    }
    check(&prefix, key, context).map_err(io_error)
}

fn check(prefix: &[u8; PREFIX], key: &DataKey, context: &Context) -> Result<Lane, Error> {
    let (header, rest) = prefix
        .split_first_chunk::<HEADER>()
        .ok_or(Error::Truncated)?;
    let (salt, commitment) = rest.split_first_chunk::<SALT>().ok_or(Error::Truncated)?;
    let parsed = Header::parse(header)?;
    if parsed.kind != Kind::Stream {
        return Err(Error::Malformed {
            expected: "an envelope of kind stream",
        });
    }
    if parsed.key != key.id() {
        return Err(Error::KeyMismatch);
    }
    let message: Lane = envelope::message(key, header, salt, context);
    message.check(commitment)?;
    Ok(message)
}

/// Reads until `buffer` is full or the source ends, and says how much it got.
fn read_full(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};

    use super::{MAX_FULL_CHUNKS, OpenReader, SealWriter};
    use crate::Error;
    use crate::envelope::{CHUNK, Context, DataKey};

    /// Writes and reads the last `length` bytes of a stream, from the last full
    /// chunk that the limit allows.
    fn at_the_limit(length: usize) -> io::Result<Vec<u8>> {
        let (key, context) = (
            DataKey::generate().map_err(super::io_error)?,
            Context::new("limit"),
        );
        let mut writer = SealWriter::new(Vec::new(), &key, &context)?;
        writer.filling.first = MAX_FULL_CHUNKS - 1;
        writer.write_all(&vec![1; length])?;
        let sealed = writer.finish()?;
        let mut reader = OpenReader::new(sealed.as_slice(), &key, &context)?;
        reader.opening.first = MAX_FULL_CHUNKS - 1;
        let mut plain = Vec::new();
        reader.read_to_end(&mut plain)?;
        Ok(plain)
    }

    #[test]
    fn the_longest_stream_reads_back_and_a_longer_one_is_not_written() {
        for length in [0, CHUNK - 1, CHUNK] {
            assert_eq!(at_the_limit(length).unwrap().len(), length);
        }
        let error = at_the_limit(CHUNK + 1).unwrap_err();
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        assert!(matches!(cause, Some(Error::Limit { .. })), "{error}");
    }
}
