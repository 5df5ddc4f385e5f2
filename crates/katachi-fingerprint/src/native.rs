//! Readings on macOS and Windows, by way of `sysinfo` and `mac_address`.
//!
//! Neither tells a built-in network interface from one that can be unplugged.
//! Addresses that software made are filtered out all the same, and several
//! interfaces stand for each other, so a dock costs a re-enrolment and no data.
//! There is no machine id of the installation here: what macOS calls its host
//! UUID is the board's, and counts as such.

use mac_address::MacAddressIterator;
use sysinfo::{CpuRefreshKind, Motherboard, Product, System};

use crate::component::Component;
use crate::observation::{Observation, Value};
use crate::parse;

pub(crate) fn observe() -> Observation {
    let mut seen = Observation::new();
    let motherboard = Motherboard::new().ok();
    let serial = motherboard
        .as_ref()
        .and_then(Motherboard::serial_number)
        .or_else(|| Product::serial_number().ok());
    for (component, text) in [
        (Component::BoardSerial, serial),
        (Component::ProductUuid, Product::uuid().ok()),
    ] {
        let value = text.and_then(|text| parse::value(component, &text));
        seen.insert(component, value);
    }
    for address in MacAddressIterator::new().into_iter().flatten() {
        let value = parse::value(Component::Nic, &address.to_string());
        seen.insert(Component::Nic, value);
    }
    seen.insert(Component::Board, board(motherboard.as_ref()));
    seen.insert(Component::Cpu, processor());
    seen
}

fn board(motherboard: Option<&Motherboard>) -> Option<Value> {
    let described = motherboard.and_then(|board| {
        parse::board(
            &board.vendor_name().unwrap_or_default(),
            &board.name()?,
            &board.version().unwrap_or_default(),
        )
    });
    let bytes = described.or_else(|| {
        parse::board(
            &Product::vendor_name().unwrap_or_default(),
            &Product::name().ok()?,
            &Product::version().unwrap_or_default(),
        )
    })?;
    Some(Value::new(bytes, parse::BOARD_BITS))
}

fn processor() -> Option<Value> {
    let mut system = System::new().ok()?;
    system.refresh_cpu_list(CpuRefreshKind::nothing());
    let first = system.cpus().first()?;
    let brand = parse::label(first.brand())?;
    let vendor = parse::label(first.vendor_id()).unwrap_or_default();
    let bytes = parse::fields([vendor.as_str(), brand.as_str()]);
    Some(Value::new(bytes, parse::CPU_BITS))
}
