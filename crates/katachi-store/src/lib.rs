#![doc = include_str!("../README.md")]
//!
//! ## Map
//!
//! - [`vault`]: the vault, its slots, its data keys. Begin here.
//! - [`binding`]: what ties it to a machine, [`keychain`] and [`tpm`]: where a slot's secret is.
//! - [`mod@file`], [`credentials`], [`mod@column`]: what can be kept under a vault.
#![cfg_attr(
    feature = "sqlcipher",
    doc = "- [`database`]: an encrypted SQLite database."
)]
#![cfg_attr(
    feature = "history",
    doc = "- [`history`]: chat history with full-text search."
)]
#![cfg_attr(
    feature = "memory",
    doc = "- [`memory`]: what an assistant remembers about a workspace."
)]
#![cfg_attr(
    feature = "postgres",
    doc = "- [`postgres`]: sealed columns in PostgreSQL, and their rotation."
)]
#![forbid(unsafe_code)]

pub mod binding;
pub mod column;
pub mod credentials;
mod durable;
pub mod file;
pub mod keychain;
#[cfg(any(feature = "sqlcipher", test, feature = "testing"))]
#[cfg_attr(
    not(feature = "sqlcipher"),
    allow(dead_code, unused_imports, reason = "fuzzed without a database")
)]
mod pages;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tpm;
pub mod vault;

#[cfg(feature = "sqlcipher")]
pub mod database;
#[cfg(feature = "history")]
pub mod history;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;

pub use katachi_crypto::{KeyId, Secret, SecretBytes, SecretString};
pub use vault::Vault;
