//! Repositories that a repository keeps inside of its directory.

use std::path::{Path, PathBuf};

/// Where git keeps them, by the directory of a repository.
const KEPT_IN: [&str; 2] = ["worktrees", "modules"];

/// Most names looked at for one repository.
const NAMES: usize = 10_000;

/// Directories of linked working trees and of submodules. What these keep inside is found
/// with them, and links are not followed.
///
/// Whatever else lies there stays read-only as the whole of it is: what is no repository
/// yet, what cannot be read, and what comes after so many names.
pub(super) fn inner_repositories(repository: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending: Vec<PathBuf> = KEPT_IN.iter().map(|name| repository.join(name)).collect();
    pending.retain(|place| is_directory(place));
    let mut seen = 0;
    while let Some(place) = pending.pop() {
        let Ok(list) = place.read_dir() else { continue };
        for place in list.flatten().map(|entry| entry.path()) {
            seen += 1;
            if seen > NAMES {
                return found;
            }
            if !is_directory(&place) {
                continue;
            }
            match is_repository(&place) {
                true => found.push(place),
                // The name of a submodule may have slashes.
                false => pending.push(place),
            }
        }
    }
    found
}

fn is_directory(place: &Path) -> bool {
    place.symlink_metadata().is_ok_and(|kind| kind.is_dir())
}

/// A linked working tree shares the objects of another repository.
fn is_repository(place: &Path) -> bool {
    let has = |name: &str| place.join(name).symlink_metadata().is_ok();
    has("HEAD") && (has("commondir") || has("objects"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    /// Whether the places from the directory of git on are repositories, by nothing
    /// but the paths that were made.
    fn naive(made: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
        let has = |place: &Path, name: &str| {
            let place = place.join(name);
            made.iter().any(|path| path.starts_with(&place))
        };
        let is_repository =
            |place: &Path| has(place, "HEAD") && (has(place, "commondir") || has(place, "objects"));
        let places = made.iter().flat_map(|path| path.ancestors().skip(1));
        let places = places.filter(|place| place.components().count() > 1);
        let whole = places.filter(|place| is_repository(place));
        // Nothing is looked for inside of one.
        let outermost = whole.filter(|place| {
            let above = place.ancestors().skip(1);
            !above
                .filter(|above| above.components().count() > 1)
                .any(is_repository)
        });
        outermost.map(Path::to_owned).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The files are given by their paths from the directory of git on.
        #[test]
        fn finds_what_a_naive_twin_finds(
            paths in proptest::collection::vec(
                "(modules|worktrees|refs)(/(a|b|modules|objects)){0,3}/(HEAD|commondir|objects|c)",
                0..24,
            ),
        ) {
            let git = tempfile::tempdir().unwrap();
            let mut made = BTreeSet::new();
            for path in paths.iter().map(PathBuf::from) {
                let place = git.path().join(&path);
                // A name that is a file already has nothing below it.
                let parent = place.parent().unwrap();
                if fs::create_dir_all(parent).is_ok()
                    && !place.exists()
                    && fs::write(&place, "").is_ok()
                {
                    made.insert(path);
                }
            }
            made.retain(|path| KEPT_IN.iter().any(|name| path.starts_with(name)));
            let found = inner_repositories(git.path());
            let found: BTreeSet<_> = found
                .iter()
                .map(|place| place.strip_prefix(git.path()).unwrap().to_owned())
                .collect();
            prop_assert_eq!(found, naive(&made));
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed() {
        let (git, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for place in [git.path().join("modules/deep/sub"), elsewhere.path().into()] {
            fs::create_dir_all(place.join("objects")).unwrap();
            fs::write(place.join("HEAD"), "").unwrap();
        }
        let link = git.path().join("modules/link");
        std::os::unix::fs::symlink(elsewhere.path(), link).unwrap();
        let found = inner_repositories(git.path());
        assert_eq!(found, [git.path().join("modules/deep/sub")]);
    }

    #[test]
    fn more_names_than_that_are_not_gone_through() {
        let git = tempfile::tempdir().unwrap();
        let (first, last) = (git.path().join("modules"), git.path().join("worktrees/w"));
        for name in ["HEAD", "commondir"] {
            fs::create_dir_all(&last).unwrap();
            fs::write(last.join(name), "").unwrap();
        }
        fs::create_dir(&first).unwrap();
        for n in 1..NAMES {
            fs::write(first.join(n.to_string()), "").unwrap();
        }
        assert_eq!(inner_repositories(git.path()), [last]);
        fs::write(first.join("more"), "").unwrap();
        assert!(inner_repositories(git.path()).is_empty());
    }
}
