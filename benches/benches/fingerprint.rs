//! Looking at the machine and recovering the secret, beside merely reading the
//! files that are looked at.
//!
//! `fingerprint/ours` and `fingerprint/read` are this machine; the other
//! functions are a fake laptop, whose files lie on an ordinary file system.

use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{Criterion, criterion_group, criterion_main};
use katachi_fingerprint::testing::Machine;
use katachi_fingerprint::{Enrollment, Probe, SystemProbe};

/// What the probe reads of each network interface and of the rest.
const INTERFACE: [&str; 7] = [
    "type",
    "addr_assign_type",
    "address",
    "device/removable",
    "device/physfn/vendor",
    "phy80211/macaddress",
    "bonding_slave/perm_hwaddr",
];
const DRIVE: [&str; 7] = [
    "dev",
    "removable",
    "device/serial",
    "serial",
    "device/vpd_pg80",
    "device/wwid",
    "wwid",
];
const OTHER: [&str; 9] = [
    "etc/machine-id",
    "proc/self/mountinfo",
    "proc/cpuinfo",
    "sys/class/dmi/id/board_vendor",
    "sys/class/dmi/id/board_name",
    "sys/class/dmi/id/board_version",
    "sys/firmware/devicetree/base/model",
    "sys/firmware/devicetree/base/serial-number",
    "run/udev/data/b253:0",
];

/// The files the probe reads below `root`, those that are there.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = OTHER.iter().map(|name| root.join(name)).collect();
    // The probe turns virtual and USB interfaces away by their link alone.
    for interface in list(&root.join("sys/class/net")) {
        let link = std::fs::read_link(&interface).unwrap_or_default();
        let link = link.to_string_lossy();
        if !link.contains("/virtual/") && !link.contains("/usb") {
            files.extend(INTERFACE.iter().map(|name| interface.join(name)));
        }
    }
    for drive in list(&root.join("sys/class/block"))
        .into_iter()
        .chain(list(&root.join("sys/dev/block")))
    {
        let link = std::fs::canonicalize(&drive).unwrap_or_default();
        let whole = match link.join("partition").exists() {
            true => link.parent().map(Path::to_owned).unwrap_or_default(),
            false => link,
        };
        if !whole.to_string_lossy().contains("/virtual/") {
            files.extend(DRIVE.iter().map(|name| whole.join(name)));
        }
    }
    files.retain(|file| std::fs::read(file).is_ok());
    files.sort();
    files.dedup();
    files
}

fn list(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}

fn fingerprint(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    Machine::laptop()
        .write_to(directory.path())
        .expect("the tree is written");
    let mut group = criterion.benchmark_group("fingerprint");
    for (suffix, root, probe) in [
        ("", Path::new("/"), SystemProbe::new()),
        (
            "/laptop",
            directory.path(),
            SystemProbe::with_root(directory.path()),
        ),
    ] {
        let files = files(root);
        let (secret, enrollment) =
            Enrollment::enroll(&probe.observe()).expect("this machine shows something");
        group.bench_function(format!("ours{suffix}"), |bencher| {
            bencher.iter(|| {
                let seen = probe.observe();
                enrollment
                    .recover(&seen, |guess| *guess == secret)
                    .expect("the same machine")
            });
        });
        group.bench_function(format!("read{suffix}"), |bencher| {
            bencher.iter(|| {
                for file in &files {
                    let _ = black_box(std::fs::read(file));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, fingerprint);
criterion_main!(benches);
