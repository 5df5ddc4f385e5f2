//! The sealed envelope KTC1: one format for files, rows, slots and columns.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | `KTC` and the format version 1 |
//! | 4 | 1 | suite: 1 is C2SP chunked encryption, Cobblestone-256 |
//! | 5 | 1 | [`Kind`] |
//! | 6 | 2 | flags, zero |
//! | 8 | 8 | [`KeyId`] |
//! | 16 | 24 | salt |
//! | 40 | 32 | key commitment |
//! | 72 | | AES-256-GCM chunks of 16 KiB + 16, the last one short |
//!
//! Bytes from 16 on are a C2SP chunked-encryption message whose context is
//! `katachi.v1`, bytes 0 to 15 and the encoded [`Context`], so its vectors and
//! other implementations apply. Truncation, reordering, splicing, a second key
//! and a change of any byte are refused.

mod chunked;
mod context;
mod expand;
mod header;
mod key;
mod parallel;
mod seal;
mod sealed;

pub use context::Context;
pub use key::{DataKey, KeyId};
pub use parallel::Parallel;
pub use seal::MAX_PLAINTEXT;
pub use sealed::{Kind, Sealed};

pub(crate) use chunked::{CHUNK, COMMITMENT, Message, SALT, SEALED_CHUNK};
#[cfg(test)]
pub(crate) use expand::Expander;
pub(crate) use header::{HEADER, Header};
pub(crate) use seal::message;
