//! Readings on macOS and Windows, by way of `sysinfo` and `mac_address`.
//!
//! Neither tells a built-in network interface from one that can be unplugged
//! or that a hypervisor made. Addresses that software made are filtered out,
//! and so are the vendors that hypervisors use for the adapters they add to
//! their host; several interfaces stand for each other, so a dock costs a
//! re-enrolment and no data. There is no machine id of the installation here:
//! what macOS calls its host UUID is the board's, and counts as such.

use crate::component::Component;
use crate::observation::{Observation, Value};
use crate::parse;

/// What the system says, as it says it.
#[derive(Default)]
struct Readings {
    serials: Vec<String>,
    uuid: Option<String>,
    addresses: Vec<String>,
    /// Vendor, name and version of the board, then of the product.
    models: Vec<[String; 3]>,
    processor: Option<[String; 2]>,
}

/// Looks at this machine.
#[cfg(any(target_os = "macos", windows))]
pub(crate) fn observe() -> Observation {
    observation(&read())
}

/// Turns what the system says into an observation.
fn observation(readings: &Readings) -> Observation {
    let mut seen = Observation::new();
    let serials = readings.serials.iter();
    let mut serials = serials.filter_map(|text| parse::value(Component::BoardSerial, text));
    seen.insert(Component::BoardSerial, serials.next());
    let uuid = readings.uuid.as_deref();
    let uuid = uuid.and_then(|text| parse::value(Component::ProductUuid, text));
    seen.insert(Component::ProductUuid, uuid);
    for address in &readings.addresses {
        let made_by_a_hypervisor = HYPERVISORS.iter().any(|vendor| {
            address
                .to_ascii_lowercase()
                .replace('-', ":")
                .starts_with(vendor)
        });
        if !made_by_a_hypervisor {
            seen.insert(Component::Nic, parse::value(Component::Nic, address));
        }
    }
    let board = readings
        .models
        .iter()
        .find_map(|[vendor, name, version]| parse::board(vendor, name, version))
        .map(|bytes| Value::new(bytes, parse::BOARD_BITS));
    seen.insert(Component::Board, board);
    let processor = readings.processor.as_ref().and_then(|[vendor, brand]| {
        let brand = parse::label(brand)?;
        let vendor = parse::label(vendor).unwrap_or_default();
        let bytes = parse::fields([vendor.as_str(), brand.as_str()]);
        Some(Value::new(bytes, parse::CPU_BITS))
    });
    seen.insert(Component::Cpu, processor);
    seen
}

/// Hyper-V, VMware (three), VirtualBox, Parallels, Xen.
const HYPERVISORS: [&str; 7] = [
    "00:15:5d", "00:50:56", "00:0c:29", "00:05:69", "08:00:27", "00:1c:42", "00:16:3e",
];

#[cfg(any(target_os = "macos", windows))]
fn read() -> Readings {
    use mac_address::MacAddressIterator;
    use sysinfo::{CpuRefreshKind, Motherboard, Product, System};

    let board = Motherboard::new().ok();
    let board = board.as_ref();
    let serials = [
        board.and_then(Motherboard::serial_number),
        Product::serial_number().ok(),
    ];
    let text = |text: Option<String>| text.unwrap_or_default();
    let processor = System::new().ok().and_then(|mut system| {
        system.refresh_cpu_list(CpuRefreshKind::nothing());
        let first = system.cpus().first()?;
        Some([first.vendor_id().to_owned(), first.brand().to_owned()])
    });
    Readings {
        serials: serials.into_iter().flatten().collect(),
        uuid: Product::uuid().ok(),
        addresses: MacAddressIterator::new()
            .into_iter()
            .flatten()
            .map(|address| address.to_string())
            .collect(),
        models: vec![
            [
                text(board.and_then(Motherboard::vendor_name)),
                text(board.and_then(Motherboard::name)),
                text(board.and_then(Motherboard::version)),
            ],
            [
                text(Product::vendor_name().ok()),
                text(Product::name().ok()),
                text(Product::version().ok()),
            ],
        ],
        processor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Component::{Board, BoardSerial, Cpu, Nic, ProductUuid};

    fn texts<const N: usize>(texts: [&str; N]) -> [String; N] {
        texts.map(str::to_owned)
    }

    /// A portable Mac: no board of its own name, a private Wi-Fi address, the
    /// bridge of its Thunderbolt ports.
    fn mac() -> Readings {
        Readings {
            serials: texts(["C02G8XYZMD6T"]).to_vec(),
            uuid: Some("5F3A9C1E-7B42-5D8F-A061-9E2B4C7D1A36".to_owned()),
            addresses: texts([
                "F0:18:98:4A:2C:71",
                "36:6E:C1:00:9A:04",
                "82:15:06:5F:30:40",
            ])
            .to_vec(),
            models: vec![
                texts(["", "", ""]),
                texts(["Apple Inc.", "MacBookPro18,3", ""]),
            ],
            processor: Some(texts(["Apple", "Apple M1 Pro"])),
        }
    }

    /// A home-built Windows computer: placeholders for serial numbers, a
    /// virtual switch, adapters that a hypervisor added.
    fn windows() -> Readings {
        Readings {
            serials: texts(["Default string", "System Serial Number"]).to_vec(),
            uuid: Some("03000200-0400-0500-0006-000700080009".to_owned()),
            addresses: texts([
                "B4-2E-99-4C-D7-10",
                "00-15-5D-8E-21-00",
                "00-50-56-C0-00-08",
                "0A-00-27-00-00-0C",
            ])
            .to_vec(),
            models: vec![texts([
                "Gigabyte Technology Co., Ltd.",
                "X570 AORUS PRO",
                "Default string",
            ])],
            processor: Some(texts([
                "AuthenticAMD",
                "AMD Ryzen 9 3900X 12-Core Processor            ",
            ])),
        }
    }

    #[test]
    fn a_mac_shows_its_board_and_its_wired_address() {
        let seen = observation(&mac());
        assert_eq!(
            seen.components().collect::<Vec<_>>(),
            [Nic, Board, Cpu, BoardSerial, ProductUuid]
        );
        assert_eq!(seen.reading(Nic).unwrap().count(), 1);
    }

    #[test]
    fn placeholders_and_hypervisors_leave_no_trace_on_windows() {
        let seen = observation(&windows());
        assert_eq!(seen.components().collect::<Vec<_>>(), [Nic, Board, Cpu]);
        assert_eq!(seen.reading(Nic).unwrap().count(), 1);
        let mut without = windows();
        without.addresses.truncate(1);
        assert_eq!(observation(&without), seen);
    }

    #[test]
    fn order_of_adapters_does_not_matter() {
        for mut readings in [mac(), windows()] {
            let seen = observation(&readings);
            readings.addresses.reverse();
            assert_eq!(observation(&readings), seen);
        }
    }

    #[test]
    fn a_system_that_says_nothing_shows_nothing() {
        assert!(observation(&Readings::default()).is_empty());
    }
}
