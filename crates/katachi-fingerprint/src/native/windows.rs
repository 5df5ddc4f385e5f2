//! What Windows answers.
//!
//! | name | where it comes from |
//! |---|---|
//! | `HKLM/…` | values of the registry |
//! | `GetSystemFirmwareTable/RSMB` | the firmware's SMBIOS tables |
//! | `GetVolumeInformation/SerialNumber` | the volume of the data |
//! | `IOCTL_STORAGE_QUERY_PROPERTY/StorageDeviceProperty` | the drive under it |
//! | `GetIfTable2/{…}/…` | each network interface by its GUID |
//!
//! All of it is given to every user alike.

use super::{Answers, address, smbios, storage};
use crate::component::Component;
use crate::observation::{Observation, Value};
use crate::parse;

/// Where the registry keeps what it knows of network connections.
pub(crate) const CONNECTIONS: &str =
    "HKLM/SYSTEM/CurrentControlSet/Control/Network/{4D36E972-E325-11CE-BFC1-08002BE10318}";
/// Where the registry keeps what it knows of devices.
pub(crate) const DEVICES: &str = "HKLM/SYSTEM/CurrentControlSet/Enum";
/// Where the registry keeps the installation's identifier.
pub(crate) const MACHINE_GUID: &str = "HKLM/SOFTWARE/Microsoft/Cryptography/MachineGuid";
/// Where the registry describes the first processor.
pub(crate) const PROCESSOR: &str = "HKLM/HARDWARE/DESCRIPTION/System/CentralProcessor/0";

/// Turns what the system answers into an observation.
pub(crate) fn observation(answers: &Answers) -> Observation {
    let mut seen = Observation::new();
    let mut insert = |component, text: Option<&str>| {
        let value = text.and_then(|text| parse::value(component, text));
        seen.insert(component, value);
    };
    insert(Component::MachineId, answers.text(MACHINE_GUID));
    let volume = answers.number("GetVolumeInformation/SerialNumber");
    let volume = volume.map(|serial| format!("{serial:08x}"));
    insert(Component::Volume, volume.as_deref());
    let drive = answers.bytes("IOCTL_STORAGE_QUERY_PROPERTY/StorageDeviceProperty");
    let serial = drive.and_then(storage::serial_of_a_built_in_drive);
    insert(Component::DiskSerial, serial.as_deref());

    let tables = answers.bytes("GetSystemFirmwareTable/RSMB");
    let identity = tables.and_then(smbios::parse).unwrap_or_default();
    insert(Component::BoardSerial, Some(&identity.board.serial));
    insert(Component::ProductUuid, identity.uuid.as_deref());
    let board = [&identity.board, &identity.system]
        .into_iter()
        .find_map(|unit| parse::board(&unit.vendor, &unit.name, &unit.version))
        .map(|bytes| Value::new(bytes, parse::BOARD_BITS));
    seen.insert(Component::Board, board);
    seen.insert(Component::Cpu, processor(answers));
    for interface in answers.below("GetIfTable2") {
        if let Some(address) = burnt_in(answers, interface) {
            seen.insert(Component::Nic, parse::value(Component::Nic, &address));
        }
    }
    seen
}

/// The permanent address of an interface that is a card on the board.
fn burnt_in(answers: &Answers, interface: &str) -> Option<String> {
    /// `IF_TYPE_ETHERNET_CSMACD` and `IF_TYPE_IEEE80211`.
    const TYPES: [u64; 2] = [6, 71];
    /// `CM_DEVCAP_REMOVABLE`: a card in a dock.
    const REMOVABLE: u64 = 0x4;

    let name = |name: &str| format!("GetIfTable2/{interface}/{name}");
    let kind = answers.number(&name("Type"))?;
    if !TYPES.contains(&kind) || !answers.is_set(&name("HardwareInterface")) {
        return None;
    }
    // Virtual switches, tunnels and adapters on USB are on other buses.
    let device = answers.text(&format!(
        "{CONNECTIONS}/{interface}/Connection/PnPInstanceId"
    ))?;
    let bus = device.split('\\').next()?;
    let device = device.replace('\\', "/");
    let capabilities = answers.number(&format!("{DEVICES}/{device}/Capabilities"));
    if !bus.eq_ignore_ascii_case("PCI") || capabilities? & REMOVABLE != 0 {
        return None;
    }
    address(answers.bytes(&name("PermanentPhysicalAddress"))?)
}

fn processor(answers: &Answers) -> Option<Value> {
    // Identifier holds family, model and stepping.
    let find = |name: &str| parse::label(answers.text(&format!("{PROCESSOR}/{name}"))?);
    let identifier = find("Identifier")?;
    let vendor = find("VendorIdentifier").unwrap_or_default();
    let brand = find("ProcessorNameString").unwrap_or_default();
    let bytes = parse::fields([vendor.as_str(), identifier.as_str(), brand.as_str()]);
    Some(Value::new(bytes, parse::CPU_BITS))
}
