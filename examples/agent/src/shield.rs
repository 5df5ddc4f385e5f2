//! What commands must not reach although it may lie in their workspace: this
//! program's own directories, and the files that say how commands are confined.
//!
//! A command that could write those would choose the confinement of the next.

use std::path::{Path, PathBuf};

use katachi_sandbox::Policy;

use crate::config::{Config, RelayChoice};
use crate::mistake::Mistake;
use crate::paths::create_private_dir;

/// Hides our directories from commands under `policy`, and makes the files
/// that settle it read-only.
///
/// # Errors
///
/// Returns an error if one of them cannot be shielded.
pub(crate) fn shield(policy: &mut Policy, config: &Config) -> anyhow::Result<()> {
    let mut hidden: Vec<PathBuf> = Vec::new();
    for directory in config.paths.directories() {
        let place = real(directory);
        // A workspace inside of ours does not reach what lies beside it.
        if config.workspace.starts_with(&place) || hidden.iter().any(|h| place.starts_with(h)) {
            continue;
        }
        if place.starts_with(&config.workspace) {
            // What does not exist could be made by a command.
            create_private_dir(&place)?;
        }
        if place.is_dir() {
            policy.filesystem.deny.push(text(&place)?);
            hidden.push(place);
        }
    }
    let ca_file = match &config.relay {
        RelayChoice::At { ca_file, .. } => ca_file.as_ref(),
        RelayChoice::Embedded(_) => None,
    };
    let ai_policy = config.ai.as_ref().and_then(|ai| ai.policy.as_ref());
    let files = [
        Some(&config.file),
        config.policy.as_ref(),
        ai_policy,
        ca_file,
        config.mcp.policy.as_ref(),
    ];
    let files = files.into_iter().flatten();
    for file in files
        .chain(config.mcp.policies.values())
        .filter(|file| file.exists())
    {
        let place = real(file);
        let name = real_parent(file);
        if name.is_symlink() && name.starts_with(&config.workspace) {
            return Err(Mistake::new(
                file.display().to_string(),
                "is a link in the workspace, which commands could replace",
                "name the file that it leads to",
            )
            .into());
        }
        let is_hidden = hidden.iter().any(|directory| place.starts_with(directory))
            || policy
                .filesystem
                .deny
                .iter()
                .any(|denied| place.starts_with(config.workspace.join(denied)));
        if place.starts_with(&config.workspace) && !is_hidden {
            policy.filesystem.read.push(text(&place)?);
        }
    }
    Ok(())
}

/// `path` without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| real_parent(path))
}

/// `path` with the links on the way to it followed, but not itself.
fn real_parent(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => real(parent).join(name),
        _ => absolute,
    }
}

fn text(path: &Path) -> Result<String, Mistake> {
    match path.to_str().filter(|text| !text.contains(['*', '?', '['])) {
        Some(text) => Ok(text.to_owned()),
        None => Err(Mistake::new(
            path.display().to_string(),
            "lies in the workspace and cannot be named in a policy",
            "choose a place for it outside, or without `*`, `?` and `[`",
        )),
    }
}
