//! Sealed envelopes, key sets, labelled derivation and secrets that wipe
//! themselves.
//!
//! This crate is for programs that keep other people's secrets: it takes the
//! choices out of sealing a value. There is one format, every envelope is bound
//! to its place by a typed [context](envelope::Context), nonces are never
//! chosen by a caller, and a second key never opens what a first one sealed.
//!
//! It is **not** a toolbox of algorithms (use `ring` or RustCrypto), not a file
//! encryption tool for people (use `age`), and no transport (use TLS).
//!
//! # The smallest program
//!
#![cfg_attr(any(feature = "ring", feature = "rustcrypto"), doc = "```")]
#![cfg_attr(not(any(feature = "ring", feature = "rustcrypto")), doc = "```text")]
//! use katachi_crypto::envelope::{Context, DataKey, Kind};
//!
//! let key = DataKey::generate()?;
//! let context = Context::new("api-key").tenant("acme").row(b"openai");
//! let sealed = key.seal(Kind::Record, &context, b"sk-secret")?;
//! assert_eq!(key.open(&context, &sealed)?.expose_secret(), b"sk-secret");
//!
//! // The same bytes put in another place do not open.
//! let elsewhere = Context::new("api-key").tenant("evil").row(b"openai");
//! assert!(key.open(&elsewhere, &sealed).is_err());
//! # Ok::<(), katachi_crypto::Error>(())
//! ```
//!
//! # Map
//!
//! - [`Secret`], [`SecretBytes`], [`SecretString`]: values that wipe themselves
//!   and print nothing.
//! - [`envelope`]: sealing a value; [`stream`]: content of any length;
//!   [`keyset`]: many keys, rotated; [`KeyEncryptor`]: keys wrapped by keys;
//!   [`BlindIndex`]: finding equal values without opening them.
//! - [`kdf`]: keys from keys; `password` (feature): keys from what a person
//!   remembers; [`mac`]: authentic messages; [`random`]: the system's randomness.
//! - `channel` (feature): two ends that trust nobody on the way between them.
//! - [`harden`]: a process that is harder to steal from.
//!
//! # Features
//!
//! `ring` (default) and `rustcrypto` choose who computes AES-256-GCM; with both,
//! ring seals and the tests hold the two against each other. Without either,
//! everything that seals is absent. `password` adds Argon2id, `channel` Noise,
//! `tokio` asynchronous streams.

#![cfg_attr(
    not(any(feature = "ring", feature = "rustcrypto")),
    allow(
        rustdoc::broken_intra_doc_links,
        reason = "this page names what sealing adds"
    )
)]
#![deny(unsafe_code)]

#[cfg(any(feature = "ring", feature = "rustcrypto"))]
mod backend;
mod blind_index;
#[cfg(all(feature = "channel", any(feature = "ring", feature = "rustcrypto")))]
pub mod channel;
#[cfg(any(feature = "ring", feature = "rustcrypto"))]
mod encryptor;
#[cfg(any(feature = "ring", feature = "rustcrypto"))]
pub mod envelope;
mod error;
mod harden;
pub mod kdf;
#[cfg(any(feature = "ring", feature = "rustcrypto"))]
pub mod keyset;
pub mod mac;
#[cfg(feature = "password")]
pub mod password;
pub mod random;
mod secret;
#[cfg(any(feature = "ring", feature = "rustcrypto"))]
pub mod stream;
#[cfg(test)]
mod vectors;
mod wipe;

pub use blind_index::BlindIndex;
#[cfg(any(feature = "ring", feature = "rustcrypto"))]
pub use encryptor::{KeyEncryptor, LocalKeyEncryptor};
#[cfg(any(feature = "ring", feature = "rustcrypto"))]
pub use envelope::KeyId;
pub use error::Error;
pub use harden::{Hardening, KeyMemory, harden, key_memory};
pub use secret::{Secret, SecretBytes, SecretString};

#[cfg(all(doctest, any(feature = "ring", feature = "rustcrypto")))]
#[doc = include_str!("../README.md")]
mod readme {}
