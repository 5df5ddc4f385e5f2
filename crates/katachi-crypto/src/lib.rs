//! Sealed envelopes, key sets, labelled derivation and secrets that wipe
//! themselves.
//!
//! ```
//! use katachi_crypto::envelope::{Context, DataKey, Kind};
//!
//! let key = DataKey::generate()?;
//! let context = Context::new("api-key").tenant("acme").row(b"openai");
//! let sealed = key.seal(Kind::Record, &context, b"sk-secret")?;
//! assert_eq!(key.open(&context, &sealed)?.expose_secret(), b"sk-secret");
//! # Ok::<(), katachi_crypto::Error>(())
//! ```

#![deny(unsafe_code)]

#[cfg(any(feature = "ring", feature = "rustcrypto"))]
mod backend;
mod blind_index;
#[cfg(any(feature = "ring", feature = "rustcrypto"))]
pub mod envelope;
mod error;
pub mod kdf;
pub mod mac;
#[cfg(feature = "password")]
pub mod password;
pub mod random;
mod secret;
#[cfg(any(feature = "ring", feature = "rustcrypto"))]
pub mod stream;
mod wipe;

pub use blind_index::BlindIndex;
#[cfg(any(feature = "ring", feature = "rustcrypto"))]
pub use envelope::KeyId;
pub use error::Error;
pub use secret::{Secret, SecretBytes, SecretString};
