//! Secrets and data that are worthless on another machine.
#![forbid(unsafe_code)]

pub mod binding;
#[allow(dead_code, reason = "used by the modules to come")]
mod durable;
pub mod keychain;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use durable::FileError;
pub use katachi_crypto::{KeyId, Secret, SecretBytes, SecretString};
