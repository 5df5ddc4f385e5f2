//! A TPM slot with a real software TPM (`swtpm`): working, another one, absent,
//! frozen, killed, lying, and with somebody listening on the bus.
//!
//! Without swtpm the tests are reported as ignored, and fail if
//! `KATACHI_REQUIRE_ALL=1`.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    unreachable_pub,
    reason = "a test that cannot set up fails loudly"
)]

#[cfg(target_os = "linux")]
mod bus;
#[cfg(target_os = "linux")]
mod chip;
#[cfg(target_os = "linux")]
mod slot;
#[cfg(target_os = "linux")]
mod software;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use libtest_mimic::{Arguments, Failed, Trial};

    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1");
    let mut trials = Vec::new();
    for (name, needs, case) in chip::CASES.iter().chain(&bus::CASES).chain(&slot::CASES) {
        let missing = needs
            .iter()
            .find(|program| !software::is_installed(program));
        trials.push(match missing {
            None => Trial::test(*name, move || {
                case();
                Ok(())
            }),
            Some(program) if required => Trial::test(*name, move || {
                Err(Failed::from(format!("{program} is not installed")))
            }),
            Some(program) => Trial::test(
                format!("{name} (ignored: {program} is not installed)"),
                || Ok(()),
            )
            .with_ignored_flag(true),
        });
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
