//! The agent on its own machine: nothing of this needs a relay beside it.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod confined;
mod demo;
mod keychain;
#[cfg(unix)]
mod service;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;

fn main() -> ExitCode {
    support::run([
        demo::trials(),
        keychain::trials(),
        #[cfg(unix)]
        service::trials(),
        confined::trials(),
    ])
}
