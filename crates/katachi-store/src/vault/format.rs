//! The bytes of a vault file.
//!
//! ```text
//! offset  size
//! 0       4     "KTV" and the format version, 1
//! 4       16    vault id, random
//! 20      8     generation, big-endian, one more with every save
//! 28      1     number of slots, 1 to 16
//! 29      ..    slots
//! ..      4+n   sealed key ring
//! ..      32    HMAC-SHA256 over all of the above
//!
//! slot:   1     kind
//!         8     slot id, random
//!         8     created, seconds since 1970
//!         32    salt
//!         1+n   user the slot is for; empty where it is for anybody
//!         2+n   parameters (passphrase: Argon2id; TPM: the sealed secret)
//!         4+n   sealed enrolment; of keychain and file slots only
//!         2+n   sealed vault key
//! ```
//!
//! Lengths are big-endian. There is one way to write a vault: reading and
//! writing again gives the same bytes, and anything else is refused. Reading
//! allocates no more than the file is long, whatever its lengths claim. No
//! field is believed before the MAC has been checked, except by the slots,
//! which bind their own fields.

use std::fmt;

/// Largest vault file that is read, in bytes.
pub(crate) const MAX_FILE: usize = 1 << 20;
/// Most slots of a vault.
pub(crate) const MAX_SLOTS: usize = 16;
pub(crate) const MAC_LEN: usize = 32;
const MAX_ENROLMENT: usize = 64 << 10;
const MAX_KEYS: usize = 512 << 10;
const MAX_PARAMETERS: usize = 1 << 10;
const MAX_WRAPPED: usize = 1 << 10;
const MAGIC: &[u8; 3] = b"KTV";
const VERSION: u8 = 1;

/// Names a vault. Not secret.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct VaultId(pub(crate) [u8; 16]);

impl VaultId {
    /// The random bytes it consists of.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for VaultId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, formatter)
    }
}

/// Names a slot of a vault. Not secret.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SlotId(pub(crate) [u8; 8]);

impl SlotId {
    /// The random bytes it consists of.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }

    /// Reads the sixteen hexadecimal digits that [`Display`](fmt::Display) prints.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() == 16
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        fits.then(|| u64::from_str_radix(text, 16).ok())
            .flatten()
            .map(|number| Self(number.to_be_bytes()))
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, formatter)
    }
}

fn hex(bytes: &[u8], formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes
        .iter()
        .try_for_each(|byte| write!(formatter, "{byte:02x}"))
}

/// What opens a slot.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum SlotKind {
    /// A secret in the user's keychain, on this machine.
    Keychain,
    /// A secret in a file, on this machine.
    File,
    /// A recovery code, on any machine.
    RecoveryCode,
    /// A passphrase, on any machine.
    Passphrase,
    /// A secret that this machine's TPM sealed.
    Tpm,
}

impl SlotKind {
    /// Whether the slot opens on the machine it was made on only.
    #[must_use]
    pub const fn is_machine_bound(self) -> bool {
        matches!(self, Self::Keychain | Self::File | Self::Tpm)
    }

    pub(crate) const fn to_byte(self) -> u8 {
        match self {
            Self::Keychain => 1,
            Self::File => 2,
            Self::RecoveryCode => 3,
            Self::Passphrase => 4,
            Self::Tpm => 5,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Keychain),
            2 => Some(Self::File),
            3 => Some(Self::RecoveryCode),
            4 => Some(Self::Passphrase),
            5 => Some(Self::Tpm),
            _ => None,
        }
    }
}

impl fmt::Display for SlotKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Keychain => "keychain",
            Self::File => "file",
            Self::RecoveryCode => "recovery code",
            Self::Passphrase => "passphrase",
            Self::Tpm => "TPM",
        })
    }
}

/// Why bytes are no vault file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// It does not begin like a vault.
    #[error("this is not a vault file; name another directory, or restore the file from a backup")]
    NotAVault,
    /// It was written by a newer version.
    #[error("the vault was written by a newer version of this program; update it")]
    Newer,
    /// A length or value that no version writes.
    #[error("the vault file is damaged ({0}); restore it from a backup")]
    Damaged(&'static str),
}

/// A vault file as read, nothing in it believed yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct VaultFile {
    pub(crate) id: VaultId,
    pub(crate) generation: u64,
    pub(crate) slots: Vec<SlotRecord>,
    pub(crate) keys: Vec<u8>,
}

/// One slot as stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct SlotRecord {
    pub(crate) kind: SlotKind,
    pub(crate) id: SlotId,
    pub(crate) created: u64,
    pub(crate) salt: [u8; 32],
    pub(crate) user: String,
    pub(crate) parameters: Vec<u8>,
    pub(crate) enrolment: Vec<u8>,
    pub(crate) wrapped: Vec<u8>,
}

impl VaultFile {
    /// Reads a file into its body and the MAC over it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<(Self, [u8; MAC_LEN]), FormatError> {
        let mut reader = Reader(bytes);
        if reader.take(3) != Some(MAGIC) {
            return Err(FormatError::NotAVault);
        }
        match reader.byte() {
            Some(VERSION) => {}
            Some(version) if version > VERSION => return Err(FormatError::Newer),
            _ => return Err(FormatError::NotAVault),
        }
        if bytes.len() > MAX_FILE {
            return Err(FormatError::Damaged("size"));
        }
        let id = VaultId(reader.array().ok_or(FormatError::Damaged("vault id"))?);
        let generation =
            u64::from_be_bytes(reader.array().ok_or(FormatError::Damaged("generation"))?);
        let count = reader
            .byte()
            .ok_or(FormatError::Damaged("number of slots"))?;
        if !(1..=MAX_SLOTS).contains(&usize::from(count)) {
            return Err(FormatError::Damaged("number of slots"));
        }
        let mut slots: Vec<SlotRecord> = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let slot = SlotRecord::parse(&mut reader)?;
            if slots.iter().any(|other| other.id == slot.id) {
                return Err(FormatError::Damaged("two slots of one name"));
            }
            slots.push(slot);
        }
        let keys = reader
            .counted(4, MAX_KEYS)
            .ok_or(FormatError::Damaged("key ring"))?
            .to_vec();
        let mac = reader
            .array()
            .ok_or(FormatError::Damaged("authentication code"))?;
        if !reader.0.is_empty() {
            return Err(FormatError::Damaged("bytes after the end"));
        }
        Ok((
            Self {
                id,
                generation,
                slots,
                keys,
            },
            mac,
        ))
    }

    /// Writes everything that the MAC covers.
    pub(crate) fn to_body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(MAGIC);
        body.push(VERSION);
        body.extend_from_slice(&self.id.0);
        body.extend_from_slice(&self.generation.to_be_bytes());
        body.push(self.slots.len() as u8);
        self.slots.iter().for_each(|slot| slot.write(&mut body));
        write_counted(&mut body, 4, &self.keys);
        body
    }

    /// Whether everything is within the limits that reading has.
    pub(crate) fn fits(&self) -> bool {
        (1..=MAX_SLOTS).contains(&self.slots.len())
            && self.keys.len() <= MAX_KEYS
            && self.slots.iter().all(SlotRecord::fits)
    }
}

impl SlotRecord {
    fn parse(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let kind = reader.byte().ok_or(FormatError::Damaged("slot"))?;
        let kind = SlotKind::from_byte(kind).ok_or(FormatError::Damaged("slot kind"))?;
        let id = SlotId(reader.array().ok_or(FormatError::Damaged("slot id"))?);
        let created = u64::from_be_bytes(reader.array().ok_or(FormatError::Damaged("slot time"))?);
        let salt = reader.array().ok_or(FormatError::Damaged("slot salt"))?;
        let user = reader
            .counted(1, usize::from(u8::MAX))
            .ok_or(FormatError::Damaged("slot user"))?;
        let user = str::from_utf8(user)
            .map_err(|_| FormatError::Damaged("slot user"))?
            .to_owned();
        let parameters = reader
            .counted(2, MAX_PARAMETERS)
            .ok_or(FormatError::Damaged("slot parameters"))?
            .to_vec();
        let enrolment = reader
            .counted(4, MAX_ENROLMENT)
            .ok_or(FormatError::Damaged("slot enrolment"))?
            .to_vec();
        let wrapped = reader
            .counted(2, MAX_WRAPPED)
            .ok_or(FormatError::Damaged("slot key"))?
            .to_vec();
        Ok(Self {
            kind,
            id,
            created,
            salt,
            user,
            parameters,
            enrolment,
            wrapped,
        })
    }

    fn write(&self, body: &mut Vec<u8>) {
        body.push(self.kind.to_byte());
        body.extend_from_slice(&self.id.0);
        body.extend_from_slice(&self.created.to_be_bytes());
        body.extend_from_slice(&self.salt);
        write_counted(body, 1, self.user.as_bytes());
        write_counted(body, 2, &self.parameters);
        write_counted(body, 4, &self.enrolment);
        write_counted(body, 2, &self.wrapped);
    }

    fn fits(&self) -> bool {
        self.user.len() <= usize::from(u8::MAX)
            && self.parameters.len() <= MAX_PARAMETERS
            && self.enrolment.len() <= MAX_ENROLMENT
            && self.wrapped.len() <= MAX_WRAPPED
    }
}

fn write_counted(body: &mut Vec<u8>, width: usize, bytes: &[u8]) {
    let length = (bytes.len() as u32).to_be_bytes();
    body.extend_from_slice(&length[4 - width..]);
    body.extend_from_slice(bytes);
}

/// Takes bytes from the front; `None` once there are too few.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// Takes a length of `width` bytes (at most four) and that many bytes.
    pub(crate) fn counted(&mut self, width: usize, limit: usize) -> Option<&'a [u8]> {
        let length = self
            .take(width)?
            .iter()
            .fold(0_usize, |length, &byte| (length << 8) | usize::from(byte));
        if length > limit {
            return None;
        }
        self.take(length)
    }
}

/// See [`testing::laws::vault_file`](crate::testing::laws::vault_file).
#[cfg(any(test, feature = "testing"))]
pub(crate) fn check_law(bytes: &[u8]) {
    let Ok((file, mac)) = VaultFile::parse(bytes) else {
        return;
    };
    assert!(file.fits(), "a vault was read that may not be written");
    let mut again = file.to_body();
    again.extend_from_slice(&mac);
    assert_eq!(again, bytes, "a vault was read that is written differently");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn a_slot()(
            kind in 1_u8..=5, id: [u8; 8], created: u64, salt: [u8; 32], user in "[a-z0-9é]{0,20}",
            parameters in prop::collection::vec(any::<u8>(), 0..40),
            enrolment in prop::collection::vec(any::<u8>(), 0..300),
            wrapped in prop::collection::vec(any::<u8>(), 0..150),
        ) -> SlotRecord {
            let kind = SlotKind::from_byte(kind).unwrap();
            SlotRecord { kind, id: SlotId(id), created, salt, user, parameters, enrolment, wrapped }
        }
    }

    prop_compose! {
        fn a_vault()(
            id: [u8; 16], generation: u64, slots in prop::collection::vec(a_slot(), 1..=MAX_SLOTS),
            keys in prop::collection::vec(any::<u8>(), 0..500),
        ) -> VaultFile {
            VaultFile { id: VaultId(id), generation, slots, keys }
        }
    }

    fn written(file: &VaultFile) -> Vec<u8> {
        let mut bytes = file.to_body();
        bytes.extend_from_slice(&[7; MAC_LEN]);
        bytes
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(file in a_vault()) {
            let (again, mac) = VaultFile::parse(&written(&file)).unwrap();
            prop_assert_eq!(again, file);
            prop_assert_eq!(mac, [7; MAC_LEN]);
        }

        #[test]
        fn refuses_every_truncation_and_every_addition(file in a_vault(), extra in prop::collection::vec(any::<u8>(), 1..40)) {
            let bytes = written(&file);
            for length in 0..bytes.len() {
                prop_assert!(VaultFile::parse(&bytes[..length]).is_err());
            }
            prop_assert!(VaultFile::parse(&[bytes, extra].concat()).is_err());
        }

        #[test]
        fn keeps_its_law_on_arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            check_law(&bytes);
            check_law(&[b"KTV\x01".to_vec(), bytes].concat());
        }

        #[test]
        fn keeps_its_law_on_damaged_vaults(file in a_vault(), place: prop::sample::Index, value: u8) {
            let mut bytes = written(&file);
            let place = place.index(bytes.len());
            bytes[place] = value;
            check_law(&bytes);
        }
    }

    #[test]
    fn tells_a_newer_vault_from_something_else() {
        assert_eq!(
            VaultFile::parse(b"KTV\x02").unwrap_err(),
            FormatError::Newer
        );
        assert_eq!(
            VaultFile::parse(b"SQLite format 3").unwrap_err(),
            FormatError::NotAVault
        );
        assert_eq!(VaultFile::parse(b"").unwrap_err(), FormatError::NotAVault);
    }

    #[test]
    fn prints_and_reads_slot_names() {
        let id = SlotId([0, 1, 2, 3, 0xfc, 0xfd, 0xfe, 0xff]);
        assert_eq!(id.to_string(), "00010203fcfdfeff");
        assert_eq!(SlotId::parse("00010203fcfdfeff"), Some(id));
        assert_eq!(SlotId::parse("00010203FCFDFEFF"), None);
        assert_eq!(SlotId::parse("+0010203fcfdfeff"), None);
    }
}
