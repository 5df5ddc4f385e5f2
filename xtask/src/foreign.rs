//! Type checks for systems that the suite does not run on.
//!
//! The toolchain at hand is taken if it has the target's standard library.
//! Otherwise Debian's packages `rustc-web`, `cargo-web` and `rust-web-src` are,
//! which compile the standard library on the way, once. The C of ring is
//! compiled too: by MinGW's compiler for Windows, and for macOS by the one that
//! the Python package `ziglang` brings.
//!
//! Nothing is linked or run here: this shows that the code for those systems exists
//! and fits, and nothing about what it does there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{install, run};

/// Packages that have to type-check for `target`, together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foreign {
    packages: &'static [&'static str],
    pub(crate) target: &'static str,
    /// What else cargo is told, such as the features.
    arguments: &'static [&'static str],
}

/// A Mac and a Windows computer.
const MAC: &str = "aarch64-apple-darwin";
pub(crate) const WINDOWS: &str = "x86_64-pc-windows-gnu";

/// Everything that is checked so.
pub(crate) const FOREIGN: &[Foreign] = &[
    Foreign {
        packages: &["katachi-crypto"],
        target: "wasm32-unknown-unknown",
        arguments: &[
            "--no-default-features",
            "--features",
            "rustcrypto,password,channel,tokio,wasm_js",
        ],
    },
    libraries(MAC),
    sandbox(MAC),
    libraries(WINDOWS),
    sandbox(WINDOWS),
];

/// What differs between systems, without the database: OpenSSL is not built here.
const fn libraries(target: &'static str) -> Foreign {
    Foreign {
        packages: &["katachi-fingerprint", "katachi-store", "katachi-auth"],
        target,
        arguments: &[
            "--features",
            "katachi-store/keychain,katachi-store/fingerprint,katachi-store/cloudflare,\
             katachi-auth/tower",
        ],
    }
}

/// With the tests, which run there in hosted CI.
const fn sandbox(target: &'static str) -> Foreign {
    Foreign {
        packages: &[SANDBOX],
        target,
        arguments: &["--all-targets", "--all-features"],
    }
}

const SANDBOX: &str = "katachi-sandbox";

impl Foreign {
    /// The name of the stage that checks it.
    pub(crate) fn stage(&self) -> String {
        format!("check {} for {}", self.packages.join(", "), self.target)
    }

    /// The command that checks it; `None` if no toolchain here can.
    ///
    /// # Errors
    ///
    /// Returns an error if the compiler's wrapper cannot be written.
    pub(crate) fn command(&self) -> Result<Option<Command>> {
        let Some(mut command) = cargo_for(self.target, "check") else {
            return Ok(None);
        };
        self.packages.iter().for_each(|name| {
            command.args(["-p", name]);
        });
        command.args(self.arguments);
        // What runs here is linted elsewhere; of this one, much is not.
        let debian = !has_target(self.target) && Path::new(CLIPPY).is_file();
        if self.packages == [SANDBOX] && debian {
            command.env("RUSTC_WORKSPACE_WRAPPER", CLIPPY);
        }
        let has_compiler = match self.target {
            MAC => zig(&mut command)?,
            WINDOWS => install::on_path("x86_64-w64-mingw32-gcc").is_some(),
            _ => true,
        };
        Ok(has_compiler.then_some(command))
    }
}

/// Debian's clippy, of the version of its compiler.
const CLIPPY: &str = "/usr/bin/clippy-driver";

/// Where all of this is built, below the root.
pub(crate) const FOLDER: &str = "target/foreign";

/// A cargo that builds for `target`; `None` if none here can.
pub(crate) fn cargo_for(target: &str, work: &str) -> Option<Command> {
    let words = [work, "--locked", "--target", target, "--target-dir", FOLDER];
    if has_target(target) {
        return Some(run::cargo(words));
    }
    let (cargo, rustc) = debian()?;
    let mut command = Command::new(cargo);
    command
        .args(words)
        .args(["-Z", "build-std=std,panic_abort"])
        .args(["-Z", "warnings", "--config", "build.warnings=\"deny\""])
        .current_dir(run::root())
        .env("RUSTC", rustc)
        // Building the standard library and denying warnings are not stable.
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTUP_TOOLCHAIN");
    Some(command)
}

/// Has C compiled for a Mac by zig, if the Python environment has it.
fn zig(command: &mut Command) -> Result<bool> {
    let Some(python) = install::python().filter(|python| {
        let mut import = Command::new(python);
        import.args(["-c", "import ziglang"]);
        run::capture(import).is_some()
    }) else {
        return Ok(false);
    };
    let folder = run::root().join(FOLDER);
    std::fs::create_dir_all(&folder)?;
    let wrapper = folder.join("zig-cc");
    // Flags of Apple's own compiler, and the target in its spelling.
    let script = format!(
        r#"#!/bin/sh
for argument; do
    shift
    case $argument in
        --target=* | -mmacosx-version-min=* | -gfull | -gdwarf-2) ;;
        *) set -- "$@" "$argument" ;;
    esac
done
exec '{}' -m ziglang cc -target aarch64-macos "$@"
"#,
        python.display()
    );
    std::fs::write(&wrapper, script).context("cannot write the wrapper of zig")?;
    let mut executable = Command::new("chmod");
    executable.arg("+x").arg(&wrapper);
    anyhow::ensure!(
        executable.status()?.success(),
        "cannot make the wrapper of zig executable"
    );
    command
        .env("CC_aarch64_apple_darwin", &wrapper)
        // No Xcode is asked for an SDK: zig has the headers of the C library.
        .env("SDKROOT", "/")
        .env("ZIG_GLOBAL_CACHE_DIR", folder.join("zig"))
        .env("ZIG_LOCAL_CACHE_DIR", folder.join("zig"));
    Ok(true)
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
