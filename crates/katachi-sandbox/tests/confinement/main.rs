//! The confinement suite: every case is a process of its own, which first
//! shows that the attempt has its effect unconfined, and then makes the same
//! attempt confined and looks at the verdict.
//!
//! As root every case runs twice: as root, and as an ordinary user. On a
//! machine that cannot confine, cases are listed as ignored; with
//! `KATACHI_REQUIRE_ALL=1` they fail there.

// All of this is test code, in a harness that the lint does not know.
#![allow(clippy::unwrap_used)]

#[cfg(target_os = "linux")]
mod attempts;
#[cfg(target_os = "linux")]
mod bed;
#[cfg(target_os = "linux")]
mod burden;
#[cfg(target_os = "linux")]
mod cases;
#[cfg(target_os = "linux")]
mod groups;
#[cfg(target_os = "linux")]
mod interfaces;
#[cfg(target_os = "linux")]
mod raw;
#[cfg(target_os = "linux")]
mod reach;
#[cfg(target_os = "linux")]
mod servers;
#[cfg(target_os = "linux")]
mod suite;
#[cfg(target_os = "linux")]
mod tiers;
#[cfg(target_os = "linux")]
mod verdicts;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    suite::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("nothing is started on this system, so there is nothing to confine: ignored");
}
