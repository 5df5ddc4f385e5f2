//! A control group for each command, where the caller may make one.
//!
//! Only version 2 is used, and only places where the kernel lets the caller
//! make a group and move a process into it: what systemd or an administrator
//! handed over, or any place as root. Nothing is ever written to a group that
//! was not made here; which controllers a place offers was decided by who set
//! it up, in its `cgroup.subtree_control`.
//!
//! ```text
//! service (delegated)        offers "memory pids"
//! ├─ supervisor              the caller's process lives here
//! └─ katachi-sandbox-7-0     one command: helper, first process, command
//! ```
//!
//! The caller's process is outside the group: it makes it, reads how it fared
//! when everything in it is gone, and removes it. A group whose maker was
//! killed is removed by whoever makes the next one beside it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::sys::fd;
use crate::plan::Cgroup;
use crate::policy::Limits;

/// First part of the names of the groups made here.
const PREFIX: &str = "katachi-sandbox-";

/// Processes in the group beside the command's own: the helper and the first
/// process.
const OWN_PROCESSES: u64 = 2;

/// How long the kernel may take to let go of a group whose processes ended.
const PATIENCE: Duration = Duration::from_millis(500);

/// The place near the caller's own group that holds most of these limits.
pub(crate) fn find(limits: &Limits) -> Option<Cgroup> {
    let (root, own) = own()?;
    let mut best: Option<Cgroup> = None;
    let mut processes = None;
    let mut directory = own.as_path();
    loop {
        let found = offered(directory, limits, processes);
        // Nothing else can hold a share of the processors.
        let rank = |group: &Cgroup| (group.cpus, group.holds());
        let better = |found: &Cgroup| best.as_ref().is_none_or(|best| rank(found) > rank(best));
        if let Some(found) = found.filter(better) {
            best = Some(found);
        }
        // A command never leaves a group that bounds its caller, but for the
        // number of processes, which is taken along.
        if directory == root || is_bounded(directory) {
            return best;
        }
        processes = [processes, number(&directory.join("pids.max"))]
            .into_iter()
            .flatten()
            .min();
        directory = directory.parent()?;
    }
}

/// The mount of version 2 and the caller's own group in it.
fn own() -> Option<(PathBuf, PathBuf)> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (place, below) = mounts.lines().find_map(|line| mounted(line, own))?;
    let directory = place.join(below);
    directory
        .join("cgroup.procs")
        .exists()
        .then_some((place, directory))
}

/// Where this line of `mountinfo` shows the group `own`: the mount point and
/// the way from there.
fn mounted(line: &str, own: &str) -> Option<(PathBuf, PathBuf)> {
    let (mount, kind) = line.split_once(" - ")?;
    if kind.split(' ').next() != Some("cgroup2") {
        return None;
    }
    let mut fields = mount.split(' ').skip(3);
    let (root, place) = (fields.next()?, fields.next()?);
    let below = Path::new(own).strip_prefix(root).ok()?;
    // A way out of what this process's cgroup namespace shows leads nowhere.
    let inside = !below.components().any(|part| part.as_os_str() == "..");
    inside.then(|| (place.into(), below.to_owned()))
}

/// What a group made in `directory` holds, `None` if that is nothing.
fn offered(directory: &Path, limits: &Limits, processes: Option<u64>) -> Option<Cgroup> {
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
    // The root of all groups has no type.
    let takes_groups = matches!(read("cgroup.type").trim(), "" | "domain");
    let may_make = fd::may_write(directory) && fd::may_write(&directory.join("cgroup.procs"));
    if !takes_groups || !may_make {
        return None;
    }
    let controllers = read("cgroup.subtree_control");
    let offers = |name: &str| controllers.split_whitespace().any(|known| known == name);
    let found = Cgroup {
        parent: directory.to_owned(),
        memory: limits.memory.is_some() && offers("memory"),
        processes: limits.processes.is_some() && offers("pids"),
        most_processes: processes.filter(|_| offers("pids")),
        cpus: limits.cpus.is_some() && offers("cpu"),
        // Every group counts it.
        cpu_time: limits.cpu_time.is_some(),
    };
    (found.holds() > 0).then_some(found)
}

/// Whether a group bounds what its processes use, processes left aside.
fn is_bounded(directory: &Path) -> bool {
    ["memory.max", "memory.high", "memory.swap.max", "cpu.max"]
        .iter()
        .any(|name| {
            std::fs::read_to_string(directory.join(name))
                .is_ok_and(|text| text.split_whitespace().next() != Some("max"))
        })
}

/// The number in a file; `None` for `max` and where there is none.
fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// One command's group. Dropping it kills what is in it and removes it.
#[derive(Debug)]
pub(super) struct Leaf {
    path: PathBuf,
    /// Locked as long as this process uses the group.
    _held: File,
}

impl Leaf {
    /// Makes a group with these limits, and removes what killed callers left.
    pub(super) fn make(place: &Cgroup, limits: &Limits) -> io::Result<Self> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        remove_abandoned(&place.parent);
        let held = loop {
            let number = MADE.fetch_add(1, Ordering::Relaxed);
            let name = format!("{PREFIX}{}-{number}", std::process::id());
            let path = place.parent.join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => {}
                // Of a process with the same number in another namespace.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            // Between the two calls, others may take it for abandoned.
            match File::open(&path) {
                Ok(held) if held.try_lock().is_ok() && path.exists() => {
                    break Self { path, _held: held };
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        };
        held.limit(place, limits)?;
        Ok(held)
    }

    fn limit(&self, place: &Cgroup, limits: &Limits) -> io::Result<()> {
        if let Some(memory) = limits.memory.filter(|_| place.memory) {
            self.write("memory.max", &memory.bytes().to_string())?;
            self.write("memory.oom.group", "1")?;
            // Missing where the kernel does not count swap.
            if self.path.join("memory.swap.max").exists() {
                self.write("memory.swap.max", "0")?;
            }
        }
        if let Some(cpus) = limits.cpus.filter(|_| place.cpus) {
            const PERIOD: u64 = 100_000;
            let time = u64::from(cpus.thousandths()) * PERIOD / 1000;
            self.write("cpu.max", &format!("{time} {PERIOD}"))?;
        }
        let wanted = limits.processes.filter(|_| place.processes);
        let processes = [
            wanted.map(|count| u64::from(count) + OWN_PROCESSES),
            place.most_processes,
        ];
        if let Some(most) = processes.into_iter().flatten().min() {
            self.write("pids.max", &most.to_string())?;
        }
        Ok(())
    }

    fn write(&self, name: &str, value: &str) -> io::Result<()> {
        std::fs::write(self.path.join(name), value)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the kernel ended everything in it for want of memory.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        self.count("memory.events", "oom_kill ") > 0
    }

    /// How often a process was not made because there were too many.
    pub(super) fn refused_processes(&self) -> u64 {
        self.count("pids.events", "max ")
    }

    fn count(&self, file: &str, name: &str) -> u64 {
        std::fs::read_to_string(self.path.join(file))
            .unwrap_or_default()
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .unwrap_or(0)
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Kills what is in a group and removes it, or leaves it to who comes next.
fn remove(path: &Path) {
    const PAUSE: Duration = Duration::from_millis(1);
    let _ = std::fs::write(path.join("cgroup.kill"), "1");
    let mut waited = Duration::ZERO;
    while std::fs::remove_dir(path).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
        && waited < PATIENCE
    {
        std::thread::sleep(PAUSE);
        waited += PAUSE;
    }
}

/// Removes the groups beside ours that nobody holds any more.
fn remove_abandoned(parent: &Path) {
    let Ok(list) = std::fs::read_dir(parent) else {
        return;
    };
    for entry in list.flatten() {
        let ours = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(PREFIX));
        if !ours {
            continue;
        }
        let Ok(group) = File::open(entry.path()) else {
            continue;
        };
        match group.try_lock() {
            Ok(()) => remove(&entry.path()),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

/// Moves this process into a group, and opens what tells its processor time,
/// which is out of sight later.
pub(super) fn join(path: &Path) -> io::Result<File> {
    std::fs::write(path.join("cgroup.procs"), "0")?;
    File::open(path.join("cpu.stat"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_own_group_below_the_mount() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw";
        let found = mounted(unified, "/user.slice/a.scope").unwrap();
        assert_eq!(
            found,
            ("/sys/fs/cgroup".into(), "user.slice/a.scope".into())
        );
        assert_eq!(
            mounted(unified, "/").unwrap(),
            ("/sys/fs/cgroup".into(), "".into())
        );
        let part = "30 23 0:26 /box /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
        assert_eq!(
            mounted(part, "/box/a").unwrap(),
            ("/sys/fs/cgroup".into(), "a".into())
        );
        for (line, own) in [
            (part, "/other"),
            (unified, "/../other"),
            (
                "30 23 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids",
                "/",
            ),
            ("nonsense", "/"),
        ] {
            assert_eq!(mounted(line, own), None, "{line} {own}");
        }
    }
}
