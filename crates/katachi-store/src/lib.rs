#![doc = include_str!("../README.md")]
//!
//! ## Map
//!
//! - [`vault`]: the vault, its slots, its data keys. Begin here.
//! - [`binding`]: what ties it to a machine, and [`keychain`]: where a slot's secret is.
//! - [`file`], [`credentials`], [`column`]: what can be kept under a vault.
#![forbid(unsafe_code)]

pub mod binding;
pub mod column;
pub mod credentials;
mod durable;
pub mod file;
pub mod keychain;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vault;

pub use katachi_crypto::{KeyId, Secret, SecretBytes, SecretString};
pub use vault::Vault;
