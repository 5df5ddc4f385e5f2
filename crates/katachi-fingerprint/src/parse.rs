//! Turns text the machine reports into values, or into nothing.
//!
//! All of it is pure: no file is opened here, so the same code runs on fake
//! machines and under a fuzzer. What these functions refuse is as important as
//! what they accept. Firmware is full of "To be filled by O.E.M.", images are
//! full of machine ids of their builder, and a value that a million machines
//! share must not count as knowledge of one.

use crate::component::Component;
use crate::observation::Value;

/// Longest text taken as a reading, in bytes.
pub const MAX_TEXT: usize = 512;

/// Normalises the text of any part.
pub(crate) fn value(component: Component, text: &str) -> Option<Value> {
    match component {
        Component::MachineId => machine_id(text).map(|id| Value::new(id, 122)),
        Component::Volume => {
            let id = volume_id(text)?;
            // Four bits a hexadecimal digit; random UUIDs fix six of 128.
            let digits = id.len();
            let bits = if digits == 32 { 122 } else { 4 * digits };
            Some(Value::new(id, u8::try_from(bits).unwrap_or(122)))
        }
        Component::DiskSerial | Component::BoardSerial => {
            serial(text).map(|id| Value::new(id, SERIAL_BITS))
        }
        Component::Nic => mac_address(text).map(|address| Value::new(address, NIC_BITS)),
        Component::Board => label(text).map(|text| Value::new(fields([text.as_str()]), BOARD_BITS)),
        Component::Cpu => label(text).map(|text| Value::new(fields([text.as_str()]), CPU_BITS)),
        Component::ProductUuid => product_uuid(text),
        Component::TpmEndorsementKey => {
            label(text).map(|text| Value::new(fields([text.as_str()]), u8::MAX))
        }
    }
}

/// Serial numbers run in series; a vendor's format leaves about this much.
pub(crate) const SERIAL_BITS: u8 = 30;
/// The vendor's half of an address is public; the other half is this long.
pub(crate) const NIC_BITS: u8 = 24;
/// About a thousand board models are common at any time.
pub(crate) const BOARD_BITS: u8 = 10;
/// About sixty processor models are common at any time.
pub(crate) const CPU_BITS: u8 = 6;

/// Reads `/etc/machine-id`: 32 hexadecimal digits that say something.
///
/// The form with dashes is accepted as well, since macOS and Windows write
/// theirs so. Empty, `uninitialized`, all-alike and placeholder ids are absent.
#[must_use]
pub fn machine_id(text: &str) -> Option<Vec<u8>> {
    let digits = hex_digits(text)?;
    (digits.len() == 32 && says_something(&digits)).then_some(digits)
}

/// Reads a file system's identifier: a UUID, or the shorter serial that FAT
/// (`1A2B-3C4D`) and NTFS (16 digits) have.
#[must_use]
pub fn volume_id(text: &str) -> Option<Vec<u8>> {
    let digits = hex_digits(text)?;
    // ISO 9660 shows a date there: 16 digits with dashes.
    let fits = match digits.len() {
        8 | 32 => true,
        16 => !text.contains('-'),
        _ => false,
    };
    (fits && says_something(&digits)).then_some(digits)
}

/// Reads a serial number of a drive or board.
///
/// It must have at least four letters or digits and one digit among them:
/// names that a hypervisor gives its disks are words, serial numbers are not.
#[must_use]
pub fn serial(text: &str) -> Option<Vec<u8>> {
    let text = label(text)?;
    let signs: Vec<u8> = text
        .bytes()
        .filter(u8::is_ascii_alphanumeric)
        .map(|byte| byte.to_ascii_uppercase())
        .collect();
    let made_up = ["QM0000", "VMWARENVME00"]
        .iter()
        .any(|start| contains(&signs, start.as_bytes()));
    let plausible = signs.len() >= 4 && signs.iter().any(u8::is_ascii_digit) && !made_up;
    (plausible && says_something(&signs)).then_some(signs)
}

/// Reads an Ethernet address that a manufacturer burnt in.
///
/// Multicast and locally administered addresses (the two low bits of the first
/// byte, IEEE 802-2014 section 8.2) are absent: software made those.
#[must_use]
pub fn mac_address(text: &str) -> Option<[u8; 6]> {
    let text = text.trim();
    if text.len() != 17 {
        return None;
    }
    let mut address = [0; 6];
    let mut groups = text.split([':', '-']);
    for byte in &mut address {
        let group = groups.next()?;
        if group.len() != 2 || !group.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(group, 16).ok()?;
    }
    let burnt_in = address[0] & 0b11 == 0;
    let unit_says_something = address[3..] != [0, 0, 0] && address[3..] != [0xff, 0xff, 0xff];
    (groups.next().is_none() && burnt_in && unit_says_something).then_some(address)
}

/// Reads a UUID from the firmware, with an estimate by its form.
fn product_uuid(text: &str) -> Option<Value> {
    let digits = hex_digits(text)?;
    if digits.len() != 32 || !says_something(&digits) || PLACEHOLDER_UUIDS.contains(&&digits[..]) {
        return None;
    }
    // RFC 9562 section 4: only version 4 is random; others hold a clock and an
    // address, or a serial number in disguise.
    let random = digits[12] == b'4' && matches!(digits[16], b'8' | b'9' | b'a' | b'b');
    Some(Value::new(digits, if random { 122 } else { SERIAL_BITS }))
}

/// Cleans a human-readable label: trimmed, inner blanks single, no control
/// characters, no placeholder.
#[must_use]
pub fn label(text: &str) -> Option<String> {
    let text = text.trim_matches(|sign: char| sign.is_whitespace() || sign == '\0');
    if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(|s| s.is_control() && s != '\t')
    {
        return None;
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    let plain: String = text
        .chars()
        .filter(|sign| sign.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect();
    if plain.is_empty() || PLACEHOLDERS.contains(&plain.as_str()) {
        return None;
    }
    Some(text)
}

/// Joins fields so that no two lists of fields give the same bytes: each is
/// preceded by its length as four bytes, big-endian.
pub(crate) fn fields<'a>(parts: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

/// What `/proc/cpuinfo` says of the first processor, as one value.
///
/// Frequency, microcode, flags and the number of cores change with the kernel
/// and the firmware and are left out.
#[must_use]
pub fn cpu(cpuinfo: &str) -> Option<Vec<u8>> {
    const X86: [&str; 5] = ["vendor_id", "cpu family", "model", "stepping", "model name"];
    const ARM: [&str; 5] = [
        "CPU implementer",
        "CPU architecture",
        "CPU variant",
        "CPU part",
        "CPU revision",
    ];
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let find = |wanted: &str| {
        first.lines().find_map(|line| {
            let (key, text) = line.split_once(':')?;
            (key.trim() == wanted).then(|| label(text)).flatten()
        })
    };
    for keys in [X86, ARM] {
        if find(keys[0]).is_none() {
            continue;
        }
        let found: Vec<String> = keys
            .iter()
            .map(|key| find(key).unwrap_or_default())
            .collect();
        return Some(fields(found.iter().map(String::as_str)));
    }
    None
}

/// Vendor, name and version of the board as one value. A board without a name
/// is absent.
#[must_use]
pub fn board(vendor: &str, name: &str, version: &str) -> Option<Vec<u8>> {
    let name = label(name)?;
    let vendor = label(vendor).unwrap_or_default();
    let version = label(version).unwrap_or_default();
    Some(fields([vendor.as_str(), name.as_str(), version.as_str()]))
}

/// Hexadecimal digits in lower case, dashes and surrounding blanks removed.
fn hex_digits(text: &str) -> Option<Vec<u8>> {
    let text =
        text.trim_matches(|s: char| s.is_ascii_whitespace() || s == '\0' || s == '{' || s == '}');
    if text.len() > 64 {
        return None;
    }
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| *byte != b'-')
        .map(|byte| byte.to_ascii_lowercase())
        .collect();
    digits.iter().all(u8::is_ascii_hexdigit).then_some(digits)
}

fn contains(signs: &[u8], part: &[u8]) -> bool {
    signs.windows(part.len()).any(|window| window == part)
}

/// Refuses values that are one sign repeated or that count up or down.
fn says_something(signs: &[u8]) -> bool {
    let steps = |by: i16| {
        signs
            .windows(2)
            .all(|pair| i16::from(pair[1]) - i16::from(pair[0]) == by)
    };
    signs.len() > 1
        && !steps(0)
        && !steps(1)
        && !steps(-1)
        && !matches!(
            signs,
            b"0123456789abcdef0123456789abcdef" | b"1234567890" | b"0123456789ABCDEF"
        )
}

/// Firmware placeholders, letters and digits only, in lower case.
const PLACEHOLDERS: [&str; 29] = [
    "0",
    "00",
    "000",
    "0000",
    "123456789",
    "1234567890",
    "badindex",
    "baseboardserialnumber",
    "chassisserialnumber",
    "default",
    "defaultstring",
    "empty",
    "invalid",
    "na",
    "none",
    "nosn",
    "notapplicable",
    "notavailable",
    "notspecified",
    "null",
    "oem",
    "serial",
    "serialnumber",
    "systemserialnumber",
    "tba",
    "tobefilledbyoem",
    "typenumber",
    "uninitialized",
    "unknown",
];

/// UUIDs that whole series of machines share.
const PLACEHOLDER_UUIDS: [&[u8]; 3] = [
    b"03000200040005000006000700080009",
    b"00020003000400050006000700080009",
    b"12345678123456789012123456789012",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_machine_id_with_its_newline() {
        let id = machine_id("3d1219c7c4c5404aaa1f6d2a48adfda4\n").unwrap();
        assert_eq!(id, b"3d1219c7c4c5404aaa1f6d2a48adfda4");
        assert_eq!(
            machine_id("3D1219C7-C4C5-404A-AA1F-6D2A48ADFDA4").unwrap(),
            id
        );
    }

    #[test]
    fn a_machine_id_that_names_no_machine_is_absent() {
        for text in [
            "",
            "\n",
            "uninitialized\n",
            "00000000000000000000000000000000",
            "ffffffffffffffffffffffffffffffff",
            "0123456789abcdef0123456789abcdef",
            "3d1219c7c4c5404aaa1f6d2a48adfda",
            "3d1219c7c4c5404aaa1f6d2a48adfda4a",
            "xd1219c7c4c5404aaa1f6d2a48adfda4",
        ] {
            assert_eq!(machine_id(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_volume_may_have_a_short_identifier_worth_less() {
        let bits = |text| value(Component::Volume, text).map(|v| v.bits);
        assert_eq!(bits("c7c1b7b4-9a4b-4b7f-8b0e-0c1f5a3f9d11"), Some(122));
        assert_eq!(bits("1A2B-3C4D"), Some(32));
        assert_eq!(bits("01D8A3B2C4E5F607"), Some(64));
        assert_eq!(bits("2024-01-01-00-00-00-00"), None, "ISO 9660 has a date");
    }

    #[test]
    fn serial_numbers_are_compared_without_decoration() {
        assert_eq!(serial("  S4EW-NX0R 123456 \n"), serial("s4ewnx0r123456"));
        assert!(serial("S4EWNX0R123456").is_some());
    }

    #[test]
    fn placeholder_serials_are_absent() {
        for text in [
            "",
            " ",
            "To be filled by O.E.M.",
            "Default string",
            "None",
            "0000000000",
            "System Serial Number",
            "Not Specified",
            "N/A",
            "xxxxxxxx",
            "123456789",
            "0123456789",
            "overlayblk",
            "QEMU HARDDISK",
            "12",
            "QM00001",
            "ATA     QEMU HARDDISK   QM00003",
            "VMWare NVME_0000",
        ] {
            assert_eq!(serial(text), None, "{text:?}");
        }
    }

    #[test]
    fn only_burnt_in_addresses_count() {
        assert_eq!(
            mac_address("00:1b:21:0a:0b:0c\n"),
            Some([0, 0x1b, 0x21, 0x0a, 0x0b, 0x0c])
        );
        for text in [
            "02:fc:00:00:00:01", // made by a hypervisor
            "52:54:00:12:34:56", // QEMU
            "01:1b:21:0a:0b:0c", // multicast
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "00:1b:21:00:00:00",
            "00:1b:21:0a:0b",
            "00:1b:21:0a:0b:0c:0d",
            "00:1b:21:0a:0b:+c",
            "",
        ] {
            assert_eq!(mac_address(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_processor_is_its_model_and_not_its_state() {
        let one = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 142\n\
                   model name\t: Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz\nstepping\t: 10\n\
                   microcode\t: 0xf0\ncpu MHz\t\t: 800.1\n\nprocessor\t: 1\nmodel\t: 9\n";
        let later = one.replace("800.1", "3900.0").replace("0xf0", "0xf4");
        let other = one.replace("stepping\t: 10", "stepping\t: 11");
        assert!(cpu(one).is_some());
        assert_eq!(cpu(one), cpu(&later));
        assert_ne!(cpu(one), cpu(&other));
        assert_eq!(cpu(""), None);
        assert_eq!(cpu("processor : 0\nBogoMIPS : 50\n"), None);
    }

    #[test]
    fn an_arm_processor_counts_too() {
        let pi = "processor\t: 0\nBogoMIPS\t: 108.00\nCPU implementer\t: 0x41\n\
                  CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n";
        assert!(cpu(pi).is_some());
    }

    #[test]
    fn fields_cannot_run_into_each_other() {
        assert_ne!(board("ab", "c", ""), board("a", "bc", ""));
        assert_ne!(board("a", "b", "c"), board("a", "b c", ""));
        assert_eq!(board("Acme", "Default string", "1"), None);
        assert!(board("", "X570", "").is_some());
    }

    #[test]
    fn a_random_product_uuid_is_worth_more_than_a_made_up_one() {
        let bits = |text| value(Component::ProductUuid, text).map(|v| v.bits);
        assert_eq!(bits("8b7b9f64-6ac3-4f0c-9d1b-2f6c1a7be001"), Some(122));
        assert_eq!(bits("4c4c4544-0042-3510-8053-b4c04f4a3332"), Some(30));
        assert_eq!(bits("03000200-0400-0500-0006-000700080009"), None);
        assert_eq!(bits("ffffffff-ffff-ffff-ffff-ffffffffffff"), None);
    }
}
