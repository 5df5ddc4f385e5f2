//! What one look at the machine found.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use crate::component::Component;
use crate::parse;

/// Everything a [`Probe`](crate::Probe) found, without order and without
/// repetition.
///
/// Two observations with the same readings are equal whatever order they were
/// made in. `Debug` names the parts and never prints a value.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Observation {
    readings: BTreeMap<Component, Reading>,
}

/// The values of one part: one, or several where a machine has several.
#[derive(Clone, Eq, PartialEq)]
pub struct Reading {
    /// Sorted, without duplicates, never empty.
    values: Vec<Value>,
}

/// One normalised value and an estimate of how hard it is to guess.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Value {
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    pub(crate) bits: u8,
}

impl Observation {
    /// An observation of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Builds an observation from text a probe of your own has read.
    ///
    /// Each value passes the same filter as the readings of this crate: an
    /// empty, uninitialised or placeholder value, or a network address that is
    /// not burnt in, is left out.
    ///
    /// ```
    /// use katachi_fingerprint::{Component, Observation};
    ///
    /// let seen = Observation::from_pairs([
    ///     (Component::MachineId, "0f5bd4d0ee514ba3a5b8b5d4ff1c2c1e"),
    ///     (Component::BoardSerial, "To be filled by O.E.M."),
    /// ]);
    /// assert_eq!(seen.components().collect::<Vec<_>>(), [Component::MachineId]);
    /// ```
    #[must_use]
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (Component, &'a str)>) -> Self {
        let mut seen = Self::new();
        for (component, text) in pairs {
            seen.insert(component, parse::value(component, text));
        }
        seen
    }

    /// The parts found, in the order of their tags.
    pub fn components(&self) -> impl Iterator<Item = Component> + '_ {
        self.readings.keys().copied()
    }

    /// The parts found with their readings.
    pub fn readings(&self) -> impl Iterator<Item = (Component, &Reading)> {
        self.readings.iter().map(|(part, reading)| (*part, reading))
    }

    /// The reading of one part, if it was found.
    #[must_use]
    pub fn reading(&self, component: Component) -> Option<&Reading> {
        self.readings.get(&component)
    }

    /// Says whether nothing at all was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.readings.is_empty()
    }

    /// Adds a value, keeping values sorted, unique and few.
    ///
    /// A part that can only exist once keeps its smallest value, so that the
    /// result does not depend on the order in which values arrive.
    pub(crate) fn insert(&mut self, component: Component, value: Option<Value>) {
        let Some(value) = value else { return };
        let values = &mut self
            .readings
            .entry(component)
            .or_insert_with(|| Reading { values: Vec::new() })
            .values;
        let place = values.binary_search_by(|old| old.bytes.as_slice().cmp(&value.bytes));
        if let Err(place) = place {
            values.insert(place, value);
            values.truncate(component.most_values());
        }
    }
}

impl Reading {
    /// How many values this part has here. At least one.
    #[must_use]
    pub fn count(&self) -> usize {
        self.values.len()
    }

    /// Estimated bits of guessing one of the values costs somebody who knows
    /// the model of the machine and nothing else.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.values
            .iter()
            .map(|value| value.bits)
            .min()
            .unwrap_or_default()
    }

    pub(crate) fn values(&self) -> &[Value] {
        &self.values
    }
}

impl Value {
    pub(crate) fn new(bytes: impl Into<Vec<u8>>, bits: u8) -> Self {
        Self {
            bytes: Zeroizing::new(bytes.into()),
            bits,
        }
    }
}

impl fmt::Debug for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.readings).finish()
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_repetition_leave_no_trace() {
        let nics = [
            "00:1b:21:00:00:01",
            "00:1b:21:00:00:02",
            "3c:ec:ef:00:00:01",
        ];
        let forward = Observation::from_pairs(nics.map(|nic| (Component::Nic, nic)));
        let backward = Observation::from_pairs(
            nics.iter()
                .chain(nics.iter())
                .rev()
                .map(|nic| (Component::Nic, *nic)),
        );
        assert_eq!(forward, backward);
        assert_eq!(forward.reading(Component::Nic).unwrap().count(), 3);
    }

    #[test]
    fn keeps_the_smallest_value_of_a_part_that_exists_once() {
        let low = "0f5bd4d0ee514ba3a5b8b5d4ff1c2c1e";
        let high = "ff5bd4d0ee514ba3a5b8b5d4ff1c2c1e";
        let one = [(Component::MachineId, low), (Component::MachineId, high)];
        let other = [one[1], one[0]];
        assert_eq!(Observation::from_pairs(one), Observation::from_pairs(other));
        assert_eq!(
            Observation::from_pairs(one),
            Observation::from_pairs([(Component::MachineId, low)])
        );
    }

    #[test]
    fn debug_names_parts_and_never_values() {
        let seen = Observation::from_pairs([(Component::Nic, "00:1b:21:0a:0b:0c")]);
        let text = format!("{seen:?}");
        assert!(text.contains("Nic"), "{text}");
        assert!(!text.contains("1b") && !text.contains("27"), "{text}");
    }
}
