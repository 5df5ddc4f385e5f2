//! The firmware's tables that name board and system.
//!
//! The System Management BIOS (DMTF DSP0134) is a sequence of structures: a
//! type, the length of the formatted area, a handle, the area, and then the
//! strings it refers to by number, each ended by a zero and all of them by
//! another. Windows gives it with a head of eight bytes: calling method, major
//! and minor version, revision, and the table's length as a little-endian
//! 32-bit number.
//!
//! Damaged tables are read up to the damage. Each structure is at least six
//! bytes long, so there is an end.

/// What the tables say of board and system. A text that is absent is empty.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Identity {
    pub(crate) system: Unit,
    pub(crate) board: Unit,
    /// The system's UUID as 32 hexadecimal digits.
    pub(crate) uuid: Option<String>,
}

/// A system or a board.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Unit {
    pub(crate) vendor: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) serial: String,
}

/// The largest tables looked at: what a 32-bit entry point can describe.
pub(crate) const MOST_BYTES: usize = 64 * 1024;

/// Reads tables with the head that `GetSystemFirmwareTable` puts before them.
pub(crate) fn parse(raw: &[u8]) -> Option<Identity> {
    let [_method, major, minor, _revision, length @ ..] = raw.first_chunk::<8>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let tables = raw.get(8..)?.get(..length)?;
    let mut rest = tables.get(..MOST_BYTES).unwrap_or(tables);
    let mut identity = Identity::default();
    let (mut system, mut board) = (false, false);
    while let Some((structure, after)) = next(rest) {
        rest = after;
        // A server may have several boards; the first is the main one, and so
        // Linux reads it.
        match structure.kind {
            SYSTEM if !system => {
                system = true;
                identity.system = structure.unit();
                identity.uuid = structure.uuid((*major, *minor) >= (2, 6));
            }
            BOARD if !board => {
                board = true;
                identity.board = structure.unit();
            }
            END => break,
            _ => {}
        }
    }
    Some(identity)
}

/// Types of structures: sections 7.2, 7.3 and 7.46.
const SYSTEM: u8 = 1;
const BOARD: u8 = 2;
const END: u8 = 127;

struct Structure<'a> {
    kind: u8,
    /// With its head of four bytes, so that offsets are the specification's.
    area: &'a [u8],
    strings: &'a [u8],
}

/// Splits the first structure off.
fn next(bytes: &[u8]) -> Option<(Structure<'_>, &[u8])> {
    let [kind, length, ..] = *bytes.first_chunk::<4>()?;
    let (area, rest) = bytes.split_at_checked(usize::from(length).max(4))?;
    // Two zeros end the strings, also where there are none.
    let end = rest.windows(2).position(|pair| pair == [0, 0])?;
    let strings = &rest[..=end];
    let structure = Structure {
        kind,
        area,
        strings,
    };
    Some((structure, &rest[end + 2..]))
}

impl Structure<'_> {
    /// Vendor, name, version and serial number stand at the same offsets for
    /// systems and boards.
    fn unit(&self) -> Unit {
        Unit {
            vendor: self.string(4),
            name: self.string(5),
            version: self.string(6),
            serial: self.string(7),
        }
    }

    /// The string whose number, from one, stands at `offset`.
    fn string(&self, offset: usize) -> String {
        let number = self.area.get(offset).copied().map(usize::from);
        let index = number.and_then(|number| number.checked_sub(1));
        let text = index.and_then(|index| self.strings.split(|byte| *byte == 0).nth(index));
        String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
    }

    /// The UUID of a system (section 7.2.1): since version 2.6 its first three
    /// fields are little-endian.
    fn uuid(&self, little_endian: bool) -> Option<String> {
        let mut bytes: [u8; 16] = self.area.get(8..24)?.try_into().ok()?;
        if little_endian {
            bytes[..4].reverse();
            bytes[4..6].reverse();
            bytes[6..8].reverse();
        }
        Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Prints tables that [`parse`] reads as `identity`, for laws and tests.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn print(identity: &Identity) -> Vec<u8> {
    let structure = |kind: u8, unit: &Unit, more: &[u8]| {
        let texts = [&unit.vendor, &unit.name, &unit.version, &unit.serial];
        let mut strings = Vec::new();
        let mut numbers = Vec::new();
        let mut count = 0;
        for text in texts {
            let number = (!text.is_empty()).then(|| {
                strings.extend_from_slice(text.as_bytes());
                strings.push(0);
                count += 1;
                count
            });
            numbers.push(number.unwrap_or(0));
        }
        if strings.is_empty() {
            strings.push(0);
        }
        strings.push(0);
        let length = 8 + more.len() as u8;
        [&[kind, length, kind, 0][..], &numbers, more, &strings].concat()
    };
    let uuid: Vec<u8> = identity
        .uuid
        .iter()
        .flat_map(|uuid| uuid_bytes(uuid))
        .collect();
    let tables = [
        structure(SYSTEM, &identity.system, &uuid),
        structure(BOARD, &identity.board, &[]),
        vec![END, 4, 0xff, 0xff, 0, 0],
    ]
    .concat();
    let length = (tables.len() as u32).to_le_bytes();
    [&[0, 3, 0, 0][..], &length, &tables].concat()
}

#[cfg(any(test, feature = "testing"))]
fn uuid_bytes(digits: &str) -> Vec<u8> {
    let byte = |i: usize| u8::from_str_radix(digits.get(2 * i..2 * i + 2)?, 16).ok();
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    order.into_iter().filter_map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let unit = |of: &str| Unit {
            vendor: format!("vendor of {of}"),
            name: format!("name of {of}"),
            version: String::new(),
            serial: format!("serial of {of}"),
        };
        Identity {
            system: unit("system"),
            board: unit("board"),
            uuid: Some("8b7b9f646ac34f0c9d1b2f6c1a7be001".to_owned()),
        }
    }

    #[test]
    fn what_is_printed_is_read_again() {
        for identity in [
            identity(),
            Identity {
                uuid: None,
                ..identity()
            },
            Identity::default(),
        ] {
            assert_eq!(parse(&print(&identity)), Some(identity));
        }
    }

    #[test]
    fn a_table_cut_short_is_read_as_far_as_it_goes() {
        let whole = print(&identity());
        for end in 8..whole.len() {
            let mut cut = whole[..end].to_vec();
            cut[4..8].copy_from_slice(&((end - 8) as u32).to_le_bytes());
            let read = parse(&cut).unwrap();
            for (read, whole) in [
                (&read.system, &identity().system),
                (&read.board, &identity().board),
            ] {
                assert!(read == whole || *read == Unit::default(), "{end}: {read:?}");
            }
        }
        assert_eq!(
            parse(&whole[..whole.len() - 1]),
            None,
            "shorter than it says"
        );
    }

    #[test]
    fn the_first_board_is_the_main_board() {
        let mut two = print(&identity());
        let end = two.len() - 6;
        let second = [BOARD, 8, 9, 0, 1, 1, 1, 1, b'x', 0, 0];
        two.splice(end..end, second);
        let length = (two.len() - 8) as u32;
        two[4..8].copy_from_slice(&length.to_le_bytes());
        assert_eq!(parse(&two), Some(identity()));
    }

    #[test]
    fn before_version_2_6_the_uuid_is_in_the_order_of_its_bytes() {
        let mut old = print(&identity());
        old[1..3].copy_from_slice(&[2, 5]);
        let uuid = parse(&old).unwrap().uuid.unwrap();
        assert_eq!(uuid, "649f7b8bc36a0c4f9d1b2f6c1a7be001");
    }
}
