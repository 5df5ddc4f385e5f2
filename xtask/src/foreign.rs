//! Type checks for systems that the suite does not run on.
//!
//! The toolchain at hand is taken if it has the target's standard library.
//! Otherwise Debian's packages `rustc-web`, `cargo-web` and `rust-web-src` are,
//! which compile the standard library on the way, once.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run;

/// A package that has to type-check for `target`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foreign {
    pub(crate) package: &'static str,
    pub(crate) target: &'static str,
    /// What else cargo is told, such as the features.
    pub(crate) arguments: &'static [&'static str],
}

/// Everything that is checked so.
pub(crate) const FOREIGN: &[Foreign] = &[Foreign {
    package: "katachi-crypto",
    target: "wasm32-unknown-unknown",
    arguments: &[
        "--no-default-features",
        "--features",
        "rustcrypto,password,channel,tokio,wasm_js",
    ],
}];

impl Foreign {
    /// The name of the stage that checks it.
    pub(crate) fn stage(&self) -> String {
        format!("check {} for {}", self.package, self.target)
    }

    /// The command that checks it; `None` if no toolchain here can.
    pub(crate) fn command(&self) -> Option<Command> {
        let check = ["check", "--locked", "--target", self.target];
        let mut command = match has_target(self.target) {
            true => run::cargo(check),
            false => {
                let (cargo, rustc) = debian()?;
                let mut command = Command::new(cargo);
                command
                    .args(check)
                    .args(["-Z", "build-std=std,panic_abort"])
                    .current_dir(run::root())
                    .env("RUSTC", rustc)
                    // Building the standard library is not stable.
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env_remove("RUSTUP_TOOLCHAIN");
                command
            }
        };
        command
            .args(["--target-dir", "target/foreign", "-p", self.package])
            .args(self.arguments);
        Some(command)
    }
}

/// Whether the toolchain that runs this has the standard library of `target`.
fn has_target(target: &str) -> bool {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--print", "target-libdir", "--target", target]);
    run::capture(rustc).is_some_and(|folder| Path::new(folder.trim()).is_dir())
}

/// Debian's cargo and rustc, if they can build a standard library.
fn debian() -> Option<(PathBuf, PathBuf)> {
    let (cargo, rustc) = (
        PathBuf::from("/usr/bin/cargo"),
        PathBuf::from("/usr/bin/rustc"),
    );
    let mut sysroot = Command::new(&rustc);
    sysroot.args(["--print", "sysroot"]);
    let sysroot = run::capture(sysroot)?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std");
    (cargo.is_file() && library.is_dir()).then_some((cargo, rustc))
}
