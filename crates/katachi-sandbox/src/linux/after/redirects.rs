//! Files that redirect git, in repositories that were there before.

use std::path::{Path, PathBuf};

use super::finding;
use crate::report::Violation;

/// Sets aside what the command made to redirect git. The directories around it
/// were mounts, which it could not replace.
pub(super) fn take_back(absent: &[PathBuf]) -> Vec<Violation> {
    let appeared = absent.iter().filter(|path| path.symlink_metadata().is_ok());
    appeared.map(|path| set_aside(path)).collect()
}

fn set_aside(path: &Path) -> Violation {
    // Kept, should somebody outside have made it meanwhile.
    let mut aside = path.as_os_str().to_owned();
    aside.push(".set-aside");
    let moved = std::fs::rename(path, &aside).is_ok();
    let outcome = match (moved, std::fs::remove_file(path)) {
        (true, _) => format!("it is now {}", aside.display()),
        (false, Ok(())) => "it was removed".to_owned(),
        (false, Err(error)) => format!("it could not be removed: {error}"),
    };
    let reason = format!("git outside would have followed it to what the command chose; {outcome}");
    finding("create", path, reason)
}
