//! From a policy's path to one real place, remembering the links on the way.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

/// A path without links, and each link that led there with its target.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    pub(crate) path: PathBuf,
    pub(crate) links: Vec<(PathBuf, PathBuf)>,
}

/// Follows every link of an absolute path.
///
/// # Errors
///
/// Returns the system's error for a missing component, and `ELOOP`'s
/// equivalent after forty links.
pub(crate) fn follow(path: &Path) -> io::Result<Resolved> {
    let mut pending: Vec<OsString> = path
        .components()
        .rev()
        .map(|part| part.as_os_str().to_owned())
        .collect();
    let mut resolved = Resolved::default();
    while let Some(part) = pending.pop() {
        match Path::new(&part).components().next() {
            None | Some(Component::CurDir) => {}
            Some(Component::ParentDir) => {
                resolved.path.pop();
            }
            Some(Component::RootDir | Component::Prefix(_)) => {
                resolved.path.push(&part);
            }
            Some(Component::Normal(_)) => {
                let place = resolved.path.join(&part);
                if !std::fs::symlink_metadata(&place)?.is_symlink() {
                    resolved.path = place;
                    continue;
                }
                if resolved.links.len() == 40 {
                    return Err(io::Error::other("too many symbolic links"));
                }
                let target = std::fs::read_link(&place)?;
                pending.extend(
                    target
                        .components()
                        .rev()
                        .map(|part| part.as_os_str().to_owned()),
                );
                resolved.links.push((place, target));
            }
        }
    }
    #[cfg(any(target_os = "macos", windows))]
    {
        resolved.path = as_stored(&resolved.path)?;
    }
    Ok(resolved)
}

/// The path in the letters of the directories that hold it: where `Secret` and
/// `secret` are one file, a rule for either has to mean it.
#[cfg(any(target_os = "macos", windows))]
fn as_stored(path: &Path) -> io::Result<PathBuf> {
    let stored = path.canonicalize()?;
    // Windows gives the long form, which nobody writes in a rule.
    let short = stored.to_str().and_then(|text| text.strip_prefix(r"\?"));
    Ok(match short {
        Some(short) if short.as_bytes().get(1) == Some(&b':') => PathBuf::from(short),
        _ => stored,
    })
}

/// Like [`follow`], for a path whose end may not exist: the longest existing
/// part is followed and the rest appended.
pub(crate) fn follow_existing(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    let mut at = path;
    loop {
        if let Ok(resolved) = follow(at) {
            return missing
                .iter()
                .rev()
                .fold(resolved.path, |path, part| path.join(part));
        }
        let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else {
            return path.to_owned();
        };
        missing.push(name.to_owned());
        at = parent;
    }
}

/// Makes a policy's path absolute: `~` is `home`, relative is below
/// `workspace`. `None` when it needs a home and there is none.
pub(crate) fn absolute(text: &str, workspace: &Path, home: Option<&Path>) -> Option<PathBuf> {
    if text == "~" {
        return home.map(Path::to_owned);
    }
    if let Some(rest) = text.strip_prefix("~/") {
        return home.map(|home| home.join(rest));
    }
    Some(workspace.join(text))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn follows_chains_and_remembers_them() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::fs::write(root.join("real/file"), "").unwrap();
        symlink("real", root.join("link")).unwrap();
        symlink("../link/file", root.join("real/again")).unwrap();
        let resolved = follow(&root.join("link/again")).unwrap();
        assert_eq!(resolved.path, root.join("real/file"));
        assert_eq!(resolved.links.len(), 3);
        assert_eq!(
            follow_existing(&root.join("link/not/there")),
            root.join("real/not/there")
        );
        symlink("round", root.join("round")).unwrap();
        assert!(follow(&root.join("round")).is_err());
    }
}
