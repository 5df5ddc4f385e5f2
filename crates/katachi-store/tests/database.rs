//! The encrypted database, seen through its public door.
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]
#![cfg(feature = "sqlcipher")]

#[path = "database/support.rs"]
mod support;

#[path = "database/anchor.rs"]
mod anchor;
#[path = "database/damage.rs"]
mod damage;
#[path = "database/forbidden.rs"]
mod forbidden;
#[path = "database/leaks.rs"]
mod leaks;
#[path = "database/opening.rs"]
mod opening;
#[path = "database/rekey.rs"]
mod rekey;
#[path = "database/tamper.rs"]
mod tamper;
#[path = "database/transactions.rs"]
mod transactions;
#[path = "database/vault.rs"]
mod vault;
