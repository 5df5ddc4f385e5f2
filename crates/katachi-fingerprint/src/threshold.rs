//! How many shares are enough.
//!
//! More than half of the weight, so that two different machines cannot both
//! hold enough of one enrolment. Where that would make the heaviest part
//! indispensable, the threshold gives way until losing any single part is
//! survivable: closing a person's data for good because one card was replaced
//! is worse than a few bits less.

use crate::component::{Class, Component};

/// The thresholds for all parts and for the board parts among them. The second
/// is zero if there are none.
pub(crate) fn both(parts: &[Component]) -> (u8, u8) {
    let all: Vec<u8> = parts.iter().map(|part| part.weight()).collect();
    let board: Vec<u8> = parts
        .iter()
        .filter(|part| part.class() == Class::Board)
        .map(|part| part.weight())
        .collect();
    // Two parts in all cannot lose one and still be recognised by more than a
    // single reading, so a majority is asked of them. Two board parts can: the
    // parts on disk stand beside them.
    (enough(&all, 3), enough(&board, 2))
}

/// A majority of `weights`, or less if there are at least `forgiving` parts
/// and one of them alone would otherwise be indispensable.
fn enough(weights: &[u8], forgiving: usize) -> u8 {
    let total: u8 = weights.iter().sum();
    let heaviest = weights.iter().copied().max().unwrap_or_default();
    match total {
        0 => 0,
        _ if weights.len() >= forgiving => (total / 2 + 1).min(total - heaviest),
        _ => total / 2 + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Component::{Board, Cpu, DiskSerial, MachineId, Nic, Volume};

    #[test]
    fn typical_machines() {
        assert_eq!(
            both(&[MachineId, Volume, DiskSerial, Nic, Board, Cpu]),
            (6, 2)
        );
        assert_eq!(both(&[MachineId, Volume, Board, Cpu]), (3, 1));
        assert_eq!(both(&[MachineId, Cpu]), (3, 1));
        assert_eq!(both(&[MachineId]), (2, 0));
        assert_eq!(both(&[Nic, Cpu]), (2, 1));
        assert_eq!(both(&[]), (0, 0));
    }

    /// Every set of parts the crate knows, all 511 of them.
    #[test]
    fn losing_one_part_of_three_or_more_is_always_survivable() {
        for set in 1usize..1 << Component::ALL.len() {
            let parts: Vec<Component> = (0..Component::ALL.len())
                .filter(|i| set >> i & 1 == 1)
                .map(|i| Component::ALL[i])
                .collect();
            let (all, board) = both(&parts);
            let weight = |parts: &[Component]| parts.iter().map(|p| p.weight()).sum::<u8>();
            let boards: Vec<Component> = parts
                .iter()
                .copied()
                .filter(|part| part.class() == Class::Board)
                .collect();
            assert!(all >= 1 && all <= weight(&parts));
            assert_eq!(board >= 1, !boards.is_empty());
            for lost in &parts {
                if parts.len() >= 3 {
                    assert!(
                        weight(&parts) - lost.weight() >= all,
                        "{parts:?} without {lost}"
                    );
                }
                if boards.len() >= 2 && boards.contains(lost) {
                    assert!(
                        weight(&boards) - lost.weight() >= board,
                        "{boards:?} without {lost}"
                    );
                }
            }
        }
    }
}
