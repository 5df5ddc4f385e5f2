//! Paired devices, those that are not, and who changes what passes between.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod channel;
#[path = "../tunnel/impostor.rs"]
#[cfg(target_os = "linux")]
#[allow(dead_code, reason = "the tests of the tunnel use all of it")]
mod impostor;
#[cfg(target_os = "linux")]
mod input;
mod meddler;
mod middle;
mod pair_by_code;
mod stranger;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;

fn main() -> ExitCode {
    support::run([
        channel::trials(),
        pair_by_code::trials(),
        middle::trials(),
        #[cfg(target_os = "linux")]
        input::trials(),
    ])
}
