//! The console in a real browser.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

#[cfg(target_os = "linux")]
mod between;
mod capture;
#[cfg(target_os = "linux")]
mod cluster;
mod console;
#[cfg(target_os = "linux")]
mod copied;
#[allow(dead_code, reason = "the relay's tests need more of it")]
#[path = "../../../relay/tests/service/embedded.rs"]
mod embedded;
#[cfg(target_os = "linux")]
mod nodes;
#[path = "../../src/demo/outside.rs"]
mod outside;
#[cfg(target_os = "linux")]
mod page;
mod picture;
#[cfg(target_os = "linux")]
#[path = "../../../../crates/katachi-store/tests/support/postgres.rs"]
mod postgres;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    if let Some(code) = nodes::keys() {
        return code;
    }
    support::run([
        console::trials(),
        #[cfg(target_os = "linux")]
        cluster::trials(),
        #[cfg(target_os = "linux")]
        page::trials(),
        #[cfg(target_os = "linux")]
        copied::trials(),
        picture::trials(),
    ])
}
