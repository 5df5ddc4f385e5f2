//! How many bits stand between an enrolment and somebody who has part of the
//! machine.
//!
//! The attacker assumed here is the strongest the design has to meet: they
//! hold the enrolment itself and the slot it protects, so they can test a
//! complete guess as fast as they can compute. Each kind of attacker already
//! knows some parts and guesses the rest. Guesses that can only be tested
//! together multiply; guesses that can be tested one after the other only add.
//! Where a guess becomes testable is counted step by step: a sharing that has
//! more shares than its threshold betrays a wrong one, and so do two values
//! that hide the same share.

use std::fmt;

use crate::component::{Class, Component};

/// Below this estimate a binding is a copy deterrent and no lock.
///
/// Eighty bits are out of reach of anybody who tests a billion guesses a second
/// on a million machines for ten years.
pub const FLOOR_BITS: u32 = 80;

/// The most a binding can have: its secret is 32 bytes.
const MOST_BITS: u32 = 256;

/// Estimated bits of the cheapest attack by each kind of attacker.
///
/// They count the fingerprint alone. A slot that mixes in a secret the
/// attacker lacks (from a keychain or a TPM) has that secret's bits on top.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Strength {
    /// Against a copy of the home directory: a backup, a synchronised folder.
    pub home_copy: u32,
    /// Against a copy of the disk's content, put on other hardware.
    pub image_copy: u32,
    /// Against the drive itself, moved to another computer.
    pub moved_drive: u32,
    /// Against another program of the same user on this machine. It reads the
    /// same parts we do, so this is zero: a fingerprint is no protection here.
    pub same_user: u32,
}

impl Strength {
    /// The bits against the strongest attacker who does not run on the machine.
    #[must_use]
    pub const fn off_machine(&self) -> u32 {
        // Whoever has the drive also has its content.
        self.moved_drive
    }

    /// Says whether the fingerprint alone merely deters: under [`FLOOR_BITS`]
    /// against a copied image or a moved drive.
    #[must_use]
    pub const fn is_copy_deterrent(&self) -> bool {
        self.off_machine() < FLOOR_BITS
    }
}

impl fmt::Display for Strength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bits against a copied home, {} against a copied image, {} against a moved drive, \
             {} against another program of the same user",
            self.home_copy, self.image_copy, self.moved_drive, self.same_user
        )
    }
}

/// One enrolled part as an attacker sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hurdle {
    pub(crate) component: Component,
    pub(crate) weight: u32,
    pub(crate) bits: u32,
    /// Several values hide the same share, so two right ones confirm each
    /// other; values of one vendor are often neighbours, so the second is free.
    pub(crate) several_values: bool,
}

/// Estimates the strength of an enrolment with these parts and thresholds. A
/// board threshold of zero means that there is no board secret.
pub(crate) fn estimate(parts: &[Hurdle], all_threshold: u32, board_threshold: u32) -> Strength {
    let game = Game {
        parts,
        all_threshold,
        board_threshold,
    };
    Strength {
        home_copy: game.cheapest(|_| false),
        image_copy: game.cheapest(|class| class == Class::Image),
        moved_drive: game.cheapest(|class| class != Class::Board),
        same_user: game.cheapest(|_| true),
    }
}

/// The attacker's game: sets of known parts are bit masks over `parts`.
struct Game<'a> {
    parts: &'a [Hurdle],
    all_threshold: u32,
    board_threshold: u32,
}

impl Game<'_> {
    /// The largest single step of the best sequence of testable guesses that
    /// starts with the parts whose class is `known` and ends with the secret.
    fn cheapest(&self, known: impl Fn(Class) -> bool) -> u32 {
        let start = self.mask(|part| known(part.component.class()));
        let everything = (1usize << self.parts.len()) - 1;
        let mut effort = vec![u32::MAX; everything + 1];
        effort[start] = 0;
        let mut best = u32::MAX;
        // A step only adds parts, so ascending order meets every predecessor
        // before its successors.
        for have in start..=everything {
            if effort[have] == u32::MAX {
                continue;
            }
            if self.complete(have) {
                best = best.min(effort[have]);
                continue;
            }
            let missing = everything & !have;
            let mut guess = missing;
            while guess != 0 {
                let then = have | guess;
                if self.testable(have, guess) {
                    let step = self.sum(guess, |part| part.bits);
                    effort[then] = effort[then].min(effort[have].max(step));
                }
                guess = (guess - 1) & missing;
            }
        }
        // With every part known the thresholds are met, so `best` is set.
        best.min(MOST_BITS)
    }

    fn complete(&self, have: usize) -> bool {
        self.board_weight(have) >= self.board_threshold
            && self.sum(have, |part| part.weight) >= self.all_threshold
    }

    /// Says whether a wrong guess would be noticed.
    fn testable(&self, have: usize, guess: usize) -> bool {
        let then = have | guess;
        let board = self.mask(|part| part.component.class() == Class::Board);
        let on_board = guess & !board == 0;
        // The slot opens.
        if self.complete(then) {
            return true;
        }
        // More board shares than the threshold, all on one polynomial.
        if self.board_threshold > 0 && on_board && self.board_weight(then) > self.board_threshold {
            return true;
        }
        // More shares of everything than the threshold; those of board parts
        // are legible only once the board secret is known.
        let board_open = self.board_weight(then) >= self.board_threshold;
        let legible = if board_open { then } else { then & !board };
        if guess & !legible == 0 && self.sum(legible, |part| part.weight) > self.all_threshold {
            return true;
        }
        // Two values of one part that hide the same share.
        guess.count_ones() == 1 && guess & self.mask(|part| part.several_values) != 0
    }

    fn board_weight(&self, have: usize) -> u32 {
        let board = self.mask(|part| part.component.class() == Class::Board);
        self.sum(have & board, |part| part.weight)
    }

    fn mask(&self, wanted: impl Fn(&Hurdle) -> bool) -> usize {
        self.parts
            .iter()
            .enumerate()
            .fold(0, |mask, (i, part)| mask | usize::from(wanted(part)) << i)
    }

    fn sum(&self, set: usize, of: impl Fn(&Hurdle) -> u32) -> u32 {
        self.parts
            .iter()
            .enumerate()
            .filter(|(i, _)| set >> i & 1 == 1)
            .map(|(_, part)| of(part))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threshold;

    fn strength_of(parts: &[(Component, u32)]) -> Strength {
        let hurdles: Vec<Hurdle> = parts
            .iter()
            .map(|(component, bits)| Hurdle {
                component: *component,
                weight: u32::from(component.weight()),
                bits: *bits,
                several_values: false,
            })
            .collect();
        let components: Vec<Component> = parts.iter().map(|(component, _)| *component).collect();
        let (all, board) = threshold::both(&components);
        estimate(&hurdles, u32::from(all), u32::from(board))
    }

    const LAPTOP: [(Component, u32); 6] = [
        (Component::MachineId, 122),
        (Component::Volume, 122),
        (Component::DiskSerial, 30),
        (Component::Nic, 24),
        (Component::Board, 10),
        (Component::Cpu, 6),
    ];

    #[test]
    fn a_laptop_resists_a_copied_image_by_its_board_and_processor_alone() {
        let strength = strength_of(&LAPTOP);
        assert_eq!(strength.image_copy, 10 + 6);
        assert_eq!(strength.moved_drive, 10 + 6);
        assert_eq!(strength.same_user, 0);
        assert!(strength.is_copy_deterrent());
    }

    #[test]
    fn a_copied_home_lacks_more_than_a_copied_image() {
        let strength = strength_of(&LAPTOP);
        assert!(strength.home_copy > strength.image_copy);
    }

    #[test]
    fn a_machine_without_board_parts_is_open_to_its_image() {
        let strength = strength_of(&LAPTOP[..2]);
        assert_eq!(strength.image_copy, 0);
        assert_eq!(strength.home_copy, 122);
    }

    #[test]
    fn parts_that_can_be_tested_alone_add_instead_of_multiplying() {
        let mut hurdles: Vec<Hurdle> = [(Component::Nic, 24), (Component::ProductUuid, 122)]
            .map(|(component, bits)| Hurdle {
                component,
                weight: u32::from(component.weight()),
                bits,
                several_values: false,
            })
            .to_vec();
        assert_eq!(estimate(&hurdles, 5, 5).image_copy, 146);
        hurdles[0].several_values = true;
        assert_eq!(estimate(&hurdles, 5, 5).image_copy, 122);
    }

    #[test]
    fn an_endorsement_key_and_a_random_uuid_make_more_than_a_deterrent() {
        let mut parts = LAPTOP.to_vec();
        parts.extend([
            (Component::ProductUuid, 122),
            (Component::TpmEndorsementKey, 255),
        ]);
        let strength = strength_of(&parts);
        assert!(!strength.is_copy_deterrent(), "{strength}");
    }

    #[test]
    fn never_exceeds_the_size_of_the_secret() {
        let parts = [
            (Component::ProductUuid, 122),
            (Component::TpmEndorsementKey, 255),
        ];
        assert!(strength_of(&parts).home_copy <= 256);
    }
}
