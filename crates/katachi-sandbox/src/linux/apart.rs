//! A look at the host's files under names that a command chose.
//!
//! Looking is not always free of effects: below an automounter's directory the
//! mere name of a host has it connected to. Such places are left alone.

use std::path::{Path, PathBuf};

/// Directories of automounters, read when they are first needed.
#[derive(Debug, Default)]
pub(super) struct Apart(Option<Vec<PathBuf>>);

impl Apart {
    /// The path, if looking at it and at all that its links lead to has no
    /// effect, and it does not mean something else to every process.
    pub(super) fn outside(&mut self, path: &Path) -> Option<PathBuf> {
        if of_a_process(path) {
            return None;
        }
        let mounts = self.0.get_or_insert_with(|| {
            let list = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            automounted(&list)
        });
        is_free(path, mounts, 0).then(|| path.to_owned())
    }
}

fn of_a_process(path: &Path) -> bool {
    let below = path.strip_prefix("/proc").ok();
    let process = below.and_then(|below| below.iter().next()?.to_str());
    let own = ["self", "thread-self", "mounts", "net"];
    path.starts_with("/dev/fd")
        || process.is_some_and(|name| own.contains(&name) || name.parse::<u32>().is_ok())
}

/// The places of `autofs` in a list of mounts, proc_pid_mountinfo(5).
fn automounted(list: &str) -> Vec<PathBuf> {
    let place = |line: &str| {
        let (place, file_system) = line.split_once(" - ")?;
        let of_automounter = file_system.starts_with("autofs ");
        let place = place.split(' ').nth(4)?;
        // The only characters that are written otherwise.
        let place = [
            ("\\040", " "),
            ("\\011", "\t"),
            ("\\012", "\n"),
            ("\\134", "\\"),
        ]
        .iter()
        .fold(place.to_owned(), |place, (from, to)| {
            place.replace(from, to)
        });
        of_automounter.then(|| PathBuf::from(place))
    };
    list.lines().filter_map(place).collect()
}

/// Follows links one by one, and looks at nothing below these places.
fn is_free(path: &Path, mounts: &[PathBuf], links: usize) -> bool {
    let mut at = PathBuf::new();
    let mut parts = path.components();
    while let Some(part) = parts.next() {
        match part {
            std::path::Component::ParentDir => {
                at.pop();
            }
            part => at.push(part),
        }
        if mounts.contains(&at) {
            return false;
        }
        if let Ok(target) = std::fs::read_link(&at) {
            let rest = at.parent().map(|above| above.join(target));
            let rest = rest.unwrap_or_default().join(parts.as_path());
            return links < 40 && is_free(&rest, mounts, links + 1);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn places_of_automounters_are_found() {
        let list = "22 1 0:20 / / rw - ext4 /dev/a rw\n\
                    30 22 0:31 / /net rw,relatime shared:1 - autofs -hosts rw\n\
                    31 22 0:32 / /home/a\\040b rw - autofs auto rw\n";
        assert_eq!(automounted(list), ["/net", "/home/a b"].map(PathBuf::from));
    }

    #[test]
    fn what_every_process_has_for_itself_is_not_looked_for_outside() {
        for own in [
            "/proc/self/fd/3",
            "/proc/17/maps",
            "/dev/fd/7",
            "/proc/self",
        ] {
            assert!(of_a_process(Path::new(own)), "{own}");
        }
        for other in [
            "/proc/sys/kernel/core_pattern",
            "/proc",
            "/dev/null",
            "/etc/self",
        ] {
            assert!(!of_a_process(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn nothing_below_an_automounter_is_looked_at() {
        let kept = tempfile::tempdir().unwrap();
        let base = kept.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("net/host")).unwrap();
        std::fs::create_dir(base.join("here")).unwrap();
        symlink("../net", base.join("here/link")).unwrap();
        symlink(base.join("here/link/host"), base.join("far")).unwrap();
        symlink("round", base.join("round")).unwrap();
        let free = |path: &str| is_free(&base.join(path), &[base.join("net")], 0);
        for path in ["here", "here/none/at/all", "here/../here", "netting"] {
            assert!(free(path), "{path}");
        }
        for path in [
            "net",
            "net/host",
            "here/link/x",
            "far",
            "here/../net/x",
            "round",
        ] {
            assert!(!free(path), "{path}");
        }
    }
}
