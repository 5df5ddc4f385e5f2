//! The suite of `tests/service` with its records in a real PostgreSQL, reached
//! over TLS, and what can happen to one.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![allow(dead_code, reason = "the helpers are shared with other tests")]

mod abandoned;
#[path = "../service/accounts.rs"]
mod accounts;
#[path = "../service/agent.rs"]
mod agent;
mod ages;
#[path = "../service/cloudflare.rs"]
mod cloudflare;
#[path = "../service/cloudflare_api.rs"]
mod cloudflare_api;
#[path = "../service/devices.rs"]
mod devices;
#[path = "../service/flips.rs"]
mod flips;
#[path = "../service/input/mod.rs"]
mod input;
#[path = "../service/mcp.rs"]
mod mcp;
#[path = "../service/midway.rs"]
mod midway;
mod outages;
#[path = "../../../../crates/katachi-store/tests/support/postgres.rs"]
mod postgres;
#[path = "../service/relay.rs"]
mod relay;
mod secrets;
mod server;
#[path = "../service/signed.rs"]
mod signed;
mod together;
#[path = "../service/tunnel.rs"]
mod tunnel;
mod upgrade;
#[path = "../service/wire/mod.rs"]
mod wire;

use server::{arguments, database, tables};
