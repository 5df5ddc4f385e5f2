//! Enrolled once, then met again on the same, a repaired and another machine.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use Component::{Board, BoardSerial, Cpu, DiskSerial, MachineId, Nic, Volume};
use katachi_fingerprint::testing::Machine;
use katachi_fingerprint::{
    Change, Component, Drift, Enrollment, FLOOR_BITS, MOST_VERIFICATIONS, Observation, Probe,
    Recovery, SystemProbe, WrongMachine,
};
use proptest::prelude::*;

fn look(machine: &Machine) -> Observation {
    let directory = tempfile::tempdir().unwrap();
    machine.write_to(directory.path()).unwrap();
    SystemProbe::with_root(directory.path()).observe()
}

/// Enrols on one machine and tries to open on another.
fn meet(enrolled: &Machine, today: &Machine) -> Result<Recovery, WrongMachine> {
    let (secret, enrollment) = Enrollment::enroll(&look(enrolled)).unwrap();
    let today = look(today);
    let recovery = enrollment.recover(&today, |guess| *guess == secret)?;
    assert_eq!(recovery.secret, secret);
    if recovery.reenroll {
        heals(&enrollment, &today, &recovery);
    }
    Ok(recovery)
}

/// After re-enrolment the same machine opens at once and shows no drift but
/// what is missing.
fn heals(enrollment: &Enrollment, today: &Observation, recovery: &Recovery) {
    let (secret, fresh) = enrollment.renew(today, recovery).unwrap();
    assert_ne!(secret, recovery.secret);
    let mut tries = 0;
    let again = fresh
        .recover(today, |guess| {
            tries += 1;
            *guess == secret
        })
        .unwrap();
    assert_eq!(tries, 1);
    assert!(!again.reenroll, "{:?}", again.drift);
    for enrolled in enrollment.components() {
        assert!(
            fresh.components().any(|part| part == enrolled),
            "{enrolled} was dropped"
        );
    }
}

fn changed(component: Component) -> Drift {
    Drift {
        component,
        change: Change::Changed,
    }
}

fn laptop_with_other_board(laptop: &Machine) -> Machine {
    laptop.clone().replacing("20XWCTO1WW", "21CBCTO1WW")
}

fn laptop_with_other_network(laptop: &Machine) -> Machine {
    laptop
        .clone()
        .replacing("54:e1:ad:3b:7c:92", "8c:8c:aa:11:90:4d")
        .replacing("94:e6:f7:51:c8:0d", "f8:e4:e3:0b:71:66")
}

/// Another computer of another make, with the laptop's drive inside.
fn other_computer_with_the_drive(laptop: &Machine) -> Machine {
    laptop_with_other_network(&laptop_with_other_board(laptop))
        .replacing("model\t\t: 140", "model\t\t: 154")
        .replacing("i7-1165G7 @ 2.80GHz", "i7-1260P")
}

/// Another computer onto whose drive the image was copied.
fn other_computer_with_the_image(laptop: &Machine) -> Machine {
    other_computer_with_the_drive(laptop).replacing("S4EWNX0R123456", "21407A5C9E13")
}

#[test]
fn opens_at_the_first_try_on_the_same_machine() {
    for machine in [
        Machine::laptop(),
        Machine::server(),
        Machine::container(),
        Machine::cloud(),
        Machine::microvm(),
        Machine::single_board(),
    ] {
        let seen = look(&machine);
        let (secret, enrollment) = Enrollment::enroll(&seen).unwrap();
        let mut tries = 0;
        let recovery = enrollment
            .recover(&seen, |guess| {
                tries += 1;
                *guess == secret
            })
            .unwrap();
        assert_eq!(tries, 1);
        assert_eq!(recovery.matched, seen.components().collect::<Vec<_>>());
        assert!(recovery.drift.is_empty() && !recovery.reenroll);
    }
}

#[test]
fn each_single_change_opens_heals_and_is_named() {
    let laptop = Machine::laptop();
    for (part, repaired) in [
        (
            MachineId,
            laptop.clone().replacing(
                "8f0e2f6d5c3b4a7990e1b7d2c4f6a813",
                "1f0e2f6d5c3b4a7990e1b7d2c4f6a811",
            ),
        ),
        (
            Volume,
            laptop.clone().replacing("5d2a90c1-36c3", "aaaa90c1-36c3"),
        ),
        (
            DiskSerial,
            laptop.clone().replacing("S4EWNX0R123456", "21407A5C9E13"),
        ),
        (Nic, laptop_with_other_network(&laptop)),
        (Board, laptop_with_other_board(&laptop)),
        (
            Cpu,
            laptop.clone().replacing("model\t\t: 140", "model\t\t: 154"),
        ),
    ] {
        let recovery = meet(&laptop, &repaired).unwrap_or_else(|error| panic!("{part}: {error}"));
        assert_eq!(recovery.drift, [changed(part)]);
        assert!(recovery.reenroll);
        assert!(!recovery.matched.contains(&part));
        assert_eq!(recovery.matched.len(), 5);
    }
}

#[test]
fn each_single_part_of_every_machine_may_go_missing() {
    for machine in [
        Machine::laptop(),
        Machine::server(),
        Machine::cloud(),
        Machine::single_board(),
    ] {
        let seen = look(&machine);
        for part in seen.components() {
            let (secret, enrollment) = Enrollment::enroll(&seen).unwrap();
            let rest = without(&machine, &seen, part);
            let recovery = enrollment.recover(&rest, |guess| *guess == secret).unwrap();
            assert_eq!(
                recovery.drift,
                [Drift {
                    component: part,
                    change: Change::Missing
                }]
            );
            assert!(!recovery.reenroll, "absence alone is no reason");
        }
    }
}

#[test]
fn a_part_is_indispensable_exactly_if_its_loss_closes_the_data() {
    for (machine, expected) in [
        (Machine::laptop(), vec![]),
        (Machine::server(), vec![]),
        (Machine::cloud(), vec![]),
        (Machine::single_board(), vec![]),
        (Machine::microvm(), vec![MachineId, Cpu]),
        (Machine::container(), vec![Cpu]),
    ] {
        let seen = look(&machine);
        let (secret, enrollment) = Enrollment::enroll(&seen).unwrap();
        assert_eq!(enrollment.indispensable(), expected);
        for part in seen.components() {
            let rest = without(&machine, &seen, part);
            let opened = enrollment.recover(&rest, |guess| *guess == secret);
            assert_eq!(opened.is_err(), expected.contains(&part), "{part}");
        }
    }
}

/// The machine as seen on a day when `part` cannot be read.
fn without(machine: &Machine, seen: &Observation, part: Component) -> Observation {
    let hide = match part {
        MachineId => machine.clone().without("/etc/machine-id"),
        Volume => machine.clone().without("/run/udev").without("/dev/disk"),
        DiskSerial => {
            let mut machine = machine.clone();
            let serials = [
                "S4EWNX0R123456",
                "eui.0025388501234567",
                "t10.ATA     INTEL SSDSC2KB960G8                     PHYF0123004A960CGN",
                "t10.ATA     INTEL SSDSC2KB960G8                     PHYF0123009C960CGN",
                "vol0a1b2c3d4e5f60718",
                "0x5c3e9a71",
            ];
            for serial in serials {
                if format!("{machine:?}").contains(serial) {
                    machine = machine.replacing(serial, "none");
                }
            }
            machine
        }
        Nic => machine.clone().without("/sys/class/net"),
        Board => machine
            .clone()
            .without("/sys/class/dmi")
            .without("/sys/firmware/devicetree/base/model"),
        Cpu => machine.clone().without("/proc/cpuinfo"),
        BoardSerial => machine
            .clone()
            .without("/sys/firmware/devicetree/base/serial-number"),
        other => panic!("{other}"),
    };
    let rest = look(&hide);
    assert!(rest.reading(part).is_none(), "{part} is still there");
    assert_eq!(rest.components().count() + 1, seen.components().count());
    rest
}

#[test]
fn a_part_absent_on_the_day_of_healing_keeps_its_place() {
    let laptop = Machine::laptop();
    let first = look(&laptop);
    let (secret, enrollment) = Enrollment::enroll(&first).unwrap();

    // The disk was replaced, on a day when the network drivers did not load.
    let repaired = laptop.clone().replacing("S4EWNX0R123456", "21407A5C9E13");
    let today = look(&repaired.clone().without("/sys/class/net"));
    let recovery = enrollment
        .recover(&today, |guess| *guess == secret)
        .unwrap();
    assert_eq!(
        recovery.drift,
        [
            changed(DiskSerial),
            Drift {
                component: Nic,
                change: Change::Missing
            }
        ]
    );
    let (fresh_secret, fresh) = enrollment.renew(&today, &recovery).unwrap();
    assert_eq!(fresh.strength(), enrollment.strength());

    // The interfaces are back and recognised, and the board may change now.
    let later = look(&laptop_with_other_board(&repaired));
    let recovery = fresh
        .recover(&later, |guess| *guess == fresh_secret)
        .unwrap();
    assert!(recovery.matched.contains(&Nic));
    assert_eq!(recovery.drift, [changed(Board)]);
}

#[test]
fn a_part_may_be_absent_through_many_re_enrolments() {
    let laptop = Machine::laptop();
    let (mut secret, mut enrollment) = Enrollment::enroll(&look(&laptop)).unwrap();
    let hidden = laptop.clone().without("/sys/class/net");
    for round in 0..20 {
        let disk = format!("21407A5C9E{round:02}");
        let today = look(&hidden.clone().replacing("S4EWNX0R123456", &disk));
        let recovery = enrollment
            .recover(&today, |guess| *guess == secret)
            .unwrap();
        assert!(recovery.reenroll);
        (secret, enrollment) = enrollment.renew(&today, &recovery).unwrap();
    }
    let recovery = enrollment
        .recover(&look(&laptop), |guess| *guess == secret)
        .unwrap();
    assert!(recovery.matched.contains(&Nic));
    assert_eq!(recovery.drift, [changed(DiskSerial)]);
}

#[test]
fn one_interface_of_several_replaced_is_named_and_the_others_hold() {
    let server = Machine::server();
    let repaired = server
        .clone()
        .replacing("b4:96:91:c7:30:d8", "00:02:c9:4e:aa:10");
    let recovery = meet(&server, &repaired).unwrap();
    assert_eq!(recovery.drift, [changed(Nic)]);
    assert!(recovery.matched.contains(&Nic));

    let recovery = meet(&repaired, &server.clone().without("/sys/class/net/ens3f0")).unwrap();
    assert_eq!(
        recovery.drift,
        [Drift {
            component: Nic,
            change: Change::Missing
        }]
    );
    let recovery = meet(&server.without("/sys/class/net/ens3f0"), &repaired).unwrap();
    assert_eq!(
        recovery.drift,
        [Drift {
            component: Nic,
            change: Change::Added
        }]
    );
    assert!(recovery.reenroll);
}

#[test]
fn only_one_of_eight_interfaces_left_is_enough() {
    let nics: Vec<String> = (1..=8).map(|i| format!("00:1b:21:5c:0{i}:0{i}")).collect();
    let others: Vec<String> = (1..=7).map(|i| format!("3c:ec:ef:77:0{i}:1{i}")).collect();
    let rest = [
        (MachineId, "4b1f7a0c92de4e5f8a3c6d7b0e9f1a24"),
        (DiskSerial, "PHYF0123004A960CGN"),
    ];
    let with = |nics: &mut dyn Iterator<Item = &String>| {
        let nics: Vec<_> = nics.map(|nic| (Nic, nic.as_str())).collect();
        Observation::from_pairs(rest.into_iter().chain(nics))
    };
    let (secret, enrollment) = Enrollment::enroll(&with(&mut nics.iter())).unwrap();
    for kept in &nics {
        let today = with(&mut others.iter().chain([kept]));
        let recovery = enrollment
            .recover(&today, |guess| *guess == secret)
            .unwrap();
        assert_eq!(recovery.drift, [changed(Nic)]);
    }
}

#[test]
fn a_copied_home_is_refused_on_another_machine() {
    let refused = meet(&Machine::laptop(), &Machine::server()).unwrap_err();
    assert!(refused.matched.is_empty());
    assert_eq!(
        refused.unproven,
        [MachineId, Volume, DiskSerial, Nic, Board, Cpu]
    );
    let text = refused.to_string();
    assert!(text.contains("recovery code"), "{text}");
    assert!(!text.contains("3c:ec") && !text.contains("EPYC"), "{text}");
}

#[test]
fn a_copied_image_is_refused_on_other_hardware() {
    let laptop = Machine::laptop();
    let refused = meet(&laptop, &other_computer_with_the_image(&laptop)).unwrap_err();
    assert!(refused.unproven.contains(&Board));
    for machine in [
        Machine::server(),
        Machine::cloud(),
        Machine::microvm(),
        Machine::single_board(),
    ] {
        // The machine id and the volume go with the image.
        let elsewhere = other_hardware(&machine);
        meet(&machine, &elsewhere).unwrap_err();
    }
}

/// The same image with the hardware of another fake machine under it.
fn other_hardware(machine: &Machine) -> Machine {
    let text = format!("{machine:?}");
    let mut other = machine.clone();
    for (from, to) in [
        ("AuthenticAMD", "GenuineIntel"),
        ("Xeon(R) Platinum 8375C", "Xeon(R) Platinum 8481C"),
        ("CPU part\t: 0xd08", "CPU part\t: 0xd0b"),
        ("H12SSL-i", "X12SPL-F"),
        ("c6i.large", "m7i.large"),
        (
            "Raspberry Pi 4 Model B Rev 1.4",
            "Raspberry Pi 5 Model B Rev 1.0",
        ),
        ("10000000a1b2c3d4", "20000000d4c3b2a1"),
        ("3c:ec:ef:5a", "3c:ec:ef:99"),
        ("b4:96:91:c7", "b4:96:91:11"),
        ("dc:a6:32:4f", "d8:3a:dd:10"),
        ("0x5c3e9a71", "0x11119a71"),
        ("vol0a1b2c3d", "vol0ffff111"),
        ("PHYF0123", "PHYF0999"),
    ] {
        if text.contains(&from.replace('\t', "\\t")) {
            other = other.replacing(from, to);
        }
    }
    other
}

#[test]
fn a_moved_drive_is_refused_in_another_computer() {
    let laptop = Machine::laptop();
    let refused = meet(&laptop, &other_computer_with_the_drive(&laptop)).unwrap_err();
    assert_eq!(
        refused.unproven,
        [MachineId, Volume, DiskSerial, Nic, Board, Cpu]
    );
}

#[test]
fn a_moved_drive_is_refused_even_where_the_processor_is_the_same() {
    let laptop = Machine::laptop();
    let same_processor = laptop_with_other_network(&laptop_with_other_board(&laptop));
    meet(&laptop, &same_processor).unwrap_err();
}

#[test]
fn too_many_changes_stay_closed() {
    let laptop = Machine::laptop();
    let reinstalled_on_a_new_disk = laptop
        .clone()
        .replacing(
            "8f0e2f6d5c3b4a7990e1b7d2c4f6a813",
            "1f0e2f6d5c3b4a7990e1b7d2c4f6a811",
        )
        .replacing("S4EWNX0R123456", "21407A5C9E13");
    meet(&laptop, &reinstalled_on_a_new_disk).unwrap_err();
}

#[test]
fn what_is_proven_of_a_wrong_machine_is_named() {
    // All board parts stand, the three on the disk do not.
    let laptop = Machine::laptop();
    let replaced = laptop
        .clone()
        .replacing(
            "8f0e2f6d5c3b4a7990e1b7d2c4f6a813",
            "1f0e2f6d5c3b4a7990e1b7d2c4f6a811",
        )
        .replacing("5d2a90c1-36c3", "aaaa90c1-36c3")
        .replacing("S4EWNX0R123456", "none");
    let refused = meet(&laptop, &replaced.replacing("eui.0025388501234567", "")).unwrap_err();
    assert_eq!(refused.matched, [Nic, Board, Cpu]);
    assert_eq!(refused.unproven, [MachineId, Volume]);
    assert_eq!(refused.missing, [DiskSerial]);
}

#[test]
fn a_cloned_machine_is_the_same_machine_and_the_estimate_says_so() {
    // Identical in everything, hardware included: nobody can tell.
    let recovery = meet(&Machine::cloud(), &Machine::cloud()).unwrap();
    assert!(recovery.strength.is_copy_deterrent());
    assert!(recovery.strength.image_copy <= 10, "{}", recovery.strength);
}

#[test]
fn strength_is_honest_about_each_machine() {
    let strength = |machine: &Machine| Enrollment::enroll(&look(machine)).unwrap().1.strength();
    let laptop = strength(&Machine::laptop());
    assert_eq!(
        (laptop.image_copy, laptop.moved_drive, laptop.same_user),
        (16, 16, 0)
    );
    // Interface and processor can be tested as a pair, then the drive.
    assert_eq!(laptop.home_copy, 30);
    assert!(laptop.is_copy_deterrent() && laptop.image_copy < FLOOR_BITS);
    let microvm = strength(&Machine::microvm());
    assert_eq!((microvm.image_copy, microvm.moved_drive), (6, 6));
    assert_eq!(strength(&Machine::container()).home_copy, 6);
}

#[test]
fn nothing_to_bind_to_is_an_error_that_names_the_next_step() {
    let error = Enrollment::enroll(&Observation::new()).unwrap_err();
    assert!(error.to_string().contains("passphrase"), "{error}");
}

#[test]
fn a_machine_that_is_not_recognised_costs_a_bounded_number_of_tries() {
    let mut tries = 0;
    let (_, enrollment) = Enrollment::enroll(&look(&Machine::server())).unwrap();
    // The caller's slot never opens, though every share is right.
    enrollment
        .recover(&look(&Machine::server()), |_| {
            tries += 1;
            false
        })
        .unwrap_err();
    assert!((1..=MOST_VERIFICATIONS).contains(&tries), "{tries}");
}

#[test]
fn the_cheapest_attack_on_a_copied_image_costs_what_the_estimate_says() {
    // The attacker has image and enrolment and tries boards and processors.
    // Sixteen of each stand for the thousand and the sixty-four that exist: the
    // number of tries has to be their product, not their sum.
    let boards: Vec<String> = (0..16).map(|i| format!("Board {i}")).collect();
    let processors: Vec<String> = (0..16).map(|i| format!("Processor {i}")).collect();
    let image = [
        (MachineId, "8f0e2f6d5c3b4a7990e1b7d2c4f6a813"),
        (Volume, "5d2a90c1-36c3-4d0e-a7a5-3f2f3a0b6e11"),
    ];
    let rest = [(DiskSerial, "S4EWNX0R123456"), (Nic, "54:e1:ad:3b:7c:92")];
    let machine = image
        .into_iter()
        .chain(rest)
        .chain([(Board, boards[15].as_str()), (Cpu, processors[15].as_str())]);
    let (secret, enrollment) = Enrollment::enroll(&Observation::from_pairs(machine)).unwrap();

    let mut guesses = 0;
    let mut answers = 0;
    for board in &boards {
        for processor in &processors {
            let guess = image
                .into_iter()
                .chain([(Board, board.as_str()), (Cpu, processor.as_str())]);
            guesses += 1;
            let opened = enrollment.recover(&Observation::from_pairs(guess), |candidate| {
                answers += 1;
                *candidate == secret
            });
            assert_eq!(opened.is_ok(), guesses == 256, "{guesses}");
        }
    }
    // Each wrong pair reached the slot before it was refused: nothing in the
    // enrolment told the attacker that one of the two was already right.
    assert_eq!(answers, 256);
}

#[test]
fn enrolling_a_hundred_times_repeats_nothing() {
    let seen = look(&Machine::laptop());
    let mut known = std::collections::HashSet::new();
    for _ in 0..100 {
        let (secret, enrollment) = Enrollment::enroll(&seen).unwrap();
        assert!(known.insert(secret.expose_secret().to_vec()));
        let bytes = enrollment.to_bytes();
        // Every block of 32 bytes after the header is fresh.
        for block in bytes.expose_secret()[7..].chunks_exact(32) {
            assert!(known.insert(block.to_vec()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn order_of_enumeration_never_matters(order in Just((0..PAIRS.len()).collect::<Vec<_>>()).prop_shuffle()) {
        let plain = Observation::from_pairs(PAIRS);
        let shuffled = Observation::from_pairs(order.iter().map(|i| PAIRS[*i]));
        prop_assert_eq!(&plain, &shuffled);
    }
}

const PAIRS: [(Component, &str); 10] = [
    (MachineId, "4b1f7a0c92de4e5f8a3c6d7b0e9f1a24"),
    (Volume, "0b9d1d0e-6f1c-4d3c-9a55-1d0c5f7a2e90"),
    (DiskSerial, "PHYF0123004A960CGN"),
    (DiskSerial, "PHYF0123009C960CGN"),
    (Nic, "3c:ec:ef:5a:1c:20"),
    (Nic, "3c:ec:ef:5a:1c:21"),
    (Nic, "b4:96:91:c7:30:d8"),
    (Board, "H12SSL-i"),
    (Cpu, "AMD EPYC 7443P 24-Core Processor"),
    (BoardSerial, "WM21AS600123"),
];

/// What subset of the parts opens is decided by weight alone: a dull count of
/// weights agrees with the search for each of the 512 subsets of a machine.
#[test]
fn opens_exactly_when_enough_weight_is_left() {
    let single: Vec<(Component, &str)> = PAIRS
        .iter()
        .copied()
        .filter(|pair| {
            ![
                "PHYF0123009C960CGN",
                "3c:ec:ef:5a:1c:21",
                "b4:96:91:c7:30:d8",
            ]
            .contains(&pair.1)
        })
        .collect();
    let (secret, enrollment) =
        Enrollment::enroll(&Observation::from_pairs(single.clone())).unwrap();
    // Weights 3 1 2 | 2 1 1 3: majority of 13 is 7; of the board's 7 it is 4.
    for set in 0usize..1 << single.len() {
        let left: Vec<_> = (0..single.len())
            .filter(|i| set >> i & 1 == 1)
            .map(|i| single[i])
            .collect();
        let weight = |board: bool| -> u8 {
            let counted = left
                .iter()
                .filter(|(part, _)| !board || part.class() == katachi_fingerprint::Class::Board);
            counted.map(|(part, _)| part.weight()).sum()
        };
        let expected = weight(false) >= 7 && weight(true) >= 4;
        let opened = enrollment.recover(&Observation::from_pairs(left.clone()), |guess| {
            *guess == secret
        });
        assert_eq!(opened.is_ok(), expected, "{left:?}");
    }
}
