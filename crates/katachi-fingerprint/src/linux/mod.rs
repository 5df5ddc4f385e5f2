//! Readings from a Linux file system tree.
//!
//! Everything starts from a root directory, which is `/` on the machine itself
//! and a small fake tree in tests. Only files that everybody may read are
//! opened, so the result does not depend on who asks.

mod disk;
mod mounts;
mod network;
mod published;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use mounts::{Mount, mount_holding};
pub use published::{PublishError, Published, publish, publish_with_tpm};
#[cfg(feature = "testing")]
pub(crate) use published::{parse_published, print_published};

use crate::component::Component;
use crate::observation::{Observation, Value};
use crate::parse;

/// Looks at everything under `root`; `data` is a path inside it.
pub(crate) fn observe(root: &Path, data: &Path, application: Option<&str>) -> Observation {
    let tree = Tree { root };
    let mut seen = Observation::new();
    if let Some(text) = tree.text("etc/machine-id") {
        seen.insert(
            Component::MachineId,
            parse::value(Component::MachineId, &text),
        );
    }
    disk::observe(&tree, data, &mut seen);
    network::observe(&tree, &mut seen);
    seen.insert(Component::Board, board(&tree));
    seen.insert(Component::Cpu, processor(&tree));
    // Boards with a device tree show their serial number to everybody.
    if let Some(text) = tree.text("sys/firmware/devicetree/base/serial-number") {
        seen.insert(
            Component::BoardSerial,
            parse::value(Component::BoardSerial, &text),
        );
    }
    if let Some(application) = application {
        published::observe(&tree, application, &mut seen);
    }
    seen
}

fn board(tree: &Tree<'_>) -> Option<Value> {
    const DMI: [[&str; 3]; 2] = [
        ["board_vendor", "board_name", "board_version"],
        ["sys_vendor", "product_name", "product_version"],
    ];
    let dmi = |name: &str| tree.text(Path::new("sys/class/dmi/id").join(name));
    let described = DMI.iter().find_map(|[vendor, name, version]| {
        let name = dmi(name)?;
        let other = |name: &str| dmi(name).unwrap_or_default();
        parse::board(&other(vendor), &name, &other(version))
    });
    let bytes = described.or_else(|| {
        let model = tree.text("sys/firmware/devicetree/base/model")?;
        parse::board("", &model, "")
    })?;
    Some(Value::new(bytes, parse::BOARD_BITS))
}

fn processor(tree: &Tree<'_>) -> Option<Value> {
    // The first processor's block is enough and begins the file.
    let text = tree.text("proc/cpuinfo")?;
    Some(Value::new(parse::cpu(&text)?, parse::CPU_BITS))
}

/// One page: the longest attribute the kernel shows, and enough of `cpuinfo`
/// for the first processor.
const PAGE: usize = 4096;

/// The most of the mount table that is looked at.
const MOST_MOUNTS: u64 = 1024 * 1024;

/// A file system tree below some directory.
pub(crate) struct Tree<'a> {
    root: &'a Path,
}

impl Tree<'_> {
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// The first page of a file as text; nothing if it cannot be read.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let bytes = self.bytes(path)?;
        match String::from_utf8(bytes) {
            Ok(text) => Some(text),
            // The page may end within a letter.
            Err(error) if error.as_bytes().len() == PAGE => {
                let end = error.utf8_error().valid_up_to();
                let mut bytes = error.into_bytes();
                bytes.truncate(end);
                String::from_utf8(bytes).ok()
            }
            Err(_) => None,
        }
    }

    /// The first page of a file. An attribute is given whole by one read, so
    /// one is enough.
    pub(crate) fn bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let mut file = File::open(self.path(path)).ok()?;
        let mut page = [0; PAGE];
        // Some attributes exist and refuse to be read; they count as absent.
        let length = file.read(&mut page).ok()?;
        Some(page[..length].to_vec())
    }

    /// A table that the kernel gives in pieces.
    pub(crate) fn table(&self, path: impl AsRef<Path>) -> Option<String> {
        let file = File::open(self.path(path)).ok()?;
        let mut text = String::with_capacity(4 * PAGE);
        file.take(MOST_MOUNTS).read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// Where a symbolic link points, as written.
    pub(crate) fn link(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        std::fs::read_link(self.path(path)).ok()
    }

    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// The names in a directory, in no order.
    pub(crate) fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(path)) else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect()
    }
}

/// Says whether a path below `/sys/devices` leads to something virtual.
fn is_virtual(device: &Path) -> bool {
    device
        .components()
        .any(|part| part.as_os_str() == "virtual")
}

/// Says whether a path below `/sys/devices` leads through a USB bus.
fn is_usb(device: &Path) -> bool {
    device.components().any(|part| {
        let name = part.as_os_str().as_encoded_bytes();
        name.strip_prefix(b"usb")
            .is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
    })
}
