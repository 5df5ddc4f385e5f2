//! Which file is started, and whether it may be.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use crate::config::Cloudflared;
use crate::mistake::Mistake;

/// Time to say a version.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first version that takes its token from a file.
const OLDEST: [u32; 3] = [2025, 4, 0];
/// Longest file that is digested, in bytes.
const LONGEST: u64 = 1 << 30;

const PLACE: &str = "tunnel.cloudflared (or --cloudflared)";

/// Finds the wanted program and checks that nobody else could have put it there, its
/// digest if one is given, and its version.
///
/// # Errors
///
/// Returns a [`Mistake`] that says what is wrong with it.
pub(super) async fn find(wanted: &Cloudflared) -> Result<PathBuf, Mistake> {
    let named = match &wanted.program {
        Some(path) => path.clone(),
        None => in_path()?,
    };
    if !named.is_absolute() {
        return Err(mistake(
            &named,
            "is not an absolute path",
            "give the whole path",
        ));
    }
    let program = named
        .canonicalize()
        .map_err(|error| mistake(&named, &error.to_string(), "name the file of a cloudflared"))?;
    check_owner(&program)?;
    if let Some(expected) = wanted.sha256 {
        let file = program.clone();
        let found = tokio::task::spawn_blocking(move || digest(&file)).await;
        let found = found
            .map_err(|error| mistake(&program, &error.to_string(), "try again"))?
            .map_err(|error| mistake(&program, &error.to_string(), "make it readable"))?;
        if found != expected {
            return Err(mistake(
                &program,
                "has another SHA-256 than tunnel.cloudflared_sha256 asks for; it was not started",
                "install the wanted version, or give the digest of this one",
            ));
        }
    }
    check_version(&program).await?;
    Ok(program)
}

fn in_path() -> Result<PathBuf, Mistake> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let executable = |file: &PathBuf| {
        let metadata = file.metadata();
        metadata.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join("cloudflared"))
        .find(executable)
        .ok_or_else(|| {
            Mistake::new(
                "tunnel.carrier",
                "there is no cloudflared in PATH",
                "install it, name its file with --cloudflared, or use the carrier `embedded`",
            )
        })
}

/// Refuses a program that somebody but root and this user could replace.
fn check_owner(program: &Path) -> Result<(), Mistake> {
    let us = rustix::process::geteuid().as_raw();
    for place in program.ancestors() {
        let metadata = place
            .metadata()
            .map_err(|error| mistake(place, &error.to_string(), "name another file"))?;
        if place == program && !metadata.is_file() {
            return Err(mistake(
                place,
                "is not a file",
                "name the file of a cloudflared",
            ));
        }
        let mode = metadata.mode();
        // In a sticky directory such as /tmp others cannot replace our files.
        let is_sticky = metadata.is_dir() && mode & 0o1000 != 0;
        if mode & 0o022 != 0 && !is_sticky {
            return Err(mistake(
                place,
                "can be written by others, who could choose what runs here",
                &format!("run `chmod go-w {}`", place.display()),
            ));
        }
        if metadata.uid() != 0 && metadata.uid() != us {
            return Err(mistake(
                place,
                "belongs to another user",
                "use a cloudflared that belongs to root or to you",
            ));
        }
    }
    Ok(())
}

fn digest(program: &Path) -> std::io::Result<[u8; 32]> {
    use std::io::Read as _;

    let mut file = std::fs::File::open(program)?.take(LONGEST);
    let (mut digest, mut piece) = (Sha256::new(), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(digest.finalize().into()),
            read => digest.update(&piece[..read]),
        }
    }
}

async fn check_version(program: &Path) -> Result<(), Mistake> {
    let output = Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output)
        .await
        .map_err(|_| mistake(program, "does not say its version", "name another file"))?
        .map_err(|error| mistake(program, &format!("does not start: {error}"), "name another"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    match version(&said) {
        Some(found) if found >= OLDEST => Ok(()),
        Some([year, month, patch]) => Err(mistake(
            program,
            &format!("is version {year}.{month}.{patch}, which takes its token from no file"),
            "install 2025.4.0 or newer",
        )),
        None => Err(mistake(
            program,
            "does not call itself a version of cloudflared",
            "name the file of a cloudflared",
        )),
    }
}

/// The numbers in `cloudflared version 2025.4.0 (built …)`.
fn version(said: &str) -> Option<[u32; 3]> {
    let rest = said.trim_start().strip_prefix("cloudflared version ")?;
    let mut parts = rest.split_whitespace().next()?.splitn(3, '.');
    let mut next = || parts.next()?.parse().ok();
    Some([next()?, next()?, next()?])
}

fn mistake(place: &Path, problem: &str, next: &str) -> Mistake {
    Mistake::new(PLACE, format!("{} {problem}", place.display()), next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_as_it_is_said() {
        let said = "cloudflared version 2025.10.1 (built 2025-10-17-0801 UTC)\n";
        assert_eq!(version(said), Some([2025, 10, 1]));
        assert!(version(said) > Some(OLDEST));
        assert!(Some([2024, 12, 2]) < Some(OLDEST));
        for other in [
            "",
            "2025.4.0",
            "cloudflared version DEV",
            "sed (GNU sed) 4.9",
        ] {
            assert_eq!(version(other), None, "{other}");
        }
    }

    #[test]
    fn a_file_that_others_can_write_is_not_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().canonicalize().unwrap().join("cloudflared");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        let mode = |mode| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(0o755);
        check_owner(&file).unwrap();
        mode(0o775);
        let refused = check_owner(&file).unwrap_err().to_string();
        assert!(refused.contains("can be written by others"), "{refused}");
    }
}
