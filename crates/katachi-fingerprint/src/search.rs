//! Which readings still hold?
//!
//! Stored shares carry no check value, so that has to be guessed. The search
//! begins with "all of them" and goes on to ever less likely hypotheses: one
//! part changed, another, two, other pairings of the values of a part that has
//! several. A hypothesis that holds more shares than the threshold needs is
//! refused for free when they do not lie on one polynomial; only consistent
//! ones become candidates.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::rc::Rc;

use katachi_crypto::Secret;
use zeroize::Zeroizing;

use crate::component::{Class, Component};
use crate::enrollment::{Enrollment, Part, Sharing, device_secret, part_key, xor};
use crate::observation::{Observation, Value};
use crate::recovery::WrongMachine;
use crate::shamir::{self, Point};

/// Most hypotheses looked at in one recovery. A machine whose parts exist once
/// has at most 512; several interfaces and drives multiply them.
const MOST_HYPOTHESES: usize = 32 * 1024;

/// A reading that may stand for an enrolled value: indices of both.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Pairing {
    wrap: usize,
    value: usize,
}

/// For each candidate part the number of the option assumed.
pub(crate) type Choice = Vec<u8>;

/// The search over hypotheses. A hypothesis takes for each candidate part one
/// option: one of its pairings, or that it has changed.
pub(crate) struct Search<'a> {
    enrollment: &'a Enrollment,
    candidates: Vec<CandidatePart<'a>>,
    /// What each choice of options for the board parts gives; the same ones
    /// come up often.
    boards: RefCell<HashMap<Choice, Option<Rc<Board>>>>,
}

/// What a consistent hypothesis about the board parts gives.
struct Board {
    b: Secret<32>,
    /// The shares of A that B makes legible.
    all: Vec<Point>,
}

struct CandidatePart<'a> {
    part: &'a Part,
    values: &'a [Value],
    /// Coordinates of this part's first share in A and B.
    first_all: u8,
    first_board: u8,
    /// Likely ones first; after the last comes "changed".
    pairings: Vec<Pairing>,
    keys: RefCell<HashMap<Pairing, Rc<Secret<32>>>>,
    /// Shares of A by pairing, of a part that needs no B for them.
    all: RefCell<HashMap<Pairing, Rc<Vec<Point>>>>,
}

impl<'a> Search<'a> {
    pub(crate) fn new(enrollment: &'a Enrollment, seen: &'a Observation) -> Self {
        let mut candidates = Vec::new();
        let (mut first_all, mut first_board) = (1u8, 1u8);
        for part in &enrollment.parts {
            if let Some(reading) = seen.reading(part.component) {
                let mut candidate = CandidatePart {
                    part,
                    values: reading.values(),
                    first_all,
                    first_board,
                    pairings: Vec::new(),
                    keys: RefCell::default(),
                    all: RefCell::default(),
                };
                candidate.pairings = candidate.likely_pairings();
                candidates.push(candidate);
            }
            // The format holds that all weights together fit a byte.
            first_all = first_all.saturating_add(part.weight);
            if part.component.class() == Class::Board {
                first_board = first_board.saturating_add(part.weight);
            }
        }
        Self {
            enrollment,
            candidates,
            boards: RefCell::default(),
        }
    }

    /// All hypotheses with enough weight, best first.
    ///
    /// A hypothesis is followed by those that move one part on to its next
    /// option, at or after the last part that was moved: so each comes once,
    /// and never before a more likely one, since later options cost more.
    pub(crate) fn hypotheses(&self) -> impl Iterator<Item = Choice> + '_ {
        let first: Choice = vec![0; self.candidates.len()];
        let mut queue = BinaryHeap::new();
        if self.has_weight(&first) {
            queue.push(Reverse((0, 0, first)));
        }
        std::iter::from_fn(move || {
            let Reverse((_, moved, choice)) = queue.pop()?;
            for i in moved..self.candidates.len() {
                if usize::from(choice[i]) < self.candidates[i].pairings.len() {
                    let mut next = choice.clone();
                    next[i] += 1;
                    // Nothing that follows has more weight.
                    if self.has_weight(&next) {
                        queue.push(Reverse((self.cost(&next), i, next)));
                    }
                }
            }
            Some(choice)
        })
        .take(MOST_HYPOTHESES)
    }

    /// How unlikely a hypothesis is.
    fn cost(&self, choice: &[u8]) -> u32 {
        self.candidates
            .iter()
            .zip(choice)
            .map(|(candidate, option)| candidate.cost(usize::from(*option)))
            .sum()
    }

    fn has_weight(&self, choice: &[u8]) -> bool {
        let mut all = 0;
        let mut board = 0;
        for (candidate, _) in self.chosen(choice) {
            all += u32::from(candidate.part.weight);
            if candidate.on_board() {
                board += u32::from(candidate.part.weight);
            }
        }
        all >= u32::from(self.enrollment.all_threshold)
            && board >= u32::from(self.enrollment.board_threshold)
    }

    /// The candidate parts that `choice` holds to be unchanged.
    fn chosen<'s>(
        &'s self,
        choice: &'s [u8],
    ) -> impl Iterator<Item = (&'s CandidatePart<'a>, Pairing)> + 's {
        let parts = self.candidates.iter().zip(choice);
        parts.filter_map(|(candidate, option)| {
            let pairing = candidate.pairings.get(usize::from(*option))?;
            Some((candidate, *pairing))
        })
    }

    /// Puts the shares of a hypothesis together, unless they contradict each
    /// other.
    pub(crate) fn candidate(&self, choice: &[u8]) -> Option<Secret<32>> {
        let enrollment = self.enrollment;
        let board = match enrollment.board_threshold {
            0 => None,
            _ => Some(self.board(choice)?),
        };
        let elsewhere: Vec<_> = self
            .chosen(choice)
            .filter(|(candidate, _)| !candidate.on_board())
            .map(|(candidate, pairing)| candidate.all(pairing))
            .collect();
        let points: Vec<&Point> = board
            .iter()
            .flat_map(|board| &board.all)
            .chain(elsewhere.iter().flat_map(|points| points.iter()))
            .collect();
        let a = combine(&points, enrollment.all_threshold)?;
        let b = board.as_ref().map(|board| &board.b);
        Some(device_secret(&a, b, &enrollment.salt))
    }

    /// What the board parts of a hypothesis give.
    fn board(&self, choice: &[u8]) -> Option<Rc<Board>> {
        let on_board: Choice = self
            .candidates
            .iter()
            .zip(choice)
            .map(|(candidate, option)| if candidate.on_board() { *option } else { 0 })
            .collect();
        if let Some(found) = self.boards.borrow().get(&on_board) {
            return found.clone();
        }
        let chosen: Vec<_> = self
            .chosen(choice)
            .filter(|(candidate, _)| candidate.on_board())
            .collect();
        let mut points = Vec::new();
        for (candidate, pairing) in &chosen {
            points.extend(candidate.unmask(Sharing::Board, *pairing));
        }
        let points: Vec<&Point> = points.iter().collect();
        let board = combine(&points, self.enrollment.board_threshold).map(|b| {
            let mut all = Vec::new();
            for (candidate, pairing) in &chosen {
                all.extend(candidate.unmask(Sharing::All { board: Some(&b) }, *pairing));
            }
            Rc::new(Board { b, all })
        });
        self.boards.borrow_mut().insert(on_board, board.clone());
        board
    }

    /// Says what can be said of a machine that was not recognised.
    pub(crate) fn give_up(&self) -> WrongMachine {
        let mut matched = BTreeSet::new();
        // Board shares beyond the threshold that agree prove their parts.
        for choice in self.hypotheses_of_board().take(MOST_HYPOTHESES) {
            let board: Vec<_> = self
                .chosen(&choice)
                .filter(|(candidate, _)| candidate.on_board())
                .collect();
            let weight: u32 = board.iter().map(|(c, _)| u32::from(c.part.weight)).sum();
            let proves = self.enrollment.board_threshold > 0
                && weight > u32::from(self.enrollment.board_threshold);
            if proves && self.board(&choice).is_some() {
                matched.extend(board.iter().map(|(c, _)| c.part.component));
                break;
            }
        }
        let shown: BTreeSet<Component> = self.candidates.iter().map(|c| c.part.component).collect();
        WrongMachine {
            unproven: shown.difference(&matched).copied().collect(),
            matched: matched.into_iter().collect(),
            missing: self
                .enrollment
                .components()
                .filter(|component| !shown.contains(component))
                .collect(),
        }
    }

    /// Hypotheses about the board parts alone, most parts first.
    fn hypotheses_of_board(&self) -> impl Iterator<Item = Choice> + '_ {
        let board: Vec<usize> = (0..self.candidates.len())
            .filter(|i| self.candidates[*i].on_board())
            .collect();
        let mut sets: Vec<usize> = (0..1usize << board.len()).collect();
        sets.sort_by_key(|set| set.count_ones());
        sets.into_iter().map(move |changed| {
            let mut choice: Choice = vec![0; self.candidates.len()];
            for (bit, i) in board.iter().enumerate() {
                if changed >> bit & 1 == 1 {
                    choice[*i] = self.candidates[*i].changed();
                }
            }
            choice
        })
    }
}

impl CandidatePart<'_> {
    fn on_board(&self) -> bool {
        self.part.component.class() == Class::Board
    }

    /// The option that says this part has changed.
    fn changed(&self) -> u8 {
        // At most eight wraps and eight values, so at most 64 pairings.
        u8::try_from(self.pairings.len()).unwrap_or(u8::MAX)
    }

    /// How unlikely option number `option` is: later pairings cost a little
    /// more, "changed" costs most, by how seldom the part changes.
    fn cost(&self, option: usize) -> u32 {
        let changed = match self.part.component {
            Component::Nic | Component::DiskSerial | Component::Volume => 8,
            Component::MachineId | Component::Cpu => 10,
            _ => 12,
        };
        match option < self.pairings.len() {
            true => u32::try_from(option).unwrap_or(changed).min(changed - 1),
            false => changed,
        }
    }

    /// Which reading may stand for which enrolled value. If two pairings give
    /// the same shares, they are right and no other is needed; else the same
    /// place in both sorted lists is the best guess.
    fn likely_pairings(&self) -> Vec<Pairing> {
        let mut pairings: Vec<Pairing> = (0..self.part.wraps.len())
            .flat_map(|wrap| (0..self.values.len()).map(move |value| Pairing { wrap, value }))
            .collect();
        pairings.sort_by_key(|pair| (pair.wrap.abs_diff(pair.value), pair.wrap));
        if self.part.wraps.len() < 2 || self.values.len() < 2 {
            return pairings;
        }
        // Shares of A of a board part need B, so compare those of B there.
        let mut seen: Vec<(Pairing, Vec<Point>)> = Vec::new();
        for pairing in &pairings {
            let sharing = match self.on_board() {
                true => Sharing::Board,
                false => Sharing::All { board: None },
            };
            let points = self.unmask(sharing, *pairing);
            if let Some((twin, _)) = seen.iter().find(|(_, other)| *other == points) {
                return vec![*twin];
            }
            seen.push((*pairing, points));
        }
        pairings
    }

    /// The shares of A of a part that is not on the board.
    fn all(&self, pairing: Pairing) -> Rc<Vec<Point>> {
        let mut known = self.all.borrow_mut();
        let shares = known
            .entry(pairing)
            .or_insert_with(|| Rc::new(self.unmask(Sharing::All { board: None }, pairing)));
        Rc::clone(shares)
    }

    /// This part's shares as `pairing` shows them.
    fn unmask(&self, sharing: Sharing<'_>, pairing: Pairing) -> Vec<Point> {
        let wrap = &self.part.wraps[pairing.wrap];
        let mut keys = self.keys.borrow_mut();
        let key = keys.entry(pairing).or_insert_with(|| {
            let value = &self.values[pairing.value];
            Rc::new(part_key(self.part.component, value, &wrap.key_salt))
        });
        let (first, shares) = match sharing {
            Sharing::All { .. } => (self.first_all, &wrap.all),
            Sharing::Board => (self.first_board, &wrap.board),
        };
        (0..self.part.weight)
            .zip(shares)
            .map(|(index, share)| {
                let mask = sharing.mask(self.part.component, key, &wrap.mask_salt, index);
                (
                    first.saturating_add(index),
                    Zeroizing::new(xor(share, &mask)),
                )
            })
            .collect()
    }
}

/// Interpolates the secret from the first shares and holds the others against
/// it; `None` if there are too few or they disagree.
fn combine(points: &[&Point], threshold: u8) -> Option<Secret<32>> {
    let (basis, others) = points.split_at_checked(usize::from(threshold))?;
    let agree = others.iter().all(|point| shamir::belongs(basis, point));
    agree.then(|| Secret::new(*shamir::interpolate(basis, 0)))
}
