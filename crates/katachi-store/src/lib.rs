//! Secrets and data that are worthless on another machine.
//!
//! ## Map
//!
//! - [`vault`]: the vault, its slots, its data keys. Begin here.
//! - [`binding`]: what ties it to a machine, and [`keychain`]: where a slot's secret is.
#![forbid(unsafe_code)]

pub mod binding;
mod durable;
pub mod keychain;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vault;

pub use katachi_crypto::{KeyId, Secret, SecretBytes, SecretString};
pub use vault::Vault;
