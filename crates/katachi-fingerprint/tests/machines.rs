//! What is seen on each fake machine, and what leaves no trace.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use Component::{Board, BoardSerial, Cpu, DiskSerial, MachineId, Nic, ProductUuid, Volume};
use katachi_fingerprint::testing::Machine;
use katachi_fingerprint::{Component, Observation, Probe, SystemProbe};

fn look(machine: &Machine) -> Observation {
    look_for(machine, |probe| probe)
}

fn look_for(machine: &Machine, with: impl Fn(SystemProbe) -> SystemProbe) -> Observation {
    let directory = tempfile::tempdir().unwrap();
    machine.write_to(directory.path()).unwrap();
    with(SystemProbe::with_root(directory.path())).observe()
}

fn parts(seen: &Observation) -> Vec<Component> {
    seen.components().collect()
}

fn count(seen: &Observation, part: Component) -> usize {
    seen.reading(part).map_or(0, |reading| reading.count())
}

#[test]
fn a_laptop_shows_all_that_a_user_can_read() {
    let seen = look(&Machine::laptop());
    assert_eq!(
        parts(&seen),
        [MachineId, Volume, DiskSerial, Nic, Board, Cpu]
    );
    assert_eq!(
        count(&seen, Nic),
        2,
        "wired and wireless, nothing of the dock"
    );
}

#[test]
fn a_server_shows_the_permanent_addresses_of_its_bond_and_both_drives() {
    let seen = look(&Machine::server());
    assert_eq!(
        parts(&seen),
        [MachineId, Volume, DiskSerial, Nic, Board, Cpu]
    );
    assert_eq!(
        count(&seen, Nic),
        3,
        "two of the bond and one card, no virtual function"
    );
    assert_eq!(count(&seen, DiskSerial), 2);
}

#[test]
fn a_container_shows_the_processor_and_says_so() {
    assert_eq!(parts(&look(&Machine::container())), [Cpu]);
}

#[test]
fn a_cloud_machine_shows_its_size_as_its_board_and_no_address() {
    let seen = look(&Machine::cloud());
    assert_eq!(parts(&seen), [MachineId, Volume, DiskSerial, Board, Cpu]);
}

#[test]
fn a_microvm_shows_next_to_nothing() {
    assert_eq!(parts(&look(&Machine::microvm())), [MachineId, Cpu]);
}

#[test]
fn a_single_board_computer_shows_its_serial_number_to_everybody() {
    let seen = look(&Machine::single_board());
    assert_eq!(
        parts(&seen),
        [MachineId, Volume, DiskSerial, Nic, Board, Cpu, BoardSerial]
    );
}

#[test]
fn an_empty_tree_shows_nothing() {
    assert!(look(&Machine::default()).is_empty());
}

#[test]
fn host_name_dock_vpn_bridges_and_random_addresses_leave_no_trace() {
    let laptop = Machine::laptop();
    let usual = look(&laptop);
    let thunderbolt = "/sys/devices/pci0000:00/0000:00:07.0";
    let usb = "/sys/devices/pci0000:00/0000:00:14.0/usb2";
    let changes = [
        laptop.clone().file("/etc/hostname", "renamed\n"),
        laptop
            .clone()
            .without(thunderbolt)
            .without(usb)
            .without("/sys/class/net/enp62s0")
            .without("/sys/class/net/enx00e04c680112"),
        laptop
            .clone()
            .without("/sys/class/net/tun0")
            .without("/sys/class/net/docker0"),
        laptop
            .clone()
            .link("/sys/class/net/wg0", "../../devices/virtual/net/wg0")
            .file("/sys/devices/virtual/net/wg0/type", "1\n")
            .file("/sys/devices/virtual/net/wg0/addr_assign_type", "0\n")
            .file(
                "/sys/devices/virtual/net/wg0/address",
                "00:1b:21:aa:bb:cc\n",
            ),
        laptop
            .clone()
            .replacing("b6:1f:44:9a:02:7e", "da:77:01:9c:be:30"),
        laptop
            .clone()
            .replacing("02:42:9e:10:33:5a", "02:42:00:00:00:99"),
        laptop
            .clone()
            .replacing("microcode\t: 0xb8", "microcode\t: 0xc2"),
        laptop.clone().replacing("1200.000", "4700.000"),
        // What root alone can read.
        laptop.clone().replacing("L1HF1B3017E", "ZZZZ1B3017E"),
        laptop.without("/sys/devices/virtual/dmi/id/board_serial"),
    ];
    for (i, change) in changes.iter().enumerate() {
        assert_eq!(look(change), usual, "change {i}");
    }
}

#[test]
fn ip_host_name_and_user_name_have_no_effect() {
    for (name, machine) in [
        ("laptop", Machine::laptop()),
        ("server", Machine::server()),
        ("cloud", Machine::cloud()),
        ("container", Machine::container()),
    ] {
        let usual = look(&machine);
        let renamed = machine
            .clone()
            .file("/etc/hostname", "renamed\n")
            .file("/etc/hosts", "127.0.1.1 renamed\n")
            .file("/proc/sys/kernel/hostname", "renamed\n");
        assert_eq!(look(&renamed), usual, "{name}, another host name");
        let readdressed = machine
            .clone()
            .file("/etc/resolv.conf", "nameserver 192.0.2.1\n")
            .file(
                "/proc/net/fib_trie",
                "  |-- 198.51.100.7\n     /32 host LOCAL\n",
            )
            .file(
                "/proc/net/if_inet6",
                "20010db8000000000000000000000007 02 40 00 80 eth0\n",
            )
            .file(
                "/proc/net/arp",
                "192.0.2.1 0x1 0x2 00:1b:21:00:00:01 * eth0\n",
            );
        assert_eq!(look(&readdressed), usual, "{name}, another IP address");
        let another_user = machine
            .file(
                "/etc/passwd",
                "somebody:x:1001:1001::/home/somebody:/bin/sh\n",
            )
            .file("/home/somebody/.profile", "")
            .file("/proc/self/environ", "USER=somebody\0HOME=/home/somebody\0")
            .file("/proc/meminfo", "MemTotal: 1 kB\n");
        assert_eq!(look(&another_user), usual, "{name}, another user");
    }
}

#[test]
fn a_bond_coming_and_going_leaves_no_trace() {
    let bonded = Machine::server();
    let single = bonded
        .clone()
        .without("/sys/class/net/bond0")
        .without("/sys/class/net/br0")
        .without("/sys/devices/pci0000:c0/0000:c0:01.1/0000:c1:00.0/net/eno1/bonding_slave")
        .without("/sys/devices/pci0000:c0/0000:c0:01.1/0000:c1:00.1/net/eno2/bonding_slave")
        .file(
            "/sys/devices/pci0000:c0/0000:c0:01.1/0000:c1:00.1/net/eno2/addr_assign_type",
            "0\n",
        )
        .file(
            "/sys/devices/pci0000:c0/0000:c0:01.1/0000:c1:00.1/net/eno2/address",
            "3c:ec:ef:5a:1c:21\n",
        );
    assert_eq!(look(&bonded), look(&single));
}

#[test]
fn the_volume_is_that_of_the_data() {
    let boot = look_for(&Machine::laptop(), |probe| probe.volume_of("/boot/x/y"));
    let root = look(&Machine::laptop());
    assert_eq!(count(&boot, Volume), 0, "udev has no record of it here");
    assert_eq!(count(&root, Volume), 1);
    assert_eq!(
        boot.reading(DiskSerial),
        root.reading(DiskSerial),
        "the same drive"
    );
    let memory = look_for(&Machine::laptop(), |probe| probe.volume_of("/tmp/x"));
    assert_eq!(count(&memory, Volume) + count(&memory, DiskSerial), 0);
}

#[test]
fn a_drive_on_usb_and_a_removable_one_do_not_count() {
    let usb = Machine::laptop().replacing(
        "0000:00:06.0/0000:04:00.0/nvme/nvme0",
        "0000:00:14.0/usb2/2-1/host6",
    );
    assert_eq!(count(&look(&usb), DiskSerial), 0);
    let removable = Machine::laptop().file(
        "/sys/devices/pci0000:00/0000:00:06.0/0000:04:00.0/nvme/nvme0/nvme0n1/removable",
        "1\n",
    );
    assert_eq!(count(&look(&removable), DiskSerial), 0);
}

#[test]
fn the_two_places_of_a_volume_identifier_agree() {
    let laptop = Machine::laptop();
    let listed = laptop.clone().without("/run/udev").link(
        "/dev/disk/by-uuid/5d2a90c1-36c3-4d0e-a7a5-3f2f3a0b6e11",
        "../../dm-0",
    );
    assert_eq!(look(&laptop), look(&listed));
}

#[test]
fn btrfs_is_found_by_its_device() {
    let source = "27 1 253:0 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw";
    let btrfs = Machine::laptop()
        .replacing(
            source,
            "27 1 0:33 /@ / rw shared:1 - btrfs /dev/mapper/root rw",
        )
        .link("/dev/mapper/root", "../dm-0");
    assert_eq!(look(&btrfs), look(&Machine::laptop()));
}

#[test]
fn published_digests_count_and_are_the_applications_own() {
    let directory = tempfile::tempdir().unwrap();
    Machine::laptop().write_to(directory.path()).unwrap();
    let look = |application: &str| {
        SystemProbe::with_root(directory.path())
            .published_for(application)
            .observe()
    };
    assert_eq!(
        count(&look("editor"), BoardSerial),
        0,
        "nothing is published yet"
    );

    let published = katachi_fingerprint::publish(directory.path(), "editor").unwrap();
    assert_eq!(published.parts, [BoardSerial, ProductUuid]);
    assert!(published.tpm.is_none(), "no TPM, no complaint");
    let path = published.path;
    assert!(
        path.starts_with(directory.path().join("run")),
        "memory, never disk"
    );
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("1B3017E"), "{text}");
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);

    let seen = look("editor");
    assert_eq!(count(&seen, BoardSerial), 1);
    assert_eq!(count(&seen, ProductUuid), 1);
    assert_eq!(seen.reading(ProductUuid).unwrap().bits(), 122);
    assert_eq!(count(&look("mail"), BoardSerial), 0);
    katachi_fingerprint::publish(directory.path(), "mail").unwrap();
    assert_ne!(look("mail").reading(BoardSerial), seen.reading(BoardSerial));

    // Publishing again, as at every boot, changes nothing.
    katachi_fingerprint::publish(directory.path(), "editor").unwrap();
    assert_eq!(look("editor"), seen);
}

#[test]
fn publishing_refuses_bad_names_and_bare_boards() {
    use katachi_fingerprint::{PublishError, publish};
    let directory = tempfile::tempdir().unwrap();
    for name in ["", "..", "../x", ".hidden", "a/b", "a b", "ä"] {
        let refused = publish(directory.path(), name);
        assert!(matches!(refused, Err(PublishError::Name)), "{name}");
    }
    let refused = publish(directory.path(), "editor");
    assert!(matches!(refused, Err(PublishError::NothingToPublish)));
}

#[test]
fn names_of_interfaces_and_drives_do_not_matter() {
    // A directory lists in an order that depends on names; the kernel hands
    // names out in the order of discovery.
    let server = Machine::server();
    let usual = look(&server);
    for seed in 0..24_u8 {
        let name = |of: u8| format!("if{}x", (of.wrapping_mul(37) ^ seed.wrapping_mul(91)) % 251);
        let renamed = server
            .clone()
            .replacing_names("eno1", &name(1))
            .replacing_names("eno2", &name(2))
            .replacing_names("ens3f0v0", &name(3))
            .replacing_names("ens3f0", &name(4));
        assert_eq!(look(&renamed), usual, "{seed}");
    }
    let swapped = server
        .replacing_names("sda", "sdq")
        .replacing_names("sdb", "sda")
        .replacing_names("sdq", "sdb");
    assert_eq!(look(&swapped), usual);
}
