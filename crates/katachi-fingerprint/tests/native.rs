//! Macs and Windows computers, by captures of what they answer.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use Component::{Board, BoardSerial, Cpu, DiskSerial, MachineId, Nic, ProductUuid, Volume};
use katachi_fingerprint::testing::Machine;
use katachi_fingerprint::{Change, Component, Drift, Enrollment, Observation};

fn parts(seen: &Observation) -> Vec<Component> {
    seen.components().collect()
}

fn bits(seen: &Observation, part: Component) -> u8 {
    seen.reading(part).unwrap().bits()
}

#[test]
fn a_mac_shows_its_board_its_drive_and_its_built_in_address() {
    let seen = Machine::mac().look().unwrap();
    assert_eq!(
        parts(&seen),
        [
            Volume,
            DiskSerial,
            Nic,
            Board,
            Cpu,
            BoardSerial,
            ProductUuid
        ]
    );
    assert_eq!(seen.reading(Nic).unwrap().count(), 1);
}

#[test]
fn placeholders_leave_no_trace_on_windows() {
    let seen = Machine::windows_desktop().look().unwrap();
    assert_eq!(
        parts(&seen),
        [MachineId, Volume, DiskSerial, Nic, Board, Cpu]
    );
    assert_eq!(bits(&seen, Volume), 32);
}

#[test]
fn whole_firmware_tables_give_serial_number_and_uuid() {
    let seen = Machine::windows_laptop().look().unwrap();
    assert_eq!(
        parts(&seen),
        [
            MachineId,
            Volume,
            DiskSerial,
            Nic,
            Board,
            Cpu,
            BoardSerial,
            ProductUuid
        ]
    );
    // The UUID holds the serial number in disguise and is worth no more.
    assert_eq!(bits(&seen, ProductUuid), 30);
}

#[test]
fn docks_adapters_and_virtual_switches_leave_no_trace() {
    let mac = Machine::mac();
    let usual = mac.look().unwrap();
    for change in [
        mac.clone().without("/IOEthernetInterface/en7"),
        mac.clone().without("/IOEthernetInterface/en1"),
        mac.replacing("366ec1009a04", "8215065f3040"),
    ] {
        assert_eq!(change.look().unwrap(), usual);
    }

    let desktop = Machine::windows_desktop();
    let usual = desktop.look().unwrap();
    assert_eq!(usual.reading(Nic).unwrap().count(), 1);
    for guid in ["1A0C9D7E", "2B1D0E8F", "3C2E1F90", "4D3F20A1"] {
        let entry = desktop
            .clone()
            .replacing_names(guid, &guid.replace(char::is_numeric, "F"));
        assert_eq!(entry.look().unwrap(), usual, "{guid} has another name");
        let text = format!("{desktop:?}");
        let start = text.find(&format!("/GetIfTable2/{{{guid}")).unwrap();
        let name = &text[start..start + "/GetIfTable2/{}".len() + 36];
        let gone = desktop.clone().without(name);
        assert_ne!(gone, desktop);
        assert_eq!(gone.look().unwrap(), usual, "{guid} is unplugged");
    }
    // The control: the interface of the board itself is seen to go.
    let gone = desktop.without("/GetIfTable2/{8E2F6D5C-3B4A-4799-90E1-B7D2C4F6A813}");
    assert!(gone.look().unwrap().reading(Nic).is_none());
}

#[test]
fn a_drive_on_a_cable_does_not_count() {
    let external = Machine::mac().replacing("\"Internal\"", "\"External\"");
    assert!(external.look().unwrap().reading(DiskSerial).is_none());
}

#[test]
fn each_single_change_opens_and_is_named() {
    let other_board = |from: &str, to: &str| {
        let hex = |text: &str| -> String { text.bytes().map(|b| format!("{b:02x}")).collect() };
        (hex(from), hex(to))
    };
    let (mac_model, other_model) = other_board("Pro18,3", "Pro18,4");
    let mac = [
        (Volume, "0E7F3B52", "1E7F3B52"),
        (DiskSerial, "0ba0122a4c91e61e", "0ba0122a4c91ffff"),
        (Nic, "f018984a2c71", "f018984a9999"),
        (Board, &mac_model, &other_model),
        (Cpu, "M1 Pro", "M1 Max"),
        (BoardSerial, "C02G8XYZMD6T", "C02G8XYZMD6X"),
        (ProductUuid, "5F3A9C1E", "6F3A9C1E"),
    ];
    let windows = [
        (MachineId, "7b1e4c90", "8b1e4c90"),
        (Volume, "2763463689", "2763463690"),
        (Nic, "14755b9c20e7", "14755b9c9999"),
        (Cpu, "Model 154", "Model 186"),
    ];
    for (machine, changes) in [
        (Machine::mac(), &mac[..]),
        (Machine::windows_laptop(), &windows[..]),
    ] {
        for (part, from, to) in changes {
            let (secret, enrollment) = Enrollment::enroll(&machine.look().unwrap()).unwrap();
            let today = machine.clone().replacing(from, to).look().unwrap();
            let recovery = enrollment
                .recover(&today, |guess| *guess == secret)
                .unwrap();
            let expected = Drift {
                component: *part,
                change: Change::Changed,
            };
            assert_eq!(recovery.drift, [expected]);
            let (fresh_secret, fresh) = enrollment.renew(&today, &recovery).unwrap();
            let again = fresh
                .recover(&today, |guess| *guess == fresh_secret)
                .unwrap();
            assert!(again.drift.is_empty());
        }
    }
}

#[test]
fn one_system_never_opens_what_another_bound() {
    for (name, enrolled) in Machine::all() {
        if cfg!(windows) && !name.contains("Windows") && name != "Mac" {
            continue;
        }
        let seen = enrolled.look().unwrap();
        let (secret, enrollment) = Enrollment::enroll(&seen).unwrap();
        for other in [
            Machine::mac(),
            Machine::windows_desktop(),
            Machine::windows_laptop(),
        ] {
            let opened = enrollment.recover(&other.look().unwrap(), |guess| *guess == secret);
            assert_eq!(opened.is_ok(), other == enrolled, "{name}");
        }
    }
}
