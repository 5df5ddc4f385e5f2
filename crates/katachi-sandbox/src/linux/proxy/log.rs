//! What the proxy refused.

use std::sync::{Mutex, PoisonError};

use crate::report::Violation;

/// Refusals that are kept one by one.
const MOST: usize = 256;

/// Refusals of one command, each kind once.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    kept: Vec<Violation>,
    dropped: u64,
}

impl Log {
    pub(super) fn add(&self, target: &str, reason: String, allow_with: Option<String>) {
        let violation = Violation {
            control: "network".to_owned(),
            operation: "connect".to_owned(),
            target: target.to_owned(),
            reason,
            allow_with,
        };
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.kept.contains(&violation) {
            return;
        }
        if entries.kept.len() < MOST {
            entries.kept.push(violation);
        } else {
            entries.dropped += 1;
        }
    }

    pub(super) fn violations(&self) -> Vec<Violation> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut violations = entries.kept.clone();
        if entries.dropped > 0 {
            violations.push(Violation {
                control: "network".to_owned(),
                operation: "connect".to_owned(),
                target: format!("{} further attempts", entries.dropped),
                reason: format!("only the first {MOST} refusals are kept one by one"),
                allow_with: None,
            });
        }
        violations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_counted_and_not_kept() {
        let log = Log::default();
        for index in 0..MOST + 7 {
            log.add(&index.to_string(), "no".to_owned(), None);
            log.add(&index.min(9).to_string(), "no".to_owned(), None);
        }
        let found = log.violations();
        assert_eq!(found.len(), MOST + 1);
        assert!(found[MOST].target.starts_with("7 "));
    }
}
