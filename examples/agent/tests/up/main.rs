//! A running `up`: what it answers, keeps, says in its terminal, and comes back from.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

#[cfg(target_os = "linux")]
mod clock;
#[cfg(target_os = "linux")]
mod killed;
#[cfg(target_os = "linux")]
mod reader;
mod rollback;
mod round_trip;
mod schema;
#[path = "../support/mod.rs"]
mod support;
#[cfg(target_os = "linux")]
mod terminal;

use std::process::ExitCode;

fn main() -> ExitCode {
    support::run([
        round_trip::trials(),
        schema::trials(),
        #[cfg(target_os = "linux")]
        reader::trials(),
        #[cfg(target_os = "linux")]
        killed::trials(),
        #[cfg(target_os = "linux")]
        terminal::trials(),
        #[cfg(target_os = "linux")]
        clock::trials(),
        rollback::trials(),
    ])
}
