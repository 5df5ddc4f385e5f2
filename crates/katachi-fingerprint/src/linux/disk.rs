//! The volume that holds a path, and the drive under it.
//!
//! From the mount table to a block device, through partitions, encryption,
//! logical volumes and arrays down to the drives. Drives that can be unplugged
//! do not count, nor do loop devices and memory disks.

use std::path::{Path, PathBuf};

use super::mounts::mount_holding;
use super::{Tree, is_usb, is_virtual};
use crate::component::Component;
use crate::observation::Observation;
use crate::parse;

/// Layers of mapping followed: encryption on a logical volume on an array on
/// partitions is four.
const MOST_LAYERS: usize = 8;

pub(super) fn observe(tree: &Tree<'_>, data: &Path, seen: &mut Observation) {
    let Some(device) = device_of(tree, data) else {
        return;
    };
    if let Some(id) = volume_id(tree, &device) {
        seen.insert(Component::Volume, parse::value(Component::Volume, &id));
    }
    let mut drives = Vec::new();
    drives_under(tree, &device, MOST_LAYERS, &mut drives);
    for drive in drives {
        if let Some(serial) = serial(tree, &drive) {
            seen.insert(
                Component::DiskSerial,
                parse::value(Component::DiskSerial, &serial),
            );
        }
    }
}

/// The block device of the file system that holds `data`, as a path below
/// `sys`.
fn device_of(tree: &Tree<'_>, data: &Path) -> Option<PathBuf> {
    let table = tree.table("proc/self/mountinfo")?;
    let mount = mount_holding(&table, data.to_str()?)?;
    let link = match mount.device {
        // btrfs has no number of its own and names one of its devices.
        (0, _) => {
            let node = mount.source.strip_prefix("/dev/")?;
            let name = match tree.link(Path::new("dev").join(node)) {
                Some(target) => target.file_name()?.to_owned(),
                None => Path::new(node).file_name()?.to_owned(),
            };
            Path::new("sys/class/block").join(name)
        }
        (major, minor) => PathBuf::from(format!("sys/dev/block/{major}:{minor}")),
    };
    below_sys(&tree.link(link)?)
}

/// Turns `../../devices/...` into `sys/devices/...`.
fn below_sys(link: &Path) -> Option<PathBuf> {
    let mut parts = link
        .components()
        .skip_while(|part| part.as_os_str() == "..");
    let path: PathBuf = parts.by_ref().collect();
    path.starts_with("devices")
        .then(|| Path::new("sys").join(path))
}

/// The identifier of the file system on `device`, as udev found it.
fn volume_id(tree: &Tree<'_>, device: &Path) -> Option<String> {
    let number = tree.text(device.join("dev"))?;
    let record = tree.text(format!("run/udev/data/b{}", number.trim()));
    let recorded = record.as_deref().and_then(|record| {
        record
            .lines()
            .find_map(|line| line.strip_prefix("E:ID_FS_UUID="))
    });
    if let Some(id) = recorded {
        return Some(id.to_owned());
    }
    let name = device.file_name()?;
    let directory = Path::new("dev/disk/by-uuid");
    tree.names(directory).into_iter().find(|id| {
        tree.link(directory.join(id))
            .is_some_and(|target| target.file_name() == Some(name))
    })
}

/// Collects the drives that `device` is made of.
fn drives_under(tree: &Tree<'_>, device: &Path, layers: usize, drives: &mut Vec<PathBuf>) {
    if layers == 0 {
        return;
    }
    // Mapped devices and arrays are virtual and stand on others; loop devices
    // and memory disks are virtual and stand on nothing.
    if is_virtual(device) {
        let slaves = tree.names(device.join("slaves"));
        for slave in slaves {
            let link = tree.link(Path::new("sys/class/block").join(slave));
            if let Some(device) = link.as_deref().and_then(below_sys) {
                drives_under(tree, &device, layers - 1, drives);
            }
        }
        return;
    }
    let whole = match tree.exists(device.join("partition")) {
        true => device.parent(),
        false => Some(device),
    };
    drives.extend(whole.map(Path::to_owned));
}

/// The serial number of a built-in drive. Where there are several sources the
/// order is fixed, so that a reading never depends on luck.
fn serial(tree: &Tree<'_>, drive: &Path) -> Option<String> {
    let removable = tree.text(drive.join("removable"));
    if is_usb(drive) || removable.is_some_and(|text| text.trim() == "1") {
        return None;
    }
    let usable = |text: &String| parse::serial(text).is_some();
    let read = |name: &str| tree.text(drive.join(name)).filter(usable);
    read("device/serial") // NVMe, MMC
        .or_else(|| read("serial")) // virtio
        .or_else(|| {
            let page = tree.bytes(drive.join("device/vpd_pg80"))?;
            vpd_serial(&page).filter(usable)
        })
        .or_else(|| read("device/wwid")) // SCSI and SATA
        .or_else(|| read("wwid"))
}

/// The text of SCSI's unit serial number page (SPC-4 section 7.8.15): type,
/// page 0x80, length as two bytes, text.
fn vpd_serial(page: &[u8]) -> Option<String> {
    let [_, 0x80, high, low, text @ ..] = page else {
        return None;
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let text = text.get(..length)?;
    Some(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_page_must_be_whole() {
        let page = b"\x00\x80\x00\x08S3Z8NB0K";
        assert_eq!(vpd_serial(page).as_deref(), Some("S3Z8NB0K"));
        assert_eq!(vpd_serial(&page[..8]), None);
        assert_eq!(vpd_serial(b"\x00\x83\x00\x01A"), None);
        assert_eq!(vpd_serial(b""), None);
    }

    #[test]
    fn links_stay_below_sys() {
        let path = |link: &str| below_sys(Path::new(link));
        assert_eq!(
            path("../../devices/pci0000:00/block/sda"),
            Some(PathBuf::from("sys/devices/pci0000:00/block/sda"))
        );
        assert_eq!(path("/etc/passwd"), None);
        assert_eq!(path("../../../etc"), None);
    }
}
