//! The parts of a machine that are allowed to speak for it.
//!
//! A part earns its place by staying the same while the machine stays the
//! same. Host name, user name, addresses, memory size, kernel version, virtual
//! and randomised interfaces and everything that can be unplugged are not here,
//! and there is no way to add them.

use std::fmt;

/// One part of a machine.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Component {
    /// The identifier the operating system chose when it was installed.
    MachineId,
    /// The UUID of the file system that holds the protected data.
    Volume,
    /// The serial number of the drive under that file system.
    DiskSerial,
    /// Burnt-in addresses of the built-in network interfaces.
    Nic,
    /// Vendor, name and version of the main board: the model, not the unit.
    Board,
    /// Vendor, family, model, stepping and brand of the processor: the model,
    /// not the unit.
    Cpu,
    /// The serial number of the main board.
    BoardSerial,
    /// The UUID the firmware gives the machine.
    ProductUuid,
    /// The public endorsement key of the TPM.
    TpmEndorsementKey,
}

/// What a part travels with, which decides against whom it helps.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// Lies in the content of the disk: whoever copies the disk has it.
    Image,
    /// Belongs to the drive: whoever takes the drive has it.
    Drive,
    /// Stays with the computer when disk and drive are gone.
    Board,
}

/// What ordinarily changes a part.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Stability {
    /// Installing the system or formatting the volume again.
    Reinstall,
    /// Replacing this part, or moving a virtual machine to another host.
    Replacement,
    /// Replacing the main board, which is what most people call a new computer.
    NewBoard,
}

/// How much a reading tells about its owner.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Sensitivity {
    /// Shared by every machine of the same model.
    Model,
    /// Singles out one machine, so it never leaves the process.
    Unit,
}

impl Component {
    /// Every component, in the order of their tags.
    pub const ALL: [Self; 9] = [
        Self::MachineId,
        Self::Volume,
        Self::DiskSerial,
        Self::Nic,
        Self::Board,
        Self::Cpu,
        Self::BoardSerial,
        Self::ProductUuid,
        Self::TpmEndorsementKey,
    ];

    /// Says what this part travels with.
    #[must_use]
    pub const fn class(self) -> Class {
        match self {
            Self::MachineId | Self::Volume => Class::Image,
            Self::DiskSerial => Class::Drive,
            Self::Nic
            | Self::Board
            | Self::Cpu
            | Self::BoardSerial
            | Self::ProductUuid
            | Self::TpmEndorsementKey => Class::Board,
        }
    }

    /// Says what ordinarily changes this part.
    #[must_use]
    pub const fn stability(self) -> Stability {
        match self {
            Self::MachineId | Self::Volume => Stability::Reinstall,
            Self::DiskSerial | Self::Nic | Self::Cpu => Stability::Replacement,
            Self::Board | Self::BoardSerial | Self::ProductUuid | Self::TpmEndorsementKey => {
                Stability::NewBoard
            }
        }
    }

    /// Says how much a reading of this part tells about its owner.
    #[must_use]
    pub const fn sensitivity(self) -> Sensitivity {
        match self {
            Self::Board | Self::Cpu => Sensitivity::Model,
            _ => Sensitivity::Unit,
        }
    }

    /// The number of shares this part holds.
    #[must_use]
    pub const fn weight(self) -> u8 {
        match self {
            Self::TpmEndorsementKey => 4,
            Self::MachineId | Self::BoardSerial | Self::ProductUuid => 3,
            Self::DiskSerial | Self::Nic => 2,
            Self::Volume | Self::Board | Self::Cpu => 1,
        }
    }

    /// How many values of this part a machine may have at once.
    ///
    /// A server has several interfaces and an array several drives; either is
    /// as good as another. Everything else exists once.
    #[must_use]
    pub const fn most_values(self) -> usize {
        match self {
            Self::DiskSerial | Self::Nic => 8,
            _ => 1,
        }
    }

    /// The number this part has in every format of this crate.
    #[must_use]
    pub const fn tag(self) -> u8 {
        match self {
            Self::MachineId => 1,
            Self::Volume => 2,
            Self::DiskSerial => 3,
            Self::Nic => 4,
            Self::Board => 5,
            Self::Cpu => 6,
            Self::BoardSerial => 7,
            Self::ProductUuid => 8,
            Self::TpmEndorsementKey => 9,
        }
    }

    /// The part that has this tag, if this version knows one.
    #[must_use]
    pub fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.tag() == tag)
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::MachineId => "machine id",
            Self::Volume => "volume",
            Self::DiskSerial => "disk serial",
            Self::Nic => "network interface",
            Self::Board => "main board",
            Self::Cpu => "processor",
            Self::BoardSerial => "board serial",
            Self::ProductUuid => "product UUID",
            Self::TpmEndorsementKey => "TPM endorsement key",
        })
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Image => "image",
            Self::Drive => "drive",
            Self::Board => "board",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_ascending_and_read_back() {
        for pair in Component::ALL.windows(2) {
            assert!(pair[0].tag() < pair[1].tag());
            assert!(pair[0] < pair[1]);
        }
        for part in Component::ALL {
            assert_eq!(Component::from_tag(part.tag()), Some(part));
        }
        assert_eq!(Component::from_tag(0), None);
        assert_eq!(Component::from_tag(10), None);
    }

    #[test]
    fn all_shares_together_fit_the_field() {
        let total: u32 = Component::ALL
            .iter()
            .map(|part| u32::from(part.weight()))
            .sum();
        assert!(total <= 255);
    }
}
