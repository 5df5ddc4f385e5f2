//! The running relay, asked as browsers and agents ask it.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![allow(dead_code, reason = "the helpers are shared with other tests")]

mod accounts;
mod agent;
mod bodies;
#[cfg(target_os = "linux")]
#[path = "../../../../crates/katachi-auth/tests/shared/clock.rs"]
mod clock;
mod cloudflare;
mod cloudflare_api;
mod crowd;
mod devices;
mod edge;
mod embedded;
mod faults;
mod flips;
mod input;
mod mcp;
mod midway;
mod relay;
mod signed;
mod socket;
#[cfg(target_os = "linux")]
mod steps;
mod tunnel;
mod websocket;
mod wire;

use embedded::{arguments, database, tables};
