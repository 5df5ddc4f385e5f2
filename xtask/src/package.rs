//! Packaging every crate as it would be published, and compiling what came out.
//!
//! Cargo builds each package by itself, which takes as long as all programs.
//! The usual run therefore type-checks the packages together, as one workspace
//! in which each takes its siblings from their packages: a file or a version
//! that was left out is missing there too. Long runs leave it to cargo.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::run::{self, cargo, root};

/// Whether every crate can be packaged, and compiles as it was packaged.
pub(crate) fn run(long: bool) -> Result<bool> {
    forget()?;
    let mut command = cargo([
        "package",
        "--workspace",
        "--exclude",
        "xtask",
        "--allow-dirty",
        "--locked",
        "--quiet",
    ]);
    if !long {
        command.arg("--no-verify");
    }
    let packaged = run::observe(command)?.success;
    if long || !packaged {
        return Ok(packaged);
    }
    let mut check = cargo([
        "check",
        "--workspace",
        "--all-features",
        "--offline",
        "--target-dir",
    ]);
    check.arg(root().join("target")).current_dir(unpack()?);
    Ok(run::observe(check)?.success)
}

/// Unpacks all packages into one workspace and returns its folder.
fn unpack() -> Result<PathBuf> {
    let packages = root().join("target/package");
    let workspace = packages.join("unpacked");
    std::fs::create_dir_all(&workspace)?;
    let mut manifest = String::from(
        "[workspace]\nresolver = \"3\"\nmembers = [\"katachi-*\"]\n\n[patch.crates-io]\n",
    );
    let ours = std::fs::read_to_string(root().join("Cargo.toml"))?;
    let (_, profiles) = ours
        .split_once("[profile.")
        .context("no profile in Cargo.toml")?;
    let mut found = 0;
    for package in
        entries(&packages).filter(|path| path.extension().is_some_and(|is| is == "crate"))
    {
        let mut tar = Command::new("tar");
        tar.arg("xzf").arg(&package).arg("-C").arg(&workspace);
        ensure!(
            tar.status()?.success(),
            "{}: does not unpack",
            package.display()
        );
        let folder = package.file_stem().unwrap_or_default().to_string_lossy();
        let (name, _version) = folder
            .rsplit_once('-')
            .context("a package without a version")?;
        manifest.push_str(&format!("{name} = {{ path = \"{folder}\" }}\n"));
        found += 1;
    }
    ensure!(found > 0, "nothing was packaged");
    // With the same profiles, what was compiled for the documentation is taken.
    manifest.push_str(&format!("\n[profile.{profiles}"));
    std::fs::write(workspace.join("Cargo.toml"), manifest)?;
    // The versions that were tested.
    std::fs::copy(root().join("Cargo.lock"), workspace.join("Cargo.lock"))?;
    Ok(workspace)
}

/// Deletes what an earlier run packaged. Cargo takes a package by its name and
/// version for one that never changes: it neither unpacks nor builds it again.
fn forget() -> Result<()> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let registries = home.into_iter().flat_map(|home| {
        // A registry in a folder has no host, so that its name begins so.
        entries(&home.join("registry/src")).filter(|path| named(path, "-"))
    });
    let packages = root().join("target/package");
    let stale = registries
        .flat_map(|folder| entries(&folder))
        .chain(entries(&packages))
        .filter(|path| named(path, "katachi-") && path.is_dir());
    for path in stale
        .chain([packages.join("unpacked")])
        .filter(|path| path.is_dir())
    {
        std::fs::remove_dir_all(&path)?;
    }
    Ok(())
}

/// What lies in a folder; nothing if it is not there.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path()))
}

fn named(path: &Path, prefix: &str) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}
