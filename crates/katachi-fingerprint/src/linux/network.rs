//! Burnt-in addresses of built-in network interfaces.
//!
//! An interface counts if it is Ethernet or Wi-Fi on a bus that cannot be
//! unplugged and its manufacturer's address is known. The address in use often
//! is another one: Wi-Fi wears random ones, the members of a bond all wear the
//! bond's. The kernel remembers the real one for both.

use std::path::Path;

use super::{Tree, is_usb, is_virtual};
use crate::component::Component;
use crate::observation::Observation;
use crate::parse;

pub(super) fn observe(tree: &Tree<'_>, seen: &mut Observation) {
    let class = Path::new("sys/class/net");
    for name in tree.names(class) {
        if let Some(address) = burnt_in(tree, &class.join(name)) {
            seen.insert(Component::Nic, parse::value(Component::Nic, &address));
        }
    }
}

fn burnt_in(tree: &Tree<'_>, interface: &Path) -> Option<String> {
    // Bridges, bonds, tunnels, containers' ends: all below devices/virtual.
    let device = tree.link(interface)?;
    if is_virtual(&device) || is_usb(&device) {
        return None;
    }
    let says = |name: &str, expected: &str| {
        tree.text(interface.join(name))
            .is_some_and(|text| text.trim() == expected)
    };
    // 1 is ARPHRD_ETHER, which Wi-Fi is as well.
    if !says("type", "1") || !tree.exists(interface.join("device")) {
        return None;
    }
    // Docks on Thunderbolt are PCI devices that the kernel marks removable;
    // virtual functions of a card have addresses that software hands out.
    if says("device/removable", "removable") || tree.exists(interface.join("device/physfn")) {
        return None;
    }
    if let Some(address) = tree.text(interface.join("phy80211/macaddress")) {
        return Some(address);
    }
    if let Some(address) = tree.text(interface.join("bonding_slave/perm_hwaddr")) {
        return Some(address);
    }
    // 0 is NET_ADDR_PERM; random, stolen and set addresses are not ours.
    if !says("addr_assign_type", "0") {
        return None;
    }
    tree.text(interface.join("address"))
}
