//! Control groups as an administrator would hand them over, where this machine
//! has version 2 and we are root.
//!
//! ```text
//! katachi-suite-…   given to the user, with every controller there is
//! └─ supervisor     the case's process
//! ```

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

/// A need of cases: a controller, or any control group.
pub(crate) const NEED: &str = "cgroup ";

/// Where version 2 is mounted.
fn mount() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ")
            .then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// Whether groups made here can have this controller.
pub(crate) fn offered(controller: &str) -> bool {
    let Some(mount) = mount() else { return false };
    let given = std::fs::read_to_string(mount.join("cgroup.subtree_control")).unwrap_or_default();
    controller == "any" || given.split_whitespace().any(|known| known == controller)
}

/// A group that belongs to one user, gone when dropped.
pub(crate) struct Delegated {
    pub(crate) path: PathBuf,
}

impl Delegated {
    pub(crate) fn to(user: u32) -> std::io::Result<Self> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("katachi-suite-{}-{number}", std::process::id());
        let mount = mount().ok_or(std::io::ErrorKind::NotFound)?;
        let made = Self {
            path: mount.join(name),
        };
        std::fs::create_dir(&made.path)?;
        let inner = made.path.join("supervisor");
        std::fs::create_dir(&inner)?;
        let there = std::fs::read_to_string(made.path.join("cgroup.controllers"))?;
        for controller in there.split_whitespace() {
            std::fs::write(
                made.path.join("cgroup.subtree_control"),
                format!("+{controller}"),
            )?;
        }
        for directory in [&made.path, &inner] {
            for part in ["", "cgroup.procs", "cgroup.subtree_control"] {
                chown(directory.join(part), Some(user), Some(user))?;
            }
            let bound = directory.join("pids.max");
            if bound.exists() {
                chown(bound, Some(user), Some(user))?;
            }
        }
        Ok(made)
    }

    /// The same command, started by a shell that waits for a line, so that it
    /// can be moved before anything of the command runs.
    pub(crate) fn waiting(command: &Command) -> Command {
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", "read go; exec \"$@\"", "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        shell
    }

    pub(crate) fn take_in(&self, process: u32) -> std::io::Result<()> {
        std::fs::write(
            self.path.join("supervisor/cgroup.procs"),
            process.to_string(),
        )
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = std::fs::write(self.path.join("cgroup.kill"), "1");
        for _ in 0..200 {
            let gone = [self.path.join("supervisor"), self.path.clone()]
                .into_iter()
                .all(|path| !path.exists() || std::fs::remove_dir(path).is_ok());
            if gone {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// The group that was handed over to this case's process.
pub(crate) fn own() -> PathBuf {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = groups
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap();
    let own = mount().unwrap().join(own);
    own.parent().map(Path::to_owned).unwrap()
}

/// Groups of commands that are left in `parent`.
pub(crate) fn left(parent: &Path) -> usize {
    let list = std::fs::read_dir(parent).unwrap();
    list.flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("katachi-sandbox-")
        })
        .count()
}
