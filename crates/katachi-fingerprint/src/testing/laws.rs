//! What has to hold for every input, for fuzzers and for tests over their
//! corpora. Each function panics where its law is broken.

use crate::linux::{Mount, mount_holding, parse_published, print_published};
use crate::native::{smbios, storage};
use crate::tpm::{parse_created, print_created};
use crate::{Component, Enrollment, MOST_VERIFICATIONS, Observation, parse};

/// An enrolment that parses prints back to the same bytes, has a strength
/// within bounds, and costs a bounded number of tries to fail on.
///
/// # Panics
///
/// Panics if the law is broken.
pub fn enrollment(bytes: &[u8]) {
    let Ok(enrollment) = Enrollment::from_bytes(bytes) else {
        return;
    };
    assert_eq!(enrollment.to_bytes().expose_secret(), bytes);
    let strength = enrollment.strength();
    assert!(strength.moved_drive <= strength.image_copy);
    assert!(strength.image_copy <= strength.home_copy);
    assert!(strength.home_copy <= 256 && strength.same_user == 0);

    let seen = Observation::from_pairs([
        (Component::MachineId, "4b1f7a0c92de4e5f8a3c6d7b0e9f1a24"),
        (Component::Volume, "0b9d1d0e-6f1c-4d3c-9a55-1d0c5f7a2e90"),
        (Component::DiskSerial, "PHYF0123004A960CGN"),
        (Component::Nic, "3c:ec:ef:5a:1c:20"),
        (Component::Nic, "b4:96:91:c7:30:d8"),
        (Component::Board, "H12SSL-i"),
        (Component::Cpu, "AMD EPYC 7443P 24-Core Processor"),
    ]);
    let mut tries = 0;
    let refused = enrollment.recover(&seen, |_| {
        tries += 1;
        false
    });
    assert!(refused.is_err() && tries <= MOST_VERIFICATIONS);
    if let Ok(recovery) = enrollment.recover(&seen, |_| true) {
        // Whatever opened it, renewing keeps every part.
        let (_, renewed) = enrollment.renew(&seen, &recovery).expect("randomness");
        for part in enrollment.components() {
            assert!(renewed.components().any(|kept| kept == part));
        }
        let printed = renewed.to_bytes();
        let parsed = Enrollment::from_bytes(printed.expose_secret()).expect("our own bytes");
        assert_eq!(parsed.to_bytes(), printed);
    }
}

/// Normalising a reading twice is the same as once, and decoration, letter case
/// and order do not matter.
///
/// # Panics
///
/// Panics if the law is broken.
pub fn readings(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let again = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("digits are text");
    for parse in [parse::machine_id, parse::volume_id, parse::serial] {
        if let Some(value) = parse(&text) {
            assert_eq!(parse(&again(&value)).as_ref(), Some(&value));
            assert_eq!(parse(&text.to_ascii_uppercase()).as_ref(), Some(&value));
            assert_eq!(parse(&format!(" {text}\n")), Some(value));
        }
    }
    if let Some(address) = parse::mac_address(&text) {
        let [a, b, c, d, e, f] = address;
        let printed = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        assert_eq!(parse::mac_address(&printed), Some(address));
    }
    if let Some(label) = parse::label(&text) {
        assert!(!label.is_empty() && label.len() <= parse::MAX_TEXT);
        assert_eq!(parse::label(&label), Some(label));
    }
    if let Some(cpu) = parse::cpu(&text) {
        let more = format!("{text}\n\nprocessor\t: 1\nvendor_id\t: Other\n");
        assert_eq!(parse::cpu(&more), Some(cpu));
    }
    let lines: Vec<(Component, &str)> = Component::ALL
        .into_iter()
        .flat_map(|part| text.lines().map(move |line| (part, line)))
        .collect();
    let backwards = lines.iter().rev().copied();
    assert_eq!(
        Observation::from_pairs(lines.iter().copied()),
        Observation::from_pairs(backwards)
    );
}

/// A mount that is printed as the kernel prints it is found again, whatever
/// else is in the table before it.
///
/// # Panics
///
/// Panics if the law is broken.
pub fn mounts(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = mount_holding(&text, "/home/somebody");
    // The first line is a path, what follows is a table.
    let (path, table) = text.split_once('\n').unwrap_or((&text, ""));
    let mount = Mount {
        device: (8, u32::try_from(table.len()).unwrap_or(0)),
        kind: "ext4".to_owned(),
        source: format!("/dev/{path}"),
    };
    let path = format!("/{path}");
    let line = format!(
        "36 35 {}:{} / {} rw,noatime master:1 - {} {} rw",
        mount.device.0,
        mount.device.1,
        escape(&path),
        mount.kind,
        escape(&mount.source)
    );
    assert_eq!(
        mount_holding(&format!("{table}\n{line}\n"), &path),
        Some(mount)
    );
}

fn escape(text: &str) -> String {
    text.chars()
        .map(|sign| match sign {
            ' ' | '\t' | '\n' | '\\' => format!("\\{:03o}", u32::from(sign)),
            sign => sign.to_string(),
        })
        .collect()
}

/// What is read from a published file prints to a file that reads the same.
///
/// # Panics
///
/// Panics if the law is broken.
pub fn published(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let read: Vec<_> = parse_published(&text).collect();
    let printed = print_published(&read);
    let again: Vec<_> = parse_published(&printed).collect();
    assert!(read == again, "{printed}");
}

/// What is read of SMBIOS tables prints to tables that say the same, and
/// tables that are cut short never say something else.
///
/// # Panics
///
/// Panics if the law is broken.
pub fn smbios_tables(bytes: &[u8]) {
    let Some(identity) = smbios::parse(bytes) else {
        return;
    };
    // A text that is not UTF-8 grows when it is printed.
    let texts = [&identity.system, &identity.board];
    let longest = texts.map(|unit| unit.serial.len().max(unit.name.len()));
    assert!(longest.iter().all(|length| *length <= 3 * bytes.len()));
    let printed = smbios::print(&identity);
    if printed.len() <= smbios::MOST_BYTES {
        assert_eq!(smbios::parse(&printed), Some(identity));
    }
}

/// A drive's descriptor that shows a serial number prints to one that shows the
/// same.
///
/// # Panics
///
/// Panics if the law is broken.
pub fn drive_descriptor(bytes: &[u8]) {
    if let Some(serial) = storage::serial_of_a_built_in_drive(bytes) {
        assert!(serial.len() < bytes.len());
        let printed = storage::print(&serial);
        assert_eq!(storage::serial_of_a_built_in_drive(&printed), Some(serial));
    }
}

/// A TPM's answer that is understood prints to one that says the same.
///
/// # Panics
///
/// Panics if the law is broken.
pub fn tpm_answer(bytes: &[u8]) {
    let Ok(created) = parse_created(bytes) else {
        return;
    };
    let (x, y) = created.key.split_at(32);
    let printed = print_created(created.handle, x, y);
    let again = parse_created(&printed).expect("our own bytes");
    assert_eq!(again, created);
}
