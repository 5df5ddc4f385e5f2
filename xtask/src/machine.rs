//! A virtual machine in which control groups are as systems with systemd have
//! them: version 2 alone, with every controller.
//!
//! Debian's kernel for clouds, a first file system made of busybox and the
//! confinement test, and an emulated processor: virtual machines of virtual
//! machines are not to be relied upon.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::install::{on_path, tools};
use crate::run::{self, Finished, cargo};

/// The package that depends on the kernel.
const KERNEL: &str = "linux-image-cloud-amd64";
/// Where it comes from: Debian 12's own kernel has no Landlock of version 3.
const SOURCE: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm-backports main";
/// What the machine is to run: cases with this in their name.
const CASES: &str = "control group";
/// Programs that busybox stands for.
const PROGRAMS: &[&str] = &[
    "cat",
    "cp",
    "echo",
    "mkdir",
    "mount",
    "poweroff",
    "sh",
    "switch_root",
    "true",
];
/// The root directory cannot be replaced in the first file system, so the
/// machine starts with another.
const INIT: &str = r#"#!/bin/sh
export PATH=/usr/bin
if [ ! -e /second ]; then
  mkdir /new
  mount -t tmpfs -o mode=755,size=80% none /new
  cp -a /bin /lib /lib64 /usr /init /test /new/
  mkdir /new/proc /new/sys /new/dev /new/etc
  mkdir -m 1777 /new/tmp
  echo > /new/second
  exec switch_root /new /init
fi
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t cgroup2 none /sys/fs/cgroup
echo "+cpu +memory +pids" > /sys/fs/cgroup/cgroup.subtree_control
KATACHI_REQUIRE_ALL=1 /test "CASES" --test-threads 1 --color never
poweroff -f
"#;

fn folder() -> PathBuf {
    tools().join("kernel")
}

/// The kernel, if it was fetched.
fn kernel() -> Option<PathBuf> {
    let list = fs::read_dir(folder().join("boot")).ok()?;
    list.flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains("/vmlinuz-"))
}

/// What is missing, if anything is.
pub(crate) fn missing() -> Option<&'static str> {
    let emulator = on_path("qemu-system-x86_64").is_none();
    match (emulator, kernel()) {
        (true, _) => Some("no qemu-system-x86_64"),
        (_, None) => Some("no kernel for the virtual machine"),
        _ if on_path("busybox").is_none() => Some("no busybox"),
        _ => None,
    }
}

/// Fetches the kernel with lists of its own, so that the system's stay as they
/// are.
pub(crate) fn install() -> Result<()> {
    if kernel().is_some() || on_path("apt-get").is_none() {
        return Ok(());
    }
    println!("--- {KERNEL}");
    let folder = folder();
    for part in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(folder.join(part))?;
    }
    fs::write(folder.join("sources.list"), SOURCE)?;
    let apt = |program: &str| {
        let mut command = Command::new(program);
        command.current_dir(&folder);
        for (option, place) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::Etc::sourceparts", "none"),
            ("Dir::State::lists", "lists"),
            ("Dir::Cache", "cache"),
        ] {
            let place = folder.join(place);
            command.arg(format!("-o{option}={}", place.display()));
        }
        // The unprivileged user of apt may not enter a checkout.
        command.args(["-oAPT::Sandbox::User=root", "-qq"]);
        command
    };
    let mut update = apt("apt-get");
    ensure!(update.arg("update").status()?.success(), "no package lists");
    let mut depends = apt("apt-cache");
    depends.args(["depends", KERNEL]);
    let package = run::capture(depends)
        .and_then(|text| {
            text.lines()
                .find_map(|line| line.trim().strip_prefix("Depends: ").map(str::to_owned))
        })
        .with_context(|| format!("{KERNEL} depends on no kernel"))?;
    let mut download = apt("apt-get");
    download.args(["download", &package]);
    ensure!(download.status()?.success(), "cannot fetch {package}");
    let archive = fs::read_dir(&folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .context("there is no package")?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").args([&archive, &folder]);
    ensure!(unpack.status()?.success(), "cannot unpack {package}");
    fs::remove_file(archive)?;
    fs::remove_dir_all(folder.join("lib"))?;
    Ok(())
}

/// Starts the machine and lets it run the cases.
pub(crate) fn run() -> Result<Finished> {
    let image = run::root().join("target/machine.cpio");
    fs::write(&image, first_files(&test_program()?)?)?;
    let mut emulator = Command::new("timeout");
    emulator.args(["600", "qemu-system-x86_64"]);
    // Its emulation of one instruction, without which kernels can do, spoils
    // flags.
    emulator.args(["-accel", "tcg", "-cpu", "max,cx16=off"]);
    emulator.args(["-smp", "2", "-m", "1024", "-nographic", "-no-reboot"]);
    emulator.args([
        "-nic",
        "none",
        "-append",
        // On a busy machine an emulated timer is late for the kernel's test of it.
        "console=ttyS0 panic=-1 loglevel=1 no_timer_check",
    ]);
    emulator.arg("-initrd").arg(&image);
    emulator
        .arg("-kernel")
        .arg(kernel().context("no kernel for the virtual machine")?);
    let mut finished = run::observe(emulator)?;
    // The emulator ends well whatever happened inside, and this machine has
    // all that the cases need.
    let count = finished.tally.count;
    finished.success &= count.passed > 0 && count.failed == 0 && count.skipped == 0;
    Ok(finished)
}

/// The confinement test, built.
fn test_program() -> Result<PathBuf> {
    let mut build = cargo(["test", "--no-run", "--locked"]);
    build.arg("--message-format=json-render-diagnostics");
    build.stderr(Stdio::inherit());
    // As the suite built it before.
    build.args(["-p", "katachi-sandbox", "--all-features"]);
    build.args(["--test", "confinement"]);
    let messages = run::capture(build).context("the confinement test does not build")?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "confinement")
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .context("cargo names no confinement test")
}

/// The first file system, as an archive.
fn first_files(test: &Path) -> Result<Vec<u8>> {
    let busybox = on_path("busybox").context("no busybox")?;
    let mut archive = Archive::default();
    for directory in ["usr", "usr/bin", "usr/lib", "usr/lib64"] {
        archive.directory(directory);
    }
    for (link, target) in [
        ("bin", "usr/bin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
    ] {
        archive.link(link, target);
    }
    archive.file("usr/bin/busybox", &fs::read(&busybox)?);
    for program in PROGRAMS {
        archive.link(&format!("usr/bin/{program}"), "busybox");
    }
    archive.file("test", &fs::read(test)?);
    archive.file("init", INIT.replace("CASES", CASES).as_bytes());
    let mut libraries = Command::new("ldd");
    libraries.args([test, &busybox]);
    let listed = run::capture(libraries).context("ldd does not tell the libraries")?;
    let mut paths: Vec<&str> = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(|path| path.strip_prefix("/usr").unwrap_or(path))
        .collect();
    paths.sort_unstable();
    paths.dedup();
    for path in paths {
        let place = format!("usr{path}");
        if let Some(parent) = Path::new(&place).parent() {
            archive.directory(&parent.to_string_lossy());
        }
        archive.file(&place, &fs::read(Path::new("/").join(&place))?);
    }
    Ok(archive.finish())
}

/// The archive that the kernel unpacks at its start (`newc`,
/// Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn directory(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn link(&mut self, name: &str, target: &str) {
        self.entry(name, 0o120_777, target.as_bytes());
    }

    fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_755, content);
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        // Inode, mode, user, group, links, time, size, four device numbers,
        // length of the name, checksum.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}
