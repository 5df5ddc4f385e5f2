//! What Windows says of the drive under a volume.
//!
//! `STORAGE_DEVICE_DESCRIPTOR` of `ntddstor.h`, all numbers little-endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 4 | 4 | size of the whole |
//! | 10 | 1 | the medium is removable |
//! | 24 | 4 | offset of the serial number, a text that a zero ends; 0: none |
//! | 28 | 4 | bus |

/// The buses of drives that are screwed in: SCSI, ATA, RAID, SAS, SATA, MMC,
/// NVMe, SCM, UFS. Not USB, FireWire, SD, iSCSI, and disks that are files.
const BUILT_IN: [u32; 9] = [1, 3, 8, 10, 11, 13, 17, 18, 19];

/// The serial number that a descriptor shows, unless the drive can be
/// unplugged or has none.
pub(crate) fn serial_of_a_built_in_drive(descriptor: &[u8]) -> Option<String> {
    let number = |at: usize| -> Option<u32> {
        let bytes = descriptor.get(at..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    };
    let size = usize::try_from(number(4)?).ok()?;
    let removable = *descriptor.get(10)? != 0;
    let start = usize::try_from(number(24)?).ok()?;
    if removable || !BUILT_IN.contains(&number(28)?) || start < 36 {
        return None;
    }
    let text = descriptor.get(..size)?.get(start..)?;
    let end = text.iter().position(|byte| *byte == 0)?;
    let text = std::str::from_utf8(&text[..end]).ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// Prints a descriptor of an NVMe drive, for laws and tests.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn print(serial: &str) -> Vec<u8> {
    let size = 36 + serial.len() as u32 + 1;
    let mut descriptor = [0; 36];
    descriptor[..4].copy_from_slice(&40_u32.to_le_bytes());
    descriptor[4..8].copy_from_slice(&size.to_le_bytes());
    descriptor[24] = 36;
    descriptor[28] = 17;
    [&descriptor, serial.as_bytes(), &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_in_drive_shows_its_serial_number() {
        let printed = print("0025_3885_0123_4567.");
        let read = serial_of_a_built_in_drive(&printed);
        assert_eq!(read.as_deref(), Some("0025_3885_0123_4567."));
        for end in 0..printed.len() {
            assert_eq!(serial_of_a_built_in_drive(&printed[..end]), None, "{end}");
        }
    }

    #[test]
    fn what_can_be_unplugged_and_what_is_a_file_shows_none() {
        // USB, FireWire, SD, iSCSI, virtual, backed by a file.
        for bus in [7, 4, 12, 9, 14, 15] {
            let mut descriptor = print("S4EWNX0R123456");
            descriptor[28] = bus;
            assert_eq!(serial_of_a_built_in_drive(&descriptor), None);
        }
        let mut removable = print("S4EWNX0R123456");
        removable[10] = 1;
        assert_eq!(serial_of_a_built_in_drive(&removable), None);
    }

    #[test]
    fn an_offset_of_zero_or_outside_is_no_serial_number() {
        for offset in [0, 8, 35, 200, u32::MAX] {
            let mut descriptor = print("S4EWNX0R123456");
            descriptor[24..28].copy_from_slice(&offset.to_le_bytes());
            assert_eq!(serial_of_a_built_in_drive(&descriptor), None, "{offset}");
        }
    }
}
