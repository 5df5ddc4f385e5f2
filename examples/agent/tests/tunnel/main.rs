//! The connection to the relay: a hostile one, a bad network, and what may carry it.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

#[cfg(unix)]
#[path = "../../../relay/tests/service/cloudflare_api.rs"]
#[allow(dead_code, reason = "the relay's tests use all of it")]
mod cloudflare_api;
#[cfg(unix)]
mod cloudflared;
#[cfg(target_os = "linux")]
mod faults;
#[cfg(target_os = "linux")]
mod floods;
#[cfg(target_os = "linux")]
mod hostile;
#[cfg(target_os = "linux")]
mod impostor;
#[cfg(target_os = "linux")]
mod login;
#[cfg(target_os = "linux")]
mod nginx;
#[cfg(target_os = "linux")]
mod proxied;
#[cfg(target_os = "linux")]
mod soak;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;

fn main() -> ExitCode {
    support::run([
        #[cfg(target_os = "linux")]
        hostile::trials(),
        #[cfg(target_os = "linux")]
        login::trials(),
        #[cfg(target_os = "linux")]
        faults::trials(),
        #[cfg(target_os = "linux")]
        proxied::trials(),
        #[cfg(unix)]
        cloudflared::trials(),
    ])
}
