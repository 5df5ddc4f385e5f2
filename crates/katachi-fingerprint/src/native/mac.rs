//! What a Mac answers.
//!
//! | name | where it comes from |
//! |---|---|
//! | `IOPlatformExpertDevice/…` | the I/O registry's entry for the computer |
//! | `IOEthernetInterface/en0/…` | each network interface and its controller |
//! | `IOMedia/…` | the volume of the data, and the drive above it in the registry |
//! | `sysctl/machdep.cpu.…` | the processor |
//!
//! What macOS calls its platform UUID belongs to the computer and not to the
//! installation: a copied disk does not bring it along, so it is the product's
//! UUID here. There is no machine id of the installation; the volume takes its
//! part.

use super::{Answers, address};
use crate::component::Component;
use crate::observation::{Observation, Value};
use crate::parse;

/// Turns what the system answers into an observation.
pub(crate) fn observation(answers: &Answers) -> Observation {
    let mut seen = Observation::new();
    let platform = |name: &str| answers.text(&format!("IOPlatformExpertDevice/{name}"));
    let mut insert = |component, text: Option<&str>| {
        let value = text.and_then(|text| parse::value(component, text));
        seen.insert(component, value);
    };
    insert(Component::ProductUuid, platform("IOPlatformUUID"));
    insert(Component::BoardSerial, platform("IOPlatformSerialNumber"));
    insert(Component::Volume, answers.text("IOMedia/UUID"));
    insert(Component::DiskSerial, drive(answers));

    let vendor = platform("manufacturer").unwrap_or_default();
    let model = platform("model").unwrap_or_default();
    let board = parse::board(vendor, model, "");
    let board = board.map(|bytes| Value::new(bytes, parse::BOARD_BITS));
    seen.insert(Component::Board, board);
    seen.insert(Component::Cpu, processor(answers));
    for interface in answers.below("IOEthernetInterface") {
        let name = |name: &str| format!("IOEthernetInterface/{interface}/{name}");
        // Docks and adapters are not built in; a Thunderbolt port is and has an
        // address that software made.
        if answers.is_set(&name("IOBuiltin"))
            && let Some(address) = answers.bytes(&name("IOMACAddress")).and_then(address)
        {
            seen.insert(Component::Nic, parse::value(Component::Nic, &address));
        }
    }
    seen
}

/// The serial number of a drive inside the computer.
fn drive(answers: &Answers) -> Option<&str> {
    let place = answers.text("IOMedia/Protocol Characteristics/Physical Interconnect Location")?;
    // "External" is on a cable and "File" is a disk image.
    let serial = answers.text("IOMedia/Device Characteristics/Serial Number")?;
    (place == "Internal").then_some(serial)
}

fn processor(answers: &Answers) -> Option<Value> {
    let vendor = answers
        .text("sysctl/machdep.cpu.vendor")
        .unwrap_or_default();
    let brand = parse::label(answers.text("sysctl/machdep.cpu.brand_string")?)?;
    let vendor = parse::label(vendor).unwrap_or_default();
    let bytes = parse::fields([vendor.as_str(), brand.as_str()]);
    Some(Value::new(bytes, parse::CPU_BITS))
}
