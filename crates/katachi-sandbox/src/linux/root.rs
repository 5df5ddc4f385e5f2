//! The command's root directory, built from nothing.
//!
//! A file system in memory holds the directories that lead to what the plan
//! names; everything else is mounted into it by descriptor, from shallow to
//! deep, so that what is mounted later lies on top. It is made read-only last.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::disk::LEAST;
use super::helper::{Failure, Identities, Step as _, Trees};
use super::init::check_identity;
use super::spec::{Mount, Source, Spec};
use super::sys::mount::{NODEV, NOEXEC, NOSUID, RDONLY};
use super::sys::{c_string, fd, mount};

/// Devices every command gets.
pub(super) const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];
/// Parts of `/proc` through which the kernel is told things.
const PROC_READ_ONLY: &[&str] = &[
    "sys",
    "sysrq-trigger",
    "irq",
    "bus",
    "fs",
    "acpi",
    "scsi",
    "tty",
    "driver",
];
/// Parts of `/proc` that tell about the machine and other users.
const PROC_HIDDEN: &[&str] = &[
    "kcore",
    "keys",
    "key-users",
    "kmsg",
    "timer_list",
    "latency_stats",
    "kallsyms",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "vmallocinfo",
    "slabinfo",
    "pagetypeinfo",
    "sched_debug",
];
/// Stands in for hidden files. The command does not see it, because its own
/// `/dev` lies on top; unlinked, it could not be mounted any more.
const NOTHING: &str = "/dev/.hidden";
/// Private directories are this large where the policy sets no limit.
const PRIVATE_SIZE: u64 = 1 << 30;
/// And hold at most as many files.
const MOST_FILES: u64 = 200_000;

/// A place for a mount.
struct Spot {
    fd: OwnedFd,
    /// Whether it lies in the root's own file system, which this process alone
    /// changes.
    ours: bool,
}

struct Root<'a> {
    fd: OwnedFd,
    /// An empty file.
    nothing: OwnedFd,
    spec: &'a Spec,
    who: Identities,
}

/// Builds the root and enters it.
pub(super) fn build(
    spec: &Spec,
    trees: &Trees,
    who: Identities,
    gaps: &mut Vec<(String, String)>,
) -> Result<OwnedFd, Failure> {
    let fd = memory(&[(c"mode", "755"), (c"size", "4m")], NODEV | NOSUID)
        .step("create the root directory")?;
    let stand = ["/tmp", "/mnt", "/proc"]
        .into_iter()
        .find_map(|path| File::open(path).ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        .step("find a place for the root directory")?;
    // The devices have to be opened while the old root is still there.
    let outside = File::open("/").step("open the root directory")?;
    let devices: Vec<(&str, OwnedFd)> = DEVICES
        .iter()
        .filter_map(|name| {
            let path = c_string(format!("/dev/{name}")).ok()?;
            Some((*name, fd::open_path(outside.as_fd(), &path).ok()?))
        })
        .collect();
    drop(outside);
    mount::attach(fd.as_fd(), stand.as_fd()).step("place the root directory")?;
    fd::make_directory(fd.as_fd(), c"dev", 0o755).step("create /dev")?;
    fd::make_file(fd.as_fd(), &name(NOTHING)?, 0).step("create the empty file")?;
    let nothing = fd::open_path(fd.as_fd(), &name(NOTHING)?).step("open the empty file")?;
    let root = Root {
        fd,
        nothing,
        spec,
        who,
    };

    root.proc(gaps)?;
    root.devices(&devices)?;
    for (place, tree) in spec.mounts.iter().zip(trees) {
        root.place(place, tree.as_ref())?;
    }
    for (place, target) in &spec.links {
        root.link(place, target)?;
    }
    mount::restrict(root.fd.as_fd(), RDONLY | NOSUID | NODEV, None, false)
        .step("make the root directory read-only")?;
    mount::enter_root(root.fd.as_fd()).step("enter the root directory")?;
    Ok(root.nothing)
}

/// How a place is covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cover {
    /// By something empty that cannot be read.
    Hidden,
    /// By itself, with these restrictions.
    Again { write: bool, load: bool },
}

/// Covers an opened place; `nothing` is the empty file.
pub(super) fn cover(place: OwnedFd, how: Cover, nothing: BorrowedFd<'_>) -> io::Result<()> {
    let place = File::from(place);
    let tree = match how {
        Cover::Hidden if place.metadata()?.is_dir() => empty_directory()?,
        Cover::Hidden => empty_file(nothing)?,
        Cover::Again { write, load } => {
            let mut attributes = NOSUID | NODEV;
            if !write {
                attributes |= RDONLY;
            }
            if !load {
                attributes |= NOEXEC;
            }
            let tree = mount::clone_tree(place.as_fd())?;
            mount::restrict(tree.as_fd(), attributes, None, true)?;
            tree
        }
    };
    mount::attach(tree.as_fd(), place.as_fd())
}

fn empty_directory() -> io::Result<OwnedFd> {
    memory(
        &[(c"mode", "0"), (c"size", "4k")],
        RDONLY | NOSUID | NODEV | NOEXEC,
    )
}

fn empty_file(nothing: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let tree = mount::clone_tree(nothing)?;
    mount::restrict(tree.as_fd(), RDONLY | NOSUID | NODEV | NOEXEC, None, true)?;
    Ok(tree)
}

fn name(path: impl AsRef<Path>) -> Result<CString, Failure> {
    let relative = path.as_ref().strip_prefix("/").unwrap_or(path.as_ref());
    c_string(if relative.as_os_str().is_empty() {
        Path::new(".")
    } else {
        relative
    })
    .step("read a path")
}

fn memory(options: &[(&CStr, &str)], attributes: u64) -> io::Result<OwnedFd> {
    let values: Vec<CString> = options
        .iter()
        .map(|(_, value)| c_string(value))
        .collect::<io::Result<_>>()?;
    let options: Vec<_> = options
        .iter()
        .zip(&values)
        .map(|((key, _), value)| (*key, value.as_c_str()))
        .collect();
    mount::file_system(c"tmpfs", &options, attributes)
}

impl Root<'_> {
    fn open(&self, path: &Path) -> Result<io::Result<OwnedFd>, Failure> {
        Ok(fd::open_path(self.fd.as_fd(), &name(path)?))
    }

    /// Opens a directory inside the new root, making it and its parents.
    fn directory(&self, path: &Path) -> Result<OwnedFd, Failure> {
        Ok(self.target(path, true)?.fd)
    }

    /// Opens the place a mount goes to, making it and what leads to it.
    ///
    /// Most are missing, so making comes first.
    fn target(&self, path: &Path, directory: bool) -> Result<Spot, Failure> {
        let step = format!("create {}", path.display());
        let here = |name: &CStr| match directory {
            true => {
                match fd::make_directory(self.fd.as_fd(), name, 0o755) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
                    // It is there, or cannot be made where a mount is.
                    _ => {}
                }
                fd::open_here(self.fd.as_fd(), name)
            }
            false => fd::make_here(self.fd.as_fd(), name, 0o644),
        };
        match self.make(path, here)? {
            Ok(fd) => return Ok(Spot { fd, ours: true }),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EXDEV | libc::EEXIST | libc::EROFS)
                ) => {}
            Err(error) => return Err(error).step(&step),
        }
        if let Err(error) = self.open(path)?
            && error.kind() == io::ErrorKind::NotFound
            && !directory
        {
            self.make(path, |name| fd::make_file(self.fd.as_fd(), name, 0o644))?
                .step(&step)?;
        }
        let fd = self.open(path)?.step(&step)?;
        Ok(Spot { fd, ours: false })
    }

    /// Makes something, and the directories that lead to it where they are
    /// missing.
    fn make<T>(
        &self,
        path: &Path,
        make: impl Fn(&CStr) -> io::Result<T>,
    ) -> Result<io::Result<T>, Failure> {
        let name = name(path)?;
        match (make(&name), path.parent()) {
            (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
                self.directory(parent)?;
                Ok(make(&name))
            }
            (made, _) => Ok(made),
        }
    }

    fn attach(&self, tree: BorrowedFd<'_>, place: &OwnedFd, path: &Path) -> Result<(), Failure> {
        mount::attach(tree, place.as_fd()).step(&format!("mount {}", path.display()))
    }

    fn place(&self, mount: &Mount, tree: Option<&OwnedFd>) -> Result<(), Failure> {
        let path = &mount.target;
        match (mount.source, tree) {
            (Source::Host(pinned), Some(tree)) => {
                let place = self.target(path, pinned.directory)?;
                self.attach(tree.as_fd(), &place.fd, path)?;
                // The tree is of what was pinned.
                if place.ours {
                    return Ok(());
                }
                // What is there now must be that, whatever was swapped in
                // between.
                let seen = self.open(path)?.step(&format!("open {}", path.display()))?;
                check_identity(seen, &pinned, path).map(drop)
            }
            (Source::Host(_), None) => Err(io::Error::other("it was not opened"))
                .step(&format!("mount {}", path.display())),
            (Source::Private, _) => self.private(path),
            (Source::HiddenDirectory, _) => {
                let tree = empty_directory().step("create an empty directory")?;
                let place = self.directory(path)?;
                self.attach(tree.as_fd(), &place, path)
            }
            (Source::HiddenFile, _) => self.hide_file(&self.target(path, false)?.fd, path),
        }
    }

    fn hide_file(&self, place: &OwnedFd, path: &Path) -> Result<(), Failure> {
        let tree = empty_file(self.nothing.as_fd()).step("take the empty file")?;
        self.attach(tree.as_fd(), place, path)
    }

    fn private(&self, path: &Path) -> Result<(), Failure> {
        let limits = [self.spec.disk, self.spec.memory];
        let size = limits.into_iter().flatten().min().unwrap_or(PRIVATE_SIZE);
        let files = size.div_ceil(LEAST).clamp(16, MOST_FILES).to_string();
        let size = size.to_string();
        let (user, group) = (self.who.user.to_string(), self.who.group.to_string());
        let shared = path == Path::new("/tmp") || path == Path::new("/dev/shm");
        let options = [
            (c"mode", if shared { "1777" } else { "700" }),
            (c"size", size.as_str()),
            (c"nr_inodes", files.as_str()),
            (c"uid", user.as_str()),
            (c"gid", group.as_str()),
        ];
        let tree = memory(&options, NOSUID | NODEV | NOEXEC)
            .step(&format!("create {}", path.display()))?;
        let place = self.directory(path)?;
        self.attach(tree.as_fd(), &place, path)
    }

    fn link(&self, place: &Path, target: &Path) -> Result<(), Failure> {
        let step = format!("create the link {}", place.display());
        let target = c_string(target).step(&step)?;
        let make = |name: &CStr| fd::make_link(&target, self.fd.as_fd(), name);
        match self.make(place, make)? {
            // A mount brought it along.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::EROFS)) => {
                Ok(())
            }
            made => made.step(&step),
        }
    }

    fn proc(&self, gaps: &mut Vec<(String, String)>) -> Result<(), Failure> {
        let path = Path::new("/proc");
        let place = self.directory(path)?;
        let tree = match mount::file_system(c"proc", &[], NOSUID | NODEV | NOEXEC) {
            Ok(tree) => tree,
            // A container that covers parts of its own /proc must not show
            // them to us either.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                gaps.push((
                    "processes".to_owned(),
                    "this container does not let a new /proc be mounted, so there is none inside"
                        .to_owned(),
                ));
                if self.spec.memory.is_some() || self.spec.processes.is_some() {
                    gaps.push((
                        "limits".to_owned(),
                        "without /proc, memory and processes are limited one by one and not summed up"
                            .to_owned(),
                    ));
                }
                return Ok(());
            }
            Err(error) => return Err(error).step("create /proc"),
        };
        self.attach(tree.as_fd(), &place, path)?;
        for part in PROC_READ_ONLY {
            let path = path.join(part);
            let Ok(place) = self.open(&path)? else {
                continue;
            };
            let tree = mount::clone_tree(place.as_fd()).step("take a part of /proc")?;
            mount::restrict(tree.as_fd(), RDONLY | NOSUID | NODEV | NOEXEC, None, true)
                .step("make a part of /proc read-only")?;
            self.attach(tree.as_fd(), &place, &path)?;
        }
        for part in PROC_HIDDEN {
            let path = path.join(part);
            if let Ok(place) = self.open(&path)? {
                self.hide_file(&place, &path)?;
            }
        }
        Ok(())
    }

    /// Terminals that exist in this sandbox alone.
    fn terminals(&self) -> Result<(), Failure> {
        let path = Path::new("/dev/pts");
        let place = self.directory(path)?;
        let options = [(c"mode", c"620"), (c"ptmxmode", c"666")];
        let tree =
            mount::file_system(c"devpts", &options, NOSUID | NOEXEC).step("create terminals")?;
        self.attach(tree.as_fd(), &place, path)?;
        self.link(Path::new("/dev/ptmx"), Path::new("pts/ptmx"))
    }

    fn devices(&self, devices: &[(&str, OwnedFd)]) -> Result<(), Failure> {
        let path = Path::new("/dev");
        let place = self.directory(path)?;
        let tree =
            memory(&[(c"mode", "755"), (c"size", "64k")], NOSUID | NOEXEC).step("create /dev")?;
        self.attach(tree.as_fd(), &place, path)?;
        for (name, device) in devices {
            let path: PathBuf = path.join(name);
            let tree = mount::clone_tree(device.as_fd()).step("take a device")?;
            // Read-only concerns the file system: the device can be written.
            mount::restrict(tree.as_fd(), RDONLY | NOSUID | NOEXEC, None, true)
                .step("restrict a device")?;
            let place = self.target(&path, false)?;
            self.attach(tree.as_fd(), &place.fd, &path)?;
        }
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
        ] {
            self.link(&path.join(name), Path::new(target))?;
        }
        if self.spec.terminal.is_some() {
            self.terminals()?;
        }
        self.private(&path.join("shm"))?;
        mount::restrict(tree.as_fd(), RDONLY | NOSUID | NOEXEC, None, false)
            .step("make /dev read-only")
    }
}
