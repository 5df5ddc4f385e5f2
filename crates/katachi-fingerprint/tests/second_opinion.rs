//! What other libraries say of this very machine.
//!
//! The processor and the board as `sysinfo` names them, and the addresses that
//! `mac_address` and `sysinfo` read, are written into a copy of what we look
//! at. The copy has to look like the original; where it is given a different
//! answer, it must not.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::path::Path;

use katachi_fingerprint::testing::Machine;
use katachi_fingerprint::{Component, Observation, Probe as _, SystemProbe};

fn look(machine: &Machine) -> Observation {
    let root = tempfile::tempdir().unwrap();
    machine.write_to(root.path()).unwrap();
    SystemProbe::with_root(root.path()).observe()
}

fn text(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[test]
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn sysinfo_names_the_same_processor() {
    use sysinfo::{CpuRefreshKind, RefreshKind, System};
    let kind = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing());
    let system = System::new_with_specifics(kind).unwrap();
    let theirs = &system.cpus()[0];
    assert!(!theirs.brand().is_empty() && !theirs.vendor_id().is_empty());

    // Family, model and stepping it does not know.
    let cpuinfo = text("/proc/cpuinfo").unwrap();
    let number = |wanted: &str| {
        let line = cpuinfo.lines().find(|line| {
            line.split_once(':')
                .is_some_and(|(key, _)| key.trim() == wanted)
        });
        line.unwrap().to_owned()
    };
    let named = |brand: &str| {
        let description = format!(
            "vendor_id\t: {}\nmodel name\t: {brand}\n{}\n{}\n{}\n",
            theirs.vendor_id(),
            number("cpu family"),
            number("model"),
            number("stepping"),
        );
        look(&Machine::default().file("/proc/cpuinfo", &description))
    };
    let ours = SystemProbe::new().observe();
    let part = Component::Cpu;
    assert!(ours.reading(part).is_some());
    assert_eq!(named(theirs.brand()).reading(part), ours.reading(part));
    assert_ne!(named("another").reading(part), ours.reading(part));
}

#[test]
fn sysinfo_names_the_same_board_or_none_either() {
    let mut copy = Machine::default();
    let mut say = |name: &str, said: Option<String>| {
        if let Some(said) = said {
            copy = std::mem::take(&mut copy).file(&format!("/sys/class/dmi/id/{name}"), &said);
        }
    };
    if let Ok(board) = sysinfo::Motherboard::new() {
        say("board_vendor", board.vendor_name());
        say("board_name", board.name());
        say("board_version", board.version());
    }
    say("sys_vendor", sysinfo::Product::vendor_name().ok());
    say("product_name", sysinfo::Product::name().ok());
    say("product_version", sysinfo::Product::version().ok());
    let ours = SystemProbe::new().observe();
    // A device tree describes the board where there is no DMI.
    if Path::new("/sys/class/dmi/id").exists() || !Path::new("/sys/firmware/devicetree").exists() {
        let part = Component::Board;
        assert_eq!(look(&copy).reading(part), ours.reading(part));
    }
}

#[test]
fn mac_address_and_sysinfo_read_the_same_addresses() {
    let networks = sysinfo::Networks::new_with_refreshed_list().unwrap();
    let class = Path::new("/sys/class/net");
    let mut burnt_in = Vec::new();
    let mut compared = 0;
    for entry in std::fs::read_dir(class).unwrap() {
        let name = entry.unwrap().file_name();
        let interface = class.join(&name);
        let says = |file: &str| text(interface.join(file)).map(|text| text.trim().to_owned());
        // Ethernet and the loopback; others have longer or shorter addresses.
        if !matches!(says("type").as_deref(), Some("1" | "772")) {
            continue;
        }
        let ours = says("address").unwrap();
        let named = mac_address::mac_address_by_name(name.to_str().unwrap());
        let Some(theirs) = named.unwrap() else {
            continue;
        };
        assert_eq!(theirs.to_string().to_lowercase(), ours, "{name:?}");
        assert_eq!(networks[&name].mac_address().to_string(), ours, "{name:?}");
        compared += 1;
        let is_plain = says("addr_assign_type").as_deref() == Some("0")
            && interface.join("device").exists()
            && !interface.join("device/physfn").exists()
            && !interface.join("phy80211").exists()
            && !interface.join("bonding_slave").exists()
            && says("device/removable").as_deref() != Some("removable")
            && !text_of_link(&interface).contains("/usb");
        if is_plain {
            burnt_in.push(theirs.to_string());
        }
    }
    assert!(compared > 0, "a machine has at least its loopback");
    // With nothing but plain cards, theirs are exactly what we bind to.
    let every_card_is_plain = std::fs::read_dir(class).unwrap().all(|entry| {
        let interface = entry.unwrap().path();
        !interface.join("phy80211").exists() && !interface.join("bonding_slave").exists()
    });
    if every_card_is_plain {
        let theirs = burnt_in.iter().map(|text| (Component::Nic, text.as_str()));
        assert_eq!(
            Observation::from_pairs(theirs).reading(Component::Nic),
            SystemProbe::new().observe().reading(Component::Nic)
        );
    }
}

fn text_of_link(path: &Path) -> String {
    let target = std::fs::read_link(path).unwrap();
    target.to_string_lossy().into_owned()
}
