//! Finds the device secret again from what the machine shows today.
//!
//! The caller says whether a candidate is right; the [search](crate::search)
//! says which candidates are worth asking about. Once the secret is known the
//! enrolment's part keys are legible, and today can be compared with it part by
//! part.

use std::fmt;

use katachi_crypto::Secret;

use crate::component::Component;
use crate::enrollment::{Enrollment, Part, part_key};
use crate::observation::{Observation, Value};
use crate::search::Search;
use crate::strength::Strength;

/// Most calls of `verify` in one recovery.
///
/// Opening a slot takes some microseconds, so a machine that is not recognised
/// costs some milliseconds. A `verify` that stretches a passphrase had better
/// count its calls and refuse earlier.
pub const MOST_VERIFICATIONS: usize = 2048;

/// The machine was recognised.
///
/// `Debug` does not print the secret.
#[derive(Debug)]
#[non_exhaustive]
pub struct Recovery {
    /// The secret that was enrolled.
    pub secret: Secret<32>,
    /// Parts of which at least one value is as enrolled.
    pub matched: Vec<Component>,
    /// What is different from the enrolment, in the order of the parts' tags.
    pub drift: Vec<Drift>,
    /// Something changed or is new, so [`Enrollment::renew`] restores the full
    /// tolerance. A part that is merely missing is no reason.
    pub reenroll: bool,
    /// What the enrolment that was opened is worth.
    pub strength: Strength,
}

/// A difference between the enrolment and today, without values.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Drift {
    /// The part that is different.
    pub component: Component,
    /// How it is different.
    pub change: Change,
}

/// How a part is different from its enrolment.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// Another value stands in its place.
    Changed,
    /// It shows no value today, or fewer than it had.
    Missing,
    /// It was not enrolled, or has a further value today.
    Added,
}

/// The machine was not recognised.
///
/// Names parts and never values. Without a check value a part can be shown to
/// match only where shares confirm each other, so `matched` may stay empty on
/// a machine that has some of the parts.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}", self.explain())]
#[non_exhaustive]
pub struct WrongMachine {
    /// Parts that were shown to be as enrolled.
    pub matched: Vec<Component>,
    /// Parts that show a value which could not be shown to be as enrolled.
    pub unproven: Vec<Component>,
    /// Enrolled parts that show no value today.
    pub missing: Vec<Component>,
}

impl Enrollment {
    /// Looks for the enrolled secret in what is `seen`.
    ///
    /// `verify` says whether a candidate is the secret, ordinarily by opening
    /// the slot that it protects. It is called at most [`MOST_VERIFICATIONS`]
    /// times, and once on a machine that has not changed.
    ///
    /// # Errors
    ///
    /// Returns [`WrongMachine`] if no combination of readings satisfies
    /// `verify`. The next step for a person is their recovery code.
    pub fn recover(
        &self,
        seen: &Observation,
        mut verify: impl FnMut(&Secret<32>) -> bool,
    ) -> Result<Recovery, WrongMachine> {
        let search = Search::new(self, seen);
        let mut refused: Vec<Secret<32>> = Vec::new();
        for hypothesis in search.hypotheses() {
            let Some(candidate) = search.candidate(&hypothesis) else {
                continue;
            };
            // Fewer parts of a consistent whole give the same secret again.
            if refused.contains(&candidate) {
                continue;
            }
            if verify(&candidate) {
                return Ok(self.describe(seen, candidate));
            }
            refused.push(candidate);
            if refused.len() == MOST_VERIFICATIONS {
                break;
            }
        }
        Err(search.give_up())
    }

    /// Compares today with the enrolment, now that its part keys are legible.
    fn describe(&self, seen: &Observation, secret: Secret<32>) -> Recovery {
        let mut matched = Vec::new();
        let mut drift = Vec::new();
        for component in Component::ALL {
            let values = seen.reading(component).map_or(&[][..], |r| r.values());
            let enrolled = self.parts.iter().find(|part| part.component == component);
            let wraps = enrolled.map_or(0, |part| part.wraps.len());
            let same = enrolled.map_or(0, |part| part.same_values(values, &secret));
            if same > 0 {
                matched.push(component);
            }
            let change = match (wraps - same, values.len().saturating_sub(same)) {
                (0, 0) => continue,
                (0, _) => Change::Added,
                (_, 0) => Change::Missing,
                _ => Change::Changed,
            };
            drift.push(Drift { component, change });
        }
        let reenroll = drift.iter().any(|drift| drift.change != Change::Missing);
        Recovery {
            secret,
            matched,
            drift,
            reenroll,
            strength: self.strength(),
        }
    }
}

impl Part {
    /// How many of the enrolled values are among `values`.
    fn same_values(&self, values: &[Value], secret: &Secret<32>) -> usize {
        let enrolled = self.wraps.iter().enumerate();
        enrolled
            .filter(|(i, wrap)| {
                let key = wrap.open_key(self.component, secret);
                // Both sides are sorted, so the same place is likely the one.
                let (before, from) = values.split_at((*i).min(values.len()));
                from.iter()
                    .chain(before)
                    .any(|value| part_key(self.component, value, &wrap.key_salt) == key)
            })
            .count()
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let change = match self.change {
            Change::Changed => "changed",
            Change::Missing => "is missing",
            Change::Added => "is new",
        };
        write!(f, "{} {change}", self.component)
    }
}

impl WrongMachine {
    fn explain(&self) -> String {
        let list = |parts: &[Component]| {
            let names: Vec<String> = parts.iter().map(Component::to_string).collect();
            names.join(", ")
        };
        let mut text =
            "this is not the machine the data was bound to, or too much of it changed".to_owned();
        for (what, parts) in [
            ("as before", &self.matched),
            ("not recognised together", &self.unproven),
            ("missing", &self.missing),
        ] {
            if !parts.is_empty() {
                text.push_str(&format!("; {what}: {}", list(parts)));
            }
        }
        text.push_str("; open with the recovery code or passphrase and bind again");
        text
    }
}
