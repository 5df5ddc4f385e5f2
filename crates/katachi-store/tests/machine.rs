//! A vault bound by real fingerprints of fake machines.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot set up fails loudly")]

use katachi_fingerprint::testing::Machine;
use katachi_fingerprint::{Component, Observation, Probe as _, SystemProbe};
use katachi_store::Vault;
use katachi_store::binding::{BindingError, FingerprintBinding, Strength};
use katachi_store::testing::MemoryKeychain;
use katachi_store::vault::{Builder, Healing, SlotFailure, SlotKind, VaultError};

/// What a thief can take: the vault, the secret files and the keychain.
struct Loot {
    home: tempfile::TempDir,
    keychain: MemoryKeychain,
}

impl Loot {
    fn of(machine: &Machine) -> Self {
        let loot = Self {
            home: tempfile::tempdir().unwrap(),
            keychain: MemoryKeychain::new(),
        };
        loot.on(machine).create().unwrap();
        loot
    }

    /// The same files, on `machine`.
    fn on(&self, machine: &Machine) -> Builder {
        Vault::builder(self.home.path().join("vault"))
            .binding(FingerprintBinding::with_probe(look(machine)))
            .keychain(self.keychain.clone())
            .file_slot(self.home.path().join("secrets"))
    }

    fn is_refused(&self, machine: &Machine) -> Vec<String> {
        let VaultError::NoUsableSlot { tried } = self.on(machine).open().unwrap_err() else {
            panic!("refused for another reason");
        };
        let mut different = Vec::new();
        for slot in &tried {
            let SlotFailure::Binding(BindingError::WrongMachine { changed, .. }) = &slot.why else {
                panic!("{slot}");
            };
            different.clone_from(changed);
        }
        assert_eq!(tried.len(), 2);
        different
    }
}

fn look(machine: &Machine) -> Observation {
    let root = tempfile::tempdir().unwrap();
    machine.write_to(root.path()).unwrap();
    SystemProbe::with_root(root.path()).observe()
}

#[test]
fn a_copied_home_opens_on_no_other_machine_and_says_what_did_not_match() {
    let machines = [
        Machine::laptop(),
        Machine::server(),
        Machine::cloud(),
        Machine::single_board(),
    ];
    for (index, own) in machines.iter().enumerate() {
        let loot = Loot::of(own);
        for (other_index, other) in machines.iter().enumerate() {
            if index != other_index {
                let different = loot.is_refused(other);
                assert!(different.len() >= 2, "{different:?}");
            }
        }
        assert_eq!(
            loot.on(own).open().unwrap().report().slot.kind,
            SlotKind::Keychain
        );
    }
}

#[test]
fn each_part_may_change_and_is_named() {
    let changes = [
        (
            "machine id",
            "8f0e2f6d5c3b4a7990e1b7d2c4f6a813",
            "11112f6d5c3b4a7990e1b7d2c4f6a813",
        ),
        (
            "volume",
            "5d2a90c1-36c3-4d0e-a7a5-3f2f3a0b6e11",
            "1111aaaa-36c3-4d0e-a7a5-3f2f3a0b6e11",
        ),
        ("drive", "S4EWNX0R123456", "S4EWNX0R999999"),
        ("board", "20XWCTO1WW", "20XWCTO9WW"),
        ("processor", "model\t\t: 140", "model\t\t: 154"),
    ];
    for (part, from, to) in changes {
        let loot = Loot::of(&Machine::laptop());
        let changed = Machine::laptop().replacing(from, to);
        let vault = loot
            .on(&changed)
            .open()
            .unwrap_or_else(|error| panic!("{part}: {error}"));
        assert_eq!(
            vault.report().drift.len(),
            1,
            "{part}: {:?}",
            vault.report().drift
        );
        assert_eq!(vault.report().healing, Healing::Done, "{part}");
        drop(vault);
        let vault = loot.on(&changed).open().unwrap();
        assert!(
            vault.report().drift.is_empty(),
            "{part}: {:?}",
            vault.report().drift
        );
    }
}

#[test]
fn what_is_no_part_of_the_machine_has_no_effect() {
    let loot = Loot::of(&Machine::laptop());
    let elsewhere = Machine::laptop()
        .file("/etc/hostname", "renamed")
        .file("/tmp/x", "y");
    let report = loot.on(&elsewhere).open().unwrap().report().clone();
    assert!(report.drift.is_empty(), "{:?}", report.drift);
    assert_eq!(report.healing, Healing::NotNeeded);
}

#[test]
fn a_copied_image_and_a_moved_drive_stay_closed_even_with_the_keychain() {
    let own = Machine::laptop();
    let loot = Loot::of(&own);
    let other_hardware = [
        ("20XWCTO1WW", "X570 AORUS"),
        ("SDK0J40697 WIN", "x.x"),
        ("LENOVO", "Gigabyte"),
        ("GenuineIntel", "AuthenticAMD"),
        ("model\t\t: 140", "model\t\t: 33"),
    ];
    // The drive itself in another computer: image and drive are as they were.
    let moved = other_hardware
        .iter()
        .fold(own.without("/sys/class/net"), |machine, (from, to)| {
            machine.replacing(from, to)
        });
    loot.is_refused(&moved);
    // An image of it, on another drive.
    loot.is_refused(&moved.replacing("S4EWNX0R123456", "WD-WX12345"));
}

#[test]
fn every_drive_stays_closed_in_another_computer_even_with_the_keychain() {
    for (name, own) in [
        ("laptop", Machine::laptop()),
        ("server", Machine::server()),
        ("single board", Machine::single_board()),
        ("cloud", Machine::cloud()),
        ("microVM", Machine::microvm()),
    ] {
        let moved = own
            .clone()
            .without("/sys/class/net")
            .without("/sys/class/dmi")
            .without("/sys/firmware")
            .file("/sys/class/dmi/id/board_vendor", "Gigabyte\n")
            .file("/sys/class/dmi/id/board_name", "X570 AORUS\n")
            .file(
                "/proc/cpuinfo",
                "vendor_id\t: AuthenticAMD\ncpu family\t: 23\nmodel\t\t: 113\n\
                 model name\t: AMD Ryzen 9 3900X\nstepping\t: 0\n",
            );
        let loot = Loot::of(&own);
        let different = loot.is_refused(&moved);
        assert!(!different.is_empty(), "{name}");
        // The control: it is the board that was missed, and the slots are whole.
        loot.on(&own).open().unwrap();
        // What went with the drive is as it was.
        let (before, after) = (look(&own), look(&moved));
        for part in [
            Component::MachineId,
            Component::Volume,
            Component::DiskSerial,
        ] {
            assert_eq!(before.reading(part), after.reading(part), "{name}: {part}");
        }
    }
}

#[test]
fn a_machine_with_next_to_nothing_says_so() {
    for machine in [Machine::container(), Machine::microvm()] {
        let loot = Loot::of(&machine);
        loot.keychain.clear();
        let vault = loot.on(&machine).open().unwrap();
        let report = vault.report();
        assert_eq!(report.slot.kind, SlotKind::File);
        let strength = report.strength.unwrap();
        assert!(strength.moved_drive < Strength::FLOOR_BITS, "{strength}");
        assert!(report.is_copy_deterrent());
    }
}

#[test]
fn a_machine_with_nothing_at_all_is_not_bound_in_silence() {
    let empty = tempfile::tempdir().unwrap();
    let binding = FingerprintBinding::with_probe(SystemProbe::with_root(empty.path()));
    let home = tempfile::tempdir().unwrap();
    let error = Vault::builder(home.path().join("vault"))
        .binding(binding)
        .file_slot(home.path().join("secrets"))
        .create()
        .unwrap_err();
    assert!(
        matches!(error, VaultError::Binding(BindingError::TooWeak { .. })),
        "{error}"
    );
    assert!(!home.path().join("vault/vault").exists());
}

#[test]
fn this_very_machine_is_recognised() {
    let home = tempfile::tempdir().unwrap();
    let builder = || {
        Vault::builder(home.path().join("vault"))
            .binding(FingerprintBinding::system_with_volume_of(home.path()))
            .file_slot(home.path().join("secrets"))
    };
    match builder().create() {
        Ok(_) => {
            let vault = builder().open().unwrap();
            assert!(
                vault.report().drift.is_empty(),
                "{:?}",
                vault.report().drift
            );
        }
        Err(VaultError::Binding(BindingError::TooWeak { .. })) => {}
        Err(error) => panic!("{error}"),
    }
}
